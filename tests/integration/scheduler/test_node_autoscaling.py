"""Pods without room and a node autoscaler, on a real API server and kube-scheduler: a node full of pinned pods does not look free.

KAI#111, KAI#119, karpenter#742, autoscaler#4315. The node autoscaler is scripted; docs/node-autoscaling.md says what that leaves open.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from headroom import names
from headroom.domain.node_cards import encode_cards
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import node_manifest, uniform_nodes
from simulations.kwok.process import Component
from tests.fakes.node_autoscaler import nodes_to_add, unschedulable
from tests.paths import DEPLOY

Object = dict[str, Any]
SPACE = "headroom-placeholders"
COMPONENT = DEPLOY / "components" / "node-autoscaling" / "node-autoscaling.yaml"


@pytest.fixture(scope="module")
def asking(cluster: Cluster, extender_port: int) -> Iterator[Component]:
    """The extender with placeholders on and the haste of a test."""
    cluster.apply(COMPONENT.read_text())
    component = cluster.daemon(
        "scheduler", "--port", str(extender_port),
        "--placeholder-namespace", SPACE, "--placeholder-wait-seconds", "1", "--naming-ahead", "false",
        name="scheduler-asking", ready_url=f"http://127.0.0.1:{extender_port}/readyz",
    )  # fmt: skip
    yield component
    assert component.stop() == 0, component.tail()
    cluster.kubectl("delete", "-f", "-", "--ignore-not-found", "--wait=false", stdin=COMPONENT.read_text())


def pod(name: str, vram: str, **spec: Any) -> Object:
    container = {
        "name": "main",
        "image": "server",
        "resources": {"limits": {names.RESOURCE_VRAM: vram}, "requests": {"cpu": "1"}},
    }
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"schedulerName": "headroom", "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }  # fmt: skip


def template(name: str) -> Object:
    """A new node as its provider makes it: the agent has not told of its card yet."""
    (node,) = uniform_nodes(1, cards=1, prefix="new-")
    made = node_manifest(node)
    made["metadata"] |= {"name": name, "annotations": {}}
    made["metadata"]["labels"] = {"kubernetes.io/hostname": name, "type": "kwok", "pool": "gpu"}
    return made


class NodeAutoscaler:
    """Looks at the cluster, and adds the nodes that it thinks are needed."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.added: list[str] = []

    def wanted(self, *, without_anti_affinity: bool = False) -> int:
        pods = copy.deepcopy(self._cluster.api.items("/api/v1/pods"))
        for each in pods if without_anti_affinity else []:
            each["spec"].get("affinity", {}).pop("podAntiAffinity", None)
        return nodes_to_add(self._cluster.api.items("/api/v1/nodes"), pods, template("template"))

    def step(self) -> int:
        number = self.wanted()
        for _ in range(number):
            name = f"grown-{len(self.added)}"
            self.added.append(name)
            self._cluster.create_node_objects([template(name)])
            (node,) = uniform_nodes(1, cards=1, prefix=f"{name}-")
            cards = {"metadata": {"annotations": {names.ANNOTATION_NODE_CARDS: encode_cards(node.cards)}}}
            self._cluster.api.patch(f"/api/v1/nodes/{name}", cards)
        return number


@pytest.fixture
def autoscaler(cluster: Cluster) -> Iterator[NodeAutoscaler]:
    one = NodeAutoscaler(cluster)
    yield one
    cluster.delete_nodes(one.added)


