"""Memory of a decision: which level was needed when, and what has been moved lately. Pure; times are arguments.

Both structures are tuples, so that a state can be kept, compared and written out as it is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Need(NamedTuple):
    """Replicas `above the previous entry's level, up to level` were last needed at `at_seconds`."""

    at_seconds: float
    level: int


class Gap(NamedTuple):
    """`replicas` of the `level` needed now were not needed for `seconds` before."""

    seconds: float
    replicas: int
    level: int


class Move(NamedTuple):
    """A change of replicas that was decided."""

    at_seconds: float
    delta: int


Needs = tuple[Need, ...]
"""Newest and lowest level first: times fall, levels rise. The maximum over any window is one look-up."""


def record_need(needs: Needs, now: float, level: int, keep_seconds: float) -> tuple[Needs, list[Gap]]:
    """Note that `level` replicas are needed now; returns the new memory and the gaps that this ends.

    A gap longer than `keep_seconds` is reported as infinite when its replicas are forgotten.
    """
    gaps: list[Gap] = []
    below = 0
    rest: list[Need] = []
    for need in needs:
        if now - need.at_seconds > keep_seconds:
            gaps.append(Gap(math.inf, need.level - below, need.level))
        elif need.level > level:
            ended = max(level - below, 0)
            if ended:
                gaps.append(Gap(now - need.at_seconds, ended, level))
            rest.append(need)
        else:
            gaps.append(Gap(now - need.at_seconds, need.level - below, level))
        below = need.level
    return (Need(now, level), *rest), gaps


def needed_within(needs: Needs, now: float, window_seconds: float) -> int:
    """The highest level needed within the last `window_seconds`."""
    highest = 0
    for need in needs:
        if now - need.at_seconds > window_seconds:
            break
        highest = need.level
    return highest


def record_wish(wishes: Needs, now: float, wish: int, window_seconds: float) -> Needs:
    """Memory for the lowest wish of a window: levels fall with age from newest to oldest; oldest dropped after the window."""
    kept = tuple(old for old in wishes if old.level < wish and now - old.at_seconds <= window_seconds)
    return (Need(now, wish), *kept)


def lowest_wish(wishes: Needs) -> int:
    """The lowest wish that `record_wish` still remembers."""
    return min((wish.level for wish in wishes), default=0)


class RatePolicy(NamedTuple):
    """At most `value` pods, or percent of the replicas at the start of the period, per `period_seconds`."""

    pods: bool
    value: int
    period_seconds: float


def limit_up(
    replicas: int, wanted: int, moves: Sequence[Move], policies: Sequence[RatePolicy], largest: bool, now: float
) -> int:
    """The most that the policies allow of a raise from `replicas` to `wanted` (Kubernetes HPA's `scaleUp.policies`)."""
    if not policies:
        return wanted
    allowed = []
    for policy in policies:
        start = replicas - sum(m.delta for m in moves if m.delta > 0 and now - m.at_seconds < policy.period_seconds)
        allowed.append(start + policy.value if policy.pods else math.ceil(start * (1 + policy.value / 100)))
    return max(replicas, min(wanted, max(allowed) if largest else min(allowed)))


def limit_down(
    replicas: int, wanted: int, moves: Sequence[Move], policies: Sequence[RatePolicy], largest: bool, now: float
) -> int:
    """The lowest that the policies allow of a cut from `replicas` to `wanted` (Kubernetes HPA's `scaleDown.policies`)."""
    if not policies:
        return wanted
    allowed = []
    for policy in policies:
        start = replicas - sum(m.delta for m in moves if m.delta < 0 and now - m.at_seconds < policy.period_seconds)
        allowed.append(start - policy.value if policy.pods else int(start * (1 - policy.value / 100)))
    return min(replicas, max(wanted, min(allowed) if largest else max(allowed)))


def remember_move(moves: tuple[Move, ...], now: float, delta: int, keep_seconds: float) -> tuple[Move, ...]:
    """Add a move and drop those that no policy looks back to."""
    kept = tuple(move for move in moves if now - move.at_seconds < keep_seconds)
    return (*kept, Move(now, delta)) if delta else kept
