"""A group that has waited for too long gets as many nodes kept as it needs; nobody is evicted, and its own pods may go there."""

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Running, extender, node, pod

Object = dict[str, Any]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with ApiServer() as api:
        for name in ("n0", "n1", "n2"):
            api.put(NODES, node(name, 80, 80))
        async with extender(api, tmp_path, fair_wait_seconds=60.0, sweep_seconds=1.0, naming_ahead=False) as ready:
            yield ready


async def aged(running: Running, name: str, vram: str, second: int, **group: Any) -> Object:
    """A pod made at that second; with `size`, one of the group `g`."""
    body = pod(name, vram=vram)
    body["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{second:02d}Z"
    if group:
        body["metadata"]["annotations"] = {"headroom.dev/group": "g", "headroom.dev/group-size": str(group["size"])}
    return await running.create(body)


def kept(running: Running) -> set[str]:
    return set(running.daemon.state.pods.kept.keepers)


async def waiting_gang(running: Running, size: int) -> list[Object]:
    """A gang of pods that take a card each, which waits behind a small pod on each node."""
    for at, name in enumerate(("n0", "n1", "n2")):
        for card in range(2):
            await running.place(await aged(running, f"small-{at}-{card}", "20Gi", 1), name)
    gang = [await aged(running, f"g-{at}", "70Gi", 10, size=size) for at in range(size)]
    for one in gang:
        assert (await running.filter(one))["NodeNames"] == []
    return gang


async def test_as_many_nodes_close_as_the_group_needs_and_open_once_it_has_its_places(running: Running) -> None:
    gang = await waiting_gang(running, 4)
    await running.in_time(lambda: len(kept(running)) == 2)
    closed = sorted(kept(running))
    younger = await aged(running, "younger", "20Gi", 30)
    (other,) = {"n0", "n1", "n2"} - set(closed)
    assert (await running.filter(younger, *closed))["NodeNames"] == []
    assert (await running.filter(younger, other))["NodeNames"] == [other]
    older = await aged(running, "older", "20Gi", 2)
    assert (await running.filter(older, closed[0]))["NodeNames"] == [closed[0]]
    running.api.remove(PODS, "older")
    for name in closed:
        for card in range(2):
            running.api.remove(PODS, f"small-{name[1:]}-{card}")
    await running.caught_up()
    assert (await running.filter(gang[3]))["NodeNames"]
    assert sum("/g-" in one.pod for one in running.daemon.state.ledger.reservations()) == 4
    assert kept(running) == set()
    assert running.api.asked("POST", "eviction") == []
    assert running.daemon.state.breaches() == []


async def test_a_group_larger_than_the_cluster_closes_no_node(running: Running) -> None:
    await waiting_gang(running, 7)
    await running.calm(150.0)
    assert kept(running) == set()


async def test_the_nodes_open_when_the_group_goes(running: Running) -> None:
    await waiting_gang(running, 4)
    await running.in_time(lambda: len(kept(running)) == 2)
    for at in range(4):
        running.api.remove(PODS, f"g-{at}")
    await running.caught_up()
    assert kept(running) == set()


async def test_of_many_groups_that_fit_nowhere_a_few_are_looked_at_in_one_sweep_and_none_is_left_out(
    running: Running,
) -> None:
    """64 members on 5,000 nodes take some 35 ms: a hundred such groups in each sweep would leave no time for anything else."""
    for name in ("n0", "n1", "n2"):
        await running.place(await aged(running, f"small-{name}", "20Gi", 1), name)
    for group, size in (("a", 8), ("b", 8), ("c", 8), ("d", 8), ("e", 4)):
        for at in range(size):
            body = pod(f"{group}-{at}", vram="70Gi")
            body["metadata"]["annotations"] = {"headroom.dev/group": group, "headroom.dev/group-size": str(size)}
            assert (await running.filter(await running.create(body)))["NodeNames"] == []
    daemon, now = running.daemon, time.monotonic() + 61
    for sweep in (1, 2):
        daemon.effects(daemon.keeping.sweep(now + sweep))
        assert kept(running) == set()
    daemon.effects(daemon.keeping.sweep(now + 3))
    assert kept(running)
