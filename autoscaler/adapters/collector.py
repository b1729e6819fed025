"""Asks Prometheus the queries of a tick, all at once, and keeps each answer or what went wrong with it."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from autoscaler.adapters.custom_queries import CustomQueries
from autoscaler.observation import absent
from autoscaler.observation.answers import Snapshot, SnapshotBuilder
from autoscaler.observation.queries import CLOCK, COUNTERS, GAUGES, Plan
from autoscaler.observation.scrapes import ScrapeMemory
from headroom.daemon.logs import get_logger
from headroom.errors import HeadroomError
from headroom.prometheus.series import DeviceJobs, Series, Source

_LARGE: Final = (GAUGES, COUNTERS)
"""Answers of tens of MiB where there are thousands of pods: held one at a time."""
_HINTS_SECONDS: Final = 300.0
"""How often it is asked what there is in place of metrics that nobody exports."""


class Collector:
    """One snapshot per call of `collect`."""

    def __init__(
        self,
        source: Source,
        *,
        short_seconds: float,
        long_seconds: float,
        timeout_seconds: float = 5.0,
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
        self._custom = CustomQueries(source, timeout_seconds, wall_clock)
        self.queries_asked = 0
        self._one_large = asyncio.Lock()
        self._log = get_logger(__name__)

    async def collect(self, plan: Plan, lacking: Collection[str] = ()) -> Snapshot:
        """Ask everything in `plan`. Never raises for lack of an answer: `Snapshot.errors` says what is missing.

        `lacking` are names that some target's pods did not export lately: what there is in their place is asked now and then.
        """
        builder = SnapshotBuilder(self._wall_clock(), plan.facts, (self._short, self._long), self._jobs)
        snapshot = builder.snapshot
        fixed = {group: query for group, query in plan.queries.items() if group not in plan.custom}
        alive: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if CLOCK not in fixed:
            alive.set_result(True)
        await asyncio.gather(
            *(self._collect_group(builder, group, query, alive) for group, query in fixed.items()),
            self._collect_custom(snapshot, plan, alive),
        )
        _say_unreachable(snapshot)
        await asyncio.to_thread(builder.finish)
        snapshot.scrapes = self._scrapes.note(snapshot.scrapes, snapshot.clock_seconds)
        snapshot.hints = await self._look_for_others(absent.unknown_names(plan, snapshot, lacking))
        if new := snapshot.jobs_left_out - self._jobs_left_out:
            self._jobs_left_out |= new
            self._log.warning("jobs_not_believed", jobs=sorted(new), setting="device_jobs")
        return snapshot

    async def _collect_group(
        self, builder: SnapshotBuilder, group: str, query: str, alive: asyncio.Future[bool]
    ) -> None:
        async with self._one_large if group in _LARGE else contextlib.nullcontext():
            self.queries_asked += 1
            try:
                answer = await self._source.ask(query)
                # In a thread, so that the lease is renewed and watches are read meanwhile.
                await asyncio.to_thread(self._add, builder, group, answer)
                if answer.warnings:
                    builder.snapshot.partial[group] = "; ".join(answer.warnings)
            except HeadroomError as error:
                builder.snapshot.errors[group] = str(error)
                builder.drop(group)
            finally:
                if group == CLOCK and not alive.done():
                    alive.set_result(CLOCK not in builder.snapshot.errors)

    async def _look_for_others(self, unknown: Sequence[str]) -> dict[str, str]:
        """What there is in place of these names; asked for now and then, and only where it may be answered."""
        now = self._wall_clock()
        due = not 0 <= now - self._hints_at < _HINTS_SECONDS
        if unknown and (due or not self._hints_of.issuperset(unknown)):
            self._hints_at, self._hints_of = now, frozenset(unknown)
            self.queries_asked += 1
            try:
                answer = await self._source.ask(absent.question(unknown))
                self._hints = absent.hints(unknown, answer)
            except HeadroomError as error:
                self._hints = {}
                self._log.info("similar_metrics_not_asked", error=str(error))
        return self._hints

    async def _collect_custom(self, snapshot: Snapshot, plan: Plan, alive: asyncio.Future[bool]) -> None:
        async def answers_anything() -> bool:
            return await asyncio.shield(alive)

        before = self._custom.asked
        answers = await self._custom.ask(list(plan.custom.values()), answers_anything)
        self.queries_asked += self._custom.asked - before
        snapshot.custom = answers.found
        snapshot.custom_partial, snapshot.remarks = answers.partial, answers.remarks
        snapshot.unreadable = answers.refused

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


def _say_unreachable(snapshot: Snapshot) -> None:
    """Where Prometheus does not even say what time it is, that is what is wrong with everything else."""
    if CLOCK not in snapshot.errors:
        return
    away = "Prometheus is unreachable"
    snapshot.errors = {group: f"{away}: {text}" for group, text in snapshot.errors.items()}
    snapshot.custom = {
        key: f"{away}: {text}" if isinstance(text, str) else text for key, text in snapshot.custom.items()
    }
