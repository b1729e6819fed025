"""Placeholders ask a node autoscaler for what placement cannot meet: KAI#111, KAI#119, karpenter#742, autoscaler#4315."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.background.placeholders import Placeholders
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, Running, extender, node, pod

Object = dict[str, Any]
SPACE = "room"
UNSCHEDULABLE = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}


@pytest.fixture(autouse=True)
def rounds_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No round of the daemon's own in between; integration/scheduler/test_node_autoscaling.py has those."""

    async def rest(_: Placeholders) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Placeholders, "run", rest)


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("n0", 80))
        yield server


@pytest.fixture
async def running(api: ApiServer, tmp_path: Path) -> AsyncIterator[Running]:
    """An extender whose rounds the tests make themselves."""
    options: dict[str, Any] = {
        "placeholder_namespace": SPACE,
        "placeholder_wait_seconds": 0.0,
        "placeholder_most": 3,
        "naming_ahead": False,
    }
    async with extender(api, tmp_path, **options) as ready:
        yield ready


async def rounds(running: Running, number: int = 1) -> dict[str, Object]:
    """The placeholders after so many rounds, by name."""
    await running.caught_up()
    for _ in range(number):
        await running.daemon.placeholders.round()
    await running.caught_up()
    return {each["metadata"]["name"]: each for each in running.api.all(PODS) if each["metadata"]["namespace"] == SPACE}


async def filled(running: Running) -> Object:
    """A pod that fills the only card there is."""
    created = await running.create(pod("first", vram="70Gi"))
    await running.place(created)
    return created


async def unmet(running: Running, name: str, vram: str = "20Gi", **more: Any) -> Object:
    created = await running.create(pod(name, vram=vram, **more))
    assert (await running.filter(created))["NodeNames"] == []
    return created


def writes(running: Running) -> int:
    return sum(request.method != "GET" for request in running.api.requests)


def asked(running: Running) -> list[str]:
    """Every call about the namespace of placeholders."""
    return [request.path for request in running.api.requests if f"/namespaces/{SPACE}/" in request.path]


def stands_for(placeholder: Object) -> str:
    return str(placeholder["metadata"]["annotations"]["headroom.dev/stands-for"])


async def test_a_pod_without_room_gets_a_placeholder_that_is_never_placed_and_goes_when_the_pod_is_met(
    running: Running,
) -> None:
    first = await filled(running)
    selector = {"pool": "gpu"}
    tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    terms = [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a", "b"]}]}]
    waits = await unmet(
        running, "waits", nodeSelector=selector, tolerations=tolerations,
        affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}},
    )  # fmt: skip
    ((name, found),) = (await rounds(running)).items()
    spec = found["spec"]
    assert (spec["schedulerName"], spec["priorityClassName"]) == ("headroom", "headroom-placeholder")
    assert spec["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert (spec["nodeSelector"], spec["tolerations"]) == (selector, tolerations)
    assert spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] == {
        "nodeSelectorTerms": terms
    }
    (apart,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert apart["labelSelector"] == {"matchLabels": {"headroom.dev/pinned": "true"}}
    assert (apart["namespaceSelector"], apart["topologyKey"]) == ({}, "kubernetes.io/hostname")
    assert running.api.get(PODS, "first")["metadata"]["labels"]["headroom.dev/pinned"] == "true"

    # A node comes. kube-scheduler asks about both; only the pod gets it.
    running.api.put(NODES, node("n1", 80))
    await running.caught_up()
    answer = await running.filter(found)
    assert answer["NodeNames"] == []
    assert set(answer["FailedAndUnresolvableNodes"].values()) == {
        "a placeholder: it asks for a node and is never placed"
    }
    assert running.daemon.state.holding(found["metadata"]["uid"]) is None
    before = await rounds(running, 3)
    assert set(before) == {name}
    await running.place(waits)
    assert await rounds(running) == {}
    assert running.daemon.state.holding(first["metadata"]["uid"]) is not None

    await rounds(running)  # sees that none is left
    settled = len(asked(running))
    assert await rounds(running, 4) == {}
    assert len(asked(running)) == settled


async def test_nothing_is_written_round_after_round_while_nothing_changes(running: Running) -> None:
    await filled(running)
    await unmet(running, "waits")
    there = await rounds(running)
    settled = writes(running)
    assert await rounds(running, 5) == there
    assert writes(running) == settled
    assert await running.metric("headroom_placeholders", state="wanted") == 1.0


async def test_pods_that_fit_on_one_card_share_a_placeholder_and_others_have_their_own(running: Running) -> None:
    """80 GiB a card: 20 + 20 + 30 together, 60 on another; two whole cards by themselves."""
    await filled(running)
    for name, vram in (("a", "20Gi"), ("b", "20Gi"), ("c", "60Gi"), ("d", "30Gi")):
        await unmet(running, name, vram)
    await unmet(running, "e", "60Gi", limits={"headroom.dev/gpu": "2"})
    found = await rounds(running)
    asked = {
        stands_for(each): each["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"]
        for each in found.values()
    }
    assert asked == {"default/a,default/b,default/d": "1", "default/c": "1", "default/e": "2"}
    await unmet(running, "f", "60Gi")
    assert await rounds(running) == found  # three at most: the first in the queue
    assert await running.metric("headroom_placeholders", state="left_out") == 1.0


async def test_a_placeholder_stays_while_the_first_of_its_pods_waits(running: Running) -> None:
    await filled(running)
    first, second = await unmet(running, "a"), await unmet(running, "b")
    (name,) = await rounds(running)
    running.api.remove(PODS, second["metadata"]["name"])
    assert set(await rounds(running)) == {name}
    running.api.remove(PODS, first["metadata"]["name"])
    assert await rounds(running) == {}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, 1, id="kube-scheduler offers no node, and says so"),
        pytest.param({"status": {"phase": "Pending"}}, 0, id="kube-scheduler has not looked at it yet"),
        pytest.param({"spec": {"schedulerName": "default-scheduler"}}, 0, id="another scheduler's"),
        pytest.param({"spec": {"schedulingGates": [{"name": "x"}]}}, 0, id="gated"),
        pytest.param({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "v"}}]}}, 0, id="a volume may be why"),
    ],
)  # fmt: skip
async def test_where_no_node_at_all_is_offered_kube_schedulers_word_counts(
    running: Running, change: Object, expected: int
) -> None:
    """A pool at zero: no node passes its own filters, so the extender is never asked."""
    body = pod("waits", vram="20Gi")
    body["status"] = {"phase": "Pending", "conditions": [UNSCHEDULABLE]}
    body["status"] = change.get("status", body["status"])
    body["spec"] |= change.get("spec", {})
    await running.create(body)
    assert len(await rounds(running)) == expected


