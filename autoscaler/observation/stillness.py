"""Engines whose counters stand still while their gauges say that requests are inside. Pure.

Requests that were aborted can stay in an engine's gauges for ever (vllm#22545, #29928). While something comes or goes the engine
is taken to hang; when nothing has for `QUIET_SECONDS`, nobody waits for those requests, and the pod counts as idle.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

QUIET_SECONDS: Final = 300.0
"""Without a token, a request that comes or goes, or a change of the KV cache, for so long: nothing runs."""
QUIET_AT_END_SECONDS: Final = 900.0
"""The same where counters move only when a request ends, which a long generation does after minutes."""


class Load(NamedTuple):
    """One pod, as its fresh samples say."""

    moves: bool
    """Whether a counter has grown lately."""
    inside: float
    """Requests running and waiting."""
    kv_cache: float


class Still(NamedTuple):
    """A pod with requests inside whose counters stand still. Times are Prometheus'."""

    quiet_since: float
    """Nothing has come or gone since."""
    inside: float
    kv_cache: float


def follow(before: Mapping[str, Still], loads: Mapping[str, Load], clock_seconds: float) -> dict[str, Still]:
    """The pods that stand still now, by name."""
    found = {}
    for name, load in loads.items():
        if load.moves or load.inside <= 0:
            continue
        known = before.get(name)
        if known is None or (known.inside, known.kv_cache) != (load.inside, load.kv_cache):
            known = Still(clock_seconds, load.inside, load.kv_cache)
        found[name] = known
    return found


def is_idle(still: Still, clock_seconds: float, counts_at_end: bool) -> bool:
    """Whether nothing has come or gone for long enough to say that nothing runs."""
    return clock_seconds - still.quiet_since >= (QUIET_AT_END_SECONDS if counts_at_end else QUIET_SECONDS)
