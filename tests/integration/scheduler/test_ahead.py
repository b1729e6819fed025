"""Preemption and naming ahead behind a real kube-scheduler."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from simulations.kwok.cluster import Cluster
from tests.fakes.extender_cluster import PODS, Setup, pod_asking


@pytest.fixture
def setup(start_cluster: Callable[..., Cluster]) -> Callable[..., Setup]:
    return lambda nodes, cards, *settings, **options: Setup(start_cluster, nodes, cards, *settings, **options)


def priority_class(name: str, value: int) -> dict[str, Any]:
    return {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value}


def budget(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": name}}},
    }


def labelled(pod: dict[str, Any], app: str) -> dict[str, Any]:
    pod["metadata"]["labels"] = {"app": app}
    return pod


def node_of(world: Setup, name: str) -> str | None:
    found = world.cluster.api.get(f"{PODS}/{name}")["spec"].get("nodeName")
    return None if found is None else str(found)


def test_a_pod_of_higher_priority_takes_the_place_of_the_least_important_and_budgets_are_kept(
    setup: Callable[..., Setup],
) -> None:
    world = setup(3, 1)
    world.cluster.apply([priority_class("high", 1000), priority_class("middle", 500), budget("kept")])
    world.create(
        labelled(pod_asking("kept", "70Gi"), "kept"),
        pod_asking("spare", "70Gi"),
        pod_asking("middle", "70Gi", priorityClassName="middle"),
    )
    world.wait_bound(3)
    world.wait_calm()
    # The disruption controller has to have counted the pod before the budget means anything.
    status = "/apis/policy/v1/namespaces/default/poddisruptionbudgets/kept"
    world.cluster.wait_for(lambda: world.cluster.api.get(status)["status"].get("currentHealthy") == 1, "the budget")
    freed = node_of(world, "spare")
    world.create(pod_asking("high", "60Gi", priorityClassName="high"))
    world.cluster.wait_for(lambda: node_of(world, "high"), "the important pod to be bound")
    assert node_of(world, "high") == freed
    left = {pod["metadata"]["name"] for pod in world.cluster.pods("default")}
    assert left == {"kept", "middle", "high"}
    # The next one finds only the pod of middle priority: the protected one stays.
    world.create(pod_asking("high-too", "60Gi", priorityClassName="high"))
    world.cluster.wait_for(lambda: node_of(world, "high-too"), "the second important pod to be bound")
    assert {pod["metadata"]["name"] for pod in world.cluster.pods("default")} == {"kept", "high", "high-too"}
    world.assert_sound()


def test_kube_scheduler_does_not_evict_for_cpu_where_the_memory_would_still_not_fit(
    setup: Callable[..., Setup],
) -> None:
    world = setup(1, 1, cpu_milli=4000)
    world.cluster.apply([priority_class("low", 100), priority_class("middle", 500)])

    def asking(name: str, vram: str, cpu: str, **spec: Any) -> dict[str, Any]:
        pod = pod_asking(name, vram, **spec)
        pod["spec"]["containers"][0]["resources"]["requests"] = {"cpu": cpu}
        return pod

    hog = asking("hog", "1Gi", "3")
    del hog["spec"]["containers"][0]["resources"]["limits"]
    world.create(hog, asking("important", "70Gi", "100m", priorityClassName="middle"))
    world.wait_bound(2)
    world.wait_calm()
    world.create(asking("hopeless", "40Gi", "3", priorityClassName="low"))
    world.cluster.wait_for(
        lambda: world.metric("headroom_extender_requests_total", 'verb="preempt"') > 0, "kube-scheduler to ask"
    )
    time.sleep(3)
    assert node_of(world, "hog"), "the pod that holds the processors was evicted in vain"
    world.create(asking("fits", "5Gi", "3", priorityClassName="low"))
    world.cluster.wait_for(lambda: node_of(world, "fits"), "the pod for which the eviction helps")
    assert {pod["metadata"]["name"] for pod in world.cluster.pods("default")} == {"important", "hopeless", "fits"}
    assert node_of(world, "hopeless") is None


@pytest.mark.parametrize("ahead", ["true", "false"])
def test_a_backlog_is_bound_without_over_commit_whether_named_ahead_or_not(
    setup: Callable[..., Setup], ahead: str
) -> None:
    world = setup(30, 4, "--naming-ahead", ahead, "--preemption", "false")
    # The scheduler is away while the pods come: they queue.
    world.cluster.component("kube-scheduler").kill()
    world.create(*(pod_asking(f"pod-{at:03d}", ("20Gi", "30Gi", "40Gi")[at % 3]) for at in range(240)))
    if ahead == "true":
        world.cluster.wait_for(
            lambda: world.metric("headroom_named_ahead_total", 'result="named"') >= 200, "pods to be named ahead"
        )
        # One node goes and one is filled by somebody else after it was named.
        named = [
            pod["status"]["nominatedNodeName"]
            for pod in world.cluster.pods("default")
            if pod["status"].get("nominatedNodeName")
        ]
        world.cluster.delete_nodes([named[0]])
        cards = ",".join(f"GPU-{named[-1]}-{card}" for card in range(4))
        thief = pod_asking("thief", "70Gi", schedulerName="other", nodeName=named[-1])
        thief["metadata"]["annotations"] = {
            "headroom.dev/assigned-cards": cards.split(",")[0],
            "headroom.dev/assigned-vram-mib": str(70 * 1024),
            "headroom.dev/assigned-mode": "pinned",
        }
        world.create(thief)
    world.cluster.component("kube-scheduler").start()
    world.wait_bound(241 if ahead == "true" else 240, 120)
    world.assert_sound()
