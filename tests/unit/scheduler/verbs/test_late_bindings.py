"""Bindings that come late, and what happens meanwhile: none of it gives a card twice, evicts for a bound pod or leaves a ghost.

Every test plays one interleaving over the wire. The ids are those of the cases from which they were made.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from headroom import wire
from headroom.wire import MODIFIED
from scheduler.cluster.pod_entry import Stage
from scheduler.verbs.filter import BEING_BOUND, BOUND_ALREADY, ENDED
from simulations.kwok.process import free_port
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import GIB, NODES, PODS, Running, extender, node, pod
from tests.waiting import pass_time, turns, until

BINDING = "pods/p1/binding$"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("n0", 80))
        yield server


def uid(body: dict[str, Any]) -> str:
    return body["metadata"]["uid"]


def names(api: ApiServer) -> list[str]:
    return [each["metadata"]["name"] for each in api.all(PODS)]


def why(answer: dict[str, Any]) -> set[str]:
    return set(answer["FailedAndUnresolvableNodes"].values())


def on_cards(api: ApiServer) -> int:
    """MiB that the pods bound in the API hold of the one card, by their annotations."""
    bound = [each for each in api.all(PODS) if each["spec"].get("nodeName")]
    return sum(int(each["metadata"]["annotations"]["headroom.dev/assigned-vram-mib"]) for each in bound)


async def sound(running: Running) -> None:
    await running.caught_up()
    assert on_cards(running.api) <= 80 * GIB
    assert running.daemon.state.breaches() == []


async def test_a_preemptions_deadline_leaves_a_binding_under_way_alone(api: ApiServer, tmp_path: Path) -> None:
    """s18."""
    async with extender(api, tmp_path, preemption_seconds=60.0, bind_timeout_seconds=300.0) as running:
        await running.place(await running.create(pod("low", vram="70Gi", priority=0)))
        high = await running.create(pod("p1", vram="70Gi", priority=10))
        assert (await running.filter(high))["NodeNames"] == []
        await running.until(lambda: running.daemon.state.pods.entries[uid(high)].stage is Stage.NAMED)
        assert (await running.filter(high))["NodeNames"] == ["n0"]
        flow, answer = api.hold_watches(), api.stall("POST", BINDING)
        binding = asyncio.create_task(running.bind(high, "n0"))
        await running.until(lambda: bool(api.asked("POST", BINDING)))
        await pass_time(65.0, 0.5)  # past the deadline
        other = api.put(PODS, pod("other", vram="70Gi", priority=0))
        assert (await running.filter(other))["NodeNames"] == []
        answer.set()
        assert await binding == {}
        flow.set()
        await sound(running)


async def test_a_write_that_lands_after_its_time_out_finds_its_cards_kept(api: ApiServer, tmp_path: Path) -> None:
    """s22: etcd commits what the API server, and the extender, have given up waiting for."""
    async with extender(api, tmp_path, bind_timeout_seconds=0.2) as running:
        first, second = [await running.create(pod(name, vram="70Gi")) for name in ("p1", "p2")]
        await running.filter(first)
        land = api.delay("POST", BINDING)
        assert "no answer within" in (await running.bind(first, "n0"))["Error"]
        assert not api.get(PODS, "p1")["spec"].get("nodeName")
        assert why(await running.filter(second)) == {"no card with 71680 MiB free"}
        # The pod itself goes on where it was: there a second attempt does no harm.
        assert (await running.filter(first))["NodeNames"] == ["n0"]
        land.set()
        await running.until(lambda: running.daemon.state.bound_node(uid(first)))
        assert await running.bind(first, "n0") == {}
        await sound(running)


async def test_a_pod_that_another_extender_marked_before_is_no_surer_than_any_other(
    api: ApiServer, tmp_path: Path
) -> None:
    """Found by the fuzzer (seed 14): the mark was there when the binding was decided on, so it does not keep the write out."""
    async with extender(api, tmp_path, bind_timeout_seconds=0.2) as running:
        first = pod("p1", vram="70Gi")
        first["metadata"]["annotations"] = {"headroom.dev/term": "another/1/1"}
        first, second = await running.create(first), await running.create(pod("p2", vram="70Gi"))
        await running.filter(first)
        land = api.delay("POST", BINDING)
        assert "carries the mark another/1/1" in (await running.bind(first, "n0"))["Error"]
        assert (await running.filter(second))["NodeNames"] == []
        land.set()
        await running.until(lambda: running.daemon.state.bound_node(uid(first)))
        await sound(running)


@pytest.mark.parametrize("lands", [False, True])
async def test_a_binding_without_an_answer_is_settled_by_a_read_in_the_end(
    api: ApiServer, tmp_path: Path, lands: bool
) -> None:
    async with extender(
        api, tmp_path, bind_timeout_seconds=0.1, unsure_seconds=1.0, sweep_seconds=0.02, preemption=False
    ) as running:
        first, second = [await running.create(pod(name, vram="70Gi")) for name in ("p1", "p2")]
        await running.filter(first)
        api.hold_watches()
        land = api.delay("POST", BINDING)
        assert "Error" in await running.bind(first, "n0")
        if lands:
            land.set()
            await running.until(lambda: bool(api.get(PODS, "p1")["spec"].get("nodeName")))
            await running.until(lambda: running.daemon.state.bound_node(uid(first)))
        else:
            api.fail("GET", "pods/p1$", status=500, times=2)  # while it cannot be read, the cards stay
            assert (await running.filter(second))["NodeNames"] == []
            await running.until(lambda: running.daemon.state.holding(uid(first)) is None, seconds=20)
            assert (await running.filter(second))["NodeNames"] == ["n0"]


async def test_a_restarted_extender_cannot_be_surprised_by_what_the_process_before_it_was_binding(
    api: ApiServer, tmp_path: Path
) -> None:
    async with extender(api, tmp_path, bind_timeout_seconds=0.1, preemption=False) as before:
        first, second = [await before.create(pod(name, vram="70Gi")) for name in ("p1", "p2")]
        await before.filter(first)
        land = api.delay("POST", BINDING)
        assert "no answer within" in (await before.bind(first, "n0"))["Error"]
    async with extender(api, tmp_path, preemption=False) as after:
        assert (await after.filter(api.get(PODS, "p2")))["NodeNames"] == ["n0"]
        assert await after.bind(second, "n0") == {}
        land.set()
        await pass_time(0.1)
        await sound(after)
        assert not api.get(PODS, "p1")["spec"].get("nodeName")


async def test_a_pod_that_changed_since_it_was_decided_on_is_bound_all_the_same(api: ApiServer, tmp_path: Path) -> None:
    """kube-scheduler writes conditions, controllers write annotations: the watch may not have shown it yet."""
    async with extender(api, tmp_path, preemption=False) as running:
        first = await running.create(pod("p1", vram="70Gi"))
        shown = json.loads(json.dumps(first))
        await running.filter(shown)
        api.hold_watches()
        first["metadata"]["annotations"] = {"somebody": "was here"}
        api.put(PODS, first)
        assert await running.bind(shown, "n0") == {}
        assert len(api.asked("POST", BINDING)) == 2


async def test_a_pod_that_went_while_its_binding_was_unsure_is_settled_as_gone(api: ApiServer, tmp_path: Path) -> None:
    async with extender(
        api, tmp_path, bind_timeout_seconds=0.1, unsure_seconds=0.5, sweep_seconds=0.02, preemption=False
    ) as running:
        first = await running.create(pod("p1", vram="70Gi"))
        await running.filter(first)
        api.hold_watches()
        api.delay("POST", BINDING)
        assert "Error" in await running.bind(first, "n0")
        api.remove(PODS, "p1")
        await running.until(lambda: running.daemon.state.holding(uid(first)) is None)
        assert running.daemon.state.pods.has_ended(uid(first))


async def test_asked_again_while_a_binding_is_under_way_the_pod_gets_no_other_node(
    api: ApiServer, tmp_path: Path
) -> None:
    """s29: kube-scheduler gives a bind call up after 5 s, the extender's own may take 8."""
    api.put(NODES, node("n1", 80))
    async with extender(api, tmp_path, bind_timeout_seconds=0.4) as running:
        first, second = [await running.create(pod(name, vram="70Gi")) for name in ("p1", "p2")]
        await running.filter(first, "n0")
        flow, answer, read = api.hold_watches(), api.stall("POST", BINDING), api.stall("GET", "pods/p1$")
        binding = asyncio.create_task(running.bind(first, "n0"))
        await running.until(lambda: bool(api.asked("GET", "pods/p1$")))
        assert (await running.filter(first, "n0", "n1"))["NodeNames"] == ["n0"]
        assert why(await running.filter(first, "n1")) == {BEING_BOUND}
        assert "is under way" in (await running.bind(first, "n1"))["Error"]
        assert (await running.filter(second, "n0"))["NodeNames"] == []
        assert "cannot take pod" in (await running.bind(second, "n0"))["Error"]
        assert "cannot be read" in (await binding)["Error"]
        assert (await running.filter(second, "n0"))["NodeNames"] == []
        for event in (answer, read, flow):
            event.set()
        assert await running.bind(first, "n0") == {}
        await sound(running)


