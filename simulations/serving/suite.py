"""The published comparison: every law, default and tuned, on both Azure traces and the generated patterns.

`python -m simulations.serving.suite --traces DIR --out DIR` runs what is not in DIR yet, one file per scenario and law, and
prints the tables of docs/results.md. One process; about an hour on one core from nothing.
"""

import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from simulations.serving import tuning
from simulations.serving.arena import Conditions, Workload
from simulations.serving.hardware import bundled_pairs, find_pair
from simulations.serving.laws.base import Entry, Objective
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.patterns import generate
from simulations.serving.placing import uniform_fleet
from simulations.serving.results import as_json, work_bound_gpu_hours
from simulations.serving.suite_report import read_points, scenario_text
from simulations.serving.traces import Trace, read_trace

OBJECTIVE = Objective(ttft_seconds=2.0, itl_seconds=0.1)
COPIES, SHIFT_SECONDS = 4, 17.0
PATTERN_RATE, PATTERN_HOURS = 14.0, 1.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load on one pair."""

    name: str
    model: str = "llama-3.1-8b"
    card: str = "L40S"
    card_vram_mib: int = 46068


SCENARIOS = tuple(
    Scenario(name) for name in ("azure_2023_conv", "azure_2023_code", "diurnal", "ramp", "spikes", "onoff")
)


def load(scenario: Scenario, traces: Path, seed: int = 1) -> Trace:
    """The scenario's requests."""
    if scenario.name.startswith("azure"):
        return read_trace(traces / "llm" / f"{scenario.name}.csv.gz").copies(COPIES, SHIFT_SECONDS)
    return generate(scenario.name, rate=PATTERN_RATE, hours=PATTERN_HOURS, seed=seed)


def world(scenario: Scenario, traces: Path) -> tuple[Workload, Conditions]:
    """Workload and conditions of a scenario."""
    pair = find_pair(bundled_pairs(), scenario.model, scenario.card)
    workload = Workload(load(scenario, traces), pair, OBJECTIVE, max_replicas=32)
    return workload, Conditions(uniform_fleet(scenario.card, scenario.card_vram_mib, 8, 8))


def sweep(entry: Entry, workload: Workload, conditions: Conditions, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The default and every setting of the grid."""
    for setting in tuning.settings_of(entry):
        point = tuning.measure([workload], entry, setting, conditions, seeds)
        gc.collect()
        yield {"parameters": setting, "outcome": as_json(point.total)}


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
    help="Keeps the runs; what is there is not run again.",
)
@click.option("--law", "laws", multiple=True, type=click.Choice(sorted(LAWS)), help="Only these.  [default: all]")
@click.option(
    "--scenario",
    "names",
    multiple=True,
    type=click.Choice([scenario.name for scenario in SCENARIOS]),
    help="Only these.",
)
@click.option("--seed", "seeds", multiple=True, type=int, default=(1,), show_default=True)
@click.option("--report-only", is_flag=True, help="Print the tables of what is there.")
def main(
    traces: Path, out: Path, laws: tuple[str, ...], names: tuple[str, ...], seeds: tuple[int, ...], report_only: bool
) -> None:
    """Run the comparison of docs/results.md and print its tables."""
    out.mkdir(parents=True, exist_ok=True)
    chosen = [scenario for scenario in SCENARIOS if not names or scenario.name in names]
    if not report_only:
        gc.disable()  # a run makes a million objects that stay to its end: nothing to collect until then
        for scenario in chosen:
            run_scenario(scenario, traces, out, laws or tuple(LAWS), seeds)
        gc.enable()
    for scenario in chosen:
        workload, _ = world(scenario, traces)
        bound = work_bound_gpu_hours(workload.trace, workload.pair, workload.objective)
        click.echo(scenario_text(scenario.name, read_points(out, scenario.name), bound) + "\n")


def run_scenario(scenario: Scenario, traces: Path, out: Path, laws: Sequence[str], seeds: Sequence[int]) -> None:
    """Sweep the laws that have no file yet."""
    workload, conditions = world(scenario, traces)
    for name in laws:
        path = out / f"{scenario.name}.{name}.json"
        if path.exists():
            continue
        started = time.perf_counter()
        points = list(sweep(LAWS[name], workload, conditions, seeds))
        temporary = path.with_suffix(".part")
        temporary.write_text(json.dumps(points, indent=1), "utf-8")
        temporary.replace(path)
        click.echo(f"{scenario.name} {name}: {len(points)} settings in {time.perf_counter() - started:.0f} s", err=True)


if __name__ == "__main__":
    sys.exit(main())
