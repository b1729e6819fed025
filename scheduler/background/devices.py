"""Follows what kube-scheduler allocates by itself (DRA): three optional watches, and nodes that are described anew beside other work.

Most clusters do not use DRA: then the API server is asked at the start, and again from time to time.
"""

import asyncio
import gc
from collections.abc import Callable

from headroom.daemon.guard import Guard
from headroom.daemon.slices import Slices
from headroom.domain.dra.objects import (
    DEVICE_CLASS,
    RESOURCE_CLAIM,
    RESOURCE_SLICE,
    DeviceClass,
    ResourceClaim,
    ResourceSlice,
)
from headroom.kube import calls
from headroom.kube.client import KubeClient
from headroom.kube.reflector import Reflector
from scheduler.cluster.effects import Effects
from scheduler.cluster.state import ClusterState

_NO_CLASS, _NO_SLICE, _NO_CLAIM = DeviceClass(), ResourceSlice(), ResourceClaim()


class DeviceWatch:
    """The watches. What they tell is kept by `state.devices`; of the objects themselves nothing is."""

    def __init__(
        self,
        kube: KubeClient,
        state: ClusterState,
        effects: Effects,
        guard: Guard,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._effects, self._guard = state, effects, guard
        self._due = asyncio.Event()
        self.classes = Reflector(
            kube, calls.DEVICE_CLASSES, DEVICE_CLASS, self._on_class,
            remember=lambda _: _NO_CLASS, optional=True, guard=guard, monotonic=monotonic,
        )  # fmt: skip
        self.slices = Reflector(
            kube, calls.RESOURCE_SLICES, RESOURCE_SLICE, self._on_slice,
            remember=lambda _: _NO_SLICE, on_page=gc.freeze, optional=True, guard=guard, monotonic=monotonic,
        )  # fmt: skip
        self.claims = Reflector(
            kube, calls.RESOURCE_CLAIMS, RESOURCE_CLAIM, self._on_claim,
            remember=lambda _: _NO_CLAIM, on_page=gc.freeze, optional=True, guard=guard, monotonic=monotonic,
        )  # fmt: skip

    @property
    def seconds_since_contact(self) -> float:
        """Age of the last word on claims."""
        return self.claims.seconds_since_contact

    async def describe_nodes(self, tasks: asyncio.TaskGroup) -> None:
        """Follow classes and slices from now on; returns when they are known."""
        tasks.create_task(self._guard.keep("deviceclasses", self.classes.run))
        await self.classes.wait_synced()
        tasks.create_task(self._guard.keep("resourceslices", self.slices.run))
        await self.slices.wait_synced()
        tasks.create_task(self._guard.keep("describe", self._work_off))

    async def follow_claims(self, tasks: asyncio.TaskGroup) -> None:
        """Follow claims from now on; returns when they are known."""
        tasks.create_task(self._guard.keep("resourceclaims", self.claims.run))
        await self.claims.wait_synced()

    def _on_class(self, kind: str, name: str, published: DeviceClass) -> None:
        self._effects(self._state.devices.on_class(kind, name, published))
        if self._state.devices.due:
            self._due.set()

    def _on_slice(self, kind: str, name: str, published: ResourceSlice) -> None:
        self._effects(self._state.devices.on_slice(kind, name, published))

    def _on_claim(self, kind: str, key: str, published: ResourceClaim) -> None:
        self._effects(self._state.devices.on_claim(kind, key, published))

    async def _work_off(self) -> None:
        """Describe nodes anew that another meaning of a class concerns, a few at a time."""
        while True:
            await self._due.wait()
            self._due.clear()
            slices = Slices()
            while self._state.devices.due:
                self._effects(self._state.devices.work_off())
                if slices.over:
                    gc.freeze()  # as after a list: descriptions stay, and the collector would look at ever more of them
                await slices.pause()
