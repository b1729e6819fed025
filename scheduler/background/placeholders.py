"""Keeps the placeholder pods in step with what placement cannot meet, so that node autoscalers see it.

Placeholders are created, listed and deleted in a namespace of their own, by the extender that decides. They are never bound: the
extender refuses them. What they are is decided in `scheduler.background.unmet`.
"""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np

from headroom import names, wire
from headroom.daemon.logs import get_logger
from headroom.daemon.slices import Slices
from headroom.domain.model import GpuRequest, Mode
from headroom.kube import calls
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, Unprocessable
from scheduler.background.unmet import Placeholder, is_unmet, manifest, placeholders
from scheduler.cluster.pod_entry import PodEntry
from scheduler.cluster.state import ClusterState
from scheduler.ledger.holding import Holding, HoldingState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement import filtering
from scheduler.settings import SchedulerSettings

_ROUND_SECONDS: Final = 5.0
_SHORTEST_ROUND_SECONDS: Final = 0.5
_SETTLE_SECONDS: Final = 10.0
"""A node that has just come fills within seconds. Until then it must look free, or a node is asked for that nobody needs."""


class Placeholders:
    """Works while `may_act()`; run `run` as a task."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        *,
        instance: str,
        may_act: Callable[[], bool],
        monotonic: Callable[[], float],
        wall_clock: Callable[[], datetime.datetime],
    ) -> None:
        self._state, self._kube, self._settings, self._metrics = state, kube, settings, metrics
        self._instance, self._may_act, self._monotonic, self._wall_clock = instance, may_act, monotonic, wall_clock
        self._path = f"/api/v1/namespaces/{settings.placeholder_namespace}/pods"
        self._unmet_since: dict[str, float] = {}
        self._pinned_since: dict[str, float] = {}
        """When pinned pods were first seen bound, by UID; those that were there before anything was unmet: long ago."""
        self._labelled: set[str] = set()
        self._clean = False
        """No placeholder is there."""
        self._log = get_logger(__name__)

    async def run(self) -> None:
        """Look every few seconds until cancelled; more often where pods shall wait for less."""
        every = min(_ROUND_SECONDS, max(self._settings.placeholder_wait_seconds, _SHORTEST_ROUND_SECONDS))
        while True:
            await asyncio.sleep(every)
            if self._may_act():
                await self.round()
            else:
                self._clean = False  # another extender may leave some behind
                self._unmet_since.clear()

    async def round(self) -> None:
        """Bring the placeholders in step once; what fails is tried again in the next round."""
        wanted, left_out = placeholders(self._unmet_for_long(), self._card_mib, self._settings.placeholder_most)
        self._metrics.placeholders.labels("wanted").set(len(wanted))
        self._metrics.placeholders.labels("left_out").set(left_out)
        if self._clean and not wanted:
            return
        try:
            there = await self._list()
        except (KubeError, wire.WireError) as error:
            self._log.warning("placeholders_not_listed", error=str(error))
            return
        by_name = {placeholder.name: placeholder for placeholder in wanted}
        for name, uid in there.items():
            # Before anything else: a node that has met a pod counts as full for its placeholder.
            if name not in by_name:
                await self._delete(name, uid)
        self._clean = not there and not wanted
        if wanted and await self._label_pinned():
            for placeholder in wanted:
                if placeholder.name not in there:
                    await self._create(placeholder)

    def _unmet_for_long(self) -> list[PodEntry]:
        now = self._monotonic()
        unmet = [
            entry for entry in self._state.pods.entries.values() if is_unmet(entry, self._settings.scheduler_names)
        ]
        self._unmet_since = {entry.uid: self._unmet_since.get(entry.uid, now) for entry in unmet}
        return [
            entry for entry in unmet if now - self._unmet_since[entry.uid] >= self._settings.placeholder_wait_seconds
        ]

    def _card_mib(self, request: GpuRequest) -> int:
        """The largest card of the fleet that the request accepts; 0 where there is none."""
        fleet = self._state.fleet
        rows = np.flatnonzero(fleet.alive)
        accepted = filtering.may_hold(fleet, request, rows)
        return int(np.where(accepted, fleet.usable_mib[rows], 0).max(initial=0))

    async def _list(self) -> dict[str, str]:
        """UIDs of the placeholders that are there, by name."""
        query = [("labelSelector", f"{names.LABEL_PLACEHOLDER}=true")]
        found = wire.POD_LIST.decode(await self._kube.request("GET", self._path, query=query))
        return {pod.metadata.name: pod.metadata.uid for pod in found.items if pod.metadata.deletion_timestamp is None}

    async def _delete(self, name: str, uid: str) -> None:
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        if await self._write("delete", name, self._kube.request("DELETE", f"{self._path}/{name}", body=body)):
            self._log.info("placeholder_deleted", name=name)

    async def _create(self, placeholder: Placeholder) -> None:
        settings = self._settings
        body = manifest(
            placeholder, settings.placeholder_namespace, settings.scheduler_names[0], settings.placeholder_image
        )
        if not await self._write("create", placeholder.name, self._kube.request("POST", self._path, body=body)):
            return
        self._log.info(
            "placeholder_created", name=placeholder.name, pods=len(placeholder.pods), cards=placeholder.cards
        )
        first, others = placeholder.pods[0], len(placeholder.pods) - 1
        meta = first.pod.metadata
        note = f"no node has room; pod {settings.placeholder_namespace}/{placeholder.name} asks the node autoscaler for"
        note += f" {placeholder.cards} card{'s' if placeholder.cards > 1 else ''}"
        note += f", for this pod and {others} more" if others else ""
        event = calls.Event(
            regarding={
                "apiVersion": "v1", "kind": "Pod", "namespace": meta.namespace, "name": meta.name, "uid": first.uid,
            },
            reason="NodeAskedFor", note=note, action="Scaling", controller=f"{names.DOMAIN}/scheduler",
            instance=self._instance, now=self._wall_clock(),
        )  # fmt: skip
        await self._write("event", placeholder.name, calls.record_event(self._kube, event))

    async def _label_pinned(self) -> bool:
        """Label pods in pinned mode, so that placeholders are kept off their nodes. Returns whether all that are due have been."""
        now, first, slices = self._monotonic(), not self._pinned_since, Slices()
        pinned: dict[str, Holding] = {}
        for uid, holding in list(self._state.ledger.holdings.items()):
            if holding.state is HoldingState.BOUND and holding.request.mode is Mode.PINNED and holding.request.count:
                pinned[uid] = holding
            await slices.pause()
        known = self._pinned_since
        self._pinned_since = {uid: known.get(uid, float("-inf") if first else now) for uid in pinned}
        self._labelled &= pinned.keys()
        due = [
            uid
            for uid, since in self._pinned_since.items()
            if uid not in self._labelled and now - since >= _SETTLE_SECONDS
        ]
        slots = asyncio.Semaphore(self._settings.naming_ahead_parallel)

        async def label(uid: str) -> bool:
            namespace, name = pinned[uid].pod.split("/", 1)
            patch = {"metadata": {"uid": uid, "labels": {names.LABEL_PINNED: "true"}}}
            async with slots:
                call = calls.merge_patch(self._kube, f"{calls.pod_path(namespace, name)}/status", patch)
                done = await self._write("label", f"{namespace}/{name}", call)
            if done:
                self._labelled.add(uid)
            return done

        return all(await asyncio.gather(*map(label, due)))

    async def _write(self, write: str, name: str, call: Awaitable[object]) -> bool:
        """Make a call; what is gone, there already or another by now is as good as done, unless it was to be created."""
        try:
            await call
        except (NotFound, Conflict, Unprocessable) as error:
            done = write != "create"
            self._metrics.placeholder_writes.labels(write, "ok" if done else "failed").inc()
            if not done:
                self._log.warning("placeholder_write_failed", write=write, name=name, error=str(error))
            return done
        except KubeError as error:
            self._metrics.placeholder_writes.labels(write, "failed").inc()
            self._log.warning("placeholder_write_failed", write=write, name=name, error=str(error))
            return False
        self._metrics.placeholder_writes.labels(write, "ok").inc()
        return True
