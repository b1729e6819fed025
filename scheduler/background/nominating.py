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
from headroom.daemon.slices import Slices
from headroom.kube import calls
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, Unprocessable
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.room.open_rows import OpenRows
from scheduler.cluster.state import ClusterState
from scheduler.ledger.ledger import LedgerError
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.placer import Placer
from scheduler.settings import SchedulerSettings

_BATCH: Final = 64  # pods named before the backlog is looked at again
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
        effects: Effects,
        *,
        may_write: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._metrics = state, kube, settings, metrics
        self._effects, self._may_write, self._monotonic = effects, may_write, monotonic
        # In a cluster CPU and host memory are kube-scheduler's to check; here nobody has checked them yet.
        self._placer = Placer(state.fleet, state.placer.policy, check_host=True)
        self._open_rows = OpenRows(state)
        self._signal = asyncio.Event()
        self._slots = asyncio.Semaphore(settings.naming_ahead_parallel)
        self._patches: set[asyncio.Task[None]] = set()
        self._busy = False
        self._landed = asyncio.Event()
        self._log = get_logger(__name__)

    def pods_changed(self) -> None:
        """Note that there may be a backlog now."""
        self._signal.set()

    async def head_start(self, uid: str) -> None:
        """Return when the pod may be decided on: at once, unless a backlog is being named and has not got to this pod."""
        entry = self._state.pods.entries.get(uid)
        if not self._busy or (entry is not None and entry.name_landed):
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                while self._busy and self._state.pods.names_ahead < _HEAD_START:
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
        try:
            await self._name_all()
        finally:
            self._busy = False
            self._landed.set()

    async def _name_all(self) -> None:
        total, slices = 0, Slices()
        while len(backlog := self._backlog()) >= self._settings.naming_ahead_backlog:
            self._busy = True
            named = 0
            for pod in backlog[:_BATCH]:
                named += await self._name(pod)
                await slices.pause()
            total += named
            if not named:
                break
        if total:
            self._log.info("backlog_named_ahead", pods=total, left=len(backlog))

    def _backlog(self) -> list[PodEntry]:
        """Waiting pods that nobody has decided on, in the order of kube-scheduler's queue."""
        if not self._may_write():
            return []
        waiting = self._state.pods.at(Stage.WAITING)
        pods = [
            entry
            for entry in waiting
            if entry.facts.can_be_named and entry.may_be_named and not self._state.groups.binds(entry.uid)
        ]
        pods.sort(key=lambda entry: entry.rank)
        return pods

    async def _name(self, entry: PodEntry) -> bool:
        """Place, reserve and start the patch; false when the pod fits nowhere or was decided on meanwhile."""
        await self._slots.acquire()
        placed = False
        try:
            if entry.stage is Stage.WAITING:
                placed = self._place(entry)
        finally:
            if not placed:
                self._slots.release()
        return placed

    def _place(self, entry: PodEntry) -> bool:
        rows = self._state.pods.kept.rows_open_to(entry, self._open_rows.of(entry.pod))
        row = self._placer.best_among(entry.request, rows)
        if row is None:
            # kube-scheduler will ask and be told why; until then this pod is not looked at again.
            entry.may_be_named = False
            return False
        placement = self._placer.placement_at(entry.request, row)
        try:
            expires_at = self._monotonic() + self._settings.nomination_seconds
            self._effects(self._state.pods.name(entry, placement, expires_at))
        except LedgerError:
            entry.may_be_named = False
            return False
        task = asyncio.get_running_loop().create_task(self._patch(entry, placement.node))
        self._patches.add(task)
        task.add_done_callback(self._patches.discard)
        return True

    def _still_named(self, entry: PodEntry, node: str) -> bool:
        """Whether the node is reserved for the pod, and kube-scheduler has not taken it up yet."""
        holding = self._state.holding(entry.uid)
        return entry.stage is Stage.NAMED and holding is not None and holding.placement.node == node

    async def _patch(self, entry: PodEntry, node: str) -> None:
        meta = entry.pod.metadata
        try:
            if not self._still_named(entry, node) or not self._may_write():
                self._metrics.named_ahead.labels("late").inc()
                return
            await calls.nominate(self._kube, meta.namespace, meta.name, entry.uid, node)
        except (Unprocessable, NotFound, Conflict):
            self._metrics.named_ahead.labels("late").inc()  # bound or gone by now
        except KubeError as error:
            # The reservation stays: the ordinary path will use it, or it expires.
            self._metrics.named_ahead.labels("failed").inc()
            self._log.info("naming_ahead_failed", pod=entry.key, node=node, error=str(error))
        else:
            self._metrics.named_ahead.labels("named").inc()
            if self._still_named(entry, node):
                self._state.pods.landed(entry)
        finally:
            self._slots.release()
            self._landed.set()
