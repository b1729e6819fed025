"""How many requests are late at which load of a replica, learned from the engine's own latencies; and what lateness is worth. Pure.

Requests begin to be late long before replicas are full: how long before depends on the objective, on prompts that stand in one
another's way, on how evenly the router spreads, and on how far the prices of tokens are off. All of that is in one curve, the share
of requests that miss their objective when replicas are loaded to `u` of what one can do:

    late(u) = floor + (1 - floor) min(1, exp(-steepness (full - u)))

`floor` is what no replica more would mend (a prompt that takes longer than the objective by itself), `full` the load at which
everything is late (1 when the prices are right), `steepness` how sudden that comes. Past loads and shares are kept by classes of
load; the most likely curve is found by small steps from the one before. What was seen while replicas started or a queue was being
worked off is left out: it says nothing of how many replicas are enough.

The price of lateness is what a GPU second of work that is late may cost, in GPU seconds of replicas kept. It rises while more
requests are late than the objective allows, and falls while fewer are, so that in the long run as many are late as may be: the
multiplier of a constraint on a mean, found by dual ascent. Replicas, hold time and reserve all use it.
"""

import math
from dataclasses import replace
from typing import Final

from autoscaler.law.constants import LawConstants
from autoscaler.law.memory.learned import LateCurve

CLASSES: Final = 32
WIDTH: Final = 0.05
"""Of a class of load: the last one holds all loads above."""


def share_at(curve: LateCurve, load: float) -> float:
    """Share of requests that are late when replicas are loaded to `load` of what one can do."""
    beyond = math.exp(min(curve.steepness * (load - curve.full), 0.0))
    return curve.floor + (1 - curve.floor) * beyond


def expected_share(curve: LateCurve, load: float, spread: float) -> float:
    """The same when the load is only known to within a deviation of `spread`, normally distributed."""
    if spread <= 0:
        return share_at(curve, load)
    mean, deviation = curve.steepness * (load - curve.full), curve.steepness * spread
    below = math.exp(min(mean + deviation**2 / 2, 50.0)) * _normal(-(mean + deviation**2) / deviation)
    return curve.floor + (1 - curve.floor) * min(below + _normal(mean / deviation), 1.0)


def _normal(value: float) -> float:
    return 0.5 * math.erfc(-value / math.sqrt(2))


def note(curve: LateCurve, load: float, requests: float, late: float, seconds: float, law: LawConstants) -> LateCurve:
    """Add what was seen at a load: `requests`, of which a share of `late`; the curve follows."""
    # Prices change while they are learned, and the loads of the first minutes with them: those are soon forgotten.
    age = curve.seconds + seconds
    keep = math.exp(-seconds / min(law.curve_memory_seconds, law.curve_young_seconds + age / 2))
    # Late requests come together: of many in a few seconds each says less.
    weight = requests / (1 + requests / law.curve_weight)
    seen = [n * keep for n in curve.seen] or [0.0] * CLASSES
    missed = [n * keep for n in curve.missed] or [0.0] * CLASSES
    at = min(int(load / WIDTH), CLASSES - 1)
    seen[at] += weight
    missed[at] += weight * late
    return fitted(replace(curve, seen=tuple(seen), missed=tuple(missed), seconds=age), law)


def fitted(curve: LateCurve, law: LawConstants) -> LateCurve:
    """The curve after one small step of each of its three numbers towards the most likely ones."""
    calm = int(0.5 * curve.full / WIDTH)
    floor = (sum(curve.missed[:calm]) + law.curve_floor * 200) / (sum(curve.seen[:calm]) + 200)
    curve = replace(curve, floor=floor)
    best, value = curve, _likelihood(curve, law)
    for full, factor in ((0.01, 1.0), (-0.01, 1.0), (0.0, 1.05), (0.0, 1 / 1.05)):
        other = replace(best, full=best.full + full, steepness=best.steepness * factor)
        likelihood = _likelihood(other, law)
        if likelihood > value:
            best, value = other, likelihood
    return best


def _likelihood(curve: LateCurve, law: LawConstants) -> float:
    """Logarithm, of the curve given what was seen and what is usual."""
    total = -0.5 * ((curve.full - 1.0) / law.curve_full_spread) ** 2
    total -= 0.5 * (math.log(curve.steepness / curve.usual_steepness) / 0.4) ** 2
    for at, (seen, missed) in enumerate(zip(curve.seen, curve.missed, strict=True)):
        if seen > 0.01:
            share = min(share_at(curve, (at + 0.5) * WIDTH), 0.999)
            total += missed * math.log(share) + (seen - missed) * math.log1p(-share)
    return total


def spent(average: float, requests: float, late: float, usual_requests: float) -> float:
    """The share of late requests lately, after some more; `usual_requests` come in the time over which it is taken."""
    if usual_requests <= 0 or requests <= 0:
        return average
    keep = math.exp(-requests / usual_requests)
    return keep * average + (1 - keep) * late