def node_of(cluster: Cluster, namespace: str, name: str) -> str:
    return str(cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")["spec"].get("nodeName", ""))


def placeholders(cluster: Cluster) -> list[Object]:
    return cluster.pods(SPACE)


def test_a_pod_without_room_brings_one_node_although_a_node_full_of_pinned_pods_has_its_devices_free(
    cluster: Cluster, namespace: str, gpu_nodes: Any, asking: Component, autoscaler: NodeAutoscaler
) -> None:
    """karpenter#742 (fractions of a card and node autoscalers)."""
    full = node_manifest(uniform_nodes(1, cards=1)[0])
    full["metadata"]["labels"]["pool"] = "gpu"
    gpu_nodes([full])
    cluster.apply([pod("first", "70Gi")], namespace)
    cluster.wait_for(lambda: node_of(cluster, namespace, "first") != "", "the first pod to be bound")
    cluster.apply([pod("waits", "20Gi", nodeSelector={"pool": "gpu"})], namespace)
    cluster.wait_for(
        lambda: len(unschedulable(placeholders(cluster))) == 1, "a placeholder that kube-scheduler calls unschedulable"
    )
    cluster.apply([pod("also", "30Gi", nodeSelector={"pool": "gpu"})], namespace)
    cluster.wait_for(lambda: len(unschedulable(cluster.pods(namespace))) == 2, "kube-scheduler to have looked at both")
    # By itself neither pod would bring a node, and without the anti-affinity the full node would do.
    pods = cluster.api.items("/api/v1/pods")
    real = [each for each in pods if each["metadata"]["namespace"] == namespace]
    assert nodes_to_add(cluster.api.items("/api/v1/nodes"), real, template("template")) == 0
    assert autoscaler.wanted(without_anti_affinity=True) == 0

    assert autoscaler.step() == 1
    cluster.wait_for(
        lambda: {node_of(cluster, namespace, name) for name in ("waits", "also")} == {"grown-0"}, "both on the new node"
    )
    cluster.wait_for(lambda: not placeholders(cluster), "the placeholder to go")
    # Nothing oscillates: rounds of the extender and loops of the autoscaler bring nothing more.
    for _ in range(4):
        assert autoscaler.step() == 0
        cluster.api.patch(f"/api/v1/nodes/{full['metadata']['name']}", {"metadata": {"labels": {"round": "again"}}})
        assert placeholders(cluster) == []
    assert autoscaler.added == ["grown-0"]


def test_a_placeholder_is_never_bound_however_much_room_there_is(
    cluster: Cluster, namespace: str, gpu_nodes: Any, asking: Component
) -> None:
    """Its pod may go nowhere: the selector names a pool that does not exist. The new nodes have devices to spare."""
    gpu_nodes(uniform_nodes(1, cards=8))
    cluster.apply([pod("waits", "20Gi", nodeSelector={"pool": "none"})], namespace)
    cluster.wait_for(lambda: len(unschedulable(placeholders(cluster))) == 1, "a placeholder")
    (found,) = placeholders(cluster)
    assert found["spec"]["nodeSelector"] == {"pool": "none"}
    free = copy.deepcopy(found)
    free["metadata"] = {"name": "free", "labels": {names.LABEL_PLACEHOLDER: "true"}}
    free["spec"].pop("nodeSelector")
    free["spec"].pop("priority")
    free["spec"].pop("preemptionPolicy", None)
    cluster.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": free["metadata"], "spec": free["spec"]}], namespace)
    cluster.wait_for(lambda: len(unschedulable(cluster.pods(namespace))) == 2, "kube-scheduler to have looked at both")
    assert not any(each["spec"].get("nodeName") for each in (*placeholders(cluster), *cluster.pods(namespace)))
    cluster.kubectl("delete", "pod", "waits", "-n", namespace, "--wait=false")
    cluster.wait_for(lambda: not placeholders(cluster), "the placeholder to go")


def test_the_rights_of_the_component_are_enough_and_reach_no_other_namespace(
    cluster: Cluster, asking: Component
) -> None:
    def may(verb: str, namespace: str) -> bool:
        asked = {"namespace": namespace, "verb": verb, "resource": "pods"}
        review = {
            "spec": {"user": "system:serviceaccount:headroom-system:headroom-scheduler", "resourceAttributes": asked}
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        return bool(cluster.api.request("POST", path, review)["status"]["allowed"])

    assert [may(verb, SPACE) for verb in ("create", "delete")] == [True, True]
    assert [may(verb, "default") for verb in ("create", "delete")] == [False, False]
    priority = yaml.safe_load(cluster.kubectl("get", "priorityclass", names.PRIORITY_PLACEHOLDER, "-o", "yaml"))
    assert (priority["value"], priority["preemptionPolicy"]) == (-5, "Never")
