"""The published comparison: every rival tuned over all its fields on every load, scored on other seeds, beside our default.

`python -m simulations.serving.suite.run --traces DIR --out DIR` runs what is not in DIR yet and writes the tables of
docs/results.md to DIR/tables.md. It can be stopped at any moment and goes on where it was.
"""

import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import click

from simulations.serving.laws.catalogue import LAWS, RIVALS
from simulations.serving.suite import report, speed
from simulations.serving.suite.compare import HINDSIGHT, Study, work
from simulations.serving.suite.scenarios import LOADS, SCORED_ON

UNTUNED: Final = ("headroom", "headroom-target")
"""Ours are shown as they come."""
BUDGET: Final = 50
"""Settings per rival and load: what two quiet cores do in a night of eight hours with all loads, rivals and seeds (docs/results.md)."""


def _known(_: click.Context, __: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if name not in LOADS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(LOADS)}")
    return names


@click.command()
@click.option(
    "--traces",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Holds llm/azure_2023_*.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Keeps the runs and the tables."
)
@click.option("--jobs", default=2, show_default=True, type=click.IntRange(1, 256), help="Processes.")
@click.option(
    "--budget", default=BUDGET, show_default=True, type=click.IntRange(1), help="Settings per rival and load."
)
@click.option(
    "--seeds",
    default=len(SCORED_ON),
    show_default=True,
    type=click.IntRange(1, len(SCORED_ON)),
    help="Seeds of scoring.",
)
@click.option("--law", "laws", multiple=True, type=click.Choice(sorted(LAWS)), help="Only these.  [default: all]")
@click.option("--load", "loads", multiple=True, callback=_known, help="Only these.  [default: all]")
@click.option("--tables-only", is_flag=True, help="Run nothing; write the tables of what is there.")
def main(
    traces: Path,
    out: Path,
    jobs: int,
    budget: int,
    seeds: int,
    laws: tuple[str, ...],
    loads: tuple[str, ...],
    tables_only: bool,
) -> None:
    """Run the comparison of docs/results.md, print its tables and write them to tables.md."""
    out.mkdir(parents=True, exist_ok=True)
    study = Study(traces, out, budget, SCORED_ON[:seeds])
    chosen = laws or (*UNTUNED, *HINDSIGHT, *RIVALS)
    if not tables_only:
        _run(study, loads or tuple(LOADS), chosen, jobs)
        if speed.week_seconds(out) is None:
            speed.measure(out, traces)
    text = report.tables_of(study, loads or tuple(LOADS), chosen)
    click.echo(text)
    out.joinpath("tables.md").write_text(text, "utf-8")


def _run(study: Study, loads: tuple[str, ...], laws: tuple[str, ...], jobs: int) -> None:
    """Defaults of all first, then the tuned settings, load by load."""
    tasks = [(load, law, False) for load in loads for law in laws]
    tasks += [(load, law, True) for load in loads for law in laws if law not in UNTUNED]
    started = time.monotonic()
    # A fresh process for each task: what a run has taken of memory is given back.
    with ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool:
        running = {pool.submit(work, study, load, law, tune=tune) for load, law, tune in tasks}
        for done, future in enumerate(as_completed(running), start=1):
            click.echo(f"[{done}/{len(tasks)}, {time.monotonic() - started:.0f} s] {future.result()}", err=True)


if __name__ == "__main__":
    sys.exit(main())
