"""Events with live figures on pods that fit nowhere, seldom enough not to matter to the API server.

The reason in a pod's condition must not change with the fleet (a changed text wakes the pod); an Event may.
"""

import asyncio
import datetime
from collections.abc import Callable
from typing import Final

import numpy as np

from headroom import names
from headroom.daemon.logs import get_logger
from headroom.kube import calls
from headroom.kube.client import KubeClient, KubeError
from scheduler.cluster.decisions import Decisions, live_figures
from scheduler.cluster.records import WaitingPod
from scheduler.cluster.state import ClusterState
from scheduler.settings import SchedulerSettings

_SPACING_SECONDS: Final = 0.2  # at most five Events a second in all
_QUEUE_PODS: Final = 1000
_NODES_NAMED: Final = 3


def refusal_note(state: ClusterState, pod: WaitingPod, decisions: Decisions) -> str:
    """Why the pod waits, and how near the nearest nodes are, in figures of this moment."""
    decision = decisions.get(pod.key)
    reasons = sorted(decision.reasons.items(), key=lambda item: (-item[1], item[0])) if decision else []
    text = "; ".join(f"{count} node{'s' if count > 1 else ''}: {reason}" for reason, count in reasons)
    fleet = state.fleet
    rows = np.flatnonzero(fleet.alive)
    nearest = rows[np.argsort(-fleet.free_mib[rows].max(axis=1, initial=0), kind="stable")][:_NODES_NAMED].tolist()
    now = "; ".join(f"{fleet.names[row]}: {live_figures(fleet, row)}" for row in nearest)
    return f"{text}. Right now {now}" if now else text


class Reporter:
    """Writes the Events; run `run` as a task."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        decisions: Decisions,
        *,
        instance: str,
        monotonic: Callable[[], float],
        wall_clock: Callable[[], datetime.datetime],
    ) -> None:
        self._state, self._kube, self._settings, self._decisions = state, kube, settings, decisions
        self._instance, self._monotonic, self._wall_clock = instance, monotonic, wall_clock
        self._last: dict[str, float] = {}
        self._queue: asyncio.Queue[WaitingPod] = asyncio.Queue(_QUEUE_PODS)
        self._log = get_logger(__name__)

    def refused(self, pod: WaitingPod) -> None:
        """Note a refused pod; its Event is written unless it had one lately or too many wait."""
        now = self._monotonic()
        if now - self._last.get(pod.uid, -self._settings.event_every_seconds) < self._settings.event_every_seconds:
            return
        if not self._queue.full():
            self._last[pod.uid] = now
            self._queue.put_nowait(pod)

    async def run(self) -> None:
        """Write Events until cancelled."""
        while True:
            pod = await self._queue.get()
            self._last = {uid: at for uid, at in self._last.items() if uid in self._state.waiting}
            if pod.uid in self._state.refused:
                await self._write(pod)
            await asyncio.sleep(_SPACING_SECONDS)

    async def _write(self, pod: WaitingPod) -> None:
        try:
            await calls.record_event(
                self._kube,
                regarding={
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "namespace": pod.namespace,
                    "name": pod.name,
                    "uid": pod.uid,
                },
                reason="NoGpuMemory",
                note=refusal_note(self._state, pod, self._decisions),
                action="Filtering",
                controller=f"{names.DOMAIN}/scheduler",
                instance=self._instance,
                now=self._wall_clock(),
                warning=True,
            )
        except KubeError as error:
            self._log.info("event_not_written", pod=pod.key, error=str(error))
