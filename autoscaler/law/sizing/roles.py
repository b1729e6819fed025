"""Prefill and decode of one model on replicas of their own: what each is held to, and how they share what there is. Pure.

Each role is decided by `autoscaler.law.decide.decide` on its own pods. The time to the first token is prefill's to keep, the time between
tokens decode's, and what may be late is divided. Where not all replicas can be had, what there is goes to the role that has work for it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from autoscaler.law.spec import Objective

PREFILL_PART: Final = 0.75
"""Of the requests that may be late, those that prefill may be the cause of. Lateness comes gradually there, with queues of prompts, and
suddenly in decode, where a batch within its limits makes hardly any."""


class Role(StrEnum):
    """What the replicas of a target do of each request."""

    PREFILL = "prefill"
    DECODE = "decode"


def objective_of(role: Role, objective: Objective) -> Objective | None:
    """What one role is held to, so that both together keep the objective of the whole; None where nothing stated is its to keep."""
    may = 1 - objective.share
    if role is Role.PREFILL:
        own = replace(objective, inter_token_seconds=None, request_seconds=None, share=1 - PREFILL_PART * may)
        return own if own.first_token_seconds is not None else None
    own = replace(objective, first_token_seconds=None, share=1 - (1 - PREFILL_PART) * may)
    return own if own.inter_token_seconds is not None or own.request_seconds is not None else None


@dataclass(frozen=True, slots=True)
class Part:
    """One role as it is now."""

    before: int
    """Replicas asked for now."""
    wanted: int
    """By its signals and what they asked for lately, within its bounds."""
    least: int | None = None
    """The fewest that its signals accept now, within its bounds: what is above them is kept for a load that may come back. None: not
    known, or not to be cut now."""

    @property
    def growth(self) -> int:
        """Replicas to be added."""
        return max(self.wanted - self.before, 0)


Counts = tuple[int, int]
"""Of prefill, of decode."""
Fits = Callable[[Role, int, int], int]
"""How many more replicas of a role the cluster can hold, up to a limit, beside so many more of the other role."""


def together(prefill: Part, decode: Part, fits: Fits) -> Counts:
    """Replicas of both roles, where not all that they want can be had.

    Decode comes first: what it wants follows from the requests that have come through prefill, so that it asks for no more than prefill
    lets through, and what it lacks makes requests wait that have had their first half. Prefill gets the rest, as far as decode keeps up
    with it. What one role still lacks the other gives up at once, as far as it keeps it for later only.
    """
    more = min(fits(Role.DECODE, decode.growth, 0), decode.growth) if decode.growth else 0
    lacking = decode.growth - more
    beside = prefill.growth
    if lacking and decode.wanted:
        useful = math.ceil(prefill.wanted * (decode.before + more) / decode.wanted)
        beside = min(beside, max(useful - prefill.before, 0))
    added = min(fits(Role.PREFILL, beside, more), beside) if beside else 0
    given_up = _spare(prefill, lacking)
    for_prefill = 0 if lacking else _spare(decode, prefill.growth - added)
    return prefill.before + added - given_up, decode.before + more - for_prefill


def _spare(part: Part, lacking: int) -> int:
    """Replicas that a role gives up for so many of the other: none while it grows itself, or where its need is not known."""
    if part.least is None or part.growth:
        return 0
    return min(max(part.before - part.least, 0), lacking)
