"""From reservation to binding to the end of a pod, through restarts, outages and answers that get lost."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod
from tests.waiting import pass_time


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("gpu", 80))
        yield server


@pytest.fixture
async def running(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as ready:
        yield ready


def held(running: Running) -> int:
    return int(running.daemon.state.fleet.held_mib.sum())


def uid(body: dict[str, Any]) -> str:
    return body["metadata"]["uid"]


async def test_every_end_of_a_pod_gives_its_memory_back(running: Running) -> None:
    def delete(name: str) -> None:
        running.api.remove(PODS, name)

    def finish(phase: str) -> Callable[[str], None]:
        def change(name: str) -> None:
            body = running.api.get(PODS, name)
            running.api.put(PODS, body | {"status": {"phase": phase}})

        return change

    def replace(name: str) -> None:
        running.api.remove(PODS, name)
        running.api.put(PODS, pod(name))

    for name, end in (("a", delete), ("b", finish("Succeeded")), ("c", finish("Failed")), ("d", replace)):
        await running.place(await running.create(pod(name, vram="50Gi")))
        assert held(running) == 50 * GIB
        end(name)
        await running.caught_up()
        assert held(running) == 0, name


async def test_a_pod_deleted_between_filter_and_bind_holds_nothing(running: Running) -> None:
    wanted = await running.create(pod("llm", vram="50Gi"))
    await running.filter(wanted)
    running.api.remove(PODS, "llm")
    await running.caught_up()
    assert held(running) == 0
    assert "not found" in (await running.bind(wanted, "gpu"))["Error"]
    assert held(running) == 0


async def test_a_node_that_goes_takes_its_reservations_along(running: Running) -> None:
    wanted = await running.create(pod("llm", vram="50Gi"))
    await running.filter(wanted)
    running.api.remove(NODES, "gpu")
    await running.caught_up()
    assert running.daemon.state.ledger.reservations() == []
    assert "node gpu is not known" in (await running.bind(wanted, "gpu"))["Error"]
    running.api.put(NODES, node("gpu", 80))
    await running.caught_up()
    assert (await running.filter(wanted))["NodeNames"] == ["gpu"]


async def test_a_reservation_that_nobody_binds_expires(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, reservation_seconds=0.05, sweep_seconds=0.02, preemption=False) as running:
        wanted = await running.create(pod("llm", vram="50Gi"))
        await running.filter(wanted)
        await running.until(lambda: held(running) == 0)
        assert await running.metric("headroom_reservations_ended_total", end="expired") == 1
        # An expired choice was not turned down: the node is offered again.
        assert (await running.filter(wanted))["NodeNames"] == ["gpu"]


async def test_a_bind_that_is_sent_twice_succeeds_twice_and_binds_once(running: Running) -> None:
    wanted = await running.create(pod("llm", vram="50Gi"))
    await running.filter(wanted)
    assert await running.bind(wanted, "gpu") == {}
    assert await running.bind(wanted, "gpu") == {}
    assert len(running.api.asked("POST", "/binding$")) == 1
    assert held(running) == 50 * GIB


@pytest.mark.parametrize("node_name", ["gpu", "elsewhere"])
async def test_a_pod_that_somebody_else_has_bound(running: Running, node_name: str) -> None:
    wanted = await running.create(pod("llm", vram="50Gi"))
    await running.filter(wanted)
    # The watch has not shown it yet when kube-scheduler's bind call comes.
    running.api.get(PODS, "llm")["spec"]["nodeName"] = node_name
    answer = await running.bind(wanted, "gpu")
    assert ("Error" in answer) == (node_name == "elsewhere")
    if node_name == "elsewhere":
        assert 'already assigned to node "elsewhere"' in answer["Error"]
        assert held(running) == 0


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (403, "forbidden"),
        (409, "pod llm is being deleted, cannot be assigned to a host"),
        (422, "invalid"),
        (429, "later"),
    ],
)
async def test_a_refused_binding_gives_the_reservation_back_and_may_be_tried_again(
    running: Running, status: int, message: str
) -> None:
    wanted = await running.create(pod("llm", vram="50Gi"))
    await running.filter(wanted)
    running.api.fail("POST", "/binding$", status=status, message=message)
    assert message in (await running.bind(wanted, "gpu"))["Error"]
    assert held(running) == 0
    assert await running.metric("headroom_reservations_ended_total", end="bind_failed") == 1
    # It was not the node's fault: the same node is offered again, not the next best.
    assert (await running.filter(wanted))["NodeNames"] == ["gpu"]
    assert await running.bind(wanted, "gpu") == {}


async def test_a_binding_that_failed_inside_the_api_server_keeps_its_cards_for_another_try(running: Running) -> None:
    """etcd may commit what it was asked for after the API server has given up waiting."""
    wanted = await running.create(pod("llm", vram="50Gi"))
    await running.filter(wanted)
    running.api.fail("POST", "/binding$", status=500, message="etcdserver: request timed out")
    assert "timed out" in (await running.bind(wanted, "gpu"))["Error"]
    assert held(running) == 50 * GIB
    assert (await running.filter(wanted))["NodeNames"] == ["gpu"]
    assert await running.bind(wanted, "gpu") == {}
    assert held(running) == 50 * GIB


async def test_a_binding_whose_answer_is_lost_counts_as_done(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, bind_timeout_seconds=0.2, preemption=False) as running:
        wanted = await running.create(pod("llm", vram="50Gi"))
        await running.filter(wanted)
        release = api.stall("POST", "/binding$")
        assert await running.bind(wanted, "gpu") == {}
        release.set()
        assert held(running) == 50 * GIB
        assert running.daemon.state.bound_node(uid(wanted))


async def test_while_it_is_unknown_whether_a_pod_was_bound_its_cards_stay_reserved(
    api: ApiServer, tmp_path: Path
) -> None:
    async with extender(api, tmp_path, bind_timeout_seconds=0.2, preemption=False) as running:
        wanted = await running.create(pod("llm", vram="50Gi"))
        await running.filter(wanted)
        await api.stop()
        assert "cannot be read" in (await running.bind(wanted, "gpu"))["Error"]
        other = {
            "metadata": {"name": "other", "namespace": "default", "uid": "other"},
            "spec": pod("o", vram="50Gi")["spec"],
        }
        assert (await running.filter(other, "gpu"))["NodeNames"] == []
        await api.start()
        assert (await running.filter(wanted, "gpu"))["NodeNames"] == ["gpu"]
        assert await running.bind(wanted, "gpu") == {}


async def test_a_reservation_does_not_run_out_while_its_binding_is_under_way(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, reservation_seconds=0.05, sweep_seconds=0.02, preemption=False) as running:
        wanted, other = [await running.create(pod(name, vram="50Gi")) for name in ("llm", "other")]
        await running.filter(wanted)
        api.hold_watches()
        release = api.stall("POST", "/binding$")
        binding = asyncio.create_task(running.bind(wanted, "gpu"))
        await running.until(lambda: bool(api.asked("POST", "/binding$")))
        await pass_time(0.2)
        assert (await running.filter(other, "gpu"))["NodeNames"] == []
        release.set()
        assert await binding == {}


async def test_a_pod_that_ends_while_it_is_unknown_whether_it_was_bound_holds_nothing(
    api: ApiServer, tmp_path: Path
) -> None:
    async with extender(api, tmp_path, bind_timeout_seconds=0.5, preemption=False) as running:
        wanted = await running.create(pod("llm", vram="50Gi"))
        await running.filter(wanted)
        api.stall("POST", "/binding$")
        api.fail("GET", "/pods/llm$", status=500)
        binding = asyncio.create_task(running.bind(wanted, "gpu"))
        await running.until(lambda: bool(api.asked("POST", "/binding$")))
        api.remove(PODS, "llm")
        await running.caught_up()
        assert "cannot be read" in (await binding)["Error"]
        assert held(running) == 0


async def test_a_pod_that_was_bound_elsewhere_unseen_is_not_taken_for_a_waiting_one(running: Running) -> None:
    running.api.hold_watches()
    bound = running.api.put(PODS, pod("llm", vram="50Gi", nodeName="elsewhere"))
    assert "bound to node elsewhere already" in (await running.bind(bound, "gpu"))["Error"]
    assert running.daemon.state.pods.entries == {}
    assert held(running) == 0


async def test_a_restart_finds_the_same_ledger(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, preemption=False) as first:
        for name, size in (("a", "20Gi"), ("b", "30Gi")):
            await first.place(await first.create(pod(name, vram=size)))
        before = first.daemon.state.ledger.dump()
    async with extender(api, tmp_path, preemption=False) as second:
        assert second.daemon.state.ledger.dump() == before
        late = await second.create(pod("late", vram="40Gi"))
        assert (await second.filter(late))["NodeNames"] == []


async def test_a_bind_for_a_choice_made_before_a_restart_goes_through_if_it_still_fits(
    api: ApiServer, tmp_path: Path
) -> None:
    async with extender(api, tmp_path, preemption=False) as first:
        wanted = await first.create(pod("llm", vram="50Gi"))
        await first.filter(wanted)
    async with extender(api, tmp_path, preemption=False) as second:
        assert await second.bind(wanted, "gpu") == {}
        assert held(second) == 50 * GIB


async def test_changes_missed_during_an_outage_are_made_up_for(running: Running) -> None:
    await running.place(await running.create(pod("old", vram="50Gi")))
    await running.place(await running.create(pod("same-name", vram="20Gi")))
    await running.api.stop()
    running.api.remove(PODS, "old")
    running.api.remove(PODS, "same-name")
    again = running.api.put(PODS, pod("same-name", vram="10Gi"))
    running.api.expire_history()
    await running.api.start()
    await running.until(lambda: uid(again) in running.daemon.state.pods.entries)
    await running.until(lambda: held(running) == 0)
    assert running.daemon.state.breaches() == []


async def test_it_is_not_ready_and_answers_no_verb_before_it_knows_the_cluster(api: ApiServer, tmp_path: Path) -> None:
    release = api.stall("GET", "/pods$")
    async with extender(api, tmp_path, wait_ready=False) as running:
        assert (await running.get("/healthz"))[0] == 200
        status, text = await running.get("/readyz")
        assert status == 503
        assert "not ready pods" in text
        for verb in ("filter", "prioritize", "bind"):
            status, answer = await running.post(f"/{verb}", {"Pod": {}, "NodeNames": []})
            assert status == 503
            assert "not ready" in answer["Error"]
            assert await running.metric("headroom_extender_requests_total", verb=verb, result="not_ready") == 1
        release.set()
        await running.until(lambda: running.daemon.health.ready)
        assert (await running.get("/readyz"))[0] == 200


async def test_many_pods_at_once_never_over_commit(api: ApiServer, tmp_path: Path) -> None:
    for at in range(4):
        api.put(NODES, node(f"n{at}", 80, 80))
    async with extender(api, tmp_path, preemption=False) as running:
        pods = [await running.create(pod(f"p{at:02d}", vram="30Gi")) for at in range(24)]

        async def schedule(body: dict[str, Any]) -> str:
            for _ in range(3):
                chosen = (await running.filter(body))["NodeNames"]
                if not chosen:
                    return "refused"
                if await running.bind(body, chosen[0]) == {}:
                    return "bound"
            return "failed"

        results = await asyncio.gather(*(schedule(body) for body in pods))
        assert results.count("bound") == 18  # nine cards of 80 GiB take two each
        assert results.count("refused") == 6
        await running.caught_up()
        assert running.daemon.state.breaches() == []
        assert running.daemon.state.ledger.reservations() == []
        snapshot = json.loads((await running.get("/debug/snapshot"))[1])
        assert all(
            card["held_mib"] <= card["usable_mib"] for each in snapshot["fleet"]["nodes"] for card in each["cards"]
        )
