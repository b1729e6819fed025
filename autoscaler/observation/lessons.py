"""What the metrics of a target's pods teach: what a token costs, and how long requests are. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from autoscaler.api.resource import Target
from autoscaler.law.inputs import SignalKind
from autoscaler.law.sizing import prices
from autoscaler.law.sizing.prices import CostSettings, CostState, Iterations
from autoscaler.law.sizing.roles import Role
from autoscaler.observation.traffic import Lengths


@dataclass(frozen=True, slots=True)
class Lessons:
    """What the metrics have taught of a target, beside the state of the law."""

    cost: CostState = field(default_factory=CostState)
    lengths: Lengths = field(default_factory=Lengths)


def sample_of(of_pod: Mapping[str, float]) -> Iterations | None:
    """A cost sample of one pod. Without a count of iterations the batch is the running gauge and the pod busy throughout.

    A prefill server ends requests with one output token, so that no time between tokens is known: while requests wait it is
    busy throughout, and an iteration takes as long as there are few in a second.
    """
    running, kv_cache = of_pod["running"], of_pod["kv_cache"]
    room = running / kv_cache if kv_cache > 0.05 and running >= 1 else float("inf")
    iterations = of_pod["iterations"]
    if of_pod["token_count"] <= 0 or of_pod["token_seconds"] <= 0:
        if iterations <= 0 or of_pod["waiting"] < 1 or of_pod["prompt_tokens"] <= 0:
            return None
        seconds = 1 / iterations
    else:
        seconds = of_pod["token_seconds"] / of_pod["token_count"]
    if iterations <= 0:
        return Iterations(seconds, running, of_pod["prompt_tokens"] * seconds, room)
    return prices.counted(
        seconds=1.0,
        iterations=iterations,
        mean_gap_seconds=seconds,
        output_tokens=of_pod["output_tokens"],
        prompt_tokens=of_pod["prompt_tokens"],
        batch_room=room,
    )


ONE_AT_A_TIME: Final = 0.5
"""Prompts under way at once, in the mean: up to so many there are hardly ever two."""


def prefill_sample_of(of_pod: Mapping[str, float]) -> Iterations | None:
    """A cost sample of one prefill replica.

    While requests wait it is busy throughout. While it is idle for half of the time or more it computes one prompt at a time, and is busy
    for as long as they take.
    """
    iterations, tokens = of_pod["iterations"], of_pod["prompt_tokens"]
    busy = 1.0 if of_pod["waiting"] >= 1 else of_pod["prefill_seconds"]
    if tokens <= 0 or not (busy == 1.0 or 0 < busy <= ONE_AT_A_TIME):
        return None
    # Where iterations are not counted a second is as good a unit as any: only the ratio to the tokens is of use.
    each = iterations if iterations > 0 else 1.0
    return Iterations(busy / each, max(of_pod["output_tokens"], 1e-3) / each, tokens / each)


def engine_costs(target: Target, lessons: Lessons, settings: CostSettings) -> prices.Cost | None:
    """What the object states, else what was learned."""
    if target.costs is not None:
        return prices.Cost(*target.costs)
    if target.role is Role.PREFILL:
        return prices.prompt_cost(lessons.cost, settings)
    objective = min(
        (signal.target for signal in target.spec.signals if signal.kind is SignalKind.INTER_TOKEN_LATENCY), default=None
    )
    if target.spec.objective is not None:
        objective = target.spec.objective.inter_token_seconds
    return prices.cost(lessons.cost, replace(settings, target_batch=float(target.most_sequences)), objective)
