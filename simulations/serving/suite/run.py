"""The published comparison: every law, default and tuned, on both Azure traces and the generated patterns.

`python -m simulations.serving.suite --traces DIR --out DIR` runs what is not in DIR yet, one file per load and law, prints
the tables of docs/results.md and leaves them in DIR/tables.md. One process, about nine minutes of one core from nothing.

Three parts. Scenarios: each law on its whole grid. Held out: loads that no setting was picked on, with the settings that were
best on a scenario of the same kind. Two models on one small fleet.
"""

import gc
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from simulations.serving.arena import Conditions, Workload
from simulations.serving.engine.hardware import bundled_pairs, find_pair
from simulations.serving.fleet.placing import uniform_fleet
from simulations.serving.laws.base import Entry, Objective, Parameters
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.loads.patterns import generate
from simulations.serving.loads.traces import Trace, read_trace
from simulations.serving.suite import report, tables, tuning
from simulations.serving.suite.results import work_bound_gpu_hours
from simulations.serving.suite.tuning import Point

OBJECTIVE: Final = Objective(ttft_seconds=2.0, itl_seconds=0.1)
SHIFT_SECONDS: Final = 17.0
PATTERN_RATE, PATTERN_HOURS = 14.0, 1.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load on one pair."""

    name: str
    load: str = ""
    """An Azure trace or a pattern; the name when empty."""
    copies: int = 4
    """Azure traces: so many times over itself."""
    seed: int = 1
    """Of the pattern and of the cold starts."""
    model: str = "llama-3.1-8b"
    card: str = "L40S"
    tuned_on: str = ""
    """Held-out loads: the scenario whose tuned settings are carried over."""

    @property
    def shape(self) -> str:
        """The trace or pattern."""
        return self.load or self.name


SCENARIOS: Final = tuple(
    Scenario(name) for name in ("azure_2023_conv", "azure_2023_code", "diurnal", "ramp", "spikes", "onoff")
)
HELD_OUT: Final = (
    Scenario("azure_2023_conv, 2 copies", "azure_2023_conv", copies=2, seed=3, tuned_on="azure_2023_conv"),
    Scenario(
        "azure_2023_conv, Qwen3-32B on H100", "azure_2023_conv", seed=3, model="qwen3-32b", card="H100-80GB",
        tuned_on="azure_2023_conv",
    ),
    Scenario("azure_2023_code, 2 copies", "azure_2023_code", copies=2, seed=3, tuned_on="azure_2023_code"),
    *(Scenario(f"{name}, seed 3", name, seed=3, tuned_on=name) for name in ("diurnal", "ramp", "spikes", "onoff")),
)  # fmt: skip
CARRIED: Final = ("headroom", "keda-running", "kpa", "llmd-slo")
"""Laws of the held-out part, by default and as tuned elsewhere, and of the two models."""


def load(scenario: Scenario, traces: Path) -> Trace:
    """The scenario's requests."""
    if scenario.shape.startswith("azure"):
        return read_trace(traces / "llm" / f"{scenario.shape}.csv.gz").copies(scenario.copies, SHIFT_SECONDS)
    return generate(scenario.shape, rate=PATTERN_RATE, hours=PATTERN_HOURS, seed=scenario.seed)


def world(scenario: Scenario, traces: Path) -> tuple[Workload, Conditions]:
    """Workload and conditions of a scenario: 64 cards, eight a node."""
    pair = find_pair(bundled_pairs(), scenario.model, scenario.card)
    workload = Workload(load(scenario, traces), pair, OBJECTIVE, max_replicas=32)
    return workload, Conditions(uniform_fleet(scenario.card, pair.card_vram_mib, 8, 8))


def two_models(traces: Path) -> tuple[list[Workload], Conditions]:
    """Half an hour of both Azure traces, four copies, as two models on two nodes of eight H100."""
    pairs = bundled_pairs()
    workloads = [
        Workload(
            read_trace(traces / "llm" / f"{name}.csv.gz").part(0.0, 1800.0).copies(4, SHIFT_SECONDS),
            find_pair(pairs, model, "H100-80GB"),
            OBJECTIVE,
            max_replicas=32,
        )
        for name, model in (("azure_2023_conv", "qwen3-32b"), ("azure_2023_code", "llama-3.1-8b"))
    ]
    return workloads, Conditions(uniform_fleet("H100-80GB", workloads[0].pair.card_vram_mib, 2, 8))


