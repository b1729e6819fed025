"""Asks Prometheus the queries of a tick, all at once, and keeps each answer or what went wrong with it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from autoscaler.observation import absent
from autoscaler.observation.answers import Snapshot, SnapshotBuilder
from autoscaler.observation.queries import CLOCK, COUNTERS, GAUGES, Custom, Plan, combine
from autoscaler.observation.scrapes import ScrapeMemory
from headroom.daemon.logs import get_logger
from headroom.errors import HeadroomError
from headroom.prometheus.client import PrometheusQueryError
from headroom.prometheus.series import DeviceJobs, Odd, Series, Source

_RETRY_SECONDS: Final = 300.0
_LARGE: Final = (GAUGES, COUNTERS)
"""Answers of tens of MiB where there are thousands of pods: held one at a time."""
_HINTS_SECONDS: Final = 300.0
"""How often it is asked what there is in place of metrics that nobody exports."""


_Read: TypeAlias = tuple[Sequence[Series], Sequence[Odd]]
"""Series of an answer that hold numbers, and the others."""


class Collector:
    """One snapshot per call of `collect`."""

    def __init__(
        self,
        source: Source,
        *,
        short_seconds: float,
        long_seconds: float,
        jobs: DeviceJobs | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._source, self._short, self._long, self._wall_clock = source, short_seconds, long_seconds, wall_clock
        self._jobs = jobs or DeviceJobs()
        self._jobs_left_out: set[str] = set()
        self._scrapes = ScrapeMemory()
        self._hints: dict[str, str] = {}
        self._hints_of: frozenset[str] = frozenset()
        self._hints_at = float("-inf")
        self._refused: dict[Custom, tuple[float, str]] = {}
        """Queries that Prometheus refuses, since when, and why: they are kept out of the batches."""
        self.queries_asked = 0
        self._one_large = asyncio.Lock()
        self._log = get_logger(__name__)

    async def collect(self, plan: Plan) -> Snapshot:
        """Ask everything in `plan`. Never raises for lack of an answer: `Snapshot.errors` says what is missing."""
        builder = SnapshotBuilder(self._wall_clock(), plan.facts, (self._short, self._long), self._jobs)
        snapshot = builder.snapshot
        wanted = {custom for pairs in plan.custom.values() for _, custom in pairs}
        self._refused = {custom: known for custom, known in self._refused.items() if custom in wanted}
        fixed = {group: query for group, query in plan.queries.items() if group not in plan.custom}
        await asyncio.gather(
            *(self._collect_group(builder, group, query) for group, query in fixed.items()),
            *(self._collect_custom(builder, pairs) for pairs in plan.custom.values()),
        )
        await asyncio.to_thread(builder.finish)
        snapshot.scrapes = self._scrapes.note(snapshot.scrapes, snapshot.clock_seconds)
        snapshot.hints = await self._look_for_others(plan, snapshot)
        if new := snapshot.jobs_left_out - self._jobs_left_out:
            self._jobs_left_out |= new
            self._log.warning("jobs_not_believed", jobs=sorted(new), setting="device_jobs")
        return snapshot

    async def _collect_group(self, builder: SnapshotBuilder, group: str, query: str) -> None:
        async with self._one_large if group in _LARGE else contextlib.nullcontext():
            self.queries_asked += 1
            try:
                answer = await self._source.ask(query)
                # In a thread, so that the lease is renewed and watches are read meanwhile.
                await asyncio.to_thread(self._add, builder, group, answer)
            except HeadroomError as error:
                builder.snapshot.errors[group] = str(error)
                builder.drop(group)

    async def _look_for_others(self, plan: Plan, snapshot: Snapshot) -> dict[str, str]:
        """What there is in place of names of which nothing was found; asked for now and then, and only where it may be answered."""
        unknown = absent.unknown_names(plan, snapshot)
        now = self._wall_clock()
        due = not 0 <= now - self._hints_at < _HINTS_SECONDS
        if unknown and (due or not unknown <= self._hints_of):
            self._hints_at, self._hints_of = now, unknown
            self.queries_asked += 1
            try:
                answer = await self._source.ask(absent.question(unknown))
                self._hints = absent.hints(unknown, answer)
            except HeadroomError as error:
                self._hints = {}
                self._log.info("similar_metrics_not_asked", error=str(error))
        return self._hints

    async def _collect_custom(self, builder: SnapshotBuilder, pairs: Sequence[tuple[str, Custom]]) -> None:
        now, snapshot = self._wall_clock(), builder.snapshot
        asked = [pair for pair in pairs if not self._is_put_off(pair[1], now)]
        tags = {tag: (custom.target, custom.signal) for tag, custom in asked}
        for series, odd in await self._ask_custom(snapshot, asked, now):
            builder.add_custom(tags, series, odd)
        for _, custom in pairs:
            if custom in self._refused:
                snapshot.custom[custom.target, custom.signal] = self._refused[custom][1]

    def _is_put_off(self, custom: Custom, now: float) -> bool:
        since = self._refused[custom][0] if custom in self._refused else float("-inf")
        return 0 <= now - since < _RETRY_SECONDS

    async def _ask_custom(self, snapshot: Snapshot, pairs: Sequence[tuple[str, Custom]], now: float) -> list[_Read]:
        """Ask many in one; when Prometheus refuses that, halve until the queries that it refuses are found."""
        if not pairs:
            return []
        self.queries_asked += 1
        try:
            answer = await self._source.ask(combine(pairs))
            read = list(answer), answer.odd
        except PrometheusQueryError as error:
            if len(pairs) > 1:
                middle = len(pairs) // 2
                first = await self._ask_custom(snapshot, pairs[:middle], now)
                return first + await self._ask_custom(snapshot, pairs[middle:], now)
            custom = pairs[0][1]
            self._refused[custom] = (now, str(error))
            self._log.warning("query_refused", target=custom.target, signal=custom.signal, error=str(error))
            return []
        except HeadroomError as error:
            snapshot.custom.update({(custom.target, custom.signal): str(error) for _, custom in pairs})
            return []
        for _, custom in pairs:
            self._refused.pop(custom, None)
        return [read]

    @staticmethod
    def _add(builder: SnapshotBuilder, group: str, series: Iterable[Series]) -> None:
        if group == CLOCK:
            builder.add_clock(series)
        elif group == GAUGES:
            builder.add_gauges(series)
        elif group == COUNTERS:
            builder.add_counters(series)
        else:
            builder.add_buckets(group, series)