async def test_a_second_bind_call_waits_for_the_outcome_of_the_first(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path) as running:
        first = await running.create(pod("p1", vram="70Gi"))
        await running.filter(first)
        answer = api.stall("POST", BINDING)
        calls = [asyncio.create_task(running.bind(first, "n0")) for _ in range(2)]
        await running.until(lambda: bool(api.asked("POST", BINDING)))
        await turns()  # the second call is there, too
        answer.set()
        assert await asyncio.gather(*calls) == [{}, {}]
        assert len(api.asked("POST", BINDING)) == 1


async def test_a_pod_told_that_its_binding_is_under_way_is_woken_when_that_fails(
    api: ApiServer, tmp_path: Path
) -> None:
    api.put(NODES, node("n1", 80))
    async with extender(api, tmp_path) as running:
        first = await running.create(pod("p1", vram="70Gi"))
        await running.filter(first, "n0")
        land = api.delay("POST", BINDING)
        api.fail("POST", BINDING, status=403, message="not you")
        binding = asyncio.create_task(running.bind(first, "n0"))
        await running.until(lambda: bool(api.asked("POST", BINDING)))
        assert why(await running.filter(first, "n1")) == {BEING_BOUND}
        land.set()
        assert "not you" in (await binding)["Error"]
        await running.until(lambda: bool(api.asked("PATCH", "/nodes/n0$")))


