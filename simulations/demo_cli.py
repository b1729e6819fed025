"""`headroom demo`: the whole product without a GPU."""

import asyncio
import random
import time
from pathlib import Path

import aiohttp
import click

from simulations.cluster import Cluster
from simulations.cluster_daemons import daemon, free_port
from simulations.cluster_scheduler import Extender
from simulations.demo_fleet import PLACEMENT_FLEET, build_fleet, total_usable_mib
from simulations.demo_placement import PlacementChapter, run_placement
from simulations.demo_report import (
    footer,
    gib,
    placement_data,
    placement_kpis,
    placement_lines,
    placement_method,
    placement_page,
)  # fmt: skip
from simulations.demo_view import View
from simulations.demo_workload import draw_stream
from simulations.report.render import write


@click.command()
@click.option("--seed", default=7, show_default=True, help="Of the fleet, the stream of Deployments and the load.")
@click.option(
    "--deployments",
    default=80,
    show_default=True,
    type=click.IntRange(1, 400),
    help="Deployments in the stream of the placement chapter.",
)
@click.option(
    "--out",
    default="out",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for report.html and the daemons' logs.",
)
def main(seed: int, deployments: int, out: Path) -> None:
    """Show the whole product without a GPU, and write report.html."""
    out.mkdir(parents=True, exist_ok=True)
    asyncio.run(_demo(seed, deployments, out))


async def _demo(seed: int, deployments: int, out: Path) -> None:
    began = time.perf_counter()
    view = View()
    chapter = await _placement(seed, deployments, out, view)
    for line in placement_lines(chapter):
        view.say(line)
    report = out / "report.html"
    page, data = _page(chapter, seed, time.perf_counter() - began)
    write(report, page, data)
    view.say(f"Report: {report}")


async def _placement(seed: int, deployments: int, out: Path, view: View) -> PlacementChapter:
    rng = random.Random(seed)
    nodes = build_fleet(PLACEMENT_FLEET, rng)
    stream = draw_stream(rng, deployments)
    cluster = Cluster(nodes, rng)
    await cluster.api.start()
    kubeconfig = out / "kubeconfig"
    cluster.api.write_kubeconfig(kubeconfig)
    port = free_port()
    view.say(
        f"Placing {sum(d.replicas for d in stream)} replicas of {len(stream)} Deployments on {sum(len(n.cards) for n in nodes)} cards"
        f" ({gib(total_usable_mib(nodes))} GiB), through the extender over HTTP"
    )
    command = [
        "scheduler",
        "--kubeconfig",
        str(kubeconfig),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--naming-ahead",
        "false",
    ]
    try:
        async with (
            daemon(command, port=port, log=out / "scheduler.log") as url,
            aiohttp.ClientSession() as session,
        ):
            scheduler = cluster.use_scheduler(Extender(session, url))
            return await run_placement(cluster, scheduler, stream, rng, view)
    finally:
        await cluster.api.stop()


def _page(chapter: PlacementChapter, seed: int, seconds: float) -> tuple[dict[str, object], dict[str, object]]:
    models = sorted({deployment.offer.model for deployment in chapter.stream})
    page: dict[str, object] = {
        "title": "Headroom: what the same GPUs can hold",
        "lead": "",
        "facts": "",
        "kpis": placement_kpis(chapter),
        "story": None,
        "placement": placement_page(chapter),
        "method": placement_method(chapter),
        "footer": footer(seed, seconds),
    }
    data: dict[str, object] = {
        "models": [{"name": name} for name in models],
        "used_models": list(range(len(models))),
        "story": None,
        "placement": placement_data(chapter, models),
    }
    return page, data
