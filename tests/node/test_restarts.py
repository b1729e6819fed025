"""What restarts on a node: kubelet, the device plugin, the agent, the driver, the whole machine. The last known word holds."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headroom import names
from tests.node.installed import Headroom, pod

ROUNDS_SECONDS = 4
"""After the expected state is reached: some rounds of the agent more, to see that it stays."""


class Witness:
    """Everything different that was seen of cards and ledger while something restarted."""

    def __init__(self, headroom: Headroom) -> None:
        self._headroom = headroom
        self.seen: list[dict[str, Any]] = []

    def look(self) -> None:
        page = self._headroom.snapshot()
        now = {
            "slices": [card["slices"] for card in self._headroom.cards()],
            "healthy": [card["healthy"] for card in self._headroom.cards()],
            "held": [card["held_mib"] for one in page["fleet"]["nodes"] for card in one["cards"]],
            "free slices": [card["slices_free"] for one in page["fleet"]["nodes"] for card in one["cards"]],
            "problems": page["node_problems"],
        }
        if not self.seen or self.seen[-1] != now:
            self.seen.append(now)

    def watch(self, seconds: float, until: Callable[[], object] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.look()
            time.sleep(0.1)


@contextmanager
def unchanged(headroom: Headroom, seconds: float = 15.0) -> Iterator[Witness]:
    """Nothing that Headroom says of the node changes, from before until `seconds` after."""
    witness = Witness(headroom)
    witness.look()
    yield witness
    witness.watch(seconds)
    assert len(witness.seen) == 1, witness.seen


@pytest.fixture
def held(headroom: Headroom) -> Headroom:
    """Three pods with a device each on two cards of four devices; kubelet's word on them is in."""
    headroom.share(4)
    headroom.create(*(pod(f"held-{at}", {"nvidia.com/gpu": "1"}) for at in range(3)))
    headroom.started("held-0", "held-1", "held-2")
    headroom.node.wait_for(
        lambda: all(headroom.assigned(name) == cards for name, cards in headroom.given().items()), "kubelet's word"
    )
    time.sleep(ROUNDS_SECONDS)
    return headroom


def all_running(headroom: Headroom) -> bool:
    return {headroom.phase(f"held-{at}") for at in range(3)} == {"Running"}


def test_kubelet_restarts(held: Headroom) -> None:
    """Its capacity is 0 for seconds, the label nvidia.com/gpu.replicas is not set: the devices are those last known.

    Before, every card became a whole one, and then the plugin "handed out more devices than the cards have".
    """
    kubelet = held.node.component("kubelet")
    with unchanged(held) as witness:
        kubelet.stop(30)
        witness.watch(2)
        kubelet.start()
        held.node.wait_for_devices(8)
    assert all_running(held)
    held.create(pod("after", {"nvidia.com/gpu": "1", names.RESOURCE_VRAM: "4Gi"}))
    held.started("after")


def test_the_device_plugin_restarts(held: Headroom) -> None:
    """While it is away kubelet says that no device works; nothing is withdrawn from the pods that hold them."""
    plugin = held.node.component("device-plugin")
    plugin.kill()
    held.node.wait_for_devices(0)
    witness = Witness(held)
    witness.watch(ROUNDS_SECONDS)
    plugin.start()
    held.node.wait_for_devices(8)
    witness.watch(ROUNDS_SECONDS)
    assert {str(one["held"]) for one in witness.seen} == {str(witness.seen[-1]["held"])}
    assert [one["slices"] for one in witness.seen] == [[4, 4]] * len(witness.seen)
    assert all_running(held)
    held.create(pod("after", {"nvidia.com/gpu": "1", names.RESOURCE_VRAM: "4Gi"}))
    held.started("after")


def test_the_agent_restarts(held: Headroom) -> None:
    """It takes up where it was; nothing that it has said before is said again."""
    events = held.events("CardMispredicted") + held.events("CardsReported")
    with unchanged(held, ROUNDS_SECONDS):
        held.node.component("agent").restart()
    assert held.events("CardMispredicted") + held.events("CardsReported") == events
    assert all_running(held)


def test_the_driver_goes_and_comes_back(held: Headroom) -> None:
    """Cards are withdrawn while nobody can ask the driver, and given back once they have settled; pods are left alone."""
    before = [card["held_mib"] for card in held.ledger()]
    held.node.cards.say("driver 9")
    held.node.wait_for(lambda: not any(card["healthy"] for card in held.cards()), "the cards to be withdrawn", 40)
    held.create(pod("waits", {"nvidia.com/gpu": "1", names.RESOURCE_VRAM: "4Gi"}))
    assert [card["held_mib"] for card in held.ledger()] == before
    assert all_running(held)
    held.node.cards.say()
    held.node.wait_for(lambda: all(card["healthy"] for card in held.cards()), "the cards to be back", 90)
    held.started("waits")
    assert all_running(held)