async def test_a_write_of_a_decider_that_was_stopped_is_refused_once_another_decides(
    api: ApiServer, tmp_path: Path
) -> None:
    """s06b: nothing in the process can close the gap between its last look at the lease and its write; a mark on the pod can."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    front = await api.front()
    options: dict[str, Any] = {"lease_namespace": "headroom-system", "lease_seconds": 3.0, "bind_timeout_seconds": 1.0}
    async with (
        extender(api, tmp_path / "a", front=front, port=free_port(), **options) as a,
        extender(api, tmp_path / "b", port=free_port(), **options) as b,
    ):
        first, second = await a.create(pod("p1", vram="70Gi")), await a.create(pod("p2", vram="70Gi"))
        assert (await a.filter(first))["NodeNames"] == ["n0"]
        land = api.delay("POST", BINDING)
        binding = asyncio.create_task(a.bind(first, "n0"))
        await a.until(lambda: not (land.is_set() or b.daemon.leadership.deciding))
        await turns()
        front.down = True  # it is stopped: it neither renews nor learns anything
        assert await placed(b, second) == "n0"
        land.set()
        await turns()
        front.down = False
        assert "Error" in await binding
        await sound(b)
        assert not api.get(PODS, "p1")["spec"].get("nodeName")
        mark = api.get(PODS, "p1")["metadata"]["annotations"]["headroom.dev/term"]
        assert mark.startswith(f"{b.daemon.leadership.term}/")
        # Back in office it does not take the cards for its own that it held for that binding (seed 17101069 of the fuzzer).

        async def decides() -> bool:
            return (await a.post("/filter", {"Pod": first, "NodeNames": ["n0"]}))[0] == 200

        await until(decides, seconds=120)
        assert (await a.filter(first))["NodeNames"] == []
        await sound(a)


async def placed(running: Running, body: dict[str, Any]) -> str:
    """The node a pod gets as soon as the extender decides."""
    chosen: list[str] = []

    async def is_given_a_node() -> bool:
        status, answer = await running.post("/filter", {"Pod": body, "NodeNames": ["n0"]})
        chosen[:] = answer["NodeNames"] or () if status == 200 else ()
        return bool(chosen)

    await until(is_given_a_node, seconds=120)
    assert await running.bind(body, chosen[0]) == {}
    return chosen[0]


@pytest.mark.parametrize("change", ["unreadable", "gone"])
async def test_a_node_that_cannot_be_read_for_a_while_does_not_lose_what_is_being_bound(
    api: ApiServer, tmp_path: Path, change: str
) -> None:
    """s23: the pod watch lags behind the node watch."""
    async with extender(api, tmp_path) as running:
        first, second = [await running.create(pod(name, vram="70Gi")) for name in ("p1", "p2")]
        await running.filter(first)
        flow, answer = api.hold_watches(), api.stall("POST", BINDING)
        binding = asyncio.create_task(running.bind(first, "n0"))
        await running.until(lambda: bool(api.asked("POST", BINDING)))
        good = wire.NODE.decode(json.dumps(node("n0", 80)).encode())
        bad = wire.NODE.decode(json.dumps(node("n0", 80)).encode())
        bad.metadata.annotations = {"headroom.dev/cards": "[oops"}
        state = running.daemon.state
        state.on_node(MODIFIED if change == "unreadable" else "DELETED", "n0", bad)
        state.on_node(MODIFIED, "n0", good)
        answer.set()
        assert await binding == {}
        assert (await running.filter(second, "n0"))["NodeNames"] == []
        flow.set()
        await sound(running)


async def test_a_late_call_about_an_earlier_pod_of_the_name_gets_no_node(api: ApiServer, tmp_path: Path) -> None:
    """s24: StatefulSets make a pod anew under its name within the same second."""
    api.put(NODES, node("n1", 80))
    async with extender(api, tmp_path) as running:
        old = await running.create(pod("web-0", vram="70Gi"))
        api.remove(PODS, "web-0")
        new = await running.create(pod("web-0", vram="70Gi"))
        await running.place(new, "n0")
        assert why(await running.filter(old, "n1")) == {ENDED}
        assert running.daemon.state.bound_node(uid(new)) == "n0"
        assert (await running.filter(await running.create(pod("p2", vram="70Gi")), "n0"))["NodeNames"] == []


async def test_nobody_is_evicted_for_a_pod_that_is_bound(api: ApiServer, tmp_path: Path) -> None:
    """s19: kube-scheduler's bind call timed out, and its view of the pod is an old one."""
    api.put(NODES, node("n1", 80))
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="70Gi", priority=0)), "n1")
        high = await running.create(pod("high", vram="70Gi", priority=10))
        await running.place(high, "n0")
        assert (await running.filter(high, "n0", "n1"))["NodeNames"] == ["n0"]
        assert why(await running.filter(high, "n1")) == {BOUND_ALREADY}
        await running.calm()
        assert api.asked("POST", "/eviction$") == []
        assert running.daemon.state.pods.claims == {}
        assert running.daemon.state.pods.entries == {}
        assert "is bound to node n0 already" in (await running.bind(high, "n1"))["Error"]


