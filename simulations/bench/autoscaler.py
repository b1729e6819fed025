"""`headroom bench autoscaler`: time of a tick, queries, writes and memory of the autoscaler with many objects.

The autoscaler runs as a process of its own against an API server and a Prometheus on this machine that hold the objects,
their Deployments and pods, and some scrapes of every metric. While the load does not change nothing may be written. With
`--moving` every object's queue, requests and KV cache change each minute, by an amount of its own, and status writes are counted.
"""

import asyncio
import contextlib
import os
import re
import sys
import tempfile
import time
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import click
from aiohttp import web

from headroom.errors import HeadroomError
from simulations.embedded.api import ApiServer
from simulations.embedded.store import Store

SCRAPES: Final = 8
SCRAPE_SECONDS: Final = 15.0
_ENGINES: Final = (*["vllm"] * 12, *["triton"] * 4, *["sglang"] * 2, "fastchat", "custom")
_SETTLING: Final = 25
"""Ticks until what can be learned of an unchanging load is learned."""
_LOOK_SECONDS: Final = 15.0
"""Between two looks at the metrics, as a Prometheus would scrape: a page of many thousand lines, which takes half a second of the
autoscaler's own time."""
_STILL: Final = ("--tick-seconds", "3", "--status-refresh-seconds", "5")
_MOVING: Final = ("--tick-seconds", "5")
_AGE: Final = "2026-01-01T00:00:00Z"


class BenchError(HeadroomError):
    """The benchmark did not come to an end; the text says why."""


@click.command()
@click.option("--objects", type=click.IntRange(1), default=1000, show_default=True, help="InferenceAutoscalers.")
@click.option("--pods", type=click.IntRange(1), default=3000, show_default=True, help="Pods, spread evenly.")
@click.option(
    "--ticks", type=click.IntRange(1), default=8, show_default=True, help="Ticks measured, after 25 to settle."
)
@click.option(
    "--moving", is_flag=True, help="Loads change every minute; the daemon ticks and writes as it does by default."
)
def main(objects: int, pods: int, ticks: int, moving: bool) -> None:
    """One tick over many objects: its time, its queries, what it writes, and the memory held."""
    with tempfile.TemporaryDirectory(prefix="headroom-bench-") as name:
        for line in asyncio.run(_measure(Path(name), objects, max(pods // objects, 1), ticks, moving=moving)):
            click.echo(line)


async def _measure(folder: Path, objects: int, pods_each: int, ticks: int, *, moving: bool) -> list[str]:
    store = Store(lambda: _AGE)
    for number in range(objects):
        _create(store, number, pods_each)
    api = ApiServer(store, lambda *_: None)
    await api.start()
    kubeconfig = folder / "kubeconfig"
    api.write_kubeconfig(kubeconfig)
    try:
        flags = _MOVING if moving else _STILL
        async with (
            _prometheus(objects, pods_each, moving=moving) as url,
            _autoscaler(kubeconfig, url, flags) as (pid, pages),
        ):
            return await _watch(pid, pages, api, (objects, objects * pods_each, ticks), moving=moving)
    finally:
        await api.stop()


def _create(store: Store, number: int, pods_each: int) -> None:
    engine, name = _ENGINES[number % len(_ENGINES)], f"server-{number}"
    spec: dict[str, Any] = {
        "scaleTargetRef": {"kind": "Deployment", "name": name},
        "engine": engine,
        "minReplicas": pods_each,
        "maxReplicas": pods_each + 5,
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}},
    }
    if engine == "custom":
        spec["signals"] = [
            {
                "name": "rps",
                "type": "query",
                "target": 100,
                "query": f'sum(rate(http_requests_total{{app="{name}"}}[1m]))',
            }
        ]
    meta = {"name": name, "namespace": "serving", "creationTimestamp": _AGE, "generation": 1}
    store.create("inferenceautoscalers", {"metadata": {**meta}, "spec": spec})
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "server"}]}}
    status = {"observedGeneration": 1, "replicas": pods_each, "updatedReplicas": pods_each}
    store.create(
        "deployments",
        {"metadata": {**meta}, "spec": {"replicas": pods_each, "template": template}, "status": status},
    )
    for pod in range(pods_each):
        store.create("pods", _pod(name, pod))


def _pod(name: str, number: int) -> dict[str, Any]:
    owner = {"kind": "ReplicaSet", "name": f"{name}-5d9f", "uid": name, "controller": True}
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": _AGE}
        for kind in ("PodScheduled", "Initialized", "Ready")
    ]
    return {
        "metadata": {
            "name": f"{name}-5d9f-{number}",
            "namespace": "serving",
            "labels": {"app": name, "pod-template-hash": "5d9f"},
            "ownerReferences": [owner],
            "creationTimestamp": _AGE,
        },
        "spec": {"nodeName": f"node-{number}", "containers": [{"name": "server", "image": "server"}]},
        "status": {
            "phase": "Running",
            "podIP": "10.0.0.1",
            "conditions": conditions,
            "containerStatuses": [{"name": "server", "ready": True, "restartCount": 0}],
        },
    }


