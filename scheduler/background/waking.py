"""Has kube-scheduler try refused pods again when memory came free in a way that it cannot see.

A pod that the extender refused rests until a cluster event. The end of another pod is such an event; the end of a
reservation, a fall in measured use and a cleared preemption are not. A changed annotation on a Node is one, and wakes every
refused pod at once, so it is written once for all the memory freed within a short delay, and only if a refused pod fits there.
"""

import asyncio
import datetime
from collections.abc import Callable

from headroom import names
from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import Backoff
from headroom.kube import calls
from headroom.kube.client import KubeClient, KubeError, NotFound
from scheduler.background.room_of_use import node_of_use
from scheduler.cluster.changes import Freed
from scheduler.cluster.pod_entry import Stage
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics


class Waker:
    """Collects freed nodes and writes the annotation; run `run` as a task."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        metrics: SchedulerMetrics,
        seating: Seating,
        *,
        delay_seconds: float,
        wall_clock: Callable[[], datetime.datetime],
    ) -> None:
        self._state, self._kube, self._metrics, self._seating = state, kube, metrics, seating
        self._delay_seconds, self._wall_clock = delay_seconds, wall_clock
        self._freed: dict[str, Freed] = {}
        self._signal = asyncio.Event()
        self._log = get_logger(__name__)

    def freed(self, change: Freed) -> None:
        """Note that memory came free; a cause that kube-scheduler cannot see outweighs one that it can."""
        known = self._freed.get(change.node)
        hidden = not change.seen_by_scheduler or (known is not None and not known.seen_by_scheduler)
        self._freed[change.node] = Freed(change.node, change.number, change.at, seen_by_scheduler=not hidden)
        self._signal.set()

    def _again(self, freed: dict[str, Freed]) -> None:
        for change in freed.values():
            self.freed(change)

    async def run(self) -> None:
        """Wake refused pods until cancelled."""
        backoff = Backoff(initial_seconds=self._delay_seconds or 0.1, maximum_seconds=10.0)
        while True:
            await self._signal.wait()
            await asyncio.sleep(self._delay_seconds)
            self._signal.clear()
            freed, self._freed = self._freed, {}
            node = await node_of_use(self._state, self._seating, freed)
            if node is None:
                continue
            try:
                stamp = calls.micro_time(self._wall_clock())
                await calls.annotate(self._kube, f"{calls.NODES}/{node}", {names.ANNOTATION_WAKE: stamp})
            except NotFound:
                self._metrics.wakes.labels("failed").inc()
                freed.pop(node, None)  # gone since; the others' room is still there
                self._again(freed)
            except KubeError as error:
                self._metrics.wakes.labels("failed").inc()
                self._log.warning("wake_failed", node=node, error=str(error))
                self._again(freed)
                await asyncio.sleep(backoff.next_seconds())
            else:
                backoff.reset()
                self._metrics.wakes.labels("written").inc()
                self._log.info("refused_pods_woken", node=node, refused=len(self._state.pods.at(Stage.REFUSED)))
