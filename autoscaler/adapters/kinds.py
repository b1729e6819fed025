"""Finds out what can be scaled: kinds by discovery, and follows the objects of those that somebody asks to scale."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from autoscaler.api.resource import GROUPS, kind_key
from autoscaler.observation.cluster.workloads import BUILT_IN, LEADER_WORKER_SET, WorkloadDecoder
from autoscaler.observation.cluster.world import USUAL, Served, World
from headroom.daemon.logs import get_logger
from headroom.kube.client import KubeClient, KubeError, NotFound
from headroom.kube.reflector import Reflector

log = get_logger(__name__)

_LOOK_SECONDS: Final = 1.0
"""How soon a kind is followed after the first object that names it."""
_SYNC_SECONDS: Final = 10.0
"""How long the start waits for the first list of a kind that may be slow or forbidden."""


class _Resource(msgspec.Struct):
    name: str
    kind: str = ""
    namespaced: bool = False


class _ResourceList(msgspec.Struct):
    resources: list[_Resource] = []


_RESOURCES: Final = msgspec.json.Decoder(_ResourceList)


class Kinds:
    """Follows every kind that a target names, beside Deployments and StatefulSets, which are followed anyway.

    `begin(name, work)` runs a task for ever. What cannot be followed is tried again every `retry_seconds`.
    """

    def __init__(
        self,
        kube: KubeClient,
        world: World,
        namespace: str,
        begin: Callable[[str, Callable[[], Awaitable[None]]], None],
        *,
        retry_seconds: float,
    ) -> None:
        self._kube, self._world, self._namespace, self._begin = kube, world, namespace, begin
        self._retry_seconds = retry_seconds
        self._followed = set(BUILT_IN)
        self._tried: dict[str, float] = {}

    async def follow_wanted(self) -> None:
        """Begin to follow what is wanted and not followed yet; returns once their first lists are in, or late."""
        now = asyncio.get_running_loop().time()
        found = [await self._follow(key, version, kind) for key, version, kind in self._wanted(now)]
        synced = [asyncio.ensure_future(reflector.wait_synced()) for reflector in found if reflector is not None]
        if synced:
            _, late = await asyncio.wait(synced, timeout=_SYNC_SECONDS)
            for task in late:
                task.cancel()

    async def run(self) -> None:
        """Look for new ones for ever."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.follow_wanted()

    def _wanted(self, now: float) -> Iterable[tuple[str, str, str]]:
        wanted = {LEADER_WORKER_SET: (GROUPS, LEADER_WORKER_SET)}  # wherever it is served, as the two that are built in
        wanted |= {kind_key(t.api_version, t.kind): (t.api_version, t.kind) for t in self._world.targets.values()}
        for key, (version, kind) in wanted.items():
            if key not in self._followed and now - self._tried.get(key, float("-inf")) >= self._retry_seconds:
                yield key, version, kind

    async def _follow(self, key: str, api_version: str, kind: str) -> Reflector[Any] | None:
        self._tried[key] = asyncio.get_running_loop().time()
        served = USUAL.get(key) or await self._find(api_version, kind)
        problem = served if isinstance(served, str) else await self._why_not_listed(served)
        if problem or isinstance(served, str):
            self._world.not_served[key] = problem
            return None
        self._world.not_served.pop(key, None)
        self._world.served[key] = served
        self._followed.add(key)
        path = served.listed(self._namespace)
        reflector = Reflector(self._kube, path, WorkloadDecoder(key), self._world.on_workload)
        self._begin(served.plural, reflector.run)
        log.info("kind_followed", kind=key, path=path)
        return reflector

    async def _find(self, api_version: str, kind: str) -> Served | str:
        """Where the kind is served, or why it cannot be scaled."""
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            resources = _RESOURCES.decode(await self._kube.request("GET", root)).resources
        except NotFound:
            return f"the API server does not serve {api_version}"
        except (KubeError, msgspec.MsgspecError) as error:
            return f"the API server does not say what {api_version} holds: {error}"
        names = {resource.name for resource in resources}
        found = next((r for r in resources if r.kind == kind and "/" not in r.name), None)
        if found is None:
            return f"{api_version} has no kind {kind}; scaleTargetRef.apiVersion names its group and version"
        if not found.namespaced or f"{found.name}/scale" not in names:
            return f"{kind} has no scale subresource"
        return Served(root, found.name)

    async def _why_not_listed(self, served: Served) -> str:
        try:
            await self._kube.request("GET", served.listed(self._namespace), query=[("limit", "1")])
        except NotFound:
            return f"the API server does not serve {served.plural}"
        except KubeError as error:
            return (
                f"{served.plural} cannot be listed: {error}; a ClusterRole with the label"
                " headroom.dev/aggregate-to-autoscaler gives the right (docs/autoscaling.md)"
            )
        return ""
