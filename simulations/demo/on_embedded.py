"""The demo on the simulated cluster: both chapters in virtual time, the extender in its own process."""

import contextlib
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp

from headroom.domain.model import GpuNode
from simulations.demo.fleet import PLACEMENT_FLEET, build_fleet, total_usable_mib
from simulations.demo.placement.chapter import PlacementChapter, run_placement
from simulations.demo.placement.workload import draw_stream
from simulations.demo.report import gib, placement_lines
from simulations.demo.services.report import StoryChapter, service_lines, story_method, story_state, story_text
from simulations.demo.services.scenario import STORY_FLEET
from simulations.demo.services.side import Side
from simulations.demo.services.supply import SharedCards, WholeCards
from simulations.demo.view import View
from simulations.embedded.cluster import Cluster
from simulations.embedded.daemons import daemon, free_port
from simulations.embedded.kube_scheduler import Extender
from simulations.serving.laws.catalogue import LAWS

FACTS: Final = "Simulated fleet, simulated load; the scheduler extender and the scaling law are Headroom's own, as they run in a cluster."
_PLAN_EVERY_PODS: Final = 20
_SIDES: Final = ("Headroom", "Whole cards + HPA", "Whole cards + KEDA")


@contextlib.asynccontextmanager
async def _cluster(
    nodes: Sequence[GpuNode], rng: random.Random, out: Path, name: str
) -> AsyncIterator[tuple[Cluster, Extender]]:
    """A simulated cluster with the real extender beside it."""
    cluster = Cluster(nodes, rng)
    await cluster.api.start()
    kubeconfig, port = out / f"{name}.kubeconfig", free_port()
    cluster.api.write_kubeconfig(kubeconfig)
    # In virtual time a backlog takes no time, so there is nothing to name ahead of, and no burst of endings to wait for;
    # a plan renewed by the clock would come after more or fewer pods, by the speed of the machine.
    command: list[Any] = ["scheduler", "--kubeconfig", kubeconfig, "--host", "127.0.0.1", "--port", port]
    command += ["--naming-ahead", "false", "--wake-delay-seconds", "0", "--plan-every-pods", _PLAN_EVERY_PODS]
    try:
        async with (
            daemon([str(word) for word in command], port=port, log=out / f"{name}-scheduler.log") as url,
            aiohttp.ClientSession() as session,
        ):
            yield cluster, Extender(session, url)
    finally:
        await cluster.api.stop()


async def placement_chapter(seed: int, deployments: int, out: Path, view: View) -> PlacementChapter:
    """The stream of Deployments, one pod at a time."""
    rng = random.Random(seed)
    nodes = build_fleet(PLACEMENT_FLEET, rng)
    stream = draw_stream(rng, deployments)
    replicas, cards = sum(deployment.replicas for deployment in stream), sum(len(node.cards) for node in nodes)
    view.say(
        f"1. Placing {replicas} replicas of {len(stream)} Deployments on {cards} cards ({gib(total_usable_mib(nodes))} GiB),"
        " by the extender over HTTP"
    )
    async with _cluster(nodes, rng, out, "placement") as (cluster, extender):
        chapter = await run_placement(cluster, cluster.use_scheduler(extender), stream, rng, view)
    for line in placement_lines(chapter):
        view.say(line)
    return chapter


async def story_chapter(seed: int, hours: float, out: Path, view: View) -> StoryChapter:
    """Services under load: Headroom, then the two baselines."""
    rng = random.Random(seed)
    nodes = build_fleet(STORY_FLEET, rng)
    view.say(f"2. {hours * 60:.0f} minutes of load on {sum(len(node.cards) for node in nodes)} cards, in virtual time")

    def show(title: str, side: Side, share: float) -> None:
        view.serving(title, share, f"minute {side.engine.now / 60:.0f}", story_state(side), service_lines(side))

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
