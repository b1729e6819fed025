"""Groups near each other by the labels of nodes, on an extender that is spoken to as kube-scheduler does."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, Running, extender, node, pod

Object = dict[str, Any]
RACK, ZONE = "cloud.google.com/gce-topology-subblock", "topology.kubernetes.io/zone"
TOPOLOGY = "headroom.dev/group-topology"
PLACES = {"n0": "r0", "n1": "r1", "n2": "r0", "n3": "r1", "n4": ""}
"""The rack of each node of two cards; n4 has no such label."""


def racked(name: str, *cards: int) -> Object:
    rack = {RACK: PLACES[name]} if PLACES[name] else {}
    return node(name, *cards or (80, 80), labels={ZONE: "z", **rack})


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with ApiServer() as api:
        for name in PLACES:
            api.put(NODES, racked(name))
        async with extender(api, tmp_path, sweep_seconds=0.05, naming_ahead=False) as ready:
            yield ready


def member(name: str, size: int, within: str = "", group: str = "g") -> Object:
    body = pod(name, vram="70Gi")
    said = {TOPOLOGY: within} if within else {}
    body["metadata"]["annotations"] = {"headroom.dev/group": group, "headroom.dev/group-size": str(size), **said}
    return body


async def members(running: Running, count: int, within: str = "", *, size: int = 0) -> list[Object]:
    return [await running.create(member(f"g-{at}", size or count, within)) for at in range(count)]


def places(running: Running) -> list[str]:
    return sorted(held.placement.node for held in running.daemon.state.ledger.holdings.values())


async def words(running: Running, body: Object) -> str:
    answer = await running.filter(body)
    assert answer["NodeNames"] == []
    (found,) = set(answer["FailedAndUnresolvableNodes"].values())
    return str(found)


async def explained(running: Running, name: str) -> Object:
    _, text = await running.get(f"/v1/explain?pod=default/{name}")
    return dict(json.loads(text))


async def test_a_group_is_placed_in_one_rack_without_being_asked_to(running: Running) -> None:
    await running.place(await running.create(pod("small", vram="70Gi")), "n0")
    gang = await members(running, 3)
    await running.filter(gang[0])
    assert places(running) == ["n0", "n0", "n2", "n2"], "the rack with the least room that is enough"
    assert (await explained(running, "g-0"))["group"]["domain"] == f"{RACK}=r0"


async def test_a_group_that_fits_in_no_rack_is_placed_all_the_same(running: Running) -> None:
    gang = await members(running, 6)
    await running.filter(gang[0])
    found = places(running)
    assert len(found) == 6
    assert {PLACES[name] for name in found} <= {"r0", "r1", ""}
    assert (await explained(running, "g-0"))["group"]["domain"] == f"{ZONE}=z"


async def test_a_group_that_must_be_in_one_rack_waits_until_one_has_room(running: Running) -> None:
    gang = await members(running, 5, "rack")
    reason = "group default/g: its 5 pods without a place do not all fit together now in one rack"
    assert await words(running, gang[0]) == reason
    assert places(running) == []
    running.api.put(NODES, racked("n2", 80, 80, 80))
    await running.until(lambda: len(running.daemon.state.fleet.nodes["n2"].cards) == 3)
    await running.filter(gang[0])
    assert places(running) == ["n0", "n0", "n2", "n2", "n2"]


@pytest.mark.parametrize(
    ("within", "expected"),
    [
        pytest.param("example.com/row", " in one domain of the label example.com/row: no node that is open to them has such a label",
                     id="a key that no node has"),
        pytest.param("accelerator", " in one accelerator: no node that is open to them has such a label", id="a level that no node tells"),
    ],
)  # fmt: skip
async def test_a_topology_that_no_node_has_is_a_reason_and_holds_nothing(
    running: Running, within: str, expected: str
) -> None:
    gang = await members(running, 2, within)
    assert (await words(running, gang[0])).endswith(f"do not all fit together now{expected}")
    assert places(running) == []
    answer = await explained(running, "g-0")
    assert answer["group"]["topology"] == within
    (reason,) = {one["reason"] for one in answer["nodes"]}
    assert reason.endswith("and the node has no such label")


async def test_members_that_disagree_on_the_topology_get_the_reason(running: Running) -> None:
    first = await running.create(member("g-0", 2, "rack"))
    second = await running.create(member("g-1", 2, "zone"))
    expected = "group default/g: its members disagree on headroom.dev/group-topology: rack, zone"
    assert await words(running, first) == expected
    running.api.remove("/api/v1/pods", second["metadata"]["name"])
    # One that says nothing is content with what the others say.
    await running.until(lambda: len(running.daemon.state.groups.of(first["metadata"]["uid"]).members) == 1)  # type: ignore[union-attr]
    await running.create(member("g-2", 2))
    assert (await running.filter(first))["NodeNames"]
    assert len({PLACES[name] for name in places(running)}) == 1


async def test_a_value_that_is_no_topology_is_told_with_the_pod(running: Running) -> None:
    body = await running.create(member("g-0", 2, "one rack"))
    assert "default/g-0" in await words(running, body)


async def test_one_more_than_the_group_must_have_is_placed_near_the_others(running: Running) -> None:
    gang = await members(running, 4, "rack", size=3)
    for one in gang[:3]:
        assert await running.place(one)
    extra = gang[3]
    (found,) = (await running.filter(extra))["NodeNames"]
    assert len({PLACES[name] for name in [found, *places(running)]}) == 1
    # Where the rack is full, it waits, though other racks have room.
    another = await running.create(member("g-4", 3, "rack"))
    assert (
        await words(running, another)
        == "group default/g: its 1 pods without a place do not all fit together now in one rack"
    )
    reasons = {one["node"]: one["reason"] for one in (await explained(running, "g-4"))["nodes"]}
    outside = {name for name, rack in PLACES.items() if rack not in ("", PLACES[found])}
    assert {reasons[name] for name in outside} == {
        "its group must be in one rack, and others of its pods are in another"
    }


async def test_a_binding_outside_of_the_rack_is_refused(running: Running) -> None:
    """Decided before the extender knew of the group: the member has places, and this node is not one of them."""
    gang = await members(running, 3, "rack")
    for one in gang[:2]:
        assert await running.place(one)
    rack = {PLACES[name] for name in places(running)}
    wrong = next(name for name, other in PLACES.items() if other not in rack)
    assert "its group must be in one rack" in (await running.bind(gang[2], wrong))["Error"]


@pytest.mark.parametrize(
    ("within", "size", "groups"),
    [("", 5, 2), ("rack", 5, 0), ("rack", 4, 2), ("rack", 3, 2), ("zone", 5, 2), ("row", 2, 0)],
)
async def test_fit_counts_groups_that_are_near_enough(running: Running, within: str, size: int, groups: int) -> None:
    """Ten cards: four in each of two racks, two in none."""
    status, answer = await running.post("/v1/fit", {"pod": member("new", size, within, "new")})
    assert status == 200, answer
    assert (answer["groups"], answer["fits"]) == (groups, groups * size)
    if within == "rack":
        assert answer["reasons"]["its group must be in one rack, and the node has no such label"] == 1
