"""What keeps the extender's event loop at most, scene by scene: calls, pages, news from the API server, background work.

Each scene's docstring is its line in the table of `headroom bench stalls`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import msgspec

from headroom.daemon.slices import Slices
from headroom.errors import HeadroomError
from headroom.kube import calls
from scheduler.cluster.pod_entry import Stage
from simulations.bench.api_server import Object
from simulations.bench.extender_cluster import class_object, node_object, pod_object
from simulations.bench.stalls_world import ELSEWHERE, HERE, World

LARGE_GIB: Final = 79
"""Fits on an empty card only."""
RUNNING_PRIORITY: Final = -9
"""Of the pods that run already: no pod of the same priority outranks them."""
_CROWD: Final = 5000
_ROOM: Final = f"a card has room for {LARGE_GIB} GiB, so that no pod is refused"

Scene: TypeAlias = Callable[[World], Awaitable[str]]
"""Does something, and says how much."""


class CannotRunError(HeadroomError):
    """The cluster that was asked for has not what a scene needs; says what. Nothing of the scene is left."""


# kube-scheduler's calls


async def placed(world: World) -> str:
    """filter and bind of pods of usual sizes"""
    known, unheard = ([world.pod(world.size()) for _ in range(30)] for _ in range(2))
    await world.create(known)
    for pod in [*known, *unheard]:
        nodes = await world.filter(pod)
        if len(nodes) != 1:
            await world.remove(known)
            raise CannotRunError("no card has room for a pod: all are given to pods, or to claims")
        (node,) = nodes
        if pod in unheard:  # first heard of in the call
            await world.create([pod])
        await world.bind(pod, node)
    await world.remove([*known, *unheard])
    return f"{len(known) + len(unheard)} pods"


async def placed_of_new_kinds(world: World) -> str:
    """filter of pods that all differ"""
    pods = [world.pod(1 + at, cpu=f"{1000 + at}m") for at in range(30)]
    await world.create(pods)
    for pod in pods:
        await world.filter(pod)
    await world.remove(pods)
    return f"{len(pods)} pods"


async def refused(world: World) -> str:
    """filter of pods that fit nowhere"""
    pods = [world.pod(LARGE_GIB + at % 2, preemptionPolicy="Never") for at in range(30)]
    await world.create(pods)
    for pod in pods:
        if await world.filter(pod) != []:
            await world.remove(pods)
            raise CannotRunError(_ROOM)
    await world.remove(pods)
    return f"{len(pods)} pods"


async def with_preferences(world: World) -> str:
    """filter and prioritize of pods with preferred affinity"""
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {}}]}}
    pods = [world.pod(world.size(), affinity=affinity) for _ in range(10)]
    await world.create(pods)
    names: list[str] = []
    for pod in pods:
        names = await world.filter(pod)
        body = b'{"Pod":%b,"Nodes":null,"NodeNames":%b}' % (pod.raw, msgspec.json.encode(names))
        await world.ask("POST", "/prioritize", body)
    await world.remove(pods)
    return f"{len(pods)} pods, {len(names):,} nodes each"


async def whole_nodes(world: World) -> str:
    """filter with whole Node objects"""
    nodes = [node_object(at) for at in range(min(1000, len(world.names)))]
    pod = world.pod(world.size())
    await world.create([pod])
    body = b'{"Pod":%b,"Nodes":{"items":%b},"NodeNames":null}' % (pod.raw, msgspec.json.encode(nodes))
    await world.ask("POST", "/filter", body)
    await world.remove([pod])
    return f"{len(nodes):,} nodes"


async def preempt_verb(world: World) -> str:
    """preempt with victims on many nodes"""
    victims = {
        f"node-{at:05d}": {"Pods": [{"UID": f"uid-old-{at}-{number}"} for number in range(8)], "NumPDBViolations": 0}
        for at in range(min(500, len(world.names)))
    }
    body = b'{"Pod":%b,"NodeNameToMetaVictims":%b}' % (world.pod(LARGE_GIB).raw, msgspec.json.encode(victims))
    await world.ask("POST", "/preempt", body)
    return f"{len(victims)} nodes"


# Pages


def page(path: str, *, method: str = "GET", body: bytes = b"", source: str = ELSEWHERE, times: int = 3) -> Scene:
    """A page, asked several times in a row, by two at once."""

    async def ask(world: World) -> str:
        size = 0
        for _ in range(times):
            one, _ = await asyncio.gather(*(world.ask(method, path, body, source=source) for _ in range(2)))
            size = len(one)
        return f"{size / 1000:,.1f} kB"

    ask.__doc__ = f"{method} {path}"
    return ask


def fit(name: str, pod: Object, limit: int) -> Scene:
    """A fit question."""
    body: dict[str, Any] = {"pod": pod, "limit": limit}
    ask = page("/v1/fit", method="POST", body=msgspec.json.encode(body), times=1)
    ask.__doc__ = f"/v1/fit, {name}"
    return ask


# News from the API server


async def pods_listed_unchanged(world: World) -> str:
    """a list of all pods, nothing changed"""
    await world.daemon.pods.relist()
    return f"{len(world.daemon.pods.items()):,} pods"


async def pods_listed_changed(world: World) -> str:
    """a list of all pods, each with a new version"""
    await world.change("renew", calls.PODS)
    await world.daemon.pods.relist()
    return f"{len(world.daemon.pods.items()):,} pods"


async def nodes_listed_changed(world: World) -> str:
    """a list of all nodes, each with less CPU"""
    await world.change("lower_cpu", calls.NODES)
    await world.daemon.nodes.relist()
    return f"{len(world.names):,} nodes"


async def claims_listed_changed(world: World) -> str:
    """a list of all resource claims, each with a new version"""
    await world.change("renew", calls.RESOURCE_CLAIMS)
    await world.daemon.devices.claims.relist()
    return f"{len(world.daemon.state.ledger.claims.holdings):,} claims"


async def slices_listed_changed(world: World) -> str:
    """a list of all ResourceSlices, each with a new version"""
    await world.change("renew", calls.RESOURCE_SLICES)
    await world.daemon.devices.slices.relist()
    return f"{len(world.daemon.devices.slices.items()):,} slices"


async def class_means_others(world: World) -> str:
    """a DeviceClass that no longer serves the cards, and does again"""
    count = len(world.daemon.devices.slices.items())
    for condition in ("mig", "gpu") if count else ():
        await world.change("put", calls.DEVICE_CLASSES, msgspec.json.encode([class_object(condition)]))
        devices = world.daemon.state.devices
        await world.until(lambda devices=devices: bool(devices.due), 5.0)  # type: ignore[misc]
        await world.until(lambda devices=devices: not devices.due)  # type: ignore[misc]
    return f"{count:,} nodes, twice"


async def burst_of_pods(world: World) -> str:
    """pods created and deleted in one burst of the watch"""
    pods = await world.made(world.pod(world.size()) for _ in range(2000))
    await world.create(pods)
    await world.remove(pods)
    return f"{len(pods):,} pods"


async def all_pods_vanish(world: World) -> str:
    """a list that holds no pod any more"""
    count = len(world.daemon.pods.items())
    await world.change("clear", calls.PODS)
    await world.daemon.pods.relist()
    return f"{count:,} pods"


# Background work


async def many_kinds(world: World) -> str:
    """pods of 500 kinds, and plans made from them"""
    pods = await world.made(world.pod(1 + at % 40, cpu=f"{500 + 7 * at}m") for at in range(500))
    await world.create(pods)
    for pod in pods[:50]:
        await world.filter(pod)
    for _ in range(2):
        await world.daemon.planner.plan_once()
    await world.remove(pods)
    return f"{len(pods)} kinds"


async def named_ahead(world: World) -> str:
    """a backlog for which nodes are named ahead"""
    pods = await world.made(world.pod(world.size()) for _ in range(1000))
    await world.create(pods)
    named = 0
    while (now := len(world.daemon.state.pods.at(Stage.NAMED))) > named:  # until no more are
        named = now
        await asyncio.sleep(2.0)
    await world.remove(pods)
    return f"{named:,} pods"


async def crowd_refused(world: World) -> str:
    """pods refused by the thousand, swept, told of"""
    crowd = await world.made(world.pod(LARGE_GIB, preemptionPolicy="Never") for _ in range(_CROWD))
    await world.create(crowd)
    if await world.filter(crowd[0]) != []:
        await world.remove(crowd)
        raise CannotRunError(_ROOM)
    await world.refuse(crowd)
    await asyncio.sleep(2.5)
    return f"{len(crowd):,} pods"


async def room_of_no_use(world: World) -> str:
    """room on every node at once, of no use to any of the refused pods"""
    state, slices = world.daemon.state, Slices()
    for name in world.names:
        world.daemon.effects([state.pods.freed(name, seen_by_scheduler=False)])
        await slices.pause()
    await asyncio.sleep(3 * world.daemon.settings.wake_delay_seconds + 0.5)
    return f"{len(world.names):,} nodes"


async def measured_changes(world: World) -> str:
    """three readings of measured use, all cards a little different, while pods wait refused"""
    reading, readings = world.daemon.state.reading, 0
    while readings < 3:
        await world.until(lambda last=reading: world.daemon.state.reading is not last)  # type: ignore[misc]
        reading, readings = world.daemon.state.reading, readings + 1
    await asyncio.sleep(1.5)
    return f"{world.daemon.state.measured_cards:,} cards"


async def crowd_gone(world: World) -> str:
    """the refused pods are deleted"""
    refused = [entry.key for entry in world.daemon.state.pods.at(Stage.REFUSED)]
    await world.change("remove", calls.PODS, msgspec.json.encode(refused))
    await world.until(lambda: not world.daemon.state.pods.at(Stage.REFUSED))
    return f"{len(refused):,} pods"


async def plans_in_vain(world: World) -> str:
    """room is made for a critical pod, behind 200 for which none can be made"""
    if not world.daemon.pods.items():
        raise CannotRunError("no pod runs whose place another one could take")
    pods = await world.made(world.pod(LARGE_GIB, priority=RUNNING_PRIORITY) for _ in range(200))
    critical = world.pod(LARGE_GIB, priority=1000)
    await world.create([*pods, critical])
    await world.refuse(pods)
    began, entry = time.perf_counter(), world.entry(critical)
    await world.refuse([critical])
    await world.until(lambda: entry.claim is not None or entry.stage is not Stage.REFUSED)
    seconds = time.perf_counter() - began
    await asyncio.sleep(0.5)
    await world.remove([*pods, critical])
    return f"planned after {seconds:.1f} s"


SCENES: Final[tuple[Scene, ...]] = (
    placed,
    placed_of_new_kinds,
    refused,
    with_preferences,
    whole_nodes,
    preempt_verb,
    page("/healthz"),
    page("/readyz"),
    page("/metrics"),
    page("/v1/explain?pod=models/old-0-0"),
    fit("a small pod, up to 2,000", pod_object("fit", 1), 2000),
    fit("a whole card", pod_object("fit", LARGE_GIB), 100),
    page("/v1/cards"),
    page("/debug/snapshot", source=HERE, times=1),
    page("/debug/snapshot?check", source=HERE, times=1),
    many_kinds,
    named_ahead,
    crowd_refused,
    page("/v1/explain?pod=models/new-2000"),
    fit("a small pod, behind those that wait", pod_object("fit", 1), 2000),
    room_of_no_use,
    measured_changes,
    crowd_gone,
    plans_in_vain,
    burst_of_pods,
    pods_listed_unchanged,
    pods_listed_changed,
    nodes_listed_changed,
    claims_listed_changed,
    slices_listed_changed,
    class_means_others,
    all_pods_vanish,
)
