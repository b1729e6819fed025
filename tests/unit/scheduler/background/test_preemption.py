"""Who is evicted for whom over the wire, and what becomes of the room."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Generator
from pathlib import Path
from typing import Any

import pytest

from headroom import wire
from headroom.daemon.guard import Guard
from headroom.domain.model import GpuRequest
from headroom.kube.aio import connect
from headroom.wire import ADDED, DELETED
from scheduler.background.preemption import Preemptor
from scheduler.cluster.changes import PodRefused
from scheduler.cluster.effects import Effects
from scheduler.ledger.fleet import Fleet
from scheduler.settings import SchedulerSettings
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, extender, node, pod
from tests.waiting import pass_time, turns


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("gpu", 80))
        yield server


def evictions(api: ApiServer, *, dry_run: bool = False) -> list[str]:
    asked = api.asked("POST", "/eviction$")
    return [ask.path.split("/")[-2] for ask in asked if bool(ask.body["deleteOptions"].get("dryRun")) == dry_run]


def nominated(api: ApiServer, name: str) -> str | None:
    return api.get(PODS, name)["status"].get("nominatedNodeName")


async def test_room_is_made_and_kept_for_the_pod_that_it_was_made_for(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="60Gi", labels={"app": "low"})))
        high = await running.create(pod("high", vram="70Gi", priority=1000))
        assert (await running.filter(high))["NodeNames"] == []
        await running.until(lambda: evictions(api) == ["low"])
        assert nominated(api, "high") == "gpu"
        await running.caught_up()
        # Another pod would fit into the room, but it is taken.
        thief = await running.create(pod("thief", vram="70Gi"))
        assert (await running.filter(thief))["NodeNames"] == []
        assert (await running.filter(high, "gpu"))["NodeNames"] == ["gpu"]
        assert await running.bind(high, "gpu") == {}
        assert await running.metric("headroom_preemptions_total", result="completed") == 1
        assert running.daemon.state.pods.claims == {}


async def test_while_victims_go_only_the_node_they_leave_is_named(api: ApiServer, tmp_path: Path) -> None:
    api.on_evict = lambda victim: victim["metadata"].update(deletionTimestamp="2026-01-01T00:00:00Z")
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        high = await running.create(pod("high", vram="70Gi", priority=1000))
        await running.filter(high)
        await running.until(lambda: evictions(api) == ["low"])
        api.put(NODES, node("new", 80))
        await running.caught_up()
        assert (await running.filter(high))["NodeNames"] == []
        api.remove(PODS, "low")
        await running.caught_up()
        assert (await running.filter(high))["NodeNames"] == ["gpu"]
        assert evictions(api) == ["low"]


async def test_the_pod_is_woken_when_its_room_is_there(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        await running.filter(await running.create(pod("high", vram="70Gi", priority=1000)))
        await running.until(lambda: len(api.asked("PATCH", "/nodes/gpu$")) == 1)


async def test_a_disruption_budget_is_kept_and_another_victim_looked_for(api: ApiServer, tmp_path: Path) -> None:
    api.put(NODES, node("other", 80))
    selector = {"matchLabels": {"app": "kept"}}
    budget = {"metadata": {"name": "b"}, "spec": {"selector": selector}, "status": {"disruptionsAllowed": 0}}
    api.put("/apis/policy/v1/poddisruptionbudgets", budget)
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("kept", vram="60Gi", labels={"app": "kept"}, priority=1)))
        await running.place(await running.create(pod("spare", vram="60Gi", labels={"app": "spare"}, priority=2)))
        high = await running.create(pod("high", vram="70Gi", priority=1000))
        await running.filter(high)
        await running.until(lambda: evictions(api) == ["spare"])
        assert "kept" in evictions(api, dry_run=True)
        assert api.get(PODS, "kept")["spec"]["nodeName"]
        assert await running.metric("headroom_preemptions_total", result="refused") == 1


async def test_no_room_is_made_on_a_node_that_was_not_offered_but_came_in_the_place_of_one(
    api: ApiServer, tmp_path: Path
) -> None:
    async with extender(api, tmp_path, preemption=False) as running:
        state = running.daemon.state
        high = await running.create(pod("high", vram="90Gi", priority=1000))
        await running.place(await running.create(pod("low", vram="60Gi")))
        await running.filter(high)
        kube = await connect(str(tmp_path / "kubeconfig"))
        effects = Effects(Guard(lambda where: None))
        preemptor = Preemptor(
            state, kube, SchedulerSettings(), running.daemon.metrics, effects, monotonic=time.monotonic
        )
        preemptor.listen()
        effects([PodRefused(state.pods.entries[high["metadata"]["uid"]])])
        state.on_node(DELETED, "gpu", wire.NODE.decode(json.dumps(node("gpu", 80)).encode()))
        state.on_node(ADDED, "other", wire.NODE.decode(json.dumps(node("other", 100)).encode()))
        there = pod("there", vram="60Gi", nodeName="other")
        there["metadata"]["uid"] = "there"
        state.on_pod(ADDED, "default/there", wire.POD.decode(json.dumps(there).encode()))
        assert state.fleet.row_of.keys() == {"other"}
        task = asyncio.create_task(preemptor.run())
        await turns()
        assert state.pods.claims == {}
        task.cancel()
        await kube.close()


async def test_a_preemption_that_takes_too_long_is_given_up(api: ApiServer, tmp_path: Path) -> None:
    api.on_evict = lambda victim: None
    async with extender(api, tmp_path, preemption_seconds=60.0, sweep_seconds=1.0) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        high = await running.create(pod("high", vram="70Gi", priority=1000))
        await running.filter(high)
        await running.until(lambda: nominated(api, "high") == "gpu")
        await running.in_time(lambda: running.daemon.state.pods.claims == {})
        await running.until(lambda: nominated(api, "high") is None)
        assert await running.metric("headroom_preemptions_total", result="timed_out") == 1
        api.put(NODES, node("new", 80))
        await running.caught_up()
        assert (await running.filter(high))["NodeNames"] == ["new"]


async def test_a_pod_that_goes_before_its_room_is_there_frees_it_for_others(api: ApiServer, tmp_path: Path) -> None:
    api.on_evict = lambda victim: None
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        await running.filter(await running.create(pod("high", vram="70Gi", priority=1000)))
        await running.until(lambda: evictions(api) == ["low"])
        api.remove(PODS, "high")
        await running.caught_up()
        assert running.daemon.state.pods.claims == {}
        assert await running.metric("headroom_preemptions_total", result="cancelled") == 1


async def test_nobody_is_evicted_for_a_pod_whose_name_another_one_has_by_now(api: ApiServer, tmp_path: Path) -> None:
    """Found by the fuzzer (seed 25): kube-scheduler asked about the pod as it was before a StatefulSet made it anew."""
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="70Gi")))
        await running.create(pod("p1", vram="10Gi", priority=10))
        earlier = pod("p1", vram="70Gi", priority=10)
        earlier["metadata"] |= {"uid": "earlier", "resourceVersion": "1"}
        await running.filter(earlier)
        await running.until(lambda: bool(api.asked("PATCH", "pods/p1/status")))
        await running.calm()
        assert [ask for ask in api.asked("POST", "eviction") if not ask.body["deleteOptions"].get("dryRun")] == []
        assert running.daemon.state.pods.claims == {}


@pytest.mark.parametrize("news", ["the answer alone says that it is bound", "its room came free by itself"])
async def test_nobody_is_evicted_for_a_pod_that_found_room_while_it_was_named(
    api: ApiServer, tmp_path: Path, news: str
) -> None:
    """Found by the fuzzer (seed 2661902801): it was bound between the plan and the answer to the naming of its node."""
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        high = await running.create(pod("high", vram="70Gi", priority=1000))
        bound = news.startswith("the answer")
        held = api.delay("PATCH", "/pods/high/status") if bound else api.stall("PATCH", "/pods/high/status")
        await running.filter(high)
        await running.until(lambda: bool(api.asked("PATCH", "/pods/high/status")))
        if bound:
            flowing = api.hold_watches()
            api.put(PODS, api.get(PODS, "high") | {"spec": high["spec"] | {"nodeName": "elsewhere"}})
        else:
            api.remove(PODS, "low")
            await running.create(pod("low", vram="10Gi"))  # the next of its name, still to be placed
        held.set()
        await pass_time(0.2)
        assert evictions(api, dry_run=True) == ["low"]
        assert evictions(api) == []
        assert bool(running.daemon.state.pods.claims) != bound
        if bound:
            flowing.set()


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        pytest.param({"priority": 1000, "preemptionPolicy": "Never"}, {}, id="the pod forbids it"),
        pytest.param({"priority": 1000, "schedulerName": "other"}, {}, id="another scheduler's pod"),
        pytest.param({"priority": 1000}, {"preemption": False}, id="switched off"),
        pytest.param({"priority": 0}, {}, id="equal priority"),
    ],
)
async def test_nobody_is_evicted(
    api: ApiServer, tmp_path: Path, spec: dict[str, Any], settings: dict[str, Any]
) -> None:
    async with extender(api, tmp_path, **settings) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        await running.filter(await running.create(pod("high", vram="70Gi", **spec)))
        await running.calm()
        assert api.asked("POST", "/eviction$") == []


async def test_explain_names_the_claimed_node(api: ApiServer, tmp_path: Path) -> None:
    api.on_evict = lambda victim: None
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        await running.filter(await running.create(pod("high", vram="70Gi", priority=1000)))
        await running.until(lambda: evictions(api) == ["low"])
        assert json.loads((await running.get("/v1/explain?pod=default/high"))[1])["claimed_node"] == "gpu"


@pytest.mark.parametrize("whole", [False, True], ids=["victims by UID", "victims as whole pods"])
async def test_kube_schedulers_own_preemption_is_kept_off_nodes_where_it_would_not_help(
    api: ApiServer, tmp_path: Path, whole: bool
) -> None:
    api.put(NODES, node("other", 80))
    async with extender(api, tmp_path) as running:
        small = await running.create(pod("small", vram="10Gi"))
        large = await running.create(pod("large", vram="60Gi"))
        await running.place(small, "gpu")
        await running.place(large, "gpu")
        third = await running.create(pod("third", vram="70Gi"))
        await running.place(third, "other")
        high = await running.create(pod("high", vram="40Gi", priority=1000))

        def victims(*pods: dict[str, Any]) -> dict[str, Any]:
            shown = [each if whole else {"UID": each["metadata"]["uid"]} for each in pods]
            return {"Pods": shown, "NumPDBViolations": 1}

        key = "NodeNameToVictims" if whole else "NodeNameToMetaVictims"
        empty = {"Pods": [], "NumPDBViolations": 0}
        for proposed, kept in (
            ({"gpu": victims(small), "other": victims(third)}, {"other"}),
            ({"gpu": victims(small, large)}, {"gpu"}),
            ({"gpu": empty, "nowhere": victims(small)}, set()),
        ):
            status, answer = await running.post("/preempt", {"Pod": high, key: proposed})
            assert status == 200
            assert set(answer["NodeNameToMetaVictims"]) == kept
            for name in kept:
                uids = {each["UID"] for each in answer["NodeNameToMetaVictims"][name]["Pods"]}
                assert uids <= {each["metadata"]["uid"] for each in (small, large, third)}
                assert answer["NodeNameToMetaVictims"][name]["NumPDBViolations"] == 1


async def test_room_is_made_for_the_most_important_first_however_many_wait(api: ApiServer, tmp_path: Path) -> None:
    """s33: the critical pod was refused last, behind 20 others that could take the same victim's place."""
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
        state = running.daemon.state
        await running.place(await running.create(pod("low", vram="60Gi")))
        kube = await connect(str(tmp_path / "kubeconfig"))
        effects = Effects(Guard(lambda where: None))
        preemptor = Preemptor(
            state, kube, SchedulerSettings(), running.daemon.metrics, effects, monotonic=time.monotonic
        )
        preemptor.listen()
        for at in range(21):
            waits = await running.create(pod(f"waits-{at}", vram="70Gi", priority=1000 if at == 20 else 10))
            await running.filter(waits)
            effects([PodRefused(state.pods.entries[waits["metadata"]["uid"]])])
        task = asyncio.create_task(preemptor.run())
        await running.until(lambda: bool(state.pods.claims))
        task.cancel()
        assert list(state.pods.claims) == [waits["metadata"]["uid"]]
        preemptor.abandon()
        await kube.close()


