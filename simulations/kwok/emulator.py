"""Stands in for inference servers in simulated pods: per pod the metrics that the real engine would export, following load.

kwok's pods run no process. The emulator watches them, spreads each workload's requests over its ready pods as a
least-loaded router does, and serves every pod's metrics under the engine's own names with the labels `namespace` and
`pod`, so that a real Prometheus can scrape them (`honor_labels`). Requests that find no ready pod wait at the router,
whose queue is exported as `emulator_router_queue`.

The server is a fluid model of continuous batching: an iteration takes A + B x batch + C x prompt tokens in it seconds.

    with ServingEmulator(kubeconfig) as emulator:
        emulator.serve("default/llm", Load(requests_per_second=4))
        cluster.prometheus.scrape("engines", emulator.address)
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

from headroom.daemon.pages import serving
from headroom.errors import HeadroomError
from headroom.kube import calls
from headroom.kube.aio import connect
from headroom.kube.reflector import Reflector
from headroom.wire import DELETED, POD, Pod

STEP_SECONDS: Final = 0.1
_TTFT_EDGES: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)


class EmulatorError(HeadroomError):
    """The emulator did not start."""


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives at one workload, and the speed of one of its replicas."""

    requests_per_second: float
    prompt_tokens: float = 500.0
    output_tokens: float = 100.0
    engine: str = "vllm"
    """vllm, vllm-old (names before 0.10), triton or fastchat."""
    base_seconds: float = 0.02
    per_sequence_seconds: float = 0.00025
    per_prompt_token_seconds: float = 0.00015
    most_sequences: float = 48.0
    kv_tokens: float = 60_000.0
    hung: bool = False
    """Takes requests and does nothing with them."""
    silent: frozenset[str] = frozenset()
    """Pods that export nothing."""


@dataclass(slots=True)
class _Server:
    """One pod's engine."""

    waiting: float = 0.0
    running: float = 0.0
    prompt_tokens: float = 0.0
    output_tokens: float = 0.0
    iterations: float = 0.0
    token_seconds: float = 0.0
    finished: float = 0.0
    queued_seconds: float = 0.0
    served_seconds: float = 0.0
    busy: float = 0.0
    ttft: list[float] = field(default_factory=lambda: [0.0] * (len(_TTFT_EDGES) + 1))
    ttft_seconds: float = 0.0

    def step(self, load: Load, seconds: float) -> None:
        """Run for `seconds`."""
        self.busy = 0.0
        if load.hung:
            self.queued_seconds += self.waiting * seconds
            return
        # Prefill takes its part of the time; what does not fit into this step waits for the next.
        fits = 0.9 * seconds / max(load.per_prompt_token_seconds * load.prompt_tokens, 1e-9)
        admitted = min(self.waiting, max(load.most_sequences - self.running, 0.0), fits)
        prefill = admitted * load.prompt_tokens * load.per_prompt_token_seconds
        iteration = load.base_seconds + load.per_sequence_seconds * (self.running + admitted)
        if admitted > 0:
            self._first_tokens(admitted, self.waiting / admitted * seconds + iteration)
        self.waiting -= admitted
        self.running += admitted
        self.prompt_tokens += admitted * load.prompt_tokens
        if self.running > 1e-6:
            self.busy = 1.0
            rounds = (seconds - prefill) / iteration
            output = min(rounds * self.running, self.running * load.output_tokens)
            self.iterations += rounds
            self.output_tokens += output
            self.token_seconds += output * seconds / max(rounds, 1e-9)
            ended = output / load.output_tokens
            self.running -= ended
            self.finished += ended
        self.queued_seconds += self.waiting * seconds
        self.served_seconds += self.running * seconds

    def _first_tokens(self, count: float, seconds: float) -> None:
        self.ttft_seconds += count * seconds
        for at, edge in enumerate((*_TTFT_EDGES, float("inf"))):
            if seconds <= edge:
                self.ttft[at] += count


