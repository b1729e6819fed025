"""Tables of the published comparison, from the files that `simulations.serving.suite` leaves."""

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Final

from simulations.serving import tables, tuning
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.results import Outcome
from simulations.serving.tuning import Point

LEVELS: Final = (0.90, 0.95, 0.98, 0.99, 0.995)
TUNED_FOR: Final = 0.98
_YARDSTICKS: Final = ("headroom", "headroom-ahead", "clairvoyant")


def read_points(folder: Path, scenario: str) -> dict[str, list[Point]]:
    """Law -> measured settings of its grid, the default first; laws without a file are left out."""
    found: dict[str, list[Point]] = {}
    for law, entry in LAWS.items():
        path = folder / f"{scenario}.{law}.json"
        if path.exists():
            runs = json.loads(path.read_text("utf-8"))
            wanted = [run for setting in tuning.settings_of(entry) for run in runs if run["parameters"] == setting]
            found[law] = [_point(law, run["parameters"], run["outcome"]) for run in wanted]
    return found


def _point(law: str, parameters: Mapping[str, float], values: Mapping[str, float | None]) -> Point:
    numbers = {
        field.name: math.nan if values[field.name] is None else float(values[field.name] or 0)
        for field in fields(Outcome)
    }
    total = Outcome(**numbers)
    return Point(law, parameters, total, {})


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
    reached = {law: [tuning.hours_at(own, level) for level in LEVELS] for law, own in points.items()}
    head = ["GPU hours at an attainment of", "", *(f"{100 * level:g} %" for level in LEVELS)]
    rows = [[LAWS[law].title, "tuned", *map(_hours, own)] for law, own in reached.items()]
    if "headroom" in reached:
        ours = reached["headroom"]
        laws = [own for law, own in reached.items() if law not in {*_YARDSTICKS, "static"}]
        rivals = [
            min((hours for own in laws if (hours := own[at]) is not None), default=None) for at in range(len(LEVELS))
        ]
        rows.append(["Headroom against the best tuned law", "", *map(_difference, ours, rivals)])
        for law, words in (
            ("static", "Headroom against the best fixed count"),
            ("headroom-ahead", "Headroom against itself told one cold start"),
            ("clairvoyant", "Headroom against the clairvoyant"),
        ):
            if law in reached:
                rows.append([words, "", *map(_difference, ours, reached[law])])
    return tables.markdown(head, rows)


def _hours(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _difference(ours: float | None, theirs: float | None) -> str:
    if ours is None:
        return "not reached" if theirs is not None else "-"
    return "only ours" if theirs is None else f"{100 * (ours / theirs - 1):+.1f} %"
