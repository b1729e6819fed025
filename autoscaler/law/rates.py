"""How fast replicas may change: the rate policies of the HPA. Pure; times are arguments."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Move(NamedTuple):
    """A change of replicas that was decided."""

    at_seconds: float
    delta: int


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
