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

from headroom.daemon.pages import serving
from headroom.kube import calls
from simulations.bench.api_server import Server
from simulations.bench.extender_cluster import bound_pods, device_objects, node_object


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
    devices = device_objects(node_count, claims_per_node) if claims_per_node else {}
    nodes = (node_object(at) for at in range(node_count))
    api = Server({calls.NODES: nodes, calls.PODS: bound_pods(node_count, pods_per_node), **devices})
    async with serving(api.app(), "127.0.0.1", 0) as api_port:
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
