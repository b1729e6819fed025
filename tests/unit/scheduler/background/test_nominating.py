"""Nodes named ahead of kube-scheduler: when, which, and what happens when the name loses the race."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.background import nominating
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod

BACKLOG = 4


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        for name in ("a", "b"):
            server.put(NODES, node(name, 80, 80))
        yield server


@pytest.fixture
async def running(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    async with extender(api, tmp_path, naming_ahead_backlog=BACKLOG, preemption=False) as ready:
        yield ready


def named(api: ApiServer) -> dict[str, str]:
    found = {each["metadata"]["name"]: each["status"].get("nominatedNodeName") for each in api.all(PODS)}
    return {name: node_name for name, node_name in found.items() if node_name}


def held(running: Running) -> int:
    return int(running.daemon.state.fleet.held_mib.sum())


async def wait(running: Running, count: int, vram: str = "20Gi", first: int = 0, **spec: Any) -> list[dict[str, Any]]:
    pods = [running.api.put(PODS, pod(f"p{at:02d}", vram=vram, **spec)) for at in range(first, first + count)]
    await running.caught_up()
    return pods


async def test_it_stands_back_while_little_waits(running: Running) -> None:
    await wait(running, BACKLOG - 1)
    await running.calm()
    assert named(running.api) == {}
    assert held(running) == 0


async def test_a_backlog_is_named_reserved_and_then_bound_as_named(running: Running) -> None:
    pods = await wait(running, 8)
    await running.until(lambda: len(named(running.api)) == 8)
    assert held(running) == 8 * 20 * GIB
    for body in pods:
        chosen = named(running.api)[body["metadata"]["name"]]
        assert (await running.filter(running.api.get(PODS, body["metadata"]["name"]), chosen))["NodeNames"] == [chosen]
        assert await running.bind(body, chosen) == {}
    assert held(running) == 8 * 20 * GIB
    assert running.daemon.state.breaches() == []
    assert await running.metric("headroom_named_ahead_total", result="named") == 8


async def test_switched_off_nothing_is_named(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, naming_ahead=False, naming_ahead_backlog=1) as running:
        await wait(running, 8)
        await running.calm()
        assert named(api) == {}


async def test_a_pod_taken_up_before_the_name_lands_gets_the_same_node(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, naming_ahead_backlog=BACKLOG, preemption=False) as running:
        release = api.stall("PATCH", "/status$")
        pods = await wait(running, BACKLOG)
        await running.until(lambda: held(running) == BACKLOG * 20 * GIB)
        for body in pods:
            holding = running.daemon.state.holding(body["metadata"]["uid"])
            assert holding is not None
            reserved = holding.placement.node
            assert (await running.filter(body))["NodeNames"] == [reserved]
            assert await running.bind(body, reserved) == {}
        release.set()
        await running.calm()
        assert held(running) == BACKLOG * 20 * GIB
        assert running.daemon.state.ledger.reservations() == []


async def test_a_name_that_kube_scheduler_does_not_offer_costs_nothing_but_the_name(running: Running) -> None:
    pods = await wait(running, BACKLOG)
    await running.until(lambda: len(named(running.api)) == BACKLOG)
    body = running.api.get(PODS, pods[0]["metadata"]["name"])
    other = {"a": "b", "b": "a"}[body["status"]["nominatedNodeName"]]
    assert (await running.filter(body, other))["NodeNames"] == [other]
    assert held(running) == BACKLOG * 20 * GIB


async def test_a_named_node_that_is_gone_is_replaced_by_another(running: Running) -> None:
    pods = await wait(running, BACKLOG)
    await running.until(lambda: len(named(running.api)) == BACKLOG)
    gone = named(running.api)[pods[0]["metadata"]["name"]]
    running.api.remove(NODES, gone)
    await running.caught_up()
    left = {"a": "b", "b": "a"}[gone]
    for body in pods:
        assert (await running.filter(body, left))["NodeNames"] == [left]


async def test_a_named_node_that_somebody_else_filled_is_not_bound_over(running: Running) -> None:
    pods = await wait(running, BACKLOG, vram="40Gi")
    await running.until(lambda: len(named(running.api)) == BACKLOG)
    full = named(running.api)[pods[0]["metadata"]["name"]]
    other = {"a": "b", "b": "a"}[full]
    # Another scheduler, which knows nothing of the names, takes both cards.
    await running.create(pod("foreign", vram="80Gi", gpus=2, schedulerName="other", nodeName=full))
    for body in pods:
        assert (await running.filter(running.api.get(PODS, body["metadata"]["name"]), full))["NodeNames"] == []
        assert (await running.filter(body))["NodeNames"] == [other]
        assert await running.bind(body, other) == {}
    assert running.daemon.state.breaches() == []


async def test_a_name_that_turned_down_is_refused_alone_so_that_the_others_are_offered(running: Running) -> None:
    pods = await wait(running, BACKLOG)
    await running.until(lambda: len(named(running.api)) == BACKLOG)
    body = running.api.get(PODS, pods[0]["metadata"]["name"])
    name = body["status"]["nominatedNodeName"]
    assert (await running.filter(body, name))["NodeNames"] == [name]
    # It comes back: a later plugin did not want the node. kube-scheduler tries the nominated node first again.
    assert (await running.filter(body, name))["NodeNames"] == []
    other = {"a": "b", "b": "a"}[name]
    assert (await running.filter(body, "a", "b"))["NodeNames"] == [other]


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"schedulerName": "default-scheduler"}, id="another scheduler's"),
        pytest.param({"nodeSelector": {"zone": "moon"}}, id="no node has the label"),
        pytest.param(
            {
                "topologySpreadConstraints": [
                    {"whenUnsatisfiable": "DoNotSchedule", "topologyKey": "zone", "maxSkew": 1}
                ]
            },
            id="spread over zones",
        ),
        pytest.param({"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}, id="bound to a volume"),
        pytest.param({"schedulingGates": [{"name": "later"}]}, id="gated"),
    ],
)
async def test_pods_that_only_kube_scheduler_can_judge_are_not_named(running: Running, spec: dict[str, Any]) -> None:
    await wait(running, 8, **spec)
    await running.calm()
    assert named(running.api) == {}
    assert held(running) == 0


async def test_tainted_and_cordoned_nodes_are_not_named(running: Running) -> None:
    running.api.put(NODES, node("tainted", 80, taints=[{"key": "dedicated", "value": "x", "effect": "NoSchedule"}]))
    running.api.put(NODES, node("cordoned", 80, unschedulable=True))
    await running.caught_up()
    await wait(running, 20, vram="40Gi")
    await running.until(lambda: len(named(running.api)) == 8)
    await running.calm()
    assert set(named(running.api).values()) == {"a", "b"}


async def test_full_host_memory_is_respected(running: Running) -> None:
    small = node("thin", *[80] * 8)
    small["status"]["allocatable"]["memory"] = "1Gi"
    running.api.put(NODES, small)
    await running.caught_up()
    await wait(running, 12, vram="40Gi", limits={"memory": "2Gi"})
    await running.until(lambda: len(named(running.api)) == 8)
    await running.calm()
    assert "thin" not in named(running.api).values()


async def test_the_most_important_pods_are_named_first(running: Running) -> None:
    await running.api.stop()
    for at in range(8):
        running.api.put(PODS, pod(f"low{at}", vram="80Gi", priority=0))
    for at in range(4):
        running.api.put(PODS, pod(f"high{at}", vram="80Gi", priority=10))
    await running.api.start()
    await running.until(lambda: len(named(running.api)) == 4)
    await running.calm()
    assert set(named(running.api)) == {f"high{at}" for at in range(4)}


async def test_a_patch_that_fails_leaves_the_reservation_to_the_ordinary_path(running: Running) -> None:
    running.api.fail("PATCH", "/status$", status=500, times=BACKLOG)
    pods = await wait(running, BACKLOG)
    await running.until(lambda: len(running.api.asked("PATCH", "/status$")) == BACKLOG)
    await running.calm()
    for body in pods:
        assert await running.bind(body, (await running.filter(body))["NodeNames"][0]) == {}
    assert held(running) == BACKLOG * 20 * GIB
    assert await running.metric("headroom_named_ahead_total", result="failed") == BACKLOG


async def test_the_answer_about_an_unnamed_pod_waits_until_names_have_a_head_start(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nominating, "_LONGEST_WAIT_SECONDS", 30.0)  # a slow machine must not answer for the head start
    for at in range(40):
        api.put(NODES, node(f"more-{at:02d}", *[80] * 8))
    async with extender(api, tmp_path, naming_ahead_parallel=2, preemption=False) as running:
        pods = [api.put(PODS, pod(f"p{at:03d}", vram="40Gi")) for at in range(300)]
        await running.until(lambda: len(named(api)) > 0)
        last = pods[-1]
        assert len((await running.filter(last))["NodeNames"]) == 1
        assert len(named(api)) >= 128
        # Named pods are answered about at once, and nothing is held back when the backlog is done.
        await running.until(lambda: len(named(api)) == 299)
        assert len((await running.filter(api.get(PODS, "p000")))["NodeNames"]) == 1


async def test_an_answer_is_not_held_back_for_names_that_do_not_come(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, naming_ahead_backlog=2, naming_ahead_parallel=1, preemption=False) as running:
        release = api.stall("PATCH", "/status$")
        pods = await wait(running, 8)
        await running.until(lambda: len(api.asked("PATCH", "/status$")) == 1)
        for body in pods:
            assert len((await running.filter(body))["NodeNames"]) == 1
        release.set()


async def test_a_named_pod_that_nobody_takes_up_holds_memory_once_and_not_again(api: ApiServer, tmp_path: Path) -> None:
    async with extender(
        api, tmp_path, naming_ahead_backlog=BACKLOG, nomination_seconds=60.0, sweep_seconds=1.0, preemption=False
    ) as running:
        await wait(running, BACKLOG)
        await running.until(lambda: held(running) == BACKLOG * 20 * GIB)
        await running.in_time(lambda: held(running) == 0)
        await wait(running, BACKLOG, first=BACKLOG)
        await running.until(lambda: len(named(api)) == 2 * BACKLOG)
        assert held(running) == BACKLOG * 20 * GIB


@pytest.mark.parametrize("preferred", [False, True])
async def test_a_name_gives_way_to_a_more_important_pod(running: Running, preferred: bool) -> None:
    """s03: the reservations of a backlog would otherwise stand for two minutes in the way of a critical pod."""
    low = await wait(running, 16, vram="20Gi")
    await running.until(lambda: len(named(running.api)) == 16)
    spec: dict[str, Any] = {"priority": 1000}
    if preferred:
        term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
        spec["affinity"] = {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term}]}
        }
    critical = running.api.put(PODS, pod("critical", vram="50Gi", **spec))
    (node_name,) = (await running.filter(critical))["NodeNames"]
    assert await running.bind(critical, node_name) == {}
    await running.caught_up()
    state = running.daemon.state
    assert sum(state.holding(body["metadata"]["uid"]) is not None for body in low) == 13, "no more than needed give way"
    assert await running.metric("headroom_reservations_ended_total", end="displaced") == 3
    assert state.breaches() == []


@pytest.mark.parametrize("priority", [0, -1])
async def test_no_name_gives_way_to_its_equals(running: Running, priority: int) -> None:
    await wait(running, 16, vram="20Gi")
    await running.until(lambda: len(named(running.api)) == 16)
    other = running.api.put(PODS, pod("other", vram="20Gi", priority=priority))
    assert (await running.filter(other))["NodeNames"] == []
    assert held(running) == 16 * 20 * GIB


async def test_what_kube_scheduler_was_given_does_not_give_way(running: Running) -> None:
    for body in await wait(running, 16, vram="20Gi"):
        await running.filter(body)
    critical = running.api.put(PODS, pod("critical", vram="50Gi", priority=1000))
    assert (await running.filter(critical))["NodeNames"] == []
