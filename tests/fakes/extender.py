"""The real extender against the API server of `tests.fakes.apiserver`, spoken to over HTTP as kube-scheduler does."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from headroom.kube.aio import connect
from headroom.kube.reflector import Reflector
from scheduler.daemon import SchedulerDaemon, listening
from scheduler.settings import SchedulerSettings
from tests.fakes.api_faults import Front
from tests.fakes.apiserver import ApiServer
from tests.fakes.devices import CLAIMS, CLASSES, SLICES
from tests.waiting import STEP_SECONDS, loop_clock, pass_time, pass_time_until, until

PODS = "/api/v1/pods"
NODES = "/api/v1/nodes"
NAMESPACES = "/api/v1/namespaces"
GIB = 1024
Object = dict[str, Any]


def node(name: str, *vram_gib: int, slices: int = 1, labels: dict[str, str] | None = None, **spec: Any) -> Object:
    """A node whose cards have the given sizes; with `slices` above 1 its device plugin shares each of them."""
    cards = [
        {
            "id": f"{name}-gpu{at}",
            "index": at,
            "model": "NVIDIA-A100-SXM4-80GB",
            "vram_mib": size * GIB,
            "slices": slices,
        }
        for at, size in enumerate(vram_gib)
    ]
    sharing = {"nvidia.com/gpu.sharing-strategy": "time-slicing"} if slices > 1 else {}
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, **sharing, **(labels or {})},
            "annotations": {"headroom.dev/cards": json.dumps(cards)},
        },
        "spec": spec,
        "status": {
            "allocatable": {
                "cpu": "64",
                "memory": "512Gi",
                "nvidia.com/gpu": str(len(vram_gib) * slices),
                "pods": "110",
            }
        },
    }


def pod(
    name: str,
    *,
    vram: str = "",
    gpus: int = 0,
    limits: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    **spec: Any,
) -> Object:
    """A pending pod for the scheduler `headroom`; `vram` is a quantity such as 20Gi."""
    wanted = dict(limits or {})
    if vram:
        wanted["headroom.dev/vram"] = vram
    if gpus:
        wanted["nvidia.com/gpu"] = str(gpus)
    container = {"name": "main", "resources": {"limits": wanted, "requests": wanted}}
    return {
        "metadata": {"name": name, "namespace": "default", "labels": labels or {}},
        "spec": {"schedulerName": "headroom", "containers": [container], **spec},
        "status": {"phase": "Pending"},
    }


def _is_past(reflector: Reflector[Any], version: int) -> bool:
    return int(reflector.resource_version or 0) > version


class Running:
    """An extender that is ready, and the API server behind it."""

    def __init__(
        self,
        api: ApiServer,
        daemon: SchedulerDaemon,
        session: aiohttp.ClientSession,
        url: str,
        task: "asyncio.Task[None]",
    ) -> None:
        self.api, self.daemon, self.session, self.url, self._task = api, daemon, session, url, task
        self.killed = False
        self.tls_port: int | None = None

    async def kill(self) -> None:
        """End it without a word to the others."""
        self.killed = True
        await self.stop()

    async def stop(self) -> None:
        """End its tasks."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        """Status and decoded answer."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        headers = options.pop("headers", {"Content-Type": "application/json"})
        async with self.session.post(self.url + path, data=body, headers=headers, **options) as response:
            return response.status, json.loads(await response.read())

    async def get(self, path: str) -> tuple[int, str]:
        """Status and text."""
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text()

    async def filter(self, pod_object: Object, *names: str) -> Object:
        """kube-scheduler's filter call; without names, every node of the API server is offered."""
        offered = list(names) or [each["metadata"]["name"] for each in self.api.all(NODES)]
        status, answer = await self.post("/filter", {"Pod": pod_object, "Nodes": None, "NodeNames": offered})
        assert status == 200, answer
        return dict(answer)

    async def bind(self, pod_object: Object, node_name: str) -> Object:
        """kube-scheduler's bind call."""
        meta = pod_object["metadata"]
        body = {"PodName": meta["name"], "PodNamespace": meta["namespace"], "PodUID": meta["uid"], "Node": node_name}
        status, answer = await self.post("/bind", body)
        assert status == 200, answer
        return dict(answer)

    async def place(self, pod_object: Object, *names: str) -> str:
        """Filter and bind a pod that must fit on one of the named nodes (any without names); the node it went to."""
        (chosen,) = (await self.filter(pod_object, *names))["NodeNames"]
        assert await self.bind(pod_object, chosen) == {}
        await self.until(lambda: self.daemon.state.bound_node(pod_object["metadata"]["uid"]))
        return str(chosen)

    async def create(self, body: Object) -> Object:
        """Put a pod into the API server and wait until the extender has seen it."""
        created = self.api.put(PODS, body)
        await self.caught_up()
        return created

    async def caught_up(self) -> None:
        """Wait until the extender has applied every event so far."""
        version = self.api.resource_version
        daemon = self.daemon
        watched: list[tuple[Any, str]] = [(daemon.nodes, NODES), (daemon.pods, PODS)]
        if daemon.namespaces.has_synced and (self.api.all(NAMESPACES) or any(daemon.state.quotas.each())):
            watched.append((daemon.namespaces, NAMESPACES))
        devices, ours = daemon.devices, (CLASSES, SLICES, CLAIMS)
        matters = any(map(self.api.all, ours)) or daemon.state.ledger.claims.holdings
        if matters and daemon.settings.resource_claims and devices.claims.resource_version:
            watched += zip((devices.classes, devices.slices, devices.claims), ours, strict=True)
        for reflector, resource in watched:
            self.api.bookmark(resource)
            await self.until(partial(_is_past, reflector, version))

    async def until(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait for something that must come about."""
        await until(condition, seconds)

    async def calm(self, seconds: float = 0.3) -> None:
        """Let time pass on the extender's clock, long enough for what should not come about."""
        await self.caught_up()
        await pass_time(seconds, max(seconds / 100, STEP_SECONDS))

    async def in_time(self, condition: Callable[[], object], seconds: float = 120.0) -> None:
        """Let time pass on the extender's clock until something has come about."""
        await pass_time_until(condition, seconds)

    async def metric(self, name: str, **labels: str) -> float:
        """The value of a sample on the metrics page; 0 where there is none."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        for line in (await self.get("/metrics"))[1].splitlines():
            head, _, value = line.rpartition(" ")
            found, _, inside = head.partition("{")
            if found == name and wanted <= set(inside.rstrip("}").split(",")) | set():
                return float(value)
        return 0.0


@contextlib.asynccontextmanager
async def extender(
    api: ApiServer,
    tmp_path: Path,
    *,
    wait_ready: bool = True,
    front: Front | None = None,
    unix_clock: Callable[[], float] = time.time,
    **settings: Any,
) -> AsyncIterator[Running]:
    """An extender on a free port, ready unless that is not waited for; `settings` are those of SchedulerSettings.

    It talks to the API server through `front`, if given.
    """
    kube = await connect(str((front or api).write_kubeconfig(tmp_path / "kubeconfig")))
    daemon = SchedulerDaemon(
        kube,
        SchedulerSettings(**{"host": "127.0.0.1", "port": 0, "wake_delay_seconds": 0.05, **settings}),
        monotonic=loop_clock(),
        unix_clock=unix_clock,
    )
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        port, tls_port = await stack.enter_async_context(listening(daemon))
        session = await stack.enter_async_context(aiohttp.ClientSession())
        task = asyncio.create_task(daemon.run())
        running = Running(api, daemon, session, f"http://127.0.0.1:{port}", task)
        running.tls_port = tls_port
        try:
            if wait_ready:
                await running.until(lambda: daemon.health.ready or task.done())
            yield running
        finally:
            await running.stop()
            if not running.killed:
                await daemon.leadership.release()
