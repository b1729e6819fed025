"""Measures the extender as kube-scheduler meets it: over HTTP, in a process of its own, with full or empty nodes.

The API server is replaced by one that binds at once and reports the pod back, so that what is measured is the extender.
"""

import asyncio
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import random
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from headroom import logs, names, runtime, wire
from headroom.health import serving
from headroom.kube.client import JSON, Query, WatchEvent
from headroom.kube.reflector import ADDED, DELETED, MODIFIED
from headroom.model import Mode
from headroom.request import request_of
from scheduler.daemon import SchedulerDaemon
from scheduler.settings import SchedulerSettings

_CARDS_PER_NODE: Final = 8
_VRAM_MIB: Final = 80 * 1024
_SIZES_GIB: Final = (6, 10, 16, 20, 24, 38)  # a card with one old pod always has room for one more
_PODS_KEPT: Final = 200  # bound pods of the measurement that exist at once; older ones end
_WARM_UP: Final = 100
_MANAGED_FIELDS: Final[dict[str, Any]] = {"f:spec": {f"f:field{at}": {} for at in range(40)}}


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips of one verb at one size of cluster, in milliseconds."""

    nodes: int
    pods_per_node: int
    verb: str
    calls: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Footprint:
    """A started extender."""

    nodes: int
    pods: int
    ready_seconds: float
    """From the start of the process to a ready answer."""
    resident_mb: float
    peak_mb: float


def node_object(at: int) -> dict[str, Any]:
    """A node with eight 80 GB cards, described by the agent's annotation."""
    name = f"node-{at:05d}"
    cards = [
        {
            "id": f"GPU-{at:05d}-{card}",
            "index": card,
            "model": "NVIDIA-A100-SXM4-80GB",
            "vram_mib": _VRAM_MIB,
            "slices": 1,
        }
        for card in range(_CARDS_PER_NODE)
    ]
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
            "annotations": {names.ANNOTATION_NODE_CARDS: json.dumps(cards)},
        },
        "spec": {},
        "status": {"allocatable": {"cpu": "128", "memory": "1Ti", "pods": "110"}},
    }


def pod_object(name: str, vram_gib: int, node: str = "", card: int | None = None) -> dict[str, Any]:
    """A pod as large as real ones are on the wire: about 3 KiB."""
    annotations = {}
    if card is not None:
        annotations = {
            names.ANNOTATION_ASSIGNED_CARDS: f"GPU-{node.removeprefix('node-')}-{card}",
            names.ANNOTATION_ASSIGNED_VRAM_MIB: str(vram_gib * 1024),
            names.ANNOTATION_ASSIGNED_MODE: Mode.PINNED.value,
        }
    quantities = {names.RESOURCE_VRAM: f"{vram_gib}Gi", "cpu": "4", "memory": "16Gi"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": "models",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": name.rsplit("-", 1)[0], "pod-template-hash": "6b7f9c4d5"},
            "annotations": annotations,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "x" * 36, "controller": True}
            ],
            "managedFields": [
                {
                    "manager": "kube-controller-manager",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "fieldsV1": _MANAGED_FIELDS,
                }
            ],
        },
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            "nodeName": node,
            "containers": [
                {
                    "name": "server",
                    "image": "registry.example/model-server:1",
                    "args": ["--model", "some/model", "--port", "8000"],
                    "env": [{"name": f"VARIABLE_{at}", "value": "value"} for at in range(8)],
                    "resources": {"limits": quantities, "requests": quantities},
                    "ports": [{"containerPort": 8000, "protocol": "TCP"}],
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                }
            ],
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "tolerations": [
                {
                    "key": "node.kubernetes.io/not-ready",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
            ],
            "serviceAccountName": "default",
            "priority": 0,
        },
        "status": {"phase": "Running" if node else "Pending", "qosClass": "Burstable"},
    }


class InstantApi:
    """A KubeClient that binds at once and tells the state so, as the watch would; the oldest pods end."""

    def __init__(self) -> None:
        self.daemon: SchedulerDaemon | None = None
        self._bound: list[wire.Pod] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = JSON,
        timeout_seconds: float = 10.0,
    ) -> bytes:
        """Only `binding` does anything."""
        if path.endswith("/binding") and self.daemon is not None:
            state = self.daemon.state
            waiting = state.waiting[body["metadata"]["uid"]]
            pod = wire.POD.decode(wire.encode(waiting.pod))
            pod.spec.node_name = body["target"]["name"]
            pod.metadata.annotations = dict(body["metadata"]["annotations"])
            pod.status.phase = "Running"
            state.on_pod(MODIFIED, pod.key, pod)
            self._bound.append(pod)
            if len(self._bound) > _PODS_KEPT:
                gone = self._bound.pop(0)
                state.on_pod(DELETED, gone.key, gone)
        return b"{}"

    async def watch(self, path: str, resource_version: str, *, query: Query = ()) -> AsyncIterator[WatchEvent]:
        """Nothing ever happens by itself."""
        for event in list[WatchEvent]():
            yield event

    async def close(self) -> None:
        """Nothing to release."""


