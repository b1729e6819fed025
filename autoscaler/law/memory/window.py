"""Memory of a decision: which level was needed when. Pure; times are arguments.

It is made of tuples, so that a state can be kept, compared and written out as it is.
"""

import math
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