async def test_no_plan_is_made_where_nobody_with_cards_must_give_way(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s33: a pod without a GPU, of whatever priority, is nobody whose place a pod with a GPU could take."""
    planned: list[int] = []

    def noted(
        fleet: Fleet, occupants: Any, request: GpuRequest, priority: int, rows: Any
    ) -> Generator[None, None, None]:
        planned.append(priority)
        yield

    monkeypatch.setattr("scheduler.background.preemption.plan", noted)
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("held", vram="70Gi", priority=1000)))
        await running.create(pod("coredns", limits={"cpu": "1"}, nodeName="gpu", priority=0))
        for priority, plans in ((1000, []), (1001, [1001])):
            waits = await running.create(pod(f"waits-{priority}", vram="70Gi", priority=priority))
            assert (await running.filter(waits))["NodeNames"] == []
            await running.calm()
            assert planned == plans


async def test_room_that_was_freed_for_one_gives_way_to_a_more_important_one(api: ApiServer, tmp_path: Path) -> None:
    """s03: kube-scheduler was not given the node yet."""
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="60Gi")))
        high = await running.create(pod("high", vram="70Gi", priority=10))
        await running.filter(high)
        await running.until(lambda: bool(running.daemon.state.ledger.reservations()))
        equal = await running.create(pod("equal", vram="70Gi", priority=10))
        assert (await running.filter(equal))["NodeNames"] == []
        critical = await running.create(pod("critical", vram="70Gi", priority=1000))
        assert (await running.filter(critical))["NodeNames"] == ["gpu"]
        assert await running.bind(critical, "gpu") == {}
        assert (await running.filter(high))["NodeNames"] == []
        await running.caught_up()
        assert running.daemon.state.breaches() == []