def filled_daemon(node_count: int, pods_per_node: int, policy: str, seed: int = 1) -> SchedulerDaemon:
    """A ready daemon over `node_count` nodes, each with `pods_per_node` bound pods."""
    api = InstantApi()
    daemon = SchedulerDaemon(api, SchedulerSettings(port=0, policy=policy, naming_ahead=False, preemption=False))
    rng = random.Random(seed)
    for at in range(node_count):
        node = wire.NODE.decode(msgspec.json.encode(node_object(at)))
        daemon.state.on_node(ADDED, node.metadata.name, node)
        for number in range(pods_per_node):
            body = pod_object(
                f"old-{at}-{number}", rng.choice(_SIZES_GIB), node.metadata.name, number % _CARDS_PER_NODE
            )
            pod = wire.POD.decode(msgspec.json.encode(body))
            daemon.state.on_pod(ADDED, pod.key, pod)
    api.daemon = daemon
    for part in ("nodes", "pods"):
        daemon.health.set_ready(part, ready=True)
    return daemon


def _serve(connection: multiprocessing.connection.Connection, node_count: int, pods_per_node: int, policy: str) -> None:
    async def work() -> None:
        daemon = filled_daemon(node_count, pods_per_node, policy)
        for size in _SIZES_GIB:
            request = request_of(wire.POD.decode(msgspec.json.encode(pod_object("typical", size))))
            if request is not None:
                daemon.state.placer.observe(request)
        daemon.state.placer.replan()
        async with serving(daemon.app, "127.0.0.1", 0) as port:
            connection.send(port)
            await asyncio.to_thread(connection.recv)

    logs.setup(level="WARNING")
    runtime.run(work())


class _Caller:
    """A keep-alive HTTP connection that posts prepared bodies; the least a client can cost."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def post(self, path: str, body: bytes) -> tuple[float, bytes]:
        """Milliseconds of the round trip, and the answer's body."""
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        start = time.perf_counter()
        self._socket.sendall(head.encode() + body)
        answer = self._socket.recv(2**20)
        while b"\r\n\r\n" not in answer:
            answer += self._socket.recv(2**20)
        header, _, rest = answer.partition(b"\r\n\r\n")
        length = int(header.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        while len(rest) < length:
            rest += self._socket.recv(2**20)
        return (time.perf_counter() - start) * 1000, rest

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


@contextlib.contextmanager
def _extender_process(node_count: int, pods_per_node: int, policy: str) -> Iterator[int]:
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(theirs, node_count, pods_per_node, policy), daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield ours.recv()
        ours.send("stop")
    finally:
        process.join(5)
        process.kill()


def measure_latency(node_count: int, pods_per_node: int, calls: int, policy: str = "headroom") -> list[Latency]:
    """Filter (choice and reservation included) and bind, one pod after another as kube-scheduler's cycle does."""
    rng = random.Random(2)
    node_names = [f"node-{at:05d}" for at in range(node_count)]
    orders = []
    for _ in range(16):
        rng.shuffle(node_names)
        orders.append(msgspec.json.encode(node_names))
    times: dict[str, list[float]] = {"filter": [], "bind": []}
    with _extender_process(node_count, pods_per_node, policy) as port:
        caller = _Caller(port)
        for at in range(calls + _WARM_UP):
            pod = pod_object(f"new-{at}", rng.choice(_SIZES_GIB))
            body = b'{"Pod":%b,"Nodes":null,"NodeNames":%b}' % (msgspec.json.encode(pod), rng.choice(orders))
            filter_ms, answer = caller.post("/filter", body)
            chosen = msgspec.json.decode(answer)["NodeNames"]
            if not chosen:
                raise RuntimeError(f"the cluster of {node_count} nodes is full: {answer[:200]!r}")
            bind_ms, _ = caller.post(
                "/bind",
                msgspec.json.encode(
                    {
                        "PodName": pod["metadata"]["name"], "PodNamespace": "models",
                        "PodUID": pod["metadata"]["uid"], "Node": chosen[0],
                    }
                ),
            )  # fmt: skip
            if at >= _WARM_UP:
                times["filter"].append(filter_ms)
                times["bind"].append(bind_ms)
        caller.close()
    return [_latency(node_count, pods_per_node, verb, measured) for verb, measured in times.items()]


def _latency(node_count: int, pods_per_node: int, verb: str, measured: list[float]) -> Latency:
    cuts = statistics.quantiles(measured, n=100)
    return Latency(node_count, pods_per_node, verb, len(measured), cuts[49], cuts[98], max(measured))


_MEASURED_START: Final = """
import asyncio, sys
from types import SimpleNamespace
from headroom import logs, runtime
from headroom.health import serving
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
runtime.run(main())
"""
"""The daemon as in a pod: access to the API server without a kubeconfig, hence without the `kubernetes` package."""


def measure_memory(node_count: int, pods_per_node: int) -> Footprint:
    """Start the daemon against an API server of that size, wait until it is ready, and look at its memory."""
    return asyncio.run(_measure_memory(node_count, pods_per_node))


async def _measure_memory(node_count: int, pods_per_node: int) -> Footprint:
    lists = {
        "/api/v1/nodes": [msgspec.json.encode(node_object(at)) for at in range(node_count)],
        "/api/v1/pods": [
            msgspec.json.encode(
                pod_object(f"old-{at}-{number}", _SIZES_GIB[number % len(_SIZES_GIB)], f"node-{at:05d}", number)
            )
            for at in range(node_count)
            for number in range(pods_per_node)
        ],
    }
    app = web.Application()
    app.router.add_get("/api/v1/{plural}", lambda http: _list_or_watch(http, lists[http.path]))
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