async def test_evictions_stop_when_their_pod_is_bound_elsewhere(api: ApiServer, tmp_path: Path) -> None:
    """s19b: the claim is gone before the victim's end is told, so nothing is reserved for a bound pod and no event is lost."""
    api.put(NODES, node("n1", 80))
    async with extender(api, tmp_path) as running:
        await running.place(await running.create(pod("low", vram="70Gi", priority=0)), "n1")
        await running.place(await running.create(pod("equal", vram="70Gi", priority=10)), "n0")
        high = await running.create(pod("high", vram="70Gi", priority=10))
        asked = api.stall("POST", "pods/low/eviction$")
        assert (await running.filter(high))["NodeNames"] == []
        await running.until(lambda: uid(high) in running.daemon.state.pods.claims)
        api.remove(PODS, "equal")
        body = api.get(PODS, "high")
        api.put(PODS, body | {"spec": body["spec"] | {"nodeName": "n0"}})  # somebody else binds it
        await running.caught_up()
        assert running.daemon.state.pods.claims == {}
        asked.set()
        low = api.get(PODS, "low")
        api.put(PODS, low | {"status": {"phase": "Succeeded"}})
        await running.calm()
        assert [ask for ask in api.asked("POST", "/eviction$") if not ask.body["deleteOptions"].get("dryRun")] == []
        assert running.daemon.state.breaches() == []
        assert await running.metric("headroom_cycle_failures_total", task="pods") == 0
        assert running.daemon.pods.relists == 1