def sweep(
    entry: Entry,
    settings: Sequence[Parameters],
    workloads: Sequence[Workload],
    conditions: Conditions,
    seed: int,
) -> Iterator[dict[str, Any]]:
    """Run a law with each of the settings."""
    for setting in settings:
        point = tuning.measure(workloads, entry, setting, conditions, [seed])
        gc.collect()
        yield tables.point_json(point)


def kept(path: Path, runs: Iterator[dict[str, Any]]) -> None:
    """Make the runs and write them to the file, whole, unless it is there."""
    if path.exists():
        return
    started = time.perf_counter()
    points = list(runs)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(points, indent=1), "utf-8")
    temporary.replace(path)
    click.echo(f"{path.stem}: {len(points)} runs in {time.perf_counter() - started:.0f} s", err=True)


def run_scenario(scenario: Scenario, traces: Path, out: Path, laws: Sequence[str]) -> float:
    """Sweep the laws that have no file yet. Returns the work bound in GPU hours."""
    workload, conditions = world(scenario, traces)
    for name in laws:
        entry = LAWS[name]
        settings = list(tuning.settings_of(entry))
        kept(
            report.file_of(out, scenario.name, name),
            sweep(entry, settings, [workload], conditions, scenario.seed),
        )
    return work_bound_gpu_hours(workload.trace, workload.pair, workload.objective)


def run_held_out(scenario: Scenario, traces: Path, out: Path, tuned: Mapping[str, list[Point]]) -> None:
    """Run the laws by default and with what was best on `tuned_on`."""
    workload, conditions = world(scenario, traces)
    for name in CARRIED:
        entry = LAWS[name]
        settings: list[Parameters] = [entry.defaults]
        best = tuning.best_setting(tuned[name], report.TUNED_FOR).parameters
        if dict(best) != dict(entry.defaults):
            settings.append(best)
        kept(
            report.file_of(out, scenario.name, name),
            sweep(entry, settings, [workload], conditions, scenario.seed),
        )


def run_two_models(traces: Path, out: Path) -> None:
    """All laws of the held-out part by default on one fleet."""
    workloads, conditions = two_models(traces)
    for name in CARRIED:
        entry = LAWS[name]
        kept(
            report.file_of(out, report.TWO_MODELS, name),
            sweep(entry, [entry.defaults], workloads, conditions, 1),
        )


@click.command()
@click.option(
    "--traces",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Holds llm/azure_2023_*.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Keeps the runs and the tables; what is there is not run again.",
)
@click.option("--law", "laws", multiple=True, type=click.Choice(sorted(LAWS)), help="Only these.  [default: all]")
@click.option(
    "--scenario",
    "names",
    multiple=True,
    type=click.Choice([scenario.name for scenario in SCENARIOS]),
    help="Only these; then the other parts are left out.",
)
def main(traces: Path, out: Path, laws: tuple[str, ...], names: tuple[str, ...]) -> None:
    """Run the comparison of docs/results.md, print its tables and write them to tables.md."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    whole = not names and not laws
    gc.disable()  # a run makes a million objects that stay to its end: nothing to collect until then
    bounds = {scenario.name: run_scenario(scenario, traces, out, laws or tuple(LAWS)) for scenario in chosen}
    points = {scenario.name: report.read_points(out, scenario.name) for scenario in chosen}
    parts = [report.summary(points)]
    if whole:
        for scenario in HELD_OUT:
            run_held_out(scenario, traces, out, points[scenario.tuned_on])
        run_two_models(traces, out)
        parts.append(report.held_out_text([scenario.name for scenario in HELD_OUT], out, CARRIED))
        parts.append(report.two_models_text(out, CARRIED))
    gc.enable()
    parts += [report.scenario_text(name, points[name], bounds[name]) for name in bounds]
    text = "\n\n".join(parts) + "\n"
    click.echo(text)
    if whole:
        out.joinpath("tables.md").write_text(text, "utf-8")


if __name__ == "__main__":
    sys.exit(main())
