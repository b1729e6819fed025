"""What kubelet says of a pod's cards, by the agent's cycle: written on the pod, told and counted."""

import asyncio
import json
from typing import Any

import pytest

from agent.pods.reconcile import Device
from tests.fakes.kubelet import Kubelet
from tests.unit.agent.world import NODES, PODS, World, pod
from tests.waiting import until


async def test_a_misprediction_is_corrected_told_and_counted_once(world: World) -> None:
    """A pod is on GPU-1, so that the plugin's rule leads to GPU-0; it gives GPU-1 all the same."""
    there = pod("there", cards="GPU-1")
    there["metadata"]["annotations"]["headroom.dev/kubelet-cards"] = "GPU-1"
    world.api.put(PODS, there)
    world.api.put(PODS, pod("server", cards="GPU-0"))
    world.kubelet.devices = [
        Device("chat", "there", "engine", "nvidia.com/gpu", "GPU-1::0"),
        Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2"),
    ]
    await world.caught_up()
    await world.tick(3)
    assert world.annotation("server") == "GPU-1"
    assert len(world.api.asked("PATCH", "/pods/server")) == 1
    (event,) = world.api.all("/apis/events.k8s.io/v1/events")
    assert (event["reason"], event["regarding"]["uid"], event["type"]) == ("CardMispredicted", "uid-server", "Warning")
    assert "GPU-1, predicted was GPU-0" in event["note"]
    assert world.value("headroom_agent_assignments_total", finding="corrected") == 1
    assert world.value("headroom_agent_assignments_total", finding="right") == 1


async def test_a_tie_is_no_misprediction(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-0"))
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    await world.tick(3)
    assert world.annotation("server") == "GPU-1"
    (event,) = world.api.all("/apis/events.k8s.io/v1/events")
    assert (event["reason"], event["type"]) == ("CardsSettled", "Normal")
    assert world.value("headroom_agent_assignments_total", finding="tie") == 1
    assert world.value("headroom_agent_assignments_total", finding="corrected") is None


async def test_kubelets_word_is_told_as_soon_as_a_pod_has_started(world: World) -> None:
    """By the watch, not by the next cycle: the scheduler keeps room for the pod on other cards meanwhile."""
    await world.tick()
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    teller = asyncio.create_task(world.agent.tell_at_once())
    world.api.put(PODS, pod("server", cards="GPU-1"))
    await until(
        lambda: "headroom.dev/kubelet-cards" in world.api.get(PODS, "server", "chat")["metadata"]["annotations"]
    )
    teller.cancel()
    assert world.api.get(PODS, "server", "chat")["metadata"]["annotations"]["headroom.dev/kubelet-cards"] == "GPU-1"


async def test_the_node_says_that_its_agent_tells(world: World) -> None:
    await world.tick()
    assert world.api.get(NODES, "n1")["metadata"]["annotations"]["headroom.dev/agent-tells"] == "kubelet-cards"


async def test_a_right_prediction_is_counted_and_confirmed_once(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-1"))
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    await world.tick(3)
    assert world.value("headroom_agent_assignments_total", finding="right") == 1
    assert len(world.api.asked("PATCH", "/pods/")) == 1
    assert world.api.all("/apis/events.k8s.io/v1/events") == []


async def test_a_pod_that_headroom_never_saw_gets_the_same_annotations(world: World) -> None:
    world.api.put(PODS, pod("stranger"))
    world.kubelet.devices = [Device("chat", "stranger", "engine", "nvidia.com/gpu", "GPU-0::0")]
    await world.caught_up()
    await world.tick(2)
    annotations = world.api.get(PODS, "stranger", "chat")["metadata"]["annotations"]
    assert annotations == {
        "headroom.dev/assigned-cards": "GPU-0", "headroom.dev/assigned-vram-mib": "6144",
        "headroom.dev/assigned-vram-share": "0.250", "headroom.dev/assigned-mode": "slice",
        "headroom.dev/kubelet-cards": "GPU-0",
    }  # fmt: skip
    (event,) = world.api.all("/apis/events.k8s.io/v1/events")
    assert (event["reason"], event["type"]) == ("CardsReported", "Normal")
    assert world.value("headroom_agent_assignments_total", finding="reported") == 1


async def test_a_correction_never_reaches_a_successor_of_the_same_name(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-0"))
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    world.now += 5
    world.agent._refresh_pods()  # the agent knows the first pod; the second one is there before it writes
    world.api.remove(PODS, "server", "chat")
    successor = pod("server", cards="GPU-0")
    successor["metadata"]["uid"] = "uid-successor"
    world.api.put(PODS, successor)
    await world.agent.cycle()
    assert world.annotation("server") == "GPU-0"
    assert world.value("headroom_agent_writes_total", object="pod", result="Conflict") == 1


async def test_a_failed_write_is_tried_again_later(world: World) -> None:
    world.api.fail("PATCH", "/nodes/n1", status=500, times=2)
    await world.tick()
    assert world.published() == {}
    await world.tick(4)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert world.value("headroom_agent_writes_total", object="node", result="ServerError") == 2


async def test_somebody_who_keeps_overwriting_is_not_fought_in_a_tight_loop(world: World) -> None:
    await world.tick()
    for _ in range(20):
        node = json.loads(json.dumps(world.api.get(NODES, "n1")))
        node["metadata"]["annotations"]["headroom.dev/cards"] = "[]"
        world.api.put(NODES, node)
        await world.caught_up()
        await world.tick(seconds=1.0)
    assert 1 < len(world.api.asked("PATCH", "/nodes/n1")) <= 12


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda kubelet: kubelet.stop(), "missing"),
        (lambda kubelet: _set(kubelet, delay_seconds=3.0), "slow"),
        (lambda kubelet: _set(kubelet, garbage=True), "broken"),
    ],
)
async def test_a_silent_kubelet_is_counted_and_what_it_said_last_still_holds(
    world: World, break_it: Any, reason: str
) -> None:
    """Nothing is written on the pod, so that kubelet's word is all that is known of its card."""
    world.api.put(PODS, pod("server"))
    world.api.fail("PATCH", "/pods/server", status=500, times=99)
    world.kubelet.devices = [Device("chat", "server", "engine", "nvidia.com/gpu", "GPU-1::2")]
    await world.caught_up()
    await world.tick()
    await break_it(world.kubelet)
    await world.tick(2)
    assert world.value("headroom_agent_podresources_errors_total", reason=reason) == 2
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    reserved = world.value(
        "headroom_pod_reserved_seconds_total", **world.place(1), namespace="chat", pod="server", project="search"
    )
    assert reserved == pytest.approx(10 * 6144 / 24576)


async def _set(kubelet: Kubelet, **fields: Any) -> None:
    for key, value in fields.items():
        setattr(kubelet, key, value)