async def test_a_pod_that_came_and_went_while_the_watch_was_away_leaves_nothing(api: ApiServer, tmp_path: Path) -> None:
    """s21."""
    async with extender(api, tmp_path, preemption=False) as running:
        api.hold_watches()
        job = api.put(PODS, pod("p1", vram="70Gi"))
        assert (await running.filter(job, "n0"))["NodeNames"] == ["n0"]
        assert await running.bind(job, "n0") == {}
        api.remove(PODS, "p1")
        api.expire_history()
        api.release_watches()
        api.cut_watches()
        await running.until(lambda: running.daemon.pods.relists >= 2)
        await running.until(lambda: running.daemon.state.holding(uid(job)) is None)
        assert (await running.filter(await running.create(pod("next", vram="70Gi"))))["NodeNames"] == ["n0"]
        await sound(running)


async def test_a_gated_pod_that_got_a_selector_gets_a_card_of_the_model(api: ApiServer, tmp_path: Path) -> None:
    """s27: Kueue lifts the gate and adds the node selector of a flavour in one write."""
    mixed = node("n0", 80, 80)
    cards = json.loads(mixed["metadata"]["annotations"]["headroom.dev/cards"])
    cards[0]["model"], cards[1]["model"] = "NVIDIA-L4", "NVIDIA-H100"
    mixed["metadata"]["annotations"]["headroom.dev/cards"] = json.dumps(cards)
    api.put(NODES, mixed)
    async with extender(api, tmp_path, preemption=False) as running:
        gated = await running.create(pod("p1", vram="10Gi", schedulingGates=[{"name": "kueue"}]))
        lifted = gated | {
            "spec": pod("p1", vram="10Gi", nodeSelector={"nvidia.com/gpu.product": "NVIDIA-H100"})["spec"]
        }
        api.put(PODS, lifted)
        assert (await running.filter(lifted))["NodeNames"] == ["n0"]
        assert await running.bind(lifted, "n0") == {}
        assert api.get(PODS, "p1")["metadata"]["annotations"]["headroom.dev/assigned-cards"] == "n0-gpu1"


async def test_a_bind_call_whose_http_client_went_away_still_ends_in_order(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, preemption=False) as running:
        first = await running.create(pod("p1", vram="70Gi"))
        await running.filter(first)
        answer = api.stall("POST", BINDING)
        binding = asyncio.create_task(running.bind(first, "n0"))
        await running.until(lambda: bool(api.asked("POST", BINDING)))
        binding.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await binding
        answer.set()
        await running.until(lambda: running.daemon.state.bound_node(uid(first)))
        await sound(running)