@dataclass(slots=True)
class _Workload:
    load: Load
    servers: dict[str, _Server] = field(default_factory=dict)
    held: float = 0.0
    """Requests at the router while no pod is ready."""
    gone_ttft: list[float] = field(default_factory=lambda: [0.0] * (len(_TTFT_EDGES) + 1))
    """First tokens of servers that are gone, by edge."""

    def first_tokens(self) -> list[float]:
        """First tokens so far, within each of the histogram's edges and in all."""
        return [sum(counts) for counts in zip(self.gone_ttft, *(s.ttft for s in self.servers.values()), strict=True)]

    def step(self, ready: set[str], leaving: set[str], seconds: float) -> None:
        """Run for `seconds`. Pods that are leaving end what they have while they are there."""
        for name in self.servers.keys() - ready - leaving:
            lost = self.servers.pop(name)
            self.held += lost.waiting + lost.running  # clients try again
            self.gone_ttft = [before + count for before, count in zip(self.gone_ttft, lost.ttft, strict=True)]
        for name in ready - self.servers.keys():
            self.servers[name] = _Server()
        self.held += self.load.requests_per_second * seconds
        self._spread([self.servers[name] for name in ready])
        for server in self.servers.values():
            server.step(self.load, seconds)

    def _spread(self, servers: list[_Server]) -> None:
        """What the router holds goes to those that have least."""
        if not servers:
            return
        target = (self.held + sum(s.waiting + s.running for s in servers)) / len(servers)
        room = [max(target - s.waiting - s.running, 0.0) for s in servers]
        share = min(self.held / sum(room), 1.0) if sum(room) > 0 else 0.0
        for server, free in zip(servers, room, strict=True):
            server.waiting += free * share
        self.held -= sum(room) * share


