"""Measures the extender as kube-scheduler meets it: over HTTP, in a process of its own, with full or empty nodes.

The API server is replaced by one that binds at once and reports the pod back, so that what is measured is the extender.
"""

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import random
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from headroom import wire
from headroom.daemon import logs, tasks
from headroom.daemon.pages import serving
from headroom.domain.request import request_of
from simulations.bench.extender_cluster import SIZES_GIB, filled_daemon, pod_object

_WARM_UP: Final = 300


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


def _serve(connection: multiprocessing.connection.Connection, node_count: int, pods_per_node: int, policy: str) -> None:
    async def work() -> None:
        daemon = filled_daemon(node_count, pods_per_node, policy)
        for size in SIZES_GIB:
            request = request_of(wire.POD.decode(msgspec.json.encode(pod_object("typical", size))))
            if request is not None:
                daemon.state.placer.observe(request)
        daemon.state.placer.replan()
        async with serving(daemon.app, "127.0.0.1", 0) as port:
            connection.send(port)
            await asyncio.to_thread(connection.recv)

    logs.setup(level="WARNING")
    tasks.run(work())


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
            pod = pod_object(f"new-{at}", rng.choice(SIZES_GIB))
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
