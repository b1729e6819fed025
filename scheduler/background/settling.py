"""Learns what became of bindings whose answer never came, once nothing can be written by them any more.

The API server ends a request by itself after its `--request-timeout` (60 s); a read that begins later than that, and after the
time in which a dead watch is noticed, tells the truth for good. While it cannot be read the cards stay with their pod.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.kube import calls
from headroom.kube.client import KubeClient, KubeError, NotFound
from headroom.wire import MODIFIED
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.state import ClusterState
from scheduler.settings import SchedulerSettings

_RETRY_SECONDS: Final = 5.0


class Settler:
    """Settles bindings one after another; run `run` as a task."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        effects: Effects,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._effects = state, kube, settings, effects
        self._monotonic = monotonic
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Settle until cancelled."""
        while True:
            settled = await self.settle_due()
            await asyncio.sleep(self._settings.sweep_seconds if settled else _RETRY_SECONDS)

    async def settle_due(self) -> bool:
        """Settle what is due; false when the API server cannot be read."""
        for entry in list(self._state.pods.at(Stage.BINDING)):
            if self._is_due(entry) and not await self._settle(entry):
                return False
        return True

    def _is_due(self, entry: PodEntry) -> bool:
        since = entry.unsure_since
        if entry.awaited or since is None or entry.stage is not Stage.BINDING:
            return False
        return self._monotonic() - since >= self._settings.unsure_seconds

    async def _settle(self, entry: PodEntry) -> bool:
        meta = entry.pod.metadata
        try:
            pod = wire.POD.decode(await self._kube.request("GET", calls.pod_path(meta.namespace, meta.name)))
        except NotFound:
            pod = None
        except (KubeError, wire.WireError) as error:
            self._log.info("binding_not_settled", pod=entry.key, error=str(error))
            return False
        if not self._is_due(entry):
            return True  # the watch told, or kube-scheduler asks again, while this was read
        if pod is None or pod.metadata.uid != entry.uid:
            outcome, changes = "gone", self._state.pods.end(entry.uid)
        elif pod.spec.node_name:
            outcome, changes = "bound", self._state.on_pod(MODIFIED, pod.key, pod)
        else:
            outcome, changes = "not_bound", self._state.pods.settle_binding(entry)
        self._log.info("binding_settled", pod=entry.key, outcome=outcome)
        self._effects(changes)
        return True
