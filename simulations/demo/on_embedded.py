"""The demo on the simulated cluster: both chapters in virtual time, the extender in its own process."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
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
from simulations.demo.services.supply import SharedCards
from simulations.demo.services.tuning import TUNED, rival
from simulations.demo.view import View
from simulations.embedded.cluster import Cluster
from simulations.embedded.daemons import daemon, free_port
from simulations.embedded.kube_scheduler import Extender
from simulations.serving.laws.base import Parameters
from simulations.serving.laws.catalogue import LAWS

FACTS: Final = "Simulated fleet, simulated load; the scheduler extender and the scaling law are Headroom's own, as they run in a cluster."
_PLAN_EVERY_PODS: Final = 20


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


@dataclass(frozen=True, slots=True)
class HeadroomRun:
    """A finished run of Headroom's side."""

    side: Side
    placements: int
    supply: SharedCards


async def run_headroom(
    parameters: Mapping[str, Parameters],
    *,
    out: Path,
    seed: int,
    hours: float,
    progress: Callable[[Side, float], None] = lambda *_: None,
) -> HeadroomRun:
    """All services on shared cards, placed by the extender; `parameters` of the law by service."""
    rng = random.Random(seed)
    nodes = build_fleet(STORY_FLEET, rng)
    async with _cluster(nodes, rng, out, "serving") as (cluster, extender):
        cluster.use_scheduler(extender)
        supply = SharedCards(cluster, extender)
        side = Side(nodes, supply, LAWS["headroom"], parameters, seed=seed, hours=hours)
        await side.run(progress)
        return HeadroomRun(side, extender.calls.count("filter"), supply)


async def story_chapter(seed: int, hours: float, out: Path, view: View) -> StoryChapter:
    """Services under load: Headroom and its rivals, each with its defaults and at its best."""
    nodes = build_fleet(STORY_FLEET, random.Random(seed))
    view.say(f"2. {hours * 60:.0f} minutes of load on {sum(len(node.cards) for node in nodes)} cards, in virtual time")

    def show(title: str, side: Side, share: float) -> None:
        view.serving(title, share, f"minute {side.engine.now / 60:.0f}", story_state(side), service_lines(side))

    # The rivals need no extender: they run in a process of their own meanwhile.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        rivals = [
            pool.submit(rival, law, parameters, title, seed=seed, hours=hours) for title, law, parameters in _rivals()
        ]
        first, tuned = [
            await run_headroom(parameters, out=out, seed=seed, hours=hours, progress=partial(show, title))
            for title, parameters in (("Headroom", {}), ("Headroom, tuned", TUNED["headroom"]))
        ]
        records = [await asyncio.wrap_future(run) for run in rivals]
    sides = [first.side.record("Headroom"), *records[:2], tuned.side.record("Headroom, tuned"), *records[2:]]
    method = story_method(
        nodes, placements=first.placements, audits=first.supply.audits, out_of_memory=first.supply.out_of_memory
    )
    return StoryChapter(tuple(sides), story_text(sides[0]), method)


def _rivals() -> list[tuple[str, str, Mapping[str, Parameters]]]:
    """Title, law and parameters by service."""
    usual: list[tuple[str, str, Mapping[str, Parameters]]] = [
        ("Whole cards + HPA", "hpa-gpu", {}),
        ("Whole cards + KEDA", "keda-running", {}),
    ]
    return [*usual, ("HPA, tuned", "hpa-gpu", TUNED["hpa-gpu"]), ("KEDA, tuned", "keda-running", TUNED["keda-running"])]
