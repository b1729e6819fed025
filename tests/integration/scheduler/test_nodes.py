"""Pods that kube-scheduler admits to nodes by rules of its own, and what Headroom adds: on a real kube-scheduler."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headroom.domain.model import Card, GpuNode
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import node_manifest, uniform_nodes

pytestmark = pytest.mark.usefixtures("extender")

VRAM = "headroom.dev/vram"
A100, T1000 = "NVIDIA-A100-SXM4-80GB", "NVIDIA-T1000-8GB"


def manifest(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "cuda", "resources": {"limits": {VRAM: "4Gi"}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "schedulerName": "headroom", "terminationGracePeriodSeconds": 0, "containers": [container], **spec,
        },
    }  # fmt: skip


def test_a_cordoned_node_takes_a_pod_that_tolerates_it(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    """K03, N19: kubernetes#67845 (a DaemonSet's pod on a cordoned node, which kube-scheduler offers)."""
    cordoned = node_manifest(next(iter(uniform_nodes(1, cards=1, resource=""))))
    cordoned["spec"]["unschedulable"] = True
    gpu_nodes([cordoned])
    tolerant = {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}
    cluster.apply([manifest("stays"), manifest("goes", tolerations=[tolerant])], namespace)
    given()
    bound = {pod["metadata"]["name"]: pod["spec"].get("nodeName") for pod in cluster.pods(namespace)}
    assert bound == {"stays": None, "goes": cordoned["metadata"]["name"]}


def mixed() -> GpuNode:
    """A node whose cards are of two models, the one that is asked for last."""
    cards = (Card("GPU-small", 0, T1000, 8192), Card("GPU-big", 1, A100, 81920))
    (node,) = uniform_nodes(1, cards=2, resource="")
    return replace(node, cards=cards, labels={**node.labels, "nvidia.com/gpu.product": A100})


def test_a_selector_that_comes_with_the_end_of_a_gate_counts(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    """K07, L15: instaslice-operator#82, KEP-3838 (Kueue adds a flavour's selector and lifts the gate)."""
    gpu_nodes([mixed()])
    cluster.apply([manifest("gated", schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])], namespace)
    path = f"/api/v1/namespaces/{namespace}/pods/gated"
    pod = cluster.api.request("GET", path)
    pod["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": A100}
    pod["spec"].pop("schedulingGates")
    cluster.api.request("PUT", path, pod)
    (placed,) = given()
    assert placed.cards == ("GPU-big",)
