"""Groups in what people and the autoscaler ask: whole groups are counted, and why one waits is told."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, Running, extender, node, pod

Object = dict[str, Any]


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with ApiServer() as api:
        for name in ("n0", "n1", "n2"):
            api.put(NODES, node(name, 80, 80))
        async with extender(api, tmp_path, sweep_seconds=0.05, naming_ahead=False) as ready:
            yield ready


def member(name: str, size: int, group: str = "g", vram: str = "70Gi") -> Object:
    body = pod(name, vram=vram)
    body["metadata"]["annotations"] = {"headroom.dev/group": group, "headroom.dev/group-size": str(size)}
    return body


async def fit(running: Running, body: Object) -> Object:
    status, answer = await running.post("/v1/fit", {"pod": body})
    assert status == 200, answer
    return dict(answer)


@pytest.mark.parametrize(("size", "fits", "groups"), [(2, 6, 3), (4, 4, 1), (5, 5, 1), (8, 0, 0)])
async def test_fit_counts_whole_groups(running: Running, size: int, fits: int, groups: int) -> None:
    answer = await fit(running, member("new", size, "new"))
    assert (answer["fits"], answer["groups"], answer["group_size"]) == (fits, groups, size)


async def test_a_waiting_group_gets_all_of_its_places_first_or_none(running: Running) -> None:
    one = pod("one", vram="70Gi")
    for at in range(4):
        await running.create(member(f"g-{at}", 4))
    answer = await fit(running, one)
    assert (answer["fits"], answer["waiting_first"]) == (2, 4)
    for at in range(4):
        running.api.remove("/api/v1/pods", f"g-{at}")
    for at in range(8):
        await running.create(member(f"h-{at}", 8, "h"))
    answer = await fit(running, one)
    assert answer["fits"] == 6
    assert not answer.get("waiting_first")


async def test_members_that_wait_for_others_take_no_room_in_the_count(running: Running) -> None:
    await running.create(member("g-0", 4))
    assert (await fit(running, pod("one", vram="70Gi")))["fits"] == 6


async def test_explain_tells_how_far_the_group_has_come(running: Running) -> None:
    gang = [await running.create(member(f"g-{at}", 8)) for at in range(7)]
    await running.filter(gang[0])
    _, text = await running.get("/v1/explain?pod=default/g-0")
    answer = json.loads(text)
    assert answer["reasons"] == {"group default/g has 7 of 8 members": 3}
    expected = {
        "name": "default/g",
        "kind": "headroom.dev/group",
        "members": 7,
        "takes": 8,
        "problem": None,
        "seated": 0,
    }
    assert answer["group"] == {**expected, "rests_seconds": 0.0, "topology": None, "domain": None}
