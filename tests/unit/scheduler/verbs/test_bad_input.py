"""Whatever is sent: a precise answer, a metric, an unchanged ledger, and a daemon that answers the next call."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Running, extender, node, pod


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80, 80, slices=4))
        async with extender(api, tmp_path, preemption=False, max_body_mib=1) as ready:
            yield ready


def ledger(running: Running) -> list[dict[str, Any]]:
    return running.daemon.state.ledger.dump()


async def assert_still_serving(running: Running) -> None:
    good = await running.create(pod("good", vram="10Gi"))
    assert (await running.filter(good))["NodeNames"] == ["gpu"]


GOOD_POD = {**pod("p", vram="1Gi"), "metadata": {"name": "p", "namespace": "default", "uid": "u"}}


@pytest.mark.parametrize("verb", ["filter", "prioritize"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(b"", "truncated", id="nothing"),
        pytest.param(b'{"Pod": {"metadata"', "truncated", id="truncated"),
        pytest.param(b"\xff\xfe\x00", "", id="not text"),
        pytest.param(b"[]", "Expected `object`, got `array`", id="a list"),
        pytest.param(b'{"NodeNames": ["gpu"]}', "missing required field", id="no pod"),
        pytest.param(json.dumps({"Pod": GOOD_POD}).encode(), "neither NodeNames nor Nodes", id="no nodes"),
        pytest.param(
            json.dumps({"Pod": GOOD_POD, "NodeNames": "gpu"}).encode(), "NodeNames", id="names that are no list"
        ),
        pytest.param(json.dumps({"Pod": GOOD_POD, "NodeNames": [1]}).encode(), "str", id="names that are numbers"),
        pytest.param(
            json.dumps({"Pod": GOOD_POD, "Nodes": {"items": [7]}}).encode(), "object", id="nodes that are numbers"
        ),
        pytest.param(json.dumps({"Pod": [], "NodeNames": []}).encode(), "Pod", id="a pod that is a list"),
        pytest.param(b'{"Pod": ' + b"[" * 100_000 + b"}", "", id="deep nesting"),
    ],
)
async def test_a_message_that_cannot_be_understood_is_a_400_with_the_fault(
    running: Running, verb: str, body: Any, said: str
) -> None:
    before = ledger(running)
    status, answer = await running.post(f"/{verb}", body)
    assert status == 400
    assert said in answer["Error"]
    assert await running.metric("headroom_extender_requests_total", verb=verb, result="bad_request") == 1
    assert ledger(running) == before
    await assert_still_serving(running)


async def test_a_filter_for_a_pod_without_uid_is_refused(running: Running) -> None:
    status, answer = await running.post("/filter", {"Pod": pod("p", vram="1Gi"), "NodeNames": ["gpu"]})
    assert (status, answer["Error"]) == (400, "ExtenderArgs: Pod.metadata.uid is missing")


@pytest.mark.parametrize("verb", ["filter", "prioritize", "bind"])
async def test_another_content_type_is_a_415(running: Running, verb: str) -> None:
    status, answer = await running.post(
        f"/{verb}", b"a=b", headers={"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert status == 415
    assert "application/json" in answer["Error"]
    await assert_still_serving(running)


@pytest.mark.parametrize("verb", ["filter", "prioritize", "bind"])
async def test_a_body_of_50_mb_is_a_413(running: Running, verb: str) -> None:
    status, answer = await running.post(f"/{verb}", b'{"Pod": "' + b"x" * 50 * 2**20 + b'"}')
    assert status == 413
    assert "1 MiB" in answer["Error"]
    assert await running.metric("headroom_extender_requests_total", verb=verb, result="bad_request") == 1
    await assert_still_serving(running)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        pytest.param({"headroom.dev/vram": "lots"}, "headroom.dev/vram: lots: not a quantity", id="no quantity"),
        pytest.param({"headroom.dev/vram": "-5Gi"}, "headroom.dev/vram: -5Gi: below zero", id="negative"),
        pytest.param({"nvidia.com/gpu": "1.5"}, "nvidia.com/gpu: 1.5: not a whole number", id="a part of a device"),
        pytest.param({"headroom.dev/gpu-milli": "1500"}, "more than one whole card", id="more than a card"),
        pytest.param({"headroom.dev/vrom": "5Gi"}, "headroom.dev/vrom: 5Gi: no such resource", id="misspelt"),
        pytest.param({"headroom.dev/vram": "5Gi", "headroom.dev/gpu-milli": "5"}, "in one way only", id="two sizes"),
        pytest.param({"headroom.dev/vram": "5Gi", "aliyun.com/gpu-mem": "5"}, "in one way only", id="two dialects"),
        pytest.param({"nvidia.com/gpu": "1", "amd.com/gpu": "1"}, "one kind of device", id="two vendors"),
        pytest.param({"amd.com/gpu": "1", "headroom.dev/vram": "5Gi"}, "go out whole", id="a part of an AMD card"),
    ],
)
async def test_a_demand_that_cannot_be_understood_is_refused_on_every_node_in_stable_words(
    running: Running, limits: dict[str, Any], said: str
) -> None:
    wrong = await running.create(pod("wrong", limits=limits))
    before = ledger(running)
    first, second = await running.filter(wrong), await running.filter(wrong)
    assert first == second
    assert first["NodeNames"] == []
    assert said in first["FailedAndUnresolvableNodes"]["gpu"]
    assert ledger(running) == before
    assert await running.metric("headroom_objects_not_understood_total", kind="pod") >= 1
    await assert_still_serving(running)


async def test_more_memory_than_any_card_has_is_refused_with_the_pods_own_figure(running: Running) -> None:
    huge = await running.create(pod("huge", vram="500Gi"))
    answer = await running.filter(huge)
    assert answer["FailedAndUnresolvableNodes"] == {"gpu": "no card with 512000 MiB free"}


@pytest.mark.parametrize(
    ("offered", "chosen", "refused"),
    [
        pytest.param(["nowhere"], [], {"nowhere": "no GPU known to Headroom"}, id="one unknown"),
        pytest.param(["nowhere", "gpu"], ["gpu"], {}, id="one of two unknown"),
        pytest.param([], [], {}, id="none offered"),
        pytest.param(["gpu", "gpu"], ["gpu"], {}, id="twice the same"),
    ],
)
async def test_unknown_nodes_are_never_chosen(
    running: Running, offered: list[Any], chosen: list[Any], refused: dict[str, Any]
) -> None:
    wanted = await running.create(pod("llm", vram="10Gi"))
    status, answer = await running.post("/filter", {"Pod": wanted, "NodeNames": offered})
    assert status == 200
    assert answer["NodeNames"] == chosen
    assert answer.get("FailedAndUnresolvableNodes", {}) == refused


async def test_a_node_that_contradicts_itself_is_refused_with_the_contradiction(running: Running) -> None:
    broken = node("broken", 80)
    broken["metadata"]["annotations"]["headroom.dev/cards"] = '[{"id": "a", "model": "m", "vram_mib": -5}]'
    running.api.put(NODES, broken)
    wanted = await running.create(pod("llm", vram="10Gi"))
    answer = await running.filter(wanted, "broken")
    assert "headroom.dev/cards" in answer["FailedAndUnresolvableNodes"]["broken"]
    assert await running.metric("headroom_nodes_not_understood") == 1
    running.api.put(NODES, node("broken", 80))
    await running.caught_up()
    assert (await running.filter(wanted, "broken"))["NodeNames"] == ["broken"]
    assert await running.metric("headroom_nodes_not_understood") == 0


async def test_malformed_assignment_annotations_are_accounted_and_reported(running: Running) -> None:
    bound = pod("foreign", vram="10Gi", gpus=1, nodeName="gpu")
    bound["metadata"]["annotations"] = {
        "headroom.dev/assigned-cards": "gpu-gpu0",
        "headroom.dev/assigned-vram-mib": "much",
    }
    await running.create(bound)
    fleet = running.daemon.state.fleet
    assert fleet.held_mib[fleet.row_of["gpu"]].sum() == 10 * 1024
    assert "default/foreign" in json.loads((await running.get("/debug/snapshot"))[1])["pod_problems"]
    await assert_still_serving(running)


async def bind_body(running: Running, **changed: str) -> dict[str, str]:
    wanted = await running.create(pod("llm", vram="10Gi"))
    await running.filter(wanted)
    return {"PodName": "llm", "PodNamespace": "default", "PodUID": wanted["metadata"]["uid"], "Node": "gpu"} | changed


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param({"Node": "nowhere"}, "node nowhere is not known", id="unknown node"),
        pytest.param({"Node": ""}, "must all be given", id="no node"),
        pytest.param({"PodName": "other"}, "belongs to pod default/llm", id="another name"),
        pytest.param({"PodUID": "gone", "PodName": "gone"}, "not found", id="unknown pod"),
        pytest.param({"PodUID": "gone"}, "another one now", id="a pod of that name, but another UID"),
    ],
)
async def test_a_bind_that_cannot_be_is_an_error_and_holds_nothing_new(
    running: Running, changed: dict[str, Any], said: str
) -> None:
    body = await bind_body(running, **changed)
    held = int(running.daemon.state.fleet.held_mib.sum())
    status, answer = await running.post("/bind", body)
    assert status == 200
    assert said in answer["Error"]
    assert "nodeName" not in running.api.get(PODS, "llm")["spec"]
    assert int(running.daemon.state.fleet.held_mib.sum()) == held
    assert await running.metric("headroom_extender_requests_total", verb="bind", result="error") == 1
    await assert_still_serving(running)


async def test_a_truncated_bind_is_a_400(running: Running) -> None:
    assert (await running.post("/bind", b'{"PodName": "a"'))[0] == 400
    assert (await running.post("/bind", {"PodName": "a"}))[0] == 400


async def test_a_card_full_by_now_is_not_bound(running: Running) -> None:
    late = await running.create(pod("late", vram="60Gi"))
    for name in ("one", "two"):
        other = await running.create(pod(name, vram="60Gi"))
        assert await running.place(other) == "gpu"
    body = {"PodName": "late", "PodNamespace": "default", "PodUID": late["metadata"]["uid"], "Node": "gpu"}
    _, answer = await running.post("/bind", body)
    assert answer["Error"] == "node gpu cannot take pod default/late: no card with 61440 MiB free"


MOST = str(2**63 - 1)  # the largest amount that the API server lets through


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        pytest.param({"nvidia.com/gpu": "1000000000"}, "more than 4096 cards or slices", id="devices"),
        pytest.param({"headroom.dev/gpu": MOST}, "more than 4096 cards or slices", id="cards"),
        pytest.param({"headroom.dev/vram": "8Ei"}, "no card has as much", id="bytes"),
        pytest.param({"nvidia.com/gpu": "2", "nvidia.com/gpumem": MOST}, "no card has as much", id="MiB"),
        pytest.param({"aliyun.com/gpu-mem": MOST}, "no card has as much", id="GiB"),
    ],
)
async def test_a_demand_beyond_any_node_is_refused_at_once_and_stops_nothing(
    tmp_path: Path, limits: dict[str, Any], said: str
) -> None:
    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80, 80, slices=4))
        async with extender(api, tmp_path, naming_ahead_backlog=1) as running:
            greedy = await running.create(pod("greedy", limits=limits))
            (reason,) = (await running.filter(greedy))["FailedAndUnresolvableNodes"].values()
            assert said in reason
            status, answer = await running.post("/v1/fit", {"pod": greedy})
            assert status == 400
            assert said in answer["Error"]
            bound = pod("bound", limits=limits, nodeName="gpu")
            await running.create(bound)
            assert running.daemon.state.breaches() == []
            running.api.remove(PODS, "bound")
            await running.caught_up()
            await assert_still_serving(running)


async def test_host_demands_beyond_any_node_do_not_stop_the_watch(running: Running) -> None:
    greedy = {"headroom.dev/vram": "1Gi", "cpu": "9E", "memory": "8Ei"}
    await running.create(pod("a", limits=greedy, nodeName="gpu"))
    await running.create(pod("b", limits={"cpu": "9E", "memory": "8Ei"}, nodeName="gpu"))
    assert running.daemon.state.breaches() == []
    await assert_still_serving(running)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"vram_mib": 2**70}, "vram_mib", id="memory"),
        pytest.param({"slices": 10**9}, "slices", id="slices"),
        pytest.param({"reserve_mib": 2**70}, "reserve_mib", id="reserve"),
    ],
)
async def test_a_description_beyond_any_card_refuses_that_node_alone(
    running: Running, change: dict[str, Any], said: str
) -> None:
    odd = node("odd", 80)
    (card,) = json.loads(odd["metadata"]["annotations"]["headroom.dev/cards"])
    odd["metadata"]["annotations"]["headroom.dev/cards"] = json.dumps([card | change])
    running.api.put(NODES, odd)
    await running.caught_up()
    assert said in running.daemon.state.node_problems["odd"]
    await assert_still_serving(running)


@pytest.mark.parametrize("path", ["/v1/fit", "/filter", "/bind", "/preempt"])
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"pod":{},"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="s50: deep nesting"),
        pytest.param(b'{"pod":{"spec":null},"x":' + b"[" * 900 + b"]" * 900 + b"}", id="s50: deep nesting and a null"),
        pytest.param(b'{"pod":{"metadata":{"name":"\xff"}}}', id="s50: no UTF-8"),
        pytest.param(b'{"pod":{"metadata":{"name":"\\ud800"}}}', id="s50: half a surrogate pair"),
        pytest.param(b"", id="s50: nothing"),
        pytest.param(b"1", id="s50: a number"),
    ],
)
async def test_odd_json_is_no_error_of_ours(running: Running, path: str, body: bytes) -> None:
    before = ledger(running)
    status, answer = await running.post(path, body)
    assert 400 <= status < 500 or (path == "/preempt" and status == 200), "a pod without a demand needs nobody's place"
    assert status == 200 or answer["Error"]
    assert ledger(running) == before
    await assert_still_serving(running)


async def test_a_filter_for_a_pod_whose_uid_is_half_a_surrogate_pair_is_a_400(running: Running) -> None:
    """s50."""
    broken = {**GOOD_POD, "metadata": GOOD_POD["metadata"] | {"uid": "u\ud800"}}
    before = ledger(running)
    status, answer = await running.post("/filter", json.dumps({"Pod": broken, "NodeNames": ["gpu"]}).encode())
    assert (status, "surrogate" in answer["Error"], ledger(running)) == (400, True, before)
    await assert_still_serving(running)