def test_a_static_pod_is_accounted_for(headroom: Headroom) -> None:
    """kubelet runs it from a file; nobody places it. The agent reports its card, the ledger counts it, until the file goes."""
    headroom.share(4)
    manifest = pod("static", {"nvidia.com/gpu": "1"})
    headroom.node.write_static_pod("static", manifest)
    try:
        name = "static-gpu-node-1"
        headroom.node.wait_for(
            lambda: headroom.node.exists(f"/api/v1/namespaces/default/pods/{name}"), "the mirror pod"
        )
        headroom.started(name)
        headroom.node.wait_for(lambda: headroom.assigned(name) == headroom.given().get(name), "the agent's report", 30)
        headroom.node.wait_for(lambda: sum(card["held_mib"] for card in headroom.ledger()) > 0, "the ledger to know")
    finally:
        headroom.node.remove_static_pod("static")
    headroom.node.wait_for(lambda: not sum(card["held_mib"] for card in headroom.ledger()), "the memory to come free")


def test_a_pod_that_kubelet_evicts_gives_its_memory_back(headroom: Headroom) -> None:
    """It writes more than its volume may hold; kubelet fails it, its object stays, its card is free at once."""
    body = pod(
        "greedy", {names.RESOURCE_VRAM: "30Gi"}, command="dd if=/dev/zero of=/data/x bs=1M count=64; sleep 36000"
    )
    body["spec"]["volumes"] = [{"name": "data", "emptyDir": {"sizeLimit": "1Mi"}}]
    body["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    headroom.create(body)
    headroom.started("greedy")
    headroom.node.wait_for(lambda: headroom.phase("greedy") == "Failed Evicted", "kubelet to evict the pod", 120)
    headroom.node.wait_for(
        lambda: not sum(card["held_mib"] for card in headroom.ledger()), "the memory to come free", 10
    )


def test_the_node_reboots(headroom: Headroom) -> None:
    """Containers, kubelet and device plugin are gone at once and come back; two pods of a Deployment run again, each counted once."""
    headroom.share(4)
    template = pod("x", {"nvidia.com/gpu": "1", names.RESOURCE_VRAM: "20Gi"})["spec"] | {"restartPolicy": "Always"}
    labels = {"app": "engine"}
    headroom.node.apply(
        [
            {
                "apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "engine", "namespace": "default", "labels": {"test": "node"}},
                "spec": {
                    "replicas": 2, "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": template},
                },
            }
        ]
    )  # fmt: skip

    def running() -> list[str]:
        pods = headroom.node.pods("default", labelSelector="app=engine")
        return [
            one["metadata"]["name"] for one in pods
            if any(status["ready"] for status in one["status"].get("containerStatuses", []))
        ]  # fmt: skip

    headroom.node.wait_for(lambda: len(running()) == 2, "two engines")
    headroom.node.reboot()
    headroom.node.component("device-plugin").start()
    headroom.node.wait_for_devices(8)
    headroom.node.wait_for(
        lambda: len(running()) == 2 and set(running()) <= set(headroom.given()), "two engines again", 90
    )

    def counted() -> bool:
        return sum(card["held_mib"] for card in headroom.ledger()) == 2 * 20 * 1024

    headroom.node.wait_for(counted, "each engine to be counted once", 60)
    headroom.node.wait_for(
        lambda: all(headroom.assigned(name) == cards for name, cards in headroom.given().items()), "kubelet's word", 60
    )
    assert counted()


def test_a_stale_capacity_is_taken_away_and_stays_away(headroom: Headroom) -> None:
    """What `--publish-capacity` left: kubelet would refuse pods by it, and keeps it over its own restart."""
    node, small = headroom.node, {names.RESOURCE_VRAM: str(10 * 2**30)}
    node.api.request(
        "PATCH", "/api/v1/nodes/gpu-node-1/status", {"status": {"capacity": small, "allocatable": small}},
        content_type="application/merge-patch+json",
    )  # fmt: skip

    def gone() -> bool:
        status = node.node()["status"]
        return names.RESOURCE_VRAM not in {**status["capacity"], **status["allocatable"]}

    node.wait_for(gone, "the capacity to go", 20)
    headroom.create(*(pod(f"big-{at}", {names.RESOURCE_VRAM: "70Gi"}) for at in range(2)))
    headroom.started("big-0", "big-1")
    node.component("kubelet").restart(60)
    end = time.monotonic() + 12  # kubelet's status goes out every 5 s
    while time.monotonic() < end:
        assert gone()
        time.sleep(0.5)
    assert {headroom.phase("big-0"), headroom.phase("big-1")} == {"Running"}
