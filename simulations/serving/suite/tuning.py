"""A law measured with a setting, and the front of what can be had: attainment against GPU hours."""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from simulations.serving.arena import Conditions, Lane, Workload, run
from simulations.serving.laws.base import Entry
from simulations.serving.suite import results
from simulations.serving.suite.results import Outcome


@dataclass(frozen=True, slots=True)
class Point:
    """One law with one setting, all workloads together: sums and request-weighted means, averaged over seeds."""

    law: str
    parameters: Mapping[str, float]
    total: Outcome
    by_workload: Mapping[str, Outcome]
    lanes: Sequence[Lane] = ()
    """Of the first seed, for plots."""


def measure(
    workloads: Sequence[Workload],
    entry: Entry,
    parameters: Mapping[str, float],
    conditions: Conditions,
    seeds: Sequence[int],
    progress: Callable[[float], None] | None = None,
) -> Point:
    """Run one setting over all seeds."""
    per_seed: list[dict[str, Outcome]] = []
    kept: list[Lane] = []
    for seed in seeds:
        lanes = run(workloads, entry, parameters, conditions, seed=seed, progress=progress)
        kept = kept or lanes
        per_seed.append({lane.workload.name: results.outcome(lane, lane.deployment.engine.now) for lane in lanes})
        gc.collect()
    by_workload = {name: results.mean([outcomes[name] for outcomes in per_seed]) for name in per_seed[0]}
    return Point(entry.name, dict(parameters), results.total(list(by_workload.values())), by_workload, kept)


def front(points: Iterable[Point]) -> list[Point]:
    """Points that no other beats in both attainment and GPU hours, by rising GPU hours."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.total.gpu_hours, -p.total.attainment)):
        if not best or point.total.attainment > best[-1].total.attainment:
            best.append(point)
    return best


def best_setting(points: Sequence[Point], wanted_attainment: float) -> Point:
    """The tuned setting of a law: fewest GPU hours among those that reach the attainment, else the highest attainment."""
    reach = [point for point in points if point.total.attainment >= wanted_attainment]
    if reach:
        return min(reach, key=lambda p: (p.total.gpu_hours, -p.total.attainment))
    return max(points, key=lambda p: (p.total.attainment, -p.total.gpu_hours))
