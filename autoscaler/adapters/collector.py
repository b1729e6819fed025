"""Asks Prometheus the queries of a tick, all at once, and keeps each answer or what went wrong with it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from autoscaler.observation import answers
from autoscaler.observation.answers import Snapshot
from autoscaler.observation.queries import CLOCK, COUNTERS, GAUGES, Custom, Plan, combine
from headroom.daemon.logs import get_logger
from headroom.errors import HeadroomError
from headroom.prometheus.client import PrometheusQueryError
from headroom.prometheus.series import DeviceJobs, Series, Source, newest

_RETRY_SECONDS: Final = 300.0
_LARGE: Final = (GAUGES, COUNTERS)
"""Answers of tens of MiB where there are thousands of pods: held one at a time."""


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
        self._refused: dict[Custom, tuple[float, str]] = {}
        """Queries that Prometheus refuses, since when, and why: they are kept out of the batches."""
        self.queries_asked = 0
        self._one_large = asyncio.Lock()
        self._log = get_logger(__name__)

    async def collect(self, plan: Plan) -> Snapshot:
        """Ask everything in `plan`. Never raises for lack of an answer: `Snapshot.errors` says what is missing."""
        snapshot = Snapshot(self._wall_clock())
        wanted = {custom for pairs in plan.custom.values() for _, custom in pairs}
        self._refused = {custom: known for custom, known in self._refused.items() if custom in wanted}
        fixed = {group: query for group, query in plan.queries.items() if group not in plan.custom}
        await asyncio.gather(
            *(self._collect_group(snapshot, group, query) for group, query in fixed.items()),
            *(self._collect_custom(snapshot, pairs) for pairs in plan.custom.values()),
        )
        if new := snapshot.jobs_left_out - self._jobs_left_out:
            self._jobs_left_out |= new
            self._log.warning("jobs_not_believed", jobs=sorted(new), setting="device_jobs")
        return snapshot

    async def _collect_group(self, snapshot: Snapshot, group: str, query: str) -> None:
        async with self._one_large if group in _LARGE else contextlib.nullcontext():
            self.queries_asked += 1
            try:
                answer = await self._source.ask(query)
                # In a thread, so that the lease is renewed and watches are read meanwhile.
                await asyncio.to_thread(self._add, snapshot, group, answer)
            except HeadroomError as error:
                snapshot.errors[group] = str(error)
                if group == GAUGES:  # half an answer is none
                    snapshot.devices.clear()
                    snapshot.devices_of.clear()

    async def _collect_custom(self, snapshot: Snapshot, pairs: Sequence[tuple[str, Custom]]) -> None:
        now = self._wall_clock()
        asked = [pair for pair in pairs if not self._is_put_off(pair[1], now)]
        series = await self._ask_custom(snapshot, asked, now)
        answers.add_custom(snapshot, {tag: (custom.target, custom.signal) for tag, custom in asked}, series)
        for _, custom in pairs:
            if custom in self._refused:
                snapshot.custom[custom.target, custom.signal] = self._refused[custom][1]

    def _is_put_off(self, custom: Custom, now: float) -> bool:
        since = self._refused[custom][0] if custom in self._refused else float("-inf")
        return 0 <= now - since < _RETRY_SECONDS

    async def _ask_custom(self, snapshot: Snapshot, pairs: Sequence[tuple[str, Custom]], now: float) -> list[Series]:
        """Ask many in one; when Prometheus refuses that, halve until the queries that it refuses are found."""
        if not pairs:
            return []
        self.queries_asked += 1
        try:
            series = list(await self._source.ask(combine(pairs)))
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
        return series

    def _add(self, snapshot: Snapshot, group: str, series: Iterable[Series]) -> None:
        if group == CLOCK:
            for one in series:
                point = newest(one.points)
                snapshot.clock_seconds = point[1] if point else snapshot.clock_seconds
        elif group == GAUGES:
            answers.add_gauges(snapshot, series, self._short, self._long, self._jobs)
        elif group == COUNTERS:
            answers.add_counters(snapshot, series, self._short, self._long)
        else:
            answers.add_buckets(snapshot, group, series)
