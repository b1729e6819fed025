"""Brings measured VRAM into the fleet: one query for all cards, and none of it once it is too old."""

import asyncio
from collections.abc import Callable
from typing import Final

from headroom.daemon.logs import get_logger
from headroom.prometheus.client import PrometheusError
from headroom.prometheus.series import DeviceJobs, Source
from scheduler.cluster.effects import Effects
from scheduler.cluster.measured import MeasuredVram, measured_vram
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.settings import SchedulerSettings

_NODES_AT_ONCE: Final = 200  # so that filter calls are answered in between


class MeasuredPoll:
    """Reads again and again; run `run` as a task. `unix_clock` is what Prometheus stamps samples with."""

    def __init__(
        self,
        state: ClusterState,
        source: Source,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        effects: Effects,
        *,
        unix_clock: Callable[[], float],
    ) -> None:
        self._state, self._source, self._settings, self._metrics = state, source, settings, metrics
        self._effects = effects
        self._unix_clock = unix_clock
        self._jobs = DeviceJobs(settings.device_jobs)
        self._jobs_left_out: set[str] = set()
        self._read_at: float | None = None
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await self.read_once()
            await asyncio.sleep(self._settings.measured_every_seconds)

    async def read_once(self) -> None:
        """One reading. While Prometheus fails, the last one counts until its age bound, then only what pods declare."""
        now = self._unix_clock()
        try:
            reading = await measured_vram(self._source, self._settings.measured_max_age_seconds, now, self._jobs)
        except PrometheusError as error:
            self._metrics.measured_reads.labels("failed").inc()
            self._log.warning("measured_vram_not_read", error=str(error))
            if self._read_at is not None and now - self._read_at > self._settings.measured_max_age_seconds:
                self._read_at = None
                await self._apply(MeasuredVram())
            return
        self._read_at = now
        self._metrics.measured_reads.labels("ok").inc()
        if new := reading.jobs_left_out - self._jobs_left_out:
            self._jobs_left_out |= new
            self._log.warning("jobs_not_believed", jobs=sorted(new), setting="device_jobs")
        await self._apply(reading)

    async def _apply(self, reading: MeasuredVram) -> None:
        fresh = 0
        for at, name in enumerate(list(self._state.fleet.nodes)):
            self._effects(self._state.set_measured(name, reading))
            node = self._state.fleet.nodes.get(name)
            fresh += reading.fresh_cards(node) if node is not None else 0
            if at % _NODES_AT_ONCE == _NODES_AT_ONCE - 1:
                await asyncio.sleep(0)
        self._state.measured_cards = fresh
        self._metrics.measured_cards.set(fresh)