class ServingEmulator:
    """Runs in a thread of its own; use it as a context manager. Workloads are named `namespace/name` by the label `app`."""

    def __init__(self, kubeconfig: Path | str) -> None:
        self._kubeconfig = str(kubeconfig)
        self._workloads: dict[str, _Workload] = {}
        self._ready: dict[str, dict[str, str]] = {}
        """Workload -> pod -> its address."""
        self._leaving: dict[str, set[str]] = {}
        """Workload -> pods that are being deleted and are still there."""
        self._lock = threading.Lock()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._main, name="serving-emulator", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._up.wait(20):
            raise EmulatorError("the emulator did not start within 20 s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._task is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join(10)

    def serve(self, workload: str, load: Load) -> None:
        """Set the load of `namespace/name` from now on."""
        with self._lock:
            known = self._workloads.get(workload)
            if known is None:
                self._workloads[workload] = _Workload(load)
            else:
                known.load = load

    def change(self, workload: str, **changes: Any) -> None:
        """Change some fields of a load."""
        self.serve(workload, replace(self._workloads[workload].load, **changes))

    def in_flight(self, workload: str) -> dict[str, float]:
        """Requests running and waiting by pod."""
        with self._lock:
            servers = self._workloads[workload].servers
            return {name: server.waiting + server.running for name, server in servers.items()}

    def first_tokens(self, workload: str, within_seconds: float) -> tuple[float, float]:
        """First tokens so far that came in time, and all of them. `within_seconds` is one of the histogram's edges."""
        with self._lock:
            counts = self._workloads[workload].first_tokens()
        return counts[_TTFT_EDGES.index(within_seconds)], counts[-1]

    def put(self, workload: str, pod: str, requests: float) -> None:
        """Give one pod extra running requests, so that pods differ."""
        with self._lock:
            self._workloads[workload].servers[pod].running += requests

    def _main(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._run())

    async def _run(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        kube = await connect(self._kubeconfig)
        app = web.Application()
        app.add_routes([web.get("/metrics", self._metrics)])
        pods = Reflector(kube, calls.PODS, POD, self._on_pod)
        try:
            async with serving(app, "127.0.0.1", 0, shutdown_seconds=0.1) as port, asyncio.TaskGroup() as tasks:
                self.address = f"127.0.0.1:{port}"
                tasks.create_task(pods.run())
                await pods.wait_synced()
                self._up.set()
                await self._step_for_ever()
        finally:
            await kube.close()

    async def _step_for_ever(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(STEP_SECONDS)
            now = time.monotonic()
            with self._lock:
                for name, workload in self._workloads.items():
                    ready, leaving = set(self._ready.get(name, {})), self._leaving.get(name, set())
                    # On a busy machine the turns come late: short steps all the same, up to a limit.
                    for _ in range(max(1, min(round((now - last) / STEP_SECONDS), 50))):
                        workload.step(ready, leaving, STEP_SECONDS)
            last = now

    def _on_pod(self, kind: str, key: str, pod: Pod) -> None:
        workload = f"{pod.metadata.namespace}/{pod.metadata.labels.get('app', '')}"
        ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
        with self._lock:
            was_ready = pod.metadata.name in self._ready.get(workload, {})
            leaving = self._leaving.setdefault(workload, set())
            if kind == DELETED:
                leaving.discard(pod.metadata.name)
            elif pod.metadata.deletion_timestamp and was_ready:
                leaving.add(pod.metadata.name)
            if kind == DELETED or not ready or pod.metadata.deletion_timestamp:
                self._ready.get(workload, {}).pop(pod.metadata.name, None)
            else:
                self._ready.setdefault(workload, {})[pod.metadata.name] = pod.spec.node_name

    async def _metrics(self, _: web.Request) -> web.Response:
        with self._lock:
            lines = list(self._lines())
        return web.Response(text="\n".join(lines) + "\n", content_type="text/plain")

    def _lines(self) -> Iterator[str]:
        for key, workload in self._workloads.items():
            namespace, name = key.split("/")
            yield f'emulator_router_queue{{namespace="{namespace}",workload="{name}"}} {workload.held:.3f}'
            rate = workload.load.requests_per_second
            yield f'emulator_requests_per_second{{namespace="{namespace}",workload="{name}"}} {rate:.3f}'
            for pod, server in workload.servers.items():
                if pod in workload.load.silent:
                    continue
                labels = f'namespace="{namespace}",pod="{pod}"'
                yield from _EXPORTS[workload.load.engine](server, workload.load, labels)
                yield f'DCGM_FI_DEV_GPU_UTIL{{{labels},UUID="GPU-of-{pod}",gpu="0"}} {100 * server.busy:.1f}'


def _vllm(server: _Server, load: Load, labels: str, *, old: bool = False) -> Iterator[str]:
    labels = f'{labels},model_name="demo"' + ("" if old else ',engine="0"')
    kv_cache = server.running * (load.prompt_tokens + load.output_tokens / 2) / load.kv_tokens
    gap = "time_per_output_token_seconds" if old else "inter_token_latency_seconds"
    values = {
        "num_requests_waiting": round(server.waiting),
        "num_requests_running": round(server.running),
        "gpu_cache_usage_perc" if old else "kv_cache_usage_perc": min(kv_cache, 1.0),
        "prompt_tokens_total": server.prompt_tokens,
        "generation_tokens_total": server.output_tokens,
        f"{gap}_sum": server.token_seconds,
        f"{gap}_count": server.output_tokens,
        "e2e_request_latency_seconds_count": server.finished,
        "time_to_first_token_seconds_sum": server.ttft_seconds,
        "time_to_first_token_seconds_count": server.ttft[-1],
    }
    if not old:
        values["iteration_tokens_total_count"] = server.iterations
    for name, value in values.items():
        yield f"vllm:{name}{{{labels}}} {value:.12g}"
    for edge, count in zip((*_TTFT_EDGES, "+Inf"), server.ttft, strict=True):
        yield f'vllm:time_to_first_token_seconds_bucket{{{labels},le="{edge}"}} {count:.12g}'


def _triton(server: _Server, load: Load, labels: str) -> Iterator[str]:
    served = f'{labels},model="demo",version="1"'
    total = server.queued_seconds + server.served_seconds
    yield f"nv_inference_pending_request_count{{{served}}} {round(server.waiting)}"
    yield f"nv_inference_queue_duration_us{{{served}}} {server.queued_seconds * 1e6:.0f}"
    yield f"nv_inference_request_duration_us{{{served}}} {total * 1e6:.0f}"
    yield f'nv_gpu_utilization{{{labels},gpu_uuid="GPU-of-{load.engine}"}} {server.busy:.3f}'


def _fastchat(server: _Server, _: Load, labels: str) -> Iterator[str]:
    yield f'headroom_fastchat_queue_length{{{labels},model_name="demo"}} {round(server.waiting + server.running)}'


_EXPORTS: Final[dict[str, Callable[[_Server, Load, str], Iterator[str]]]] = {
    "vllm": _vllm,
    "vllm-old": lambda server, load, labels: _vllm(server, load, labels, old=True),
    "triton": _triton,
    "fastchat": _fastchat,
}