async def test_pods_of_a_device_plugin_and_pods_beyond_their_quota_ask_for_nothing(running: Running) -> None:
    """The first are seen by node autoscalers themselves; to the others a node is of no use."""
    await filled(running)
    running.api.put(
        "/api/v1/namespaces", {"metadata": {"name": "default", "annotations": {"headroom.dev/max-vram": "75Gi"}}}
    )
    await running.caught_up()
    await unmet(running, "by-quota")
    device = await running.create(pod("device", gpus=1))
    assert (await running.filter(device))["NodeNames"] == []
    assert await rounds(running) == {}


async def test_a_pod_must_have_waited_for_a_while(api: ApiServer, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "placeholder_namespace": SPACE,
        "placeholder_wait_seconds": 3600.0,
        "naming_ahead": False,
    }
    async with extender(api, tmp_path, **options) as running:
        await filled(running)
        await unmet(running, "waits")
        assert await rounds(running, 3) == {}


async def test_without_a_namespace_nothing_is_done_and_leftovers_are_never_placed(
    api: ApiServer, tmp_path: Path
) -> None:
    """Off is the default. A placeholder that was left behind must not take a card then."""
    async with extender(api, tmp_path, naming_ahead=False) as running:
        left = pod("room-0123", gpus=1, labels={"headroom.dev/placeholder": "true"})
        created = await running.create(left)
        assert (await running.filter(created))["NodeNames"] == []
        assert created["metadata"]["uid"] not in running.daemon.state.pods.entries


async def test_the_preempt_verb_evicts_nobody_for_a_placeholder(running: Running) -> None:
    victim = await filled(running)
    asks = await running.create(pod("room-0123", gpus=1, labels={"headroom.dev/placeholder": "true"}))
    victims = {"n0": {"Pods": [{"UID": victim["metadata"]["uid"]}], "NumPDBViolations": 0}}
    status, answer = await running.post("/preempt", {"Pod": asks, "NodeNameToMetaVictims": victims})
    assert (status, answer) == (200, {"NodeNameToMetaVictims": {}})


async def test_a_pod_that_is_bound_counts_whatever_label_it_carries(running: Running) -> None:
    """The label cannot hide what a pod holds."""
    body = pod("sly", vram="70Gi", labels={"headroom.dev/placeholder": "true"}, nodeName="n0")
    body["metadata"]["annotations"] = {
        "headroom.dev/assigned-cards": "n0-gpu0", "headroom.dev/assigned-vram-mib": "71680", "headroom.dev/assigned-mode": "pinned",
    }  # fmt: skip
    await running.create(body)
    assert int(running.daemon.state.fleet.free_mib.max()) == 10 * 1024


async def test_what_fails_is_tried_again_and_nothing_is_asked_for_before_full_nodes_are_marked(
    running: Running,
) -> None:
    await filled(running)
    await unmet(running, "waits")
    running.api.fail("PATCH", "first/status")
    assert await rounds(running) == {}
    running.api.fail("POST", f"/namespaces/{SPACE}/pods")
    assert await rounds(running) == {}
    assert len(await rounds(running)) == 1
    assert await running.metric("headroom_placeholder_writes_total", write="label", result="failed") == 1.0
    assert await running.metric("headroom_placeholder_writes_total", write="create", result="failed") == 1.0


async def test_a_pod_that_came_lately_does_not_mark_its_node_yet(running: Running) -> None:
    """The second pod of a new node is seconds behind the first: its placeholder must find room there until then."""
    await filled(running)
    await unmet(running, "waits", "75Gi")
    await rounds(running)
    running.api.put(NODES, node("n1", 80, 80))
    late = await running.create(pod("late", vram="70Gi"))
    await running.place(late, "n1")
    await rounds(running, 2)
    assert "headroom.dev/pinned" not in running.api.get(PODS, "late")["metadata"]["labels"]


async def test_an_extender_that_takes_over_finds_the_placeholders_of_the_one_before(
    api: ApiServer, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"placeholder_namespace": SPACE, "placeholder_wait_seconds": 0.0, "naming_ahead": False}
    left = pod("room-of-old", gpus=1, labels={"headroom.dev/placeholder": "true"})
    left["metadata"]["namespace"] = SPACE
    api.put(PODS, left)
    async with extender(api, tmp_path, **options) as running:
        assert await rounds(running) == {}


async def test_the_event_says_who_asks(running: Running) -> None:
    await filled(running)
    await unmet(running, "waits")
    (name,) = await rounds(running)
    events = [each for each in running.api.all("/apis/events.k8s.io/v1/events") if each["reason"] == "NodeAskedFor"]
    (event,) = events
    assert event["regarding"]["name"] == "waits"
    assert event["note"] == f"no node has room; pod {SPACE}/{name} asks the node autoscaler for 1 card"
