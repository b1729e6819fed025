"""Tables of the published comparison, from the files that `simulations.serving.suite.run` leaves."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final

from simulations.serving.laws.catalogue import LAWS
from simulations.serving.suite import tables, tuning
from simulations.serving.suite.results import Outcome
from simulations.serving.suite.tuning import Point

LEVELS: Final = (0.90, 0.95, 0.98, 0.99, 0.995)
TUNED_FOR: Final = 0.98
TWO_MODELS: Final = "two-models"
_YARDSTICKS: Final = ("headroom", "headroom-ahead", "clairvoyant")


def file_of(folder: Path, load: str, law: str) -> Path:
    """Where the runs of a law on a load are kept."""
    return folder / f"{re.sub(r'[^A-Za-z0-9_]+', '-', load)}.{law}.json"


def read_points(folder: Path, scenario: str) -> dict[str, list[Point]]:
    """Law -> measured settings of its grid, the default first; laws without a file are left out."""
    found: dict[str, list[Point]] = {}
    for law, entry in LAWS.items():
        path = file_of(folder, scenario, law)
        if path.exists():
            runs = read_runs(path)
            found[law] = [run for setting in tuning.settings_of(entry) for run in runs if run.parameters == setting]
    return found


def read_runs(path: Path) -> list[Point]:
    """All runs of a file."""
    return [
        Point(
            run["law"],
            run["parameters"],
            _outcome(run["total"]),
            {name: _outcome(values) for name, values in run["workloads"].items()},
        )
        for run in json.loads(path.read_text("utf-8"))
    ]


def _outcome(values: Mapping[str, float | None]) -> Outcome:
    numbers = {
        field.name: math.nan if values[field.name] is None else float(values[field.name] or 0)
        for field in fields(Outcome)
    }
    return Outcome(**numbers)


def summary(points: Mapping[str, Mapping[str, list[Point]]]) -> str:
    """Headroom by default, and its GPU hours against the best tuned law at equal attainment, one line per scenario."""
    head = [
        "",
        "default: both %, GPU h",
        *(f"{100 * level:g} %" for level in (0.90, 0.95, 0.98, 0.99)),
        "against itself told one cold start, 98 %",
    ]
    rows = []
    for scenario, laws in points.items():
        if "headroom" not in laws:
            continue
        default = laws["headroom"][0].total
        ours, rivals = _hours_of("headroom", laws), _best_rival(laws)
        told = _hours_of("headroom-ahead", laws) if "headroom-ahead" in laws else [None] * len(LEVELS)
        at = LEVELS.index(TUNED_FOR)
        rows.append(
            [
                scenario,
                f"{100 * default.attainment:.2f}, {default.gpu_hours:.2f}",
                *(_difference(ours[n], rivals[n]) for n in range(4)),
                _difference(ours[at], told[at]),
            ]
        )
    return "### Summary\n\n" + tables.markdown(head, rows)


def held_out_text(loads: Sequence[str], folder: Path, laws: Sequence[str]) -> str:
    """Loads that no setting was picked on: laws by default and as tuned on the load of the same kind."""
    rows = []
    for load in loads:
        for law in laws:
            for at, point in enumerate(read_runs(file_of(folder, load, law))):
                entry, total = LAWS[law], point.total
                setting = f"tuned elsewhere: {tables.setting_text(entry, point.parameters)}" if at else "default"
                first = law == laws[0] and not at
                numbers = (f"{100 * total.attainment:.2f}", f"{total.gpu_hours:.2f}", f"{total.moves:.0f}")
                rows.append([load if first else "", f"{entry.title}, {setting}", *numbers])
    return "### Held out\n\n" + tables.markdown(["load", "law", "both %", "GPU h", "moves"], rows)


def two_models_text(folder: Path, laws: Sequence[str]) -> str:
    """Two models on one fleet, all laws by default, with a line for each model."""
    rows = []
    for law in laws:
        for point in read_runs(file_of(folder, TWO_MODELS, law)):
            rows.append(tables.row(LAWS[law].title, "default", point.total, None))
            rows += [tables.row(f"  {name}", "", outcome, None) for name, outcome in point.by_workload.items()]
    return "### Two models\n\n" + tables.markdown(tables.HEAD, rows)


def scenario_text(scenario: str, points: Mapping[str, list[Point]], bound_gpu_hours: float) -> str:
    """One scenario: each law by default and tuned, then GPU hours at equal attainment."""
    clairvoyant = tuning.hours_at(points.get("clairvoyant", []), TUNED_FOR)
    rows = []
    for law, own in points.items():
        entry = LAWS[law]
        rows.append(tables.row(entry.title, tables.setting_text(entry, own[0].parameters), own[0].total, clairvoyant))
        best = tuning.best_setting(own, TUNED_FOR)
        if best is not own[0]:
            rows.append(tables.row("", tables.setting_text(entry, best.parameters), best.total, clairvoyant))
    return "\n".join(
        [
            f"### {scenario}",
            "",
            tables.markdown(tables.HEAD, rows),
            "",
            f"No law can serve this load within the objective in less than {bound_gpu_hours:.2f} GPU hours.",
            "",
            equal_attainment(points),
        ]
    )


def equal_attainment(points: Mapping[str, list[Point]]) -> str:
    """GPU hours at which each law's front reaches a level, and how Headroom compares."""
    reached = {law: _hours_of(law, points) for law in points}
    head = ["GPU hours at an attainment of", "", *(f"{100 * level:g} %" for level in LEVELS)]
    rows = [[LAWS[law].title, "tuned", *map(_hours, own)] for law, own in reached.items()]
    if "headroom" in reached:
        ours = reached["headroom"]
        rivals = _best_rival(points)
        rows.append(["Headroom against the best tuned law", "", *map(_difference, ours, rivals)])
        for law, words in (
            ("static", "Headroom against the best fixed count"),
            ("headroom-ahead", "Headroom against itself told one cold start"),
            ("clairvoyant", "Headroom against the clairvoyant"),
        ):
            if law in reached:
                rows.append([words, "", *map(_difference, ours, reached[law])])
    return tables.markdown(head, rows)


def _hours_of(law: str, points: Mapping[str, list[Point]]) -> list[float | None]:
    return [tuning.hours_at(points[law], level) for level in LEVELS]


def _best_rival(points: Mapping[str, list[Point]]) -> list[float | None]:
    """Fewest GPU hours of any law that does not know the trace, per level."""
    reached = [_hours_of(law, points) for law in points if law not in {*_YARDSTICKS, "static"}]
    return [
        min((hours for own in reached if (hours := own[at]) is not None), default=None) for at in range(len(LEVELS))
    ]


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _difference(ours: float | None, theirs: float | None) -> str:
    if ours is None:
        return "not reached" if theirs is not None else "-"
    return "only ours" if theirs is None else f"{100 * (ours / theirs - 1):+.1f} %"
