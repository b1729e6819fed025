"""`headroom bench stalls`: how long anything at all keeps the extender's event loop."""

import asyncio
import contextlib
import json
import platform
import random
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import click
import msgspec
from aiohttp import web

from headroom.daemon import logs, tasks
from headroom.kube import calls
from headroom.kube.aio import AioKubeClient
from headroom.units import MIB
from scheduler.cluster.measured import AGENT_METRIC, AGENT_OUTSIDE_METRIC, AGENT_POD_METRIC
from scheduler.daemon import SchedulerDaemon, listening, settle_interpreter
from scheduler.settings import SchedulerSettings
from simulations.bench.api_server import Object, Server, served
from simulations.bench.extender_cluster import SIZES_GIB, bound_pods, device_objects, node_object
from simulations.bench.stalls_probe import Probe, Turn
from simulations.bench.stalls_scenes import RUNNING_PRIORITY, SCENES, CannotRunError
from simulations.bench.stalls_world import World

_CARDS: Final = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One scene: what was done, how long it took, and the longest turn of the loop meanwhile."""

    scene: str
    amount: str
    seconds: float
    cpu_ms: float
    wall_ms: float


@click.command()
@click.option("--nodes", type=click.IntRange(1), default=5000, show_default=True, help="Nodes with eight cards each.")
@click.option(
    "--pods-per-node", type=click.IntRange(0, _CARDS), default=8, show_default=True, help="Bound pods on each."
)
@click.option(
    "--claims-per-node",
    type=click.IntRange(0, _CARDS),
    default=0,
    show_default=True,
    help="Resource claims on each, and a ResourceSlice of eight devices (with --pods-per-node 0: a card goes out once).",
)
@click.option(
    "--budget-ms", type=float, default=50.0, show_default=True, help="Longest turn of the loop that is right."
)
@click.option("--only", multiple=True, help="Only scenes with these words in their line; may be given several times.")
@click.option("--json", "path", type=click.Path(dir_okay=False, path_type=Path), help="Also write the figures here.")
def main(
    nodes: int, pods_per_node: int, claims_per_node: int, budget_ms: float, only: tuple[str, ...], path: Path | None
) -> None:
    """How long anything keeps the extender's event loop: calls, pages, lists, storms, background work.

    The daemon runs as in a pod; API server and Prometheus are processes beside it, callers are threads. A turn's processor time counts
    against the budget; its time by the clock also has what threads and other processes took. Ends with 1 when a scene is
    over the budget.
    """
    logs.setup(level="CRITICAL")
    settle_interpreter()
    rows: list[Row] = []
    tasks.run(_measure((nodes, pods_per_node, claims_per_node), budget_ms, only, rows))
    if path is not None:
        found = {"machine": platform.platform(), "rows": [asdict(row) for row in rows]}
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    over = [row.scene for row in rows if row.cpu_ms > budget_ms]
    click.echo(f"\nover {budget_ms:g} ms: {', '.join(over) if over else 'nothing'}")
    sys.exit(1 if over else 0)


async def _measure(size: tuple[int, int, int], budget_ms: float, only: tuple[str, ...], rows: list[Row]) -> None:
    click.echo("| scene | amount | seconds | longest turn, CPU ms | by the clock, ms |\n|---|---|---|---|---|")
    probe = Probe()

    @contextlib.contextmanager
    def scene(name: str) -> Iterator[list[str]]:
        amount: list[str] = []
        probe.longest, began = Turn(), time.perf_counter()
        yield amount
        longest = probe.longest
        row = Row(name, " ".join(amount), time.perf_counter() - began, longest.cpu_ms, longest.wall_ms)
        rows.append(row)
        mark = " **" if row.cpu_ms > budget_ms else ""
        click.echo(f"| {name} | {row.amount} | {row.seconds:.1f} | {row.cpu_ms:.1f}{mark} | {row.wall_ms:.1f} |")

    nodes = size[0]
    with served(_api, *size) as api_url, served(_prometheus, nodes) as prometheus_url:
        kube = AioKubeClient(SimpleNamespace(host=api_url, get_api_key_with_prefix=_no_token))
        settings = SchedulerSettings(
            host="127.0.0.1", port=0, prometheus_url=prometheus_url, prometheus_timeout_seconds=60.0,
            measured_every_seconds=5.0, watch_silence_seconds=3600.0,  # this API server sends no bookmarks
        )  # fmt: skip
        daemon = SchedulerDaemon(kube, settings)
        async with probe.watching(), _running(daemon) as port:
            with scene("start: all nodes and pods are read") as amount:
                while not daemon.health.ready:
                    await asyncio.sleep(0.01)
                claims = len(daemon.state.ledger.claims.holdings)
                amount.append(f"{nodes:,} nodes, {len(daemon.pods.items()):,} pods, {claims:,} claims")
            world = World(daemon, api_url, port, nodes)
            for each in SCENES:
                name = str(each.__doc__)
                if not only or any(words in name for words in only):
                    try:
                        with scene(name) as amount:
                            amount.append(await each(world))
                    except CannotRunError as error:
                        click.echo(f"| {name} | cannot run here: {error} | | | |")
        await kube.close()
        if breaches := daemon.state.breaches():
            raise RuntimeError(f"the state contradicts itself: {breaches[:3]}")


async def _no_token(_: str) -> str:
    return ""


def _api(nodes: int, pods_per_node: int, claims_per_node: int) -> web.Application:
    return Server(
        {
            calls.NODES: (node_object(at) for at in range(nodes)),
            calls.PODS: map(_of_low_priority, bound_pods(nodes, pods_per_node)),
            **device_objects(nodes, claims_per_node),
        }
    ).app()


def _of_low_priority(pod: Object) -> Object:
    pod["spec"]["priority"] = RUNNING_PRIORITY
    return pod


@contextlib.asynccontextmanager
async def _running(daemon: SchedulerDaemon) -> AsyncIterator[int]:
    async with listening(daemon) as (port, _):
        task = asyncio.create_task(daemon.run())
        try:
            yield port
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _prometheus(nodes: int) -> web.Application:
    """A Prometheus that knows every card and pod; each answer differs from the last a little on all of them."""
    rng = random.Random(5)

    async def query(http: web.Request) -> web.Response:
        asked = str((await http.post()).get("query") or http.query.get("query", ""))
        now = time.time()
        series: list[Object] = []
        for at in range(nodes):
            for card in range(_CARDS):
                used = (SIZES_GIB[card % len(SIZES_GIB)] * 1024 + 600) * (1 + 0.002 * rng.random()) * MIB
                labels = {"job": "headroom-agent", "node": f"node-{at:05d}", "card": f"GPU-{at:05d}-{card}"}
                pod = {"namespace": "models", "pod": f"old-{at}-{card}"}
                for name, value in ((AGENT_METRIC, used), (AGENT_OUTSIDE_METRIC, 0), (AGENT_POD_METRIC, used)):
                    if name not in asked:
                        continue
                    metric = labels | {"__name__": name} | (pod if name == AGENT_POD_METRIC else {})
                    series.append({"metric": metric, "values": [[now, f"{value:.0f}"]]})
        body = {"status": "success", "data": {"resultType": "matrix", "result": series}}
        return web.Response(body=msgspec.json.encode(body), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/api/v1/query", query), web.post("/api/v1/query", query)])
    return app
