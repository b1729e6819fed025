"""Measures start-up and memory of the daemon against an API server that lists many nodes and pods."""

import asyncio
import contextlib
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from aiohttp import web

from headroom.daemon.pages import serving
from headroom.kube.client import JSON
from simulations.bench.extender_cluster import SIZES_GIB, device_objects, node_object, pod_object


@dataclass(frozen=True, slots=True)
class Footprint:
    """A started extender."""

    nodes: int
    pods: int
    ready_seconds: float
    """From the start of the process to a ready answer."""
    resident_mb: float
    peak_mb: float


_MEASURED_START: Final = """
import asyncio, sys
from types import SimpleNamespace
from headroom.daemon import logs
from headroom.daemon import tasks
from headroom.daemon.pages import serving
from headroom.kube.aio import AioKubeClient
from scheduler.daemon import SchedulerDaemon
from scheduler.settings import SchedulerSettings

async def no_token(_):
    return ""

async def main():
    kube = AioKubeClient(SimpleNamespace(host=sys.argv[1], get_api_key_with_prefix=no_token))
    daemon = SchedulerDaemon(kube, SchedulerSettings())
    async with serving(daemon.app, "127.0.0.1", int(sys.argv[2])):
        await daemon.run()

logs.setup(level="WARNING")
tasks.run(main())
"""
"""The daemon as in a pod: access to the API server without a kubeconfig, hence without the `kubernetes` package."""


def measure_memory(node_count: int, pods_per_node: int, claims_per_node: int = 0) -> Footprint:
    """Start the daemon against an API server of that size, wait until it is ready, and look at its memory."""
    return asyncio.run(_measure_memory(node_count, pods_per_node, claims_per_node))


async def _measure_memory(node_count: int, pods_per_node: int, claims_per_node: int) -> Footprint:
    lists: dict[str, list[bytes]] = {
        "/api/v1/namespaces": [],
        "/api/v1/nodes": [msgspec.json.encode(node_object(at)) for at in range(node_count)],
        "/api/v1/pods": [
            msgspec.json.encode(
                pod_object(f"old-{at}-{number}", SIZES_GIB[number % len(SIZES_GIB)], f"node-{at:05d}", number)
            )
            for at in range(node_count)
            for number in range(pods_per_node)
        ],
    }
    devices = device_objects(node_count, claims_per_node) if claims_per_node else {}
    lists |= {path: [*map(msgspec.json.encode, items)] for path, items in devices.items()}
    app = web.Application()
    app.router.add_get("/api/v1/{plural}", lambda http: _list_or_watch(http, lists.get(http.path, [])))
    if devices:
        app.router.add_get(
            "/apis/resource.k8s.io/v1/{plural}", lambda http: _list_or_watch(http, lists.get(http.path, []))
        )
    async with serving(app, "127.0.0.1", 0) as api_port:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        start = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _MEASURED_START, f"http://127.0.0.1:{api_port}", str(port)
        )
        try:
            await _until_ready(port)
            ready_seconds = time.perf_counter() - start
            await asyncio.sleep(2.0)  # the first plan of the policy is part of what stays
            resident, peak = _memory_mb(process.pid)
        finally:
            process.terminate()
            await process.wait()
    return Footprint(node_count, node_count * pods_per_node, ready_seconds, resident, peak)


async def _list_or_watch(http: web.Request, items: list[bytes]) -> web.StreamResponse:
    if "watch" in http.query:
        response = web.StreamResponse()
        await response.prepare(http)
        await asyncio.sleep(3600)
        return response
    start = int(http.query.get("continue", "0") or "0")
    end = start + int(http.query.get("limit", len(items)))
    rest = str(end) if end < len(items) else ""
    body = b'{"metadata":{"resourceVersion":"1","continue":"%b"},"items":[%b]}' % (
        rest.encode(),
        b",".join(items[start:end]),
    )
    return web.Response(body=body, content_type=JSON)


async def _until_ready(port: int) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(300):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.05)


def _memory_mb(pid: int) -> tuple[float, float]:
    """Resident memory now and at its largest, in MB of 10^6 bytes (Linux)."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = {
        line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6
        for line in status.splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    }
    return found["VmRSS"], found["VmHWM"]
