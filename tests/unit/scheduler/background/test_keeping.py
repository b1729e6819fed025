"""A pod that has been refused for too long gets a node kept, and nobody is evicted for it: case s40."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest, Mode
from scheduler.ledger.fleet import Fleet
from scheduler.placement.shortage import nearest_row
from scheduler.verbs.explain import KEPT
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Running, extender, node, pod

GIB = 1024
Object = dict[str, Any]


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        for name in ("n0", "n1"):
            server.put(NODES, node(name, 80))
        yield server


@pytest.fixture
async def running(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    async with extender(api, tmp_path, fair_wait_seconds=60.0, sweep_seconds=1.0, naming_ahead=False) as ready:
        yield ready


async def small(running: Running, name: str, *nodes: str, second: int = 0, **spec: Any) -> Object:
    """A pod of 20 GiB, with the age of its making."""
    body = pod(name, vram="20Gi", **spec)
    body["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{second:02d}Z"
    created = await running.create(body)
    if nodes:
        await running.place(created, *nodes)
    return created


async def large(running: Running, second: int = 30, **spec: Any) -> Object:
    """A pod of 70 GiB that has been refused, with a node kept for it."""
    body = pod("large", vram="70Gi", **spec)
    body["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{second:02d}Z"
    created = await running.create(body)
    assert (await running.filter(created))["NodeNames"] == []
    await running.in_time(lambda: running.daemon.state.pods.kept.keepers)
    return created


def kept(running: Running) -> list[str]:
    return list(running.daemon.state.pods.kept.keepers)


async def test_a_large_pod_is_not_starved_by_small_ones_that_keep_coming(running: Running) -> None:
    """s40: without it, a pod of 70 GiB waits for ever among pods of 10 GiB of its priority at 85 % load."""
    alive = [(await small(running, f"s{at}", "n0" if at < 3 else "n1"))["metadata"]["name"] for at in range(6)]
    big = await large(running)
    for turn in range(40):
        running.api.remove(PODS, alive.pop(0))
        await running.caught_up()
        if (await running.filter(big))["NodeNames"]:
            break
        newcomer = await small(running, f"t{turn}", second=40)
        (chosen,) = (await running.filter(newcomer))["NodeNames"] or ("",)
        if chosen:
            assert chosen not in kept(running)
            await running.bind(newcomer, chosen)
            alive.append(f"t{turn}")
    else:
        pytest.fail("the large pod still waits")
    assert turn < 6
    assert running.api.asked("POST", "eviction") == []
    assert running.daemon.state.breaches() == []


async def test_the_nearest_node_closes_to_those_that_come_after(running: Running) -> None:
    for at in range(3):
        await small(running, f"a{at}", "n0")
    for at in range(2):
        await small(running, f"b{at}", "n1")
    big = await large(running)
    assert kept(running) == ["n1"]
    younger = await small(running, "younger", second=40)
    answer = await running.filter(younger, "n1")
    assert answer["NodeNames"] == []
    assert set(answer["FailedAndUnresolvableNodes"].values()) == {KEPT}
    assert (await running.filter(younger, "n0", "n1"))["NodeNames"] == ["n0"]
    less = await small(running, "less", second=1, priority=-1)
    assert (await running.filter(less, "n1"))["NodeNames"] == []
    for name, second, priority in (("older", 1, 0), ("more", 50, 10)):
        before = await small(running, name, second=second, priority=priority)
        assert (await running.filter(before, "n1"))["NodeNames"] == ["n1"], name
    assert await running.metric("headroom_kept_nodes") == 1
    assert (await running.filter(big))["NodeNames"] == []


@pytest.mark.parametrize("end", ["bound", "deleted", "elsewhere"])
async def test_the_node_opens_when_the_pod_waits_no_more(running: Running, end: str) -> None:
    for at in range(2):
        await small(running, f"a{at}", "n0")
        await small(running, f"b{at}", "n1")
    big = await large(running)
    assert kept(running) == ["n0"]
    younger = await small(running, "younger", second=40)
    assert (await running.filter(younger, "n0"))["NodeNames"] == []
    if end == "deleted":
        running.api.remove(PODS, "large")
        await running.caught_up()
    else:
        freed, prefix = ("n0", "a") if end == "bound" else ("n1", "b")
        for at in range(2):
            running.api.remove(PODS, f"{prefix}{at}")
        await running.caught_up()
        assert await running.place(big) == freed
        await running.caught_up()
    assert kept(running) == []
    if end != "bound":
        # The refused one is told: nothing that kube-scheduler watches says that the node is open again.
        await running.until(lambda: bool(running.api.asked("PATCH", "^/api/v1/nodes/")))
        assert (await running.filter(younger, "n0"))["NodeNames"] == ["n0"]


async def test_no_more_than_a_tenth_of_the_nodes_is_kept(running: Running) -> None:
    await small(running, "a", "n0")
    await small(running, "b", "n1")
    await large(running)
    for at in range(3):
        await running.filter(await running.create(pod(f"other{at}", vram="75Gi")))
    await running.calm(150.0)
    assert len(kept(running)) == 1


async def test_a_node_that_goes_is_replaced_by_another(running: Running) -> None:
    await small(running, "a", "n0")
    await small(running, "b", "n1")
    await large(running)
    assert kept(running) == ["n0"]
    running.api.remove(NODES, "n0")
    await running.in_time(lambda: kept(running) == ["n1"])


async def test_a_pod_that_waits_for_its_quota_gets_no_node(api: ApiServer, tmp_path: Path) -> None:
    annotations = {"headroom.dev/max-vram": "40Gi"}
    api.put("/api/v1/namespaces", {"metadata": {"name": "default", "annotations": annotations}})
    async with extender(api, tmp_path, fair_wait_seconds=60.0, sweep_seconds=1.0) as running:
        assert (await running.filter(await running.create(pod("big", vram="70Gi"))))["NodeNames"] == []
        await running.calm(150.0)
        assert kept(running) == []


async def test_a_wait_of_0_keeps_nothing(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, fair_wait_seconds=0.0, sweep_seconds=1.0) as running:
        await small(running, "a", "n0")
        await small(running, "b", "n1")
        await running.filter(await running.create(pod("large", vram="70Gi")))
        await running.calm(600.0)
        assert kept(running) == []


def fleet() -> Fleet:
    found = Fleet()
    for name, sizes, slices in (("a", (80, 80), 1), ("b", (80, 80), 1), ("c", (24,), 1), ("d", (80,), 2)):
        cards = tuple(Card(f"{name}{at}", at, "A100", size * GIB, 0, slices) for at, size in enumerate(sizes))
        found.upsert_node(GpuNode(name, cards, resource="nvidia.com/gpu"))
    for name, at, gib in (("a", 0, 70), ("a", 1, 70), ("b", 0, 40), ("b", 1, 75), ("d", 0, 60)):
        found.take(found.row_of[name], (at,), (gib * GIB,), plugin=False)
    return found


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        pytest.param(GpuRequest(1, vram_mib=50 * GIB), "b", id="10 GiB are missing there"),
        pytest.param(GpuRequest(2, vram_mib=20 * GIB), "b", id="two cards: 15 GiB are missing there, 20 on the other"),
        pytest.param(GpuRequest(1, vram_mib=90 * GIB), None, id="no card is so large"),
        pytest.param(GpuRequest(1, vram_mib=50 * GIB, models=frozenset({"H100"})), None, id="no such card"),
        pytest.param(GpuRequest(1, Mode.SLICE, vram_mib=30 * GIB, resource="nvidia.com/gpu"), "d", id="by the plugin"),
    ],
)
def test_the_node_on_which_least_must_end(asked: GpuRequest, nearest: str | None) -> None:
    found = fleet()
    row = nearest_row(found, asked, np.arange(4))
    assert (None if row is None else found.names[row]) == nearest


@contextlib.asynccontextmanager
async def kept_for_a_large_one(tmp_path: Path, **settings: Any) -> AsyncIterator[Running]:
    """Node n0 with 60 of 80 GiB free, kept for a pod of 70 GiB."""
    async with ApiServer() as api:
        api.put(NODES, node("n0", 80))
        async with extender(api, tmp_path, fair_wait_seconds=60.0, sweep_seconds=1.0, **settings) as ready:
            await small(ready, "a", "n0")
            await large(ready)
            assert kept(ready) == ["n0"]
            yield ready


async def test_no_younger_equal_is_named_ahead_onto_a_kept_node(tmp_path: Path) -> None:
    """s40."""
    async with kept_for_a_large_one(tmp_path, naming_ahead_backlog=1) as running:
        await small(running, "younger", second=40)
        await running.calm()
        assert running.daemon.state.ledger.reservations() == []
        older = await small(running, "older", second=1)
        await running.until(lambda: running.daemon.state.holding(older["metadata"]["uid"]) is not None)


async def test_fit_counts_no_room_on_a_kept_node_and_seats_nobody_there(tmp_path: Path) -> None:
    """s11, s40: neither the pods in question nor those that wait before them."""
    async with kept_for_a_large_one(tmp_path, naming_ahead=False) as running:
        for priority, fits in ((0, 0), (10, 3)):
            _, answer = await running.post("/v1/fit", {"pod": pod("p", vram="20Gi", priority=priority)})
            assert (answer["fits"], KEPT in answer["reasons"]) == (fits, not fits)
        await small(running, "younger", second=40)
        _, answer = await running.post("/v1/fit", {"pod": pod("p", vram="20Gi")})
        assert answer.get("waiting_first") is None


async def test_nobody_is_evicted_from_a_kept_node_for_a_younger_equal(tmp_path: Path) -> None:
    """s40: the older one never preempts, so it waits for its node; who comes after it in the queue must not empty that for himself."""
    async with ApiServer() as api:
        api.put(NODES, node("n0", 80))
        async with extender(api, tmp_path, fair_wait_seconds=60.0, sweep_seconds=1.0, naming_ahead=False) as running:
            await small(running, "low", "n0")
            await large(running, priority=10, preemptionPolicy="Never")
            assert kept(running) == ["n0"]
            for name, second, priority, evicted in (("younger", 40, 10, 0), ("more-important", 50, 20, 1)):
                body = pod(name, vram="70Gi", priority=priority)
                body["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{second}Z"
                created = await running.create(body)
                assert (await running.filter(created))["NodeNames"] == []
                await running.until(lambda: not any(e.wants_room for e in running.daemon.state.pods.entries.values()))
                await running.calm()
                assert len({ask.path for ask in api.asked("POST", "/eviction$")}) == evicted, name
