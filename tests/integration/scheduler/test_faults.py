"""The extender behind a real kube-scheduler: refusals that rest, waking, and processes that die in the middle of a burst."""

import json
import threading
import time
import urllib.request
from collections.abc import Callable

import pytest

from simulations.kwok.cluster import Cluster
from tests.fakes.extender_cluster import Setup, pod_asking


@pytest.fixture
def setup(start_cluster: Callable[..., Cluster]) -> Callable[..., Setup]:
    return lambda nodes, cards, *settings: Setup(start_cluster, nodes, cards, *settings)


def test_a_refused_pod_costs_two_filter_calls_and_rests(setup: Callable[..., Setup]) -> None:
    """Twenty full nodes, all holding pods of lower priority: kube-scheduler's own preemption must not loop over them."""
    world = setup(20, 1, "--preemption", "false")
    world.cluster.apply(
        [{"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000}]
    )
    world.create(*(pod_asking(f"low-{at}", "70Gi") for at in range(20)))
    world.wait_bound(20)
    world.wait_calm()
    before = world.filter_calls()
    world.create(pod_asking("high", "70Gi", priorityClassName="high"))
    world.wait_refused("high")
    time.sleep(20)
    assert world.filter_calls() - before <= 2
    assert "20 no card with 71680 MiB free" in world.message("high")


def test_a_hundred_refused_pods_wake_once_per_freed_card(setup: Callable[..., Setup]) -> None:
    world = setup(4, 1, "--preemption", "false")
    world.create(*(pod_asking(f"holds-{at}", "70Gi") for at in range(4)))
    world.wait_bound(4)
    world.wait_calm()
    waiting = [f"waits-{at:03d}" for at in range(100)]
    world.create(*(pod_asking(name, "70Gi") for name in waiting))
    world.wait_refused(*waiting)
    world.cluster.wait_for(lambda: rests(world), "the refused pods to rest")
    for freed in (1, 2):
        before = world.filter_calls()
        world.cluster.kubectl("delete", "pod", f"holds-{freed}", "--wait=false")
        world.wait_bound(4)
        world.cluster.wait_for(lambda: rests(world), "the refused pods to rest")
        # kube-scheduler tries them on the deletion's and the new binding's events: a few calls each, not a hundred.
        assert world.filter_calls() - before <= 5 * len(waiting)
        assert world.metric("headroom_wakes_total") <= freed
    world.assert_sound()


def rests(world: Setup) -> bool:
    before = world.filter_calls()
    time.sleep(3)
    return world.filter_calls() == before


def test_memory_that_comes_free_unseen_by_kube_scheduler_wakes_refused_pods(setup: Callable[..., Setup]) -> None:
    """A card that is healthy again is no news for kube-scheduler when the extender hears of it later; an expired
    reservation never is. Here a filter call that nobody follows up holds the only card."""
    world = setup(1, 1, "--reservation-seconds", "6")
    ghost = {
        "metadata": {"name": "ghost", "namespace": "default", "uid": "ghost"},
        "spec": pod_asking("g", "70Gi")["spec"],
    }
    body = json.dumps({"Pod": ghost, "NodeNames": ["gpu-0000"]}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{world.port}/filter", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert json.loads(answer.read())["NodeNames"] == ["gpu-0000"]
    world.create(pod_asking("waits", "70Gi"))
    world.wait_refused("waits")
    world.wait_bound(1)
    assert world.metric("headroom_wakes_total", 'result="written"') == 1
    world.assert_sound()


@pytest.mark.timeout(400)
def test_a_burst_survives_the_death_of_extender_scheduler_and_api_server(setup: Callable[..., Setup]) -> None:
    world = setup(40, 4)
    sizes = ("10Gi", "18Gi", "30Gi", "38Gi", "76Gi")
    pods = [pod_asking(f"burst-{at:03d}", sizes[at % len(sizes)]) for at in range(500)]
    creator = threading.Thread(target=world.create, args=pods)
    creator.start()

    def some_bound(more_than: int) -> Callable[[], bool]:
        return lambda: sum(bool(pod["spec"].get("nodeName")) for pod in world.cluster.pods("default")) > more_than

    world.cluster.wait_for(some_bound(30), "the burst to be under way")
    world.extender.kill()
    world.extender.restart()
    world.cluster.component("kube-scheduler").kill()
    world.cluster.component("kube-scheduler").restart()
    creator.join()
    world.cluster.wait_for(some_bound(100), "the burst to go on")
    world.cluster.component("kube-apiserver").kill()
    world.cluster.component("kube-apiserver").restart()

    def decided() -> bool:
        """Every pod is bound, or pending with a reason."""
        left = [pod for pod in world.cluster.pods("default") if not pod["spec"].get("nodeName")]
        return all("no card with" in world.message(pod["metadata"]["name"]) for pod in left) and rests(world)

    world.cluster.wait_for(decided, "every pod to be bound or refused with a reason", 180)
    assert len(world.cluster.pods("default")) == 500
    world.assert_sound()
    free = [card["free_mib"] for node in world.snapshot()["fleet"]["nodes"] for card in node["cards"]]
    for pod in world.cluster.pods("default"):
        if not pod["spec"].get("nodeName"):
            wanted = pod["spec"]["containers"][0]["resources"]["limits"]["headroom.dev/vram"]
            assert max(free) < int(wanted.removesuffix("Gi")) * 1024, "a pod waits although it would fit"
