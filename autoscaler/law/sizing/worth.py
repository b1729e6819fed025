"""Variants of one target in the unit of one of them: what the others are worth in it, and their pods in it. Pure."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from autoscaler.law.inputs import PodFacts
from autoscaler.law.sizing.prices import Cost

SLOWLY: Final = 0.025
"""Of what is learned newly of a worth, a tick: a mean of ten minutes. A mix that follows noise starts replicas for nothing."""


def learned(
    worth: Sequence[float], costs: Sequence[Cost | None], prompt_tokens: float, output_tokens: float
) -> tuple[float, ...]:
    """Worths after another look at the price of the mean request on each variant, in GPU seconds of its own replicas.

    Both prices must come from the engine's own counters on that card; one that is not known yet leaves the worth as it is. `worth` is
    what was learned before, or what a benchmark says.
    """
    seconds = [cost.of_request(prompt_tokens, output_tokens) if cost is not None else 0.0 for cost in costs]
    return tuple(
        before + SLOWLY * (seconds[0] / own - before) if own > 0 and seconds[0] > 0 else before
        for before, own in zip(worth, seconds, strict=True)
    )


def price_on(variant: int, worth: Sequence[float], costs: Sequence[Cost | None]) -> Cost | None:
    """Price of a token on a variant; while it is not known, that on another one by what they are worth."""
    for at in (variant, *range(len(costs))):
        if (cost := costs[at]) is not None:
            times = worth[at] / worth[variant]
            return Cost(cost.per_prompt_token * times, cost.per_output_token * times, cost.full_batch)
    return None


def whole(units: float) -> int:
    """Full replicas in so many units, and at least one."""
    return max(math.floor(units + 0.01), 1)


def in_units(facts: PodFacts, replicas: int, ready: int) -> PodFacts:
    """The pods of all variants as `replicas` of one of them, of which `ready` are ready (none while no pod is)."""
    ready = min(ready, replicas) if facts.ready else 0
    ages = facts.starting or facts.unschedulable or (0.0,)
    starting = tuple(ages[at % len(ages)] for at in range(replicas - ready))
    return replace(facts, ready=ready, starting=starting, unschedulable=())
