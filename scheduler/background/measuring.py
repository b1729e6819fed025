"""Brings measured VRAM into the fleet: a query for each metric of all cards, and none of it once it is too old."""

import asyncio
from collections.abc import Callable

import msgspec

from headroom.daemon.logs import get_logger
from headroom.daemon.slices import Slices
from headroom.prometheus.client import PrometheusAnswerError, PrometheusError, PrometheusSource
from headroom.prometheus.series import DeviceJobs
from scheduler.cluster.effects import Effects
from scheduler.cluster.measured import METRICS, MeasuredVram, Readings, line_of, query_for
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.settings import SchedulerSettings


class MeasuredPoll:
    """Reads again and again; run `run` as a task. `unix_clock` is what Prometheus stamps samples with.

    `on_ready(detail)` is told once the extender may go by what was read: at the first reading, or when that is waited for no longer.
    """

    def __init__(
        self,
        state: ClusterState,
        source: PrometheusSource,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        effects: Effects,
        *,
        on_ready: Callable[[str], None] = lambda _: None,
        unix_clock: Callable[[], float],
    ) -> None:
        self._state, self._source, self._settings, self._metrics = state, source, settings, metrics
        self._effects, self._on_ready = effects, on_ready
        self._unix_clock = unix_clock
        self._jobs = DeviceJobs(settings.device_jobs)
        self._read_at: float | None = None
        self._first = asyncio.Event()
        self._named: set[str] = set()
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read_once()
            await asyncio.sleep(self._settings.measured_every_seconds if self._first.is_set() else 1.0)

    async def first_reading(self) -> None:
        """Wait for the first reading, but not for ever: without one what pods declare counts, as whenever readings stop."""
        patience = self._settings.measured_start_seconds
        try:
            async with asyncio.timeout(patience):
                await self._first.wait()
        except TimeoutError:
            self._log.warning("measured_vram_not_read_at_start", waited_seconds=patience)
            self._on_ready(f"not read within {patience:g} s: what pods declare counts until it is")

    async def read_once(self) -> None:
        """One reading. While Prometheus fails, the last one counts until its age bound, then only what pods declare."""
        max_age = self._settings.measured_max_age_seconds
        try:
            now = self._unix_clock()
            reading = await self._read(now)
        except PrometheusError as error:
            self._metrics.measured_reads.labels("failed").inc()
            self._log.warning("measured_vram_not_read", error=str(error))
            if self._read_at is not None and self._unix_clock() - self._read_at > max_age:
                self._read_at = None
                await self._apply(MeasuredVram())
            return
        self._read_at = now
        self._metrics.measured_reads.labels("ok").inc()
        self._tell(reading)
        await self._apply(reading)
        if not self._first.is_set():
            self._on_ready(f"{reading.cards} cards at the first reading")
            self._first.set()

    async def _read(self, now: float) -> MeasuredVram:
        max_age = self._settings.measured_max_age_seconds
        readings = Readings(dict(self._state.fleet.nodes), max_age_seconds=max_age, now=now, jobs=self._jobs)
        reading, partial = await read_all(self._source, readings, max_age)
        if partial:
            reading.fill_from(self._state.reading, oldest=now - max_age)
        return reading

    def _tell(self, reading: MeasuredVram) -> None:
        for what, number in (
            ("stale", reading.stale),
            ("unusable", reading.unusable),
            ("unmatched", reading.unmatched),
            ("doubted", reading.doubted),
        ):
            self._metrics.measured_series_left_out.labels(what).set(number)
        if new := reading.doubted_jobs - self._named:
            self._named |= new
            self._log.warning("jobs_not_believed", jobs=sorted(new), setting="device_jobs")

    async def _apply(self, reading: MeasuredVram) -> None:
        self._state.reading = reading
        slices = Slices()
        for name in list(self._state.fleet.nodes):
            self._effects(self._state.set_measured(name, reading))
            await slices.pause()
        self._state.measured_cards = reading.cards
        self._metrics.measured_cards.set(reading.cards)


async def read_all(source: PrometheusSource, readings: Readings, max_age_seconds: float) -> tuple[MeasuredVram, bool]:
    """One metric after another, each looked through in a thread; and whether an answer was only a part. Raises PrometheusError."""
    partial = False
    for metric in METRICS:
        answer = await source.ask(query_for(metric, max_age_seconds))
        partial |= answer.partial
        try:
            await asyncio.to_thread(readings.add, metric, map(line_of, answer.entries()))
        except (msgspec.MsgspecError, ValueError) as error:
            words = f"{source.url} answered with something that is no series: {error}"
            raise PrometheusAnswerError(words) from error
    return await asyncio.to_thread(readings.result), partial
