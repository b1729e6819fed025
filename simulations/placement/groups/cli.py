"""`headroom simulate groups`: the same lists with groups placed all or none, with a Permit plugin, and without groups."""

import asyncio
import logging
import statistics
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Final

import click
import structlog

from simulations.placement.groups import lists
from simulations.placement.groups.run import APART, HEADROOM, MODES, Outcome, Run
from simulations.placement.tables import table

SHARES_OF_SEVERAL: Final = (0.2, 0.35, 0.5)
"""Part of the demand that comes from pods of several cards, list by list in turn."""
_FIRST_SEED: Final = 42
_LESS_WAITING: Final = 0.30
_LESS_ALLOCATION: Final = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """One list through one mode, both by their number."""

    number: int
    mode: int
    nodes: int
    hours: float
    load: float


def play(job: Job) -> Outcome:
    """Carry out a job; equal jobs give equal outcomes. Raises BrokenError."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    nodes, seed = lists.nodes(job.nodes), _FIRST_SEED + job.number
    cards = sum(len(node.cards) for node in nodes)
    several = SHARES_OF_SEVERAL[job.number % len(SHARES_OF_SEVERAL)]
    arrivals = lists.Generator(seed, cards, load=job.load, several=several).arrivals(job.hours)
    run = Run(nodes, arrivals, MODES[job.mode], seed=seed, hours=job.hours, warm_hours=min(12.0, job.hours / 4))
    return asyncio.run(run.play())


def outcomes_of(jobs: Sequence[Job], processes: int) -> list[Outcome]:
    """The outcomes in the order of the jobs, whatever the number of processes."""
    if processes == 1:
        return [play(job) for job in jobs]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(play, jobs))


def _waits(outcomes: Iterable[Outcome], kind: str) -> list[float]:
    return sorted(seconds for outcome in outcomes for seconds in outcome.waits[kind])


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _minutes(waits: Sequence[float]) -> str:
    """Mean and 95th percentile."""
    return f"{_mean(waits) / 60:.1f} / {waits[int(0.95 * len(waits))] / 60:.1f}" if waits else "-"


def _used_percent(outcomes: Sequence[Outcome]) -> float:
    return 100 * _mean([outcome.used_share for outcome in outcomes])


def comparison(by_mode: dict[str, list[Outcome]]) -> str:
    """A line for each mode, over the same lists."""
    head = ["mode", "groups wait, min (mean / p95)", "pods of several cards", "pods of one card", "cards in use, %"]
    head += ["idle at Permit, %", "groups with a part of their places", "time-outs", "of these deadlocks"]
    rows = []
    for name, outcomes in by_mode.items():
        waits = [_minutes(_waits(outcomes, kind)) for kind in ("group", "several cards", "one card")]
        idle = 100 * _mean([outcome.idle_held_share for outcome in outcomes])
        counts = [
            sum(counted) for counted in zip(*((o.partial, o.timeouts, o.deadlocks) for o in outcomes), strict=True)
        ]
        cells = ["-"] * 3 if name == APART.name else [str(count) for count in counts]
        rows.append([name, *waits, f"{_used_percent(outcomes):.2f}", f"{idle:.2f}", *cells])
    return table(head, rows)


def goals(everything: Sequence[Outcome], by_mode: dict[str, list[Outcome]]) -> list[str]:
    """What was to be reached, and whether it was, in words."""
    hours, left = sum(outcome.pod_hours for outcome in everything), sum(outcome.unplaced for outcome in everything)
    partial = sum(outcome.partial for outcome in everything)
    groups = sum(len(outcome.waits["group"]) for outcome in everything)
    steps = sum(outcome.steps for outcome in everything)
    lines = [
        f"{_verdict(not partial and not left)}: no deadlock, no group with a part of its places: {hours:,.0f} virtual pod-hours,"
        f" {groups:,} groups, {steps:,} steps looked at; {partial} groups with a part, {left} pods never placed"
    ]
    ours = _mean(_waits(by_mode[HEADROOM.name], "group"))
    for mode in MODES:
        if mode.permit is not None and (theirs := _mean(_waits(by_mode.get(mode.name, []), "group"))):
            less = 1 - ours / theirs
            words = f"groups wait {less:.0%} less in the mean than with {mode.name} (wanted: {_LESS_WAITING:.0%})"
            lines.append(f"{_verdict(less >= _LESS_WAITING)}: {words}")
    if APART.name in by_mode:
        lower = _used_percent(by_mode[APART.name]) - _used_percent(by_mode[HEADROOM.name])
        words = f"cards in use: {lower:+.2f} points below the same list without groups (at most {_LESS_ALLOCATION:g})"
        lines.append(f"{_verdict(lower <= _LESS_ALLOCATION)}: {words}")
    return lines


def _verdict(reached: bool) -> str:
    return "reached" if reached else "MISSED"


@click.command()
@click.option(
    "--lists", "count", type=click.IntRange(1, 1000), default=30, show_default=True, help="Lists for Headroom's mode."
)
@click.option(
    "--compared",
    type=click.IntRange(1, 1000),
    default=6,
    show_default=True,
    help="Of these, the first so many run in every mode.",
)
@click.option("--nodes", type=click.IntRange(10, 5000), default=120, show_default=True, help="Nodes, about.")
@click.option(
    "--hours",
    type=click.FloatRange(1.0, 10_000.0),
    default=72.0,
    show_default=True,
    help="How long pods come, in each list.",
)
@click.option(
    "--load", type=click.FloatRange(0.05, 2.0), default=0.85, show_default=True, help="Mean demand over the cards."
)
@click.option("--jobs", "processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
def main(count: int, compared: int, nodes: int, hours: float, load: float, processes: int) -> None:
    """Compare ways to place groups of pods: how long they wait, how much is in use, and whether any is ever placed in part."""
    ours = MODES.index(HEADROOM)
    work = [Job(number, ours, nodes, hours, load) for number in range(count)]
    others = [
        Job(number, mode, nodes, hours, load)
        for mode in range(len(MODES))
        if mode != ours
        for number in range(min(compared, count))
    ]
    found = dict(zip([*work, *others], outcomes_of([*work, *others], processes), strict=True))
    by_mode = {
        mode.name: [outcome for job, outcome in found.items() if job.mode == at and job.number < compared]
        for at, mode in enumerate(MODES)
    }
    click.echo(comparison(by_mode))
    click.echo()
    for line in goals([found[job] for job in work], by_mode):
        click.echo(line)
