"""Reads the scale subresource of kinds that the autoscaler has no other way to read."""

import asyncio
from typing import Final

import msgspec

from autoscaler.observation.cluster.selectors import SelectorError
from autoscaler.observation.cluster.world import World
from headroom.daemon.logs import get_logger
from headroom.kube.client import KubeClient, KubeError, NotFound
from headroom.wire import Wire

_AT_ONCE: Final = 8


class _Meta(Wire):
    resource_version: str = ""


class _Spec(Wire):
    replicas: int = 0


class _Status(Wire):
    selector: str = ""


class Scale(Wire):
    """The scale subresource of whatever has one."""

    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)
    status: _Status = msgspec.field(default_factory=_Status)


SCALE: Final = msgspec.json.Decoder(Scale)

log = get_logger(__name__)


class Scales:
    """Brings what `World.unread_scales` names up to date: one call for each that has changed since the last tick."""

    def __init__(self, kube: KubeClient, world: World) -> None:
        self._kube, self._world = kube, world
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self.problems: dict[str, str] = {}
        """Workloads whose scale cannot be read, and why; they are tried again each tick."""

    async def refresh(self) -> None:
        """Read what is wanted by an object."""
        wanted = {target.scaled for target in self._world.targets.values()}
        await asyncio.gather(*(self._read(scaled) for scaled in sorted(self._world.unread_scales & wanted)))

    async def _read(self, scaled: str) -> None:
        workload = self._world.workloads[scaled]
        served = self._world.served.get(workload.kind)
        if served is None:
            return
        async with self._slots:
            try:
                raw = await self._kube.request("GET", f"{served.path(workload)}/scale")
                scale = SCALE.decode(raw)
                self._world.set_scale(scaled, scale.spec.replicas, scale.status.selector)
            except NotFound:
                return  # it goes; the watch will tell
            except (KubeError, msgspec.MsgspecError, SelectorError) as error:
                self._note(scaled, f"its scale cannot be read: {error}")
                return
        if scale.status.selector:
            self.problems.pop(scaled, None)
        else:
            self._note(scaled, "its scale has no selector in its status, so its pods cannot be told")

    def _note(self, scaled: str, problem: str) -> None:
        if self.problems.get(scaled) != problem:
            log.info("scale_not_read", scaled=scaled, problem=problem)
        self.problems[scaled] = problem
