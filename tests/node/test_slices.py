"""Slice mode against a real device manager: what was foretold, what kubelet gave, and that no memory is given twice."""

import time
from functools import partial
from typing import Any

import pytest

from headroom import names
from simulations.node.images.basic import BUSYBOX
from tests.node.installed import Headroom, pod

USABLE_GIB = 79
WORD_SECONDS = 5.0
"""The goal is a second from the start of a pod to kubelet's word on it; a busy machine gets slack."""


def slice_pod(name: str, gib: int, **spec: Any) -> dict[str, Any]:
    return pod(name, {"nvidia.com/gpu": "1", names.RESOURCE_VRAM: f"{gib}Gi"}, **spec)


def assigned_as_given(headroom: Headroom, name: str) -> bool:
    return sorted(headroom.assigned(name)) == sorted(headroom.given().get(name, ()))


def has_succeeded(headroom: Headroom, name: str) -> bool:
    return headroom.phase(name) == "Succeeded"


def word_is_in(headroom: Headroom, *some: str) -> bool:
    given = headroom.given()
    return all(
        headroom.pod(name)["metadata"]["annotations"].get(names.ANNOTATION_KUBELET_CARDS, "").split(",")
        == list(given.get(name, ()))
        for name in some
    )


def settled(headroom: Headroom, *some: str) -> None:
    headroom.started(*some)
    headroom.node.wait_for(lambda: word_is_in(headroom, *some), f"kubelet's word on {', '.join(some)}", 20)


def loads(headroom: Headroom) -> dict[str, int]:
    """GiB that pods were promised on the card that kubelet really gave them."""
    found = dict.fromkeys(headroom.node.cards.uuids, 0)
    for name, cards in headroom.given().items():
        limits = headroom.pod(name)["spec"]["containers"][0]["resources"]["limits"]
        for card in cards:
            found[card] += int(limits[names.RESOURCE_VRAM].removesuffix("Gi"))
    return found


@pytest.mark.parametrize("policy", ["distributed", "packed"])
def test_cards_are_foretold_told_and_true(headroom: Headroom, policy: str) -> None:
    """Pods one after the other, some deleted between, then a burst that takes all that is left."""
    headroom.share(4, policy, ties="random", seed=3)
    for at in range(4):
        headroom.create(slice_pod(f"one-{at}", 8))
        settled(headroom, f"one-{at}")
    headroom.delete("one-1", "one-2")
    burst = [f"burst-{at}" for at in range(6)]
    headroom.create(*(slice_pod(name, 8) for name in burst))
    settled(headroom, "one-0", "one-3", *burst)
    for name, cards in headroom.given().items():
        assert headroom.assigned(name) == cards
        assert headroom.environment(name)["NVIDIA_VISIBLE_DEVICES"] == ",".join(cards)
    headroom.node.wait_for(
        lambda: not any(card["caution_mib"] for card in headroom.ledger()), "nothing to be under way"
    )
    assert [card["held_mib"] for card in headroom.ledger()] == [gib * 1024 for gib in loads(headroom).values()]
    assert headroom.events("CardMispredicted") == []


def test_a_burst_never_gets_memory_twice(headroom: Headroom) -> None:
    """20, 5 and 15 GiB at once on cards that hold 59 and 10 GiB: without caution 94 GiB came to lie on one card of 79.

    The agent is away meanwhile: else its word may come in time for the third pod.
    """
    headroom.share(4, ties="last")
    headroom.create(slice_pod("full", 59))
    settled(headroom, "full")
    headroom.create(slice_pod("light", 10))
    settled(headroom, "light")
    agent = headroom.node.component("agent")
    agent.stop()
    headroom.create(slice_pod("a", 20), slice_pod("b", 5), slice_pod("c", 15))
    for seconds in (6, 10):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            now = loads(headroom)
            assert max(now.values()) <= USABLE_GIB, now
            time.sleep(0.2)
        if seconds == 6:
            agent.start()
    assert sum(loads(headroom).values()) >= 59 + 10 + 25, "the caution lets go once kubelet's word is in"


def test_kubelets_word_comes_about_a_second_after_the_start(headroom: Headroom) -> None:
    headroom.share(4)
    headroom.create(slice_pod("quick", 8))
    headroom.node.wait_for(lambda: headroom.pod("quick")["status"].get("startTime"), "kubelet to start the pod")
    began = time.monotonic()
    headroom.node.wait_for(lambda: word_is_in(headroom, "quick"), "kubelet's word", WORD_SECONDS)
    print(f"kubelet's word came {time.monotonic() - began:.2f} s after the start was seen")


def test_several_devices_for_one_pod(headroom: Headroom) -> None:
    """Containers of one pod, init containers and sidecars: the cards that are written are those that kubelet lists."""
    headroom.share(4, ties="random", seed=3)

    def container(name: str, count: int, command: str = "sleep 3600") -> dict[str, Any]:
        limits = {"nvidia.com/gpu": str(count), names.RESOURCE_VRAM: "4Gi"}
        return {"name": name, "image": BUSYBOX, "command": ["sh", "-c", command], "resources": {"limits": limits}}

    shapes = {
        "two-containers": {"containers": [container("a", 1), container("b", 1)]},
        "init-and-main": {"initContainers": [container("init", 1, "true")], "containers": [container("main", 1)]},
        "one-of-two": {"containers": [container("main", 2)]},
        "sidecar": {
            "initContainers": [container("side", 1) | {"restartPolicy": "Always"}],
            "containers": [container("main", 1)],
        },
    }
    for name, spec in shapes.items():
        body = pod(name, {})
        body["spec"] |= spec
        headroom.create(body)
        headroom.started(name)
        headroom.node.wait_for(partial(assigned_as_given, headroom, name), name, 20)
        headroom.delete(name)


def test_jobs_give_their_devices_back(headroom: Headroom) -> None:
    headroom.share(4, ties="first")
    headroom.create(slice_pod("stays", 8))
    settled(headroom, "stays")
    for at in range(3):
        headroom.create(slice_pod(f"job-{at}", 4, command="env; sleep 2"))
        headroom.node.wait_for(partial(has_succeeded, headroom, f"job-{at}"), f"job-{at} to end")
    headroom.node.wait_for(lambda: sum(card["held_mib"] for card in headroom.ledger()) == 8 * 1024, "only one to hold")


def test_a_pod_that_the_clusters_own_scheduler_placed_is_reported(headroom: Headroom) -> None:
    headroom.share(4)
    headroom.create(pod("stranger", {"nvidia.com/gpu": "1"}, schedulerName="default-scheduler"))
    headroom.started("stranger")
    headroom.node.wait_for(lambda: headroom.assigned("stranger") == headroom.given()["stranger"], "the report", 20)
    assert any(note.startswith("stranger:") for note in headroom.events("CardsReported"))
    headroom.node.wait_for(lambda: sum(card["held_mib"] for card in headroom.ledger()) > 0, "the ledger to know")