@contextlib.asynccontextmanager
async def _prometheus(objects: int, pods_each: int, *, moving: bool) -> AsyncIterator[str]:
    """Answers in the form of the HTTP API; scrape times move with the clock, and with `moving` gauges every minute."""
    gauges = "".join(_series(objects, pods_each, counters=False))[:-1]
    counters = "".join(_series(objects, pods_each, counters=True))[:-1]

    cut: dict[tuple[bool, int], str] = {}
    """Texts with the latest so many scrapes only, made once."""

    def at_scrapes(which: bool, query: str, now: float) -> str:
        newest = now - now % SCRAPE_SECONDS
        span = float(query.rsplit("[", 1)[1].removesuffix("s]"))
        asked = min(int((span - (now - newest)) / SCRAPE_SECONDS) + 1, SCRAPES)
        if (which, asked) not in cut:
            older = "|".join(str(scrape) for scrape in range(SCRAPES - asked)) or "none"
            cut[which, asked] = re.sub(rf'\[@({older}),"[^"]*"\],', "", counters if which else gauges)
        text = cut[which, asked]
        if moving and not which:
            text = _moved(text, int(now // 60))
        for scrape in range(SCRAPES - asked, SCRAPES):
            text = text.replace(f"@{scrape},", f"{newest - (SCRAPES - 1 - scrape) * SCRAPE_SECONDS:.3f},")
        return text

    async def answer(request: web.Request) -> web.Response:
        query = str({**request.query, **(await request.post())}.get("query", ""))
        now = time.time()
        kind, result = "vector", ""
        if "prompt_tokens_total" in query or "queue_duration" in query:
            kind, result = "matrix", at_scrapes(True, query, now)
        elif query.startswith("{__name__"):
            kind, result = "matrix", at_scrapes(False, query, now)
        elif query.startswith("vector(time"):
            result = f'{{"metric":{{}},"value":[{now:.3f},"{now:.3f}"]}}'
        else:
            tags = re.findall(r'"headroom_query", "(\d+)"', query)
            result = ",".join(f'{{"metric":{{"headroom_query":"{tag}"}},"value":[{now:.3f},"250"]}}' for tag in tags)
        body = f'{{"status":"success","data":{{"resultType":"{kind}","result":[{result}]}}}}'
        return web.Response(text=body, content_type="application/json")

    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_route("*", "/api/v1/query", answer)
    runner = web.AppRunner(app, access_log=None, max_line_size=2**20, max_field_size=2**20)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _moved(text: str, minute: int) -> str:
    """Gauges of this minute: every series between half and one and a half of its usual value."""

    def shifted(match: re.Match[str]) -> str:
        factor = 0.5 + zlib.crc32(f"{match.group(1)} {minute}".encode()) / 2**32
        return match.group(1) + re.sub(
            r',"([0-9.]+)"\]', lambda point: f',"{float(point.group(1)) * factor:.4f}"]', match.group(2)
        )

    return re.sub(r'("pod":"[^"]*")([^{]*)', shifted, text)


def _gauges(engine: str, batch: float) -> dict[str, float]:
    if engine == "vllm":
        values = {"num_requests_waiting": 0.0, "num_requests_running": batch, "kv_cache_usage_perc": 0.3}
        return {f"vllm:{name}": value for name, value in values.items()}
    if engine == "sglang":
        return {"sglang:num_queue_reqs": 0.0, "sglang:num_running_reqs": batch, "sglang:token_usage": 0.3}
    if engine == "triton":
        return {"nv_inference_pending_request_count": 1.0, "nv_gpu_utilization": 0.5}
    return {"headroom_fastchat_queue_length": 2.0} if engine == "fastchat" else {}


def _counters(engine: str, batch: float, prompt: float) -> dict[str, float]:
    """Increase per second at so many sequences and prompt tokens in an iteration."""
    if engine == "triton":
        return {"nv_inference_queue_duration_us": 1e5, "nv_inference_request_duration_us": 1e6}
    if engine not in ("vllm", "sglang"):
        return {}
    iteration = 0.02 + 0.00025 * batch + 0.00015 * prompt
    values = {
        "prompt_tokens_total": prompt / iteration,
        "generation_tokens_total": batch / iteration,
        "inter_token_latency_seconds_sum": batch,
        "inter_token_latency_seconds_count": batch / iteration,
        "e2e_request_latency_seconds_count": batch / iteration / 100,
    }
    if engine == "vllm":
        values["iteration_tokens_total_count"] = 1 / iteration
    return {f"{engine}:{name}": value for name, value in values.items()}


def _series(objects: int, pods_each: int, *, counters: bool) -> Iterator[str]:
    for number in range(objects):
        engine = _ENGINES[number % len(_ENGINES)]
        for pod in range(pods_each):
            batch, prompt = 4.0 + (number + pod) % 5, 3.0 + (7 * number + pod) % 8
            values = _counters(engine, batch, prompt) if counters else _gauges(engine, batch)
            for metric, value in values.items():
                name = f"server-{number}-5d9f-{pod}"
                labels = (
                    f'"__name__":"{metric}","namespace":"serving","pod":"{name}","job":"engines","container":"server",'
                    f'"endpoint":"http","instance":"10.{number // 250}.{number % 250}.{pod}:8000","model_name":"demo"'
                )
                points = ",".join(
                    f'[@{scrape},"{1e6 + value * scrape * SCRAPE_SECONDS if counters else value}"]'
                    for scrape in range(SCRAPES)
                )
                yield f'{{"metric":{{{labels}}},"values":[{points}]}},'


@contextlib.asynccontextmanager
async def _autoscaler(kubeconfig: Path, prometheus: str, more: Sequence[str]) -> AsyncIterator[tuple[int, str]]:
    flags = [
        "--prometheus-url", prometheus, "--extender-url", "", "--port", "0", "--host", "127.0.0.1",
        "--lease-namespace", "serving", "--prometheus-timeout-seconds", "20", *more,
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "headroom", "autoscaler", *flags,
        env=os.environ | {"KUBECONFIG": str(kubeconfig)}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        async with asyncio.timeout(60):
            while b'"listening"' not in (line := await process.stderr.readline()):
                if not line:
                    raise BenchError("the autoscaler ended before it listened")
        port = re.search(rb'"port": (\d+)', line)
        if port is None:
            raise BenchError(f"the autoscaler does not say where it listens: {line!r}")
        drain = asyncio.create_task(process.stderr.read())
        yield process.pid, f"http://127.0.0.1:{int(port.group(1))}"
        drain.cancel()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _watch(pid: int, pages: str, api: ApiServer, sizes: tuple[int, int, int], *, moving: bool) -> list[str]:
    """`sizes`: objects, pods, ticks to measure."""
    objects, pods, ticks = sizes
    async with aiohttp.ClientSession() as session:
        settled = await _ticks(session, pages, _SETTLING)
        before, began = dict(api.requests), time.monotonic()
        ended = await _ticks(session, pages, settled["headroom_autoscaler_tick_seconds_count"] + ticks)
    seconds = time.monotonic() - began
    done = ended["headroom_autoscaler_tick_seconds_count"] - settled["headroom_autoscaler_tick_seconds_count"]
    busy = ended["process_cpu_seconds_total"] - settled["process_cpu_seconds_total"]
    took = ended["headroom_autoscaler_tick_seconds_sum"] - settled["headroom_autoscaler_tick_seconds_sum"]
    queries = sum(
        ended[name] - settled[name] for name in ended if name.startswith("headroom_autoscaler_prometheus_queries_total")
    )
    writes = {
        call: count - before.get(call, 0)
        for call, count in api.requests.items()
        if not call.startswith("GET") and "leases" not in call and count > before.get(call, 0)
    }
    statuses = sum(count for call, count in writes.items() if call.endswith("/status"))
    events = sum(count for call, count in writes.items() if "events" in call)
    active = ended['headroom_autoscaler_objects{state="active"}']
    return [
        f"{objects} objects ({active:.0f} acted on), {pods} pods, {done:.0f} ticks: "
        f"{took / done:.2f} s a tick ({busy / done:.2f} s of processor time), {queries / done:.1f} queries a tick",
        f"writes to the API server while {'loads moved' if moving else 'nothing changed'}: {sum(writes.values())} {writes or ''}".rstrip(),
        f"status writes: {statuses / seconds:.2f} a second; Events: {3600 * events / seconds:.0f} an hour; over {seconds:.0f} s",
        f"memory of the process: {_resident_mib(pid):.0f} MiB now, {_resident_mib(pid, 'VmHWM'):.0f} MiB at most",
    ]


async def _ticks(session: aiohttp.ClientSession, pages: str, count: float) -> dict[str, float]:
    """Wait until so many ticks are done; the metrics then."""
    for _ in range(300):
        async with session.get(f"{pages}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        values = {
            name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        }
        if values.get("headroom_autoscaler_tick_seconds_count", 0) >= count and values["headroom_autoscaler_leader"]:
            return values
        await asyncio.sleep(_LOOK_SECONDS)
    raise BenchError("the autoscaler does not tick")


def _resident_mib(pid: int, field: str = "VmRSS") -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    match = re.search(rf"{field}:\s+(\d+) kB", text)
    return int(match.group(1)) / 1024 if match else float("nan")
