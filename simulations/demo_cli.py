"""`headroom demo`: the whole product without a GPU."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import click

from headroom.model import GpuNode
from simulations.cluster import Cluster
from simulations.cluster_daemons import daemon, free_port
from simulations.cluster_scheduler import Extender
from simulations.demo_fleet import PLACEMENT_FLEET, build_fleet, total_usable_mib
from simulations.demo_page import page_of
from simulations.demo_placement import PlacementChapter, run_placement
from simulations.demo_report import footer, gib, placement_lines
from simulations.demo_serving import Side
from simulations.demo_story import STORY_FLEET, STORY_HOURS
from simulations.demo_story_report import (
    StoryChapter,
    service_lines,
    story_lines,
    story_method,
    story_state,
    story_text,
)
from simulations.demo_supply import SharedCards, WholeCards
from simulations.demo_view import View
from simulations.demo_workload import draw_stream
from simulations.report.render import write
from simulations.serving.laws.catalogue import LAWS

_SIDES = ("Headroom", "Whole cards + HPA", "Whole cards + KEDA")


@click.command()
@click.option("--seed", default=7, show_default=True, help="Of the fleets, the stream of Deployments and the load.")
@click.option(
    "--deployments",
    default=80,
    show_default=True,
    type=click.IntRange(1, 400),
    help="Deployments in the stream of the placement chapter.",
)
@click.option(
    "--hours", default=STORY_HOURS, show_default=True, type=click.FloatRange(0.1, 24), help="Virtual hours of load."
)
@click.option(
    "--out",
    default="out",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for report.html and the daemons' logs.",
)
def main(seed: int, deployments: int, hours: float, out: Path) -> None:
    """Show the whole product without a GPU, and write report.html."""
    out.mkdir(parents=True, exist_ok=True)
    asyncio.run(_demo(seed, deployments, hours, out))


async def _demo(seed: int, deployments: int, hours: float, out: Path) -> None:
    began = time.perf_counter()
    view = View()
    placement = await _placement(seed, deployments, out, view)
    for line in placement_lines(placement):
        view.say(line)
    story = await _story(seed, hours, out, view)
    for line in story_lines(story):
        view.say(line)
    report = out / "report.html"
    page, data = page_of(placement, story, footer(seed, time.perf_counter() - began))
    write(report, page, data)
    view.say(f"Report: {report}")


@contextlib.asynccontextmanager
async def _cluster(
    nodes: Sequence[GpuNode], rng: random.Random, out: Path, name: str
) -> AsyncIterator[tuple[Cluster, Extender]]:
    """A simulated cluster with the real extender beside it, in its own process."""
    cluster = Cluster(nodes, rng)
    await cluster.api.start()
    kubeconfig, port = out / f"{name}.kubeconfig", free_port()
    cluster.api.write_kubeconfig(kubeconfig)
    # In virtual time a backlog takes no time, so there is nothing to name ahead of, and no burst of endings to wait for.
    command: list[Any] = ["scheduler", "--kubeconfig", kubeconfig, "--host", "127.0.0.1", "--port", port]
    command += ["--naming-ahead", "false", "--wake-delay-seconds", "0"]
    try:
        async with (
            daemon([str(word) for word in command], port=port, log=out / f"{name}-scheduler.log") as url,
            aiohttp.ClientSession() as session,
        ):
            yield cluster, Extender(session, url)
    finally:
        await cluster.api.stop()


async def _placement(seed: int, deployments: int, out: Path, view: View) -> PlacementChapter:
    rng = random.Random(seed)
    nodes = build_fleet(PLACEMENT_FLEET, rng)
    stream = draw_stream(rng, deployments)
    replicas, cards = sum(deployment.replicas for deployment in stream), sum(len(node.cards) for node in nodes)
    view.say(
        f"1. Placing {replicas} replicas of {len(stream)} Deployments on {cards} cards ({gib(total_usable_mib(nodes))} GiB),"
        " by the extender over HTTP"
    )
    async with _cluster(nodes, rng, out, "placement") as (cluster, extender):
        return await run_placement(cluster, cluster.use_scheduler(extender), stream, rng, view)


async def _story(seed: int, hours: float, out: Path, view: View) -> StoryChapter:
    rng = random.Random(seed)
    nodes = build_fleet(STORY_FLEET, rng)
    view.say(f"2. {hours * 60:.0f} minutes of load, in virtual time")

    def show(title: str, side: Side, share: float) -> None:
        view.serving(title, share, side.engine.now / 60, story_state(side), service_lines(side))

    async with _cluster(nodes, rng, out, "serving") as (cluster, extender):
        cluster.use_scheduler(extender)
        supply = SharedCards(cluster, extender)
        ours = Side(nodes, supply, LAWS["headroom"], {}, seed=seed, hours=hours)
        await ours.run(lambda side, share: show(_SIDES[0], side, share))
    sides = [ours.record(_SIDES[0])]
    for name, law in zip(_SIDES[1:], ("hpa-gpu", "keda-running"), strict=True):
        side = Side(nodes, WholeCards(nodes), LAWS[law], {}, seed=seed, hours=hours)
        await side.run(lambda side, share, name=name: show(name, side, share))  # type: ignore[misc]
        sides.append(side.record(name))
    method = story_method(
        nodes, placements=extender.calls.count("filter"), audits=supply.audits, out_of_memory=supply.out_of_memory
    )
    return StoryChapter(tuple(sides), story_text(sides[0]), method)
