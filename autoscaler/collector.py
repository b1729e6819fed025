"""Asks Prometheus the queries of a tick, all at once, and keeps each answer or what went wrong with it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from autoscaler import snapshot as snap
from autoscaler.queries import CLOCK, COUNTERS, GAUGES, Custom, Plan, combine
from autoscaler.series import newest
from autoscaler.snapshot import Series, Snapshot
from headroom.errors import HeadroomError
from headroom.logs import get_logger
from headroom.prometheus import PrometheusQueryError

_RETRY_SECONDS: Final = 300.0
_LARGE: Final = (GAUGES, COUNTERS)
"""Answers of tens of MiB where there are thousands of pods: held one at a time."""


class Source(Protocol):
    """Where series come from."""

    async def query(self, promql: str) -> Sequence[Series]:
        """Answer one instant query. Raises HeadroomError when there is no answer."""
        ...


class Collector:
    """One snapshot per call of `collect`."""

    def __init__(
        self,
        source: Source,
        *,
        short_seconds: float,
        long_seconds: float,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._short, self._long, self._wall_clock = source, short_seconds, long_seconds, wall_clock
        self._refused: dict[Custom, tuple[float, str]] = {}
        """Queries that Prometheus refuses, since when, and why: they are kept out of the batches."""
        self.queries_asked = 0
        self._one_large = asyncio.Lock()
        self._log = get_logger(__name__)

    async def collect(self, plan: Plan) -> Snapshot:
        """Ask everything in `plan`. Never raises for lack of an answer: `Snapshot.errors` says what is missing."""
        snapshot = Snapshot(self._wall_clock())
        fixed = {group: query for group, query in plan.queries.items() if group not in plan.custom}
        await asyncio.gather(
            *(self._collect_group(snapshot, group, query) for group, query in fixed.items()),
            *(self._collect_custom(snapshot, pairs) for pairs in plan.custom.values()),
        )
        return snapshot

    async def _collect_group(self, snapshot: Snapshot, group: str, query: str) -> None:
        async with self._one_large if group in _LARGE else contextlib.nullcontext():
            answer = await self._ask(query)
            if isinstance(answer, HeadroomError):
                snapshot.errors[group] = str(answer)
            else:
                # In a thread, so that the lease is renewed and watches are read meanwhile.
                await asyncio.to_thread(self._add, snapshot, group, answer)

    async def _collect_custom(self, snapshot: Snapshot, pairs: Sequence[tuple[str, Custom]]) -> None:
        answer = await self._ask_custom(pairs)
        if isinstance(answer, HeadroomError):
            snapshot.custom.update({(custom.target, custom.signal): str(answer) for _, custom in pairs})
            return
        snap.add_custom(snapshot, {tag: (custom.target, custom.signal) for tag, custom in pairs}, answer)
        for _, custom in pairs:
            if custom in self._refused:
                snapshot.custom[custom.target, custom.signal] = self._refused[custom][1]

    def _add(self, snapshot: Snapshot, group: str, series: Sequence[Series]) -> None:
        if group == CLOCK:
            sample = newest(series[0].points) if series else None
            snapshot.clock_seconds = sample.value if sample else snapshot.clock_seconds
        elif group == GAUGES:
            snap.add_gauges(snapshot, series, self._short, self._long)
        elif group == COUNTERS:
            snap.add_counters(snapshot, series, self._short, self._long)
        else:
            snap.add_buckets(snapshot, group, series)

    async def _ask(self, query: str) -> Sequence[Series] | HeadroomError:
        self.queries_asked += 1
        try:
            return await self._source.query(query)
        except HeadroomError as error:
            return error

    async def _ask_custom(self, pairs: Sequence[tuple[str, Custom]]) -> Sequence[Series] | HeadroomError:
        """Ask many in one; when that fails, halve until the ones that Prometheus refuses are found."""
        now = self._wall_clock()
        pairs = [pair for pair in pairs if now - self._refused.get(pair[1], (-_RETRY_SECONDS, ""))[0] >= _RETRY_SECONDS]
        if not pairs:
            return []
        answer = await self._ask(combine(pairs))
        if not isinstance(answer, HeadroomError):
            for _, custom in pairs:
                self._refused.pop(custom, None)
            return answer
        if not isinstance(answer, PrometheusQueryError):
            return answer
        return await self._halve(pairs, answer, now)

    async def _halve(self, pairs: Sequence[tuple[str, Custom]], error: HeadroomError, now: float) -> list[Series]:
        if len(pairs) == 1:
            custom = pairs[0][1]
            self._refused[custom] = (now, str(error))
            self._log.warning("query_refused", target=custom.target, signal=custom.signal, error=str(error))
            return []
        middle = len(pairs) // 2
        result: list[Series] = []
        for half in (pairs[:middle], pairs[middle:]):
            answer = await self._ask(combine(half))
            if isinstance(answer, PrometheusQueryError):
                result += await self._halve(half, answer, now)
            elif not isinstance(answer, HeadroomError):
                result += answer
        return result
