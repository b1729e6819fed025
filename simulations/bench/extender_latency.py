"""Measures the extender as kube-scheduler meets it: over HTTP, in a process of its own, with full or empty nodes.

The API server is replaced by one that binds at once and reports the pod back, so that what is measured is the extender.
A second process answers the same calls with one fixed name and does nothing else: what HTTP itself costs on this machine at this
moment. The two are asked in turn, so that the ratio holds on a machine that others use, too.
"""

import asyncio
import contextlib
import gc
import os
import random
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec
from aiohttp import web

from headroom import names, wire
from headroom.daemon import logs, tasks
from headroom.daemon.http import Question, Reply
from headroom.daemon.pages import serving
from headroom.domain.request import request_of
from headroom.wire import ADDED
from scheduler.daemon import listening, settle_interpreter
from simulations.bench.extender_cluster import SIZES_GIB, filled_daemon, pod_object
from simulations.bench.processes import Beside, Connection, beside, stay

_WARM_UP: Final = 300
_ADDRESSES: Final = 4
_PAGES: Final[tuple[tuple[str, str, bytes | None], ...]] = (
    ("GET", "/metrics", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/v1/cards", None),
    ("GET", "/v1/explain?pod=models/new-1", None),
    ("POST", "/filter", b"{}"),
    ("POST", "/v1/fit", b"x" * 200_000),
)
ANNOUNCE: Final = "/announce"
"""Where the benchmark tells the extender of a new pod, as the watch does before kube-scheduler asks."""
FIRST: Final = "filter, all of a group placed"
"""Stands for a verb: the filter call about the first member of a group."""
BARE: Final = "bare"
"""Stands for a verb: a filter call to the server that only reads it."""


@dataclass(frozen=True, slots=True)
class Latency:
    """Round trips of one verb at one size of cluster, in milliseconds; `cpu_ms` is the server's processor time per call."""

    nodes: int
    pods_per_node: int
    verb: str
    calls: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_ms: float


def _serve(connection: Connection, node_count: int, pods_per_node: int, policy: str) -> None:
    async def work() -> None:
        settle_interpreter()
        daemon = filled_daemon(node_count, pods_per_node, policy)
        for size in SIZES_GIB:
            request = request_of(wire.POD.decode(msgspec.json.encode(pod_object("typical", size))))
            if request is not None:
                daemon.state.placer.observe(request)
        daemon.state.placer.replan()

        async def announce(question: Question) -> Reply:
            pod = wire.POD.decode(question.body)
            daemon.effects(daemon.state.on_pod(ADDED, pod.key, pod))
            return Reply(b"{}")

        daemon.pages["POST", ANNOUNCE] = announce
        gc.collect()
        gc.freeze()
        async with listening(daemon) as (port, _):
            await stay(connection, port)

    logs.setup(level="WARNING")
    tasks.run(work())


def _serve_bare(connection: Connection) -> None:
    answer = b'{"NodeNames":["node-00000"]}'

    async def filter_(http: web.Request) -> web.Response:
        await http.read()
        return web.Response(body=answer, content_type="application/json")

    app = web.Application(client_max_size=2**25)
    app.add_routes([web.post("/filter", filter_)])

    async def work() -> None:
        gc.collect()
        gc.freeze()
        async with serving(app, "127.0.0.1", 0) as port:
            await stay(connection, port)

    tasks.run(work())


def _hammer(connection: Connection, port: int) -> None:
    """Ask every open page without a pause, from addresses that are not this machine's to the extender; ends with its process."""
    fit = msgspec.json.encode({"pod": pod_object("asked", SIZES_GIB[0]), "limit": 2000})

    async def ask(session: aiohttp.ClientSession, method: str, path: str, body: bytes | None) -> None:
        headers = {"Content-Type": "application/json"}
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with session.request(
                    method, f"http://127.0.0.1:{port}{path}", data=body, headers=headers
                ) as answer:
                    await answer.read()

    async def work() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for at in range(_ADDRESSES):
                connector = aiohttp.TCPConnector(local_addr=(f"127.0.1.{at + 1}", 0), limit=0)
                timeout = aiohttp.ClientTimeout(total=30)
                session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
                for method, path, body in (*_PAGES, ("POST", "/v1/fit", fit)):
                    tasks_of_strangers.append(asyncio.create_task(ask(session, method, path, body)))
            connection.send(port)
            await asyncio.gather(*tasks_of_strangers)

    tasks_of_strangers: list[asyncio.Task[None]] = []
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
def _strangers(port: int, wanted: bool) -> Iterator[None]:
    """Strangers hammer the extender from a process of their own while the block runs, if they are wanted."""
    if not wanted:
        yield
        return
    with beside(_hammer, port):
        yield


class _Server:
    """A server in a process of its own, and a connection to it."""

    def __init__(self, process: Beside) -> None:
        self.port, self._pid = process.port, process.pid
        self._caller = _Caller(self.port)

    def _cpu_ms(self) -> float:
        """Processor time of the process's main thread so far, exact while it sleeps (Linux)."""
        return int(Path(f"/proc/{self._pid}/schedstat").read_text("ascii").split()[0]) / 1e6

    def close(self) -> None:
        """End the connection."""
        self._caller.close()

    def post(self, path: str, body: bytes) -> tuple[float, float, bytes]:
        """Milliseconds of the round trip, milliseconds of processor time that it took, and the answer's body."""
        before = self._cpu_ms()
        wall_ms, answer = self._caller.post(path, body)
        os.sched_yield()
        return wall_ms, self._cpu_ms() - before, answer


@contextlib.contextmanager
def _server(target: Callable[..., None], *args: Any) -> Iterator[_Server]:
    """A server while the block runs; `target` as for `beside`."""
    with beside(target, *args) as process:
        server = _Server(process)
        try:
            yield server
        finally:
            server.close()


def measure_latency(
    node_count: int,
    pods_per_node: int,
    calls: int,
    policy: str = "headroom",
    *,
    strangers: bool = False,
    group_size: int = 1,
) -> list[Latency]:
    """Filter (choice and reservation included) and bind, one pod after another as kube-scheduler's cycle does.

    With `strangers` others ask for all open pages without a pause meanwhile. With a `group_size` above 1 pods come in such groups;
    the call in which all of a group get their places is counted apart.
    """
    rng = random.Random(2)
    bodies = _name_lists(node_count, rng)
    times: dict[str, list[tuple[float, float]]] = {BARE: [], "filter": [], "bind": []}
    if group_size > 1:
        times[FIRST] = []
    with (
        _server(_serve_bare) as bare,
        _server(_serve, node_count, pods_per_node, policy) as extender,
        _strangers(extender.port, strangers),
    ):
        waiting: list[dict[str, Any]] = []
        for at in range(calls + _WARM_UP):
            filtering = "filter" if waiting or group_size == 1 else FIRST
            if not waiting:
                waiting = _group(at, group_size, rng.choice(SIZES_GIB))
                for each in waiting:
                    extender.post(ANNOUNCE, msgspec.json.encode(each))
            pod = waiting.pop()
            body = b'{"Pod":%b,"Nodes":null,"NodeNames":%b}' % (msgspec.json.encode(pod), rng.choice(bodies))
            found = {BARE: bare.post("/filter", body), filtering: extender.post("/filter", body)}
            chosen = msgspec.json.decode(found[filtering][2])["NodeNames"]
            if not chosen:
                raise RuntimeError(f"the cluster of {node_count} nodes is full: {found[filtering][2][:200]!r}")
            found["bind"] = extender.post("/bind", _bind_body(pod["metadata"], chosen[0]))
            if at >= _WARM_UP:
                for verb, (wall_ms, cpu_ms, _) in found.items():
                    times[verb].append((wall_ms, cpu_ms))
    return [
        _latency(node_count, pods_per_node, verb, measured) for verb, measured in times.items() if len(measured) > 1
    ]


def _group(at: int, size: int, gib: int) -> list[dict[str, Any]]:
    """Pods that come together; one alone is in no group."""
    pods = [pod_object(f"new-{at}-{number}" if size > 1 else f"new-{at}", gib) for number in range(size)]
    if size > 1:
        for pod in pods:
            said = {names.GROUP: f"group-{at}", names.GROUP_SIZE: str(size)}
            pod["metadata"]["annotations"] = {**pod["metadata"].get("annotations", {}), **said}
    return pods


def _name_lists(node_count: int, rng: random.Random) -> list[bytes]:
    """All names as JSON, in several orders: kube-scheduler's own order changes from pod to pod."""
    names = [f"node-{at:05d}" for at in range(node_count)]
    orders = []
    for _ in range(16):
        rng.shuffle(names)
        orders.append(msgspec.json.encode(names))
    return orders


def _bind_body(meta: dict[str, Any], node: str) -> bytes:
    return msgspec.json.encode(
        {"PodName": meta["name"], "PodNamespace": meta["namespace"], "PodUID": meta["uid"], "Node": node}
    )


def _latency(node_count: int, pods_per_node: int, verb: str, measured: list[tuple[float, float]]) -> Latency:
    wall = [wall_ms for wall_ms, _ in measured]
    cuts = statistics.quantiles(wall, n=100)
    cpu_ms = statistics.fmean(cpu_ms for _, cpu_ms in measured)
    return Latency(node_count, pods_per_node, verb, len(measured), cuts[49], cuts[98], max(wall), cpu_ms)
