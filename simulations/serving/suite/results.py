"""What a run comes to: attainment, latency, GPU hours, moves."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from simulations.serving.arena import Lane, most_tokens
from simulations.serving.engine.hardware import Pair, work_seconds
from simulations.serving.laws.base import Objective
from simulations.serving.loads.traces import Trace


@dataclass(frozen=True, slots=True)
class Outcome:
    """One workload under one law, one seed; or the mean over seeds. Shares are 0-1."""

    attainment: float
    """Requests that met both objectives, of all that the model can serve."""
    ttft_attainment: float
    itl_attainment: float
    ttft_p50_seconds: float
    ttft_p99_seconds: float
    itl_p99_seconds: float
    gpu_hours: float
    moves: float
    reversals: float
    """Moves against the direction of the one before."""
    cold_starts: float
    arrived: float
    finished: float
    dropped: float
    """Refused at the door: beyond the model's context or KV room."""
    unfinished: float
    """Still inside when the clock stopped; counted as missed."""
    mean_replicas: float


def outcome(lane: Lane, span_seconds: float) -> Outcome:
    """Summary of a lane at the end of its run."""
    objective, served = lane.workload.objective, lane.deployment.served
    total = max(lane.total, 1)
    ttft, itl = sorted(served.ttft), sorted(served.inter_token)
    gpu_seconds = lane.deployment.gpu_seconds_until_now()
    directions = [after > before for _, before, after in lane.moves]
    return Outcome(
        attainment=served.met / total,
        ttft_attainment=sum(value <= objective.ttft_seconds for value in ttft) / total,
        itl_attainment=sum(value <= objective.itl_seconds for value in itl) / total,
        ttft_p50_seconds=quantile(ttft, 0.5),
        ttft_p99_seconds=quantile(ttft, 0.99),
        itl_p99_seconds=quantile(itl, 0.99),
        gpu_hours=gpu_seconds / 3600,
        moves=len(lane.moves),
        reversals=sum(a != b for a, b in itertools.pairwise(directions)),
        cold_starts=lane.deployment.cold_starts,
        arrived=lane.total,
        finished=served.finished,
        dropped=lane.unservable,
        unfinished=lane.deployment.inside,
        mean_replicas=gpu_seconds / span_seconds / lane.workload.pair.cards,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest-rank quantile of sorted values; NaN of none."""
    return values[max(math.ceil(share * len(values)), 1) - 1] if values else math.nan


def mean(outcomes: Sequence[Outcome]) -> Outcome:
    """Field by field over seeds."""
    return Outcome(
        **{field.name: sum(getattr(o, field.name) for o in outcomes) / len(outcomes) for field in fields(Outcome)}
    )


def total(outcomes: Sequence[Outcome]) -> Outcome:
    """Several workloads as one: counts and GPU hours add up, shares and latencies are weighted by requests."""
    if len(outcomes) == 1:
        return outcomes[0]
    weight = sum(o.arrived for o in outcomes) or 1.0
    return Outcome(
        **{
            field.name: sum(getattr(o, field.name) for o in outcomes)
            if field.name in _ADDITIVE
            else sum(getattr(o, field.name) * o.arrived for o in outcomes) / weight
            for field in fields(Outcome)
        }
    )


_ADDITIVE = frozenset(
    {"gpu_hours", "moves", "reversals", "cold_starts", "arrived", "finished", "dropped", "unfinished", "mean_replicas"}
)


def as_json(value: Outcome) -> dict[str, Any]:
    """Plain numbers; NaN (nothing to measure) becomes null."""
    return {
        name: None if isinstance(number, float) and math.isnan(number) else number
        for name, number in asdict(value).items()
    }


def work_bound_gpu_hours(trace: Trace, pair: Pair, objective: Objective) -> float:
    """GPU hours below which no law can serve the whole trace within the objective on this pair: see docs/simulation.md.

    Each request costs a replica at least its prompt work plus its share of iterations at the largest batch that the
    inter-token objective, the slots and the KV room allow.
    """
    speed = pair.speed
    room = (objective.itl_seconds - speed.base_seconds) / max(speed.per_sequence_seconds, 1e-12)
    batch = max(min(speed.slots, room), 1.0)
    seconds = sum(work_seconds(speed, request, batch) for request in trace.requests(most_tokens(pair)))
    return seconds * pair.cards / 3600
