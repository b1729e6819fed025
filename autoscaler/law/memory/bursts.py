"""Bursts: demand that grows faster than a replica starts, and how many replicas to keep for it. Pure.

What arrives now is compared with what the law, without a reserve, asked for one start-up time ago. Work above that
came too suddenly: it would have met replicas that were not there. Such work is summed by the level of demand at which
it came, older work counting less. Being ready for a level costs (level - usual demand) GPU seconds per second,
nothing below the usual demand. It serves the sudden work that came at levels up to it, and each GPU second of that is
worth `miss_weight`. The reserve is the level where worth less cost is largest, if that is above 0: the newsvendor's
choice with the distribution taken from the target's own history (Arrow, Harris and Marschak, Econometrica 19(3),
1951). It weighs work, not time: a burst counts by what is in it. A steady or slowly changing load has no such work
and keeps no reserve, and one that no burst needs any more is let go.
"""

import math
from typing import Final

from autoscaler.law.constants import LawConstants
from autoscaler.law.memory.learned import Bursts

STEPS_PER_OCTAVE: Final = 8
"""Levels of demand are told apart by factors of 2^(1/8), 9 %."""
LONGEST_TICK_SECONDS: Final = 60.0
"""After a longer silence of the signals only so much is counted."""

Foretold = tuple[tuple[float, int], ...]
"""(time, replicas that the law asked for without a reserve), oldest first."""


def note_foretold(foretold: Foretold, now: float, replicas: int, lead_seconds: float, law: LawConstants) -> Foretold:
    """Remember what was asked for, as long as `asked_before` looks back."""
    oldest = now - lead_seconds - law.hold_minimum_seconds
    return (*(old for old in foretold if old[0] >= oldest), (now, replicas))


def asked_before(foretold: Foretold, now: float, lead_seconds: float) -> int | None:
    """Most replicas asked for early enough to be ready now; None while the memory does not reach back so far."""
    early = [replicas for time, replicas in foretold if now - time >= lead_seconds]
    return max(early) if early else None


def note_work(bursts: Bursts, rate: float, seconds: float, too_sudden: bool, law: LawConstants) -> Bursts:
    """Add `seconds` of arriving work (GPU seconds per second), sudden or not; what is known from before fades."""
    seconds = min(max(seconds, 0.0), LONGEST_TICK_SECONDS)
    keep = math.exp(-seconds / law.burst_memory_seconds)
    sudden = {step: work * keep for step, work in bursts.sudden if work * keep * law.miss_weight >= 1.0}
    if too_sudden and rate > 0:
        step = round(STEPS_PER_OCTAVE * math.log2(rate))
        sudden[step] = sudden.get(step, 0.0) + rate * seconds
    return Bursts(tuple(sorted(sudden.items())), bursts.work * keep + rate * seconds, bursts.seconds * keep + seconds)


def reserve(bursts: Bursts, factor: float, law: LawConstants, price: float = 0.0) -> float:
    """GPU seconds per second to be ready for at any time: what bursts taught, and at least `factor` times the mean load."""
    usual = bursts.work / bursts.seconds if bursts.seconds > 0 else 0.0
    best, gain, met = 0.0, 0.0, 0.0
    # One burst in the first half hour may well come every half hour: how often is reckoned over what has been seen.
    over = (
        min(max(bursts.seconds, law.burst_young_seconds), law.burst_memory_seconds)
        if price
        else law.burst_memory_seconds
    )
    for step, work in bursts.sudden:
        level = math.exp2(step / STEPS_PER_OCTAVE)
        met += work
        worth = met * (price or law.miss_weight) / over - max(level - usual, 0.0)
        if worth > gain:
            best, gain = level, worth
    return max(best, factor * usual)


def sudden_share(bursts: Bursts) -> float:
    """Share of the work that came too suddenly, 0-1."""
    return min(sum(work for _, work in bursts.sudden) / bursts.work, 1.0) if bursts.work > 0 else 0.0
