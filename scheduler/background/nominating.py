"""In a backlog, names nodes for waiting pods before kube-scheduler gets to them.

kube-scheduler tries a pod's `status.nominatedNodeName` before any other node and, when it passes, looks at no other one: at
5,000 nodes that is most of its work. So while pods queue, Headroom places them, reserves, and patches the name. A pod that
kube-scheduler takes up before the patch lands is asked about in the ordinary way and gets the same reserved node; a name that
turns out wrong costs one filter call. Everything works without this module; it stands back while nothing queues.

kube-scheduler is faster with named pods than names can be written, so it keeps catching up; and each pod that it takes up
unnamed costs the processors that the writing needs. The answer about such a pod is therefore held back for a moment, until
names have a head start again (`head_start`).
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from headroom.daemon.logs import get_logger
from headroom.kube import calls
from headroom.kube.client import KubeClient, KubeError, NotFound, Unprocessable
from scheduler.cluster.open_rows import OpenRows
from scheduler.cluster.records import WaitingPod
from scheduler.cluster.state import ClusterState
from scheduler.ledger.ledger import LedgerError
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.placer import Placer
from scheduler.settings import SchedulerSettings

_BATCH: Final = 64  # pods placed in one go, so that filter calls are answered in between
_HEAD_START: Final = 128  # names to be ahead by before an unnamed pod's answer goes out
_LONGEST_WAIT_SECONDS: Final = 0.5  # well below kube-scheduler's httpTimeout of 5 s
_SETTLE_SECONDS: Final = 0.02  # how long new pods are collected before a backlog is counted


class NamingAhead:
    """Names nodes ahead, while `may_write()`; run `run` as a task and call `pods_changed` when a pod starts to wait."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        *,
        may_write: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._metrics = state, kube, settings, metrics
        self._may_write, self._monotonic = may_write, monotonic
        # In a cluster CPU and host memory are kube-scheduler's to check; here nobody has checked them yet.
        self._placer = Placer(state.fleet, state.placer.policy, check_host=True)
        self._open_rows = OpenRows(state)
        self._signal = asyncio.Event()
        self._slots = asyncio.Semaphore(settings.naming_ahead_parallel)
        self._patches: set[asyncio.Task[None]] = set()
        self._busy = False
        self._ahead: set[str] = set()
        """Pods that are named and that kube-scheduler has not taken up yet."""
        self._landed = asyncio.Event()
        self._log = get_logger(__name__)

    def pods_changed(self) -> None:
        """Note that there may be a backlog now."""
        self._signal.set()

    async def head_start(self, uid: str) -> None:
        """Return when the pod may be decided on: at once, unless a backlog is being named and has not got to this pod."""
        if uid in self._ahead:
            self._ahead.discard(uid)
            return
        if not self._busy:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                while self._busy and len(self._ahead) < _HEAD_START:
                    self._landed.clear()
                    await self._landed.wait()

    async def run(self) -> None:
        """Name ahead until cancelled."""
        try:
            while True:
                await self._signal.wait()
                await asyncio.sleep(_SETTLE_SECONDS)
                self._signal.clear()
                await self._work_off()
        finally:
            for task in self._patches:
                task.cancel()

    async def _work_off(self) -> None:
        self._ahead &= self._state.waiting.keys()
        try:
            await self._name_all()
        finally:
            self._busy = False
            self._landed.set()

    async def _name_all(self) -> None:
        total = 0
        while len(backlog := self._backlog()) >= self._settings.naming_ahead_backlog:
            self._busy = True
            named = 0
            for pod in backlog[:_BATCH]:
                named += await self._name(pod)
            total += named
            if not named:
                break
            await asyncio.sleep(0)
        if total:
            self._log.info("backlog_named_ahead", pods=total, left=len(backlog))

    def _backlog(self) -> list[WaitingPod]:
        """Waiting pods that nobody has decided on, in the order of kube-scheduler's queue."""
        state = self._state
        if not self._may_write():
            return []
        pods = [
            pod
            for uid, pod in state.waiting.items()
            if pod.can_be_named
            and uid not in state.refused
            and state.holding(uid) is None
            and not state.was_offered(uid)
        ]
        pods.sort(key=lambda pod: (-pod.priority, pod.created_at, pod.arrival))
        return pods

    async def _name(self, pod: WaitingPod) -> bool:
        """Place, reserve and start the patch; false when the pod fits nowhere or was decided on meanwhile."""
        await self._slots.acquire()
        placed = False
        try:
            state = self._state
            if pod.uid in state.waiting and state.holding(pod.uid) is None:
                placed = self._place(pod)
        finally:
            if not placed:
                self._slots.release()
        return placed

    def _place(self, pod: WaitingPod) -> bool:
        row = self._placer.best_among(pod.request, self._open_rows.of(pod.pod))
        if row is None:
            # kube-scheduler will ask and be told why; until then this pod is not looked at again.
            pod.can_be_named = False
            return False
        placement = self._placer.placement_at(pod.request, row)
        try:
            self._state.reserve(pod, placement, self._monotonic() + self._settings.nomination_seconds)
        except LedgerError:
            pod.can_be_named = False
            return False
        task = asyncio.get_running_loop().create_task(self._patch(pod, placement.node))
        self._patches.add(task)
        task.add_done_callback(self._patches.discard)
        return True

    async def _patch(self, pod: WaitingPod, node: str) -> None:
        try:
            if self._state.was_offered(pod.uid) or not self._may_write():
                self._metrics.named_ahead.labels("late").inc()
                return
            await calls.nominate(self._kube, pod.namespace, pod.name, node)
        except (Unprocessable, NotFound):
            self._metrics.named_ahead.labels("late").inc()  # bound or gone by now
        except KubeError as error:
            # The reservation stays: the ordinary path will use it, or it expires.
            self._metrics.named_ahead.labels("failed").inc()
            self._log.info("naming_ahead_failed", pod=pod.key, node=node, error=str(error))
        else:
            self._metrics.named_ahead.labels("named").inc()
            if not self._state.was_offered(pod.uid):
                self._ahead.add(pod.uid)
        finally:
            self._slots.release()
            self._landed.set()
