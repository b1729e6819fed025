"""Karpenter itself, with its provider of KWOK nodes, beside kube-scheduler and the extender: it brings the node that a pod lacks.

karpenter#742, KAI#111, KAI#119: a node autoscaler does not see pods that ask for a part of a card.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headroom import names
from headroom.domain.node_cards import encode_cards
from simulations.kwok.build import find_binaries
from simulations.kwok.cluster import Cluster
from simulations.kwok.karpenter import KARPENTER, definitions
from simulations.kwok.nodes import node_manifest, uniform_nodes
from simulations.kwok.process import free_port
from tests.paths import DEPLOY

SPACE = "headroom-placeholders"
CALM_ROUNDS = 10
INSTANCE_TYPES = [
    {
        "name": "gpu.large", "architecture": "amd64", "operatingSystems": ["linux"],
        "resources": {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110", "nvidia.com/gpu": "1"},
        "offerings": [{"Price": 1.0, "Available": True, "Requirements": [
            {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand"]},
            {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["zone-a"]},
        ]}],
    }
]  # fmt: skip
POOL = """
apiVersion: karpenter.kwok.sh/v1alpha1
kind: KWOKNodeClass
metadata: {name: default}
---
apiVersion: karpenter.sh/v1
kind: NodePool
metadata: {name: gpu}
spec:
  template:
    metadata: {labels: {pool: gpu}}
    spec:
      requirements:
      - {key: karpenter.sh/capacity-type, operator: In, values: [on-demand]}
      nodeClassRef: {name: default, kind: KWOKNodeClass, group: karpenter.kwok.sh}
  disruption: {consolidationPolicy: WhenEmptyOrUnderutilized, consolidateAfter: 2s}
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Headroom's kube-scheduler and extender, and Karpenter, which takes away what is not needed after two seconds."""
    folder, port, probes = tmp_path_factory.mktemp("karpenter"), free_port(), free_port()
    types = folder / "types.json"
    types.write_text(json.dumps(INSTANCE_TYPES))
    with Cluster.start() as running:
        config: dict[str, Any] = yaml.safe_load((DEPLOY / "base" / "kube-scheduler.yaml").read_text())
        config["leaderElection"] = {"leaderElect": False}
        config["extenders"][0]["urlPrefix"] = f"http://127.0.0.1:{port}"
        running.add_scheduler("headroom-kube-scheduler", config)
        for definition in definitions():
            running.install_crd(definition)
        running.apply((DEPLOY / "components" / "node-autoscaling" / "node-autoscaling.yaml").read_text())
        running.apply(POOL)
        running.daemon(
            "scheduler", "--port", str(port), "--placeholder-namespace", SPACE, "--placeholder-wait-seconds", "1",
            ready_url=f"http://127.0.0.1:{port}/readyz",
        )  # fmt: skip
        running.run(
            "karpenter", [str(karpenter())], ready_url=f"http://127.0.0.1:{probes}/readyz",
            environment={
                "KUBECONFIG": str(running.kubeconfig), "INSTANCE_TYPES_FILE_PATH": str(types), "DISABLE_LEADER_ELECTION": "true",
                "METRICS_PORT": str(free_port()), "HEALTH_PROBE_PORT": str(probes), "SYSTEM_NAMESPACE": "kube-system",
                "BATCH_IDLE_DURATION": "500ms", "BATCH_MAX_DURATION": "2s",
            },
        )  # fmt: skip
        yield running


def karpenter() -> Path:
    return find_binaries(KARPENTER) / "karpenter"


def pod(name: str, vram: str) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": "server",
        "resources": {"limits": {names.RESOURCE_VRAM: vram}, "requests": {"cpu": "1"}},
    }
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "schedulerName": "headroom", "nodeSelector": {"pool": "gpu"}, "terminationGracePeriodSeconds": 0, "containers": [container],
        },
    }  # fmt: skip


def node_of(cluster: Cluster, name: str) -> str:
    return str(cluster.api.get(f"/api/v1/namespaces/default/pods/{name}")["spec"].get("nodeName", ""))


def grown(cluster: Cluster) -> list[str]:
    """The nodes that Karpenter brought; the agent's part, which tells of their cards, is done here."""
    nodes = [
        node for node in cluster.api.items("/api/v1/nodes") if "karpenter.sh/nodepool" in node["metadata"]["labels"]
    ]
    for node in nodes:
        if names.ANNOTATION_NODE_CARDS not in node["metadata"].get("annotations", {}):
            (described,) = uniform_nodes(1, cards=1, prefix=f"{node['metadata']['name'][-8:]}-")
            cards = {names.ANNOTATION_NODE_CARDS: encode_cards(described.cards)}
            cluster.api.patch(f"/api/v1/nodes/{node['metadata']['name']}", {"metadata": {"annotations": cards}})
    return [node["metadata"]["name"] for node in nodes]


class Watch:
    """When what came about, for people to read: nothing is asserted of it."""

    def __init__(self) -> None:
        self.began, self._notes = time.monotonic(), list[str]()

    def note(self, what: str) -> None:
        self._notes.append(f"{time.monotonic() - self.began:5.1f} s  {what}")

    def print(self, title: str) -> None:
        print("", title, *self._notes, sep="\n")


def test_a_pod_without_room_brings_one_node_which_stays_while_it_is_there_and_goes_after_it(cluster: Cluster) -> None:
    """A node full of pinned pods is there, and all its devices look free."""
    full = node_manifest(uniform_nodes(1, cards=1)[0])
    full["metadata"]["labels"]["pool"] = "gpu"
    cluster.create_node_objects([full])
    cluster.apply([pod("first", "70Gi")])
    cluster.wait_for(lambda: node_of(cluster, "first") == full["metadata"]["name"], "the first pod to fill the node")

    watch = Watch()
    cluster.apply([pod("waits", "20Gi"), pod("also", "30Gi")])
    cluster.wait_for(lambda: cluster.pods(SPACE), "a placeholder")
    watch.note("a placeholder asks")
    cluster.wait_for(lambda: len(grown(cluster)) == 1, "a node of Karpenter's")
    watch.note("a node is there")
    (new,) = grown(cluster)
    cluster.wait_for(
        lambda: {node_of(cluster, name) for name in ("waits", "also")} == {new}, "both pods on the new node"
    )
    watch.note("both pods are on it")
    cluster.wait_for(lambda: not cluster.pods(SPACE), "the placeholder to go")
    watch.note("the placeholder is gone")
    # Nothing more comes, and Karpenter does not think that the node is empty or that its pods could be elsewhere.
    for _ in range(CALM_ROUNDS):
        time.sleep(1.0)
        assert (grown(cluster), cluster.pods(SPACE)) == ([new], [])
    assert len(cluster.api.items("/apis/karpenter.sh/v1/nodeclaims")) == 1

    for name in ("waits", "also"):
        cluster.kubectl("delete", "pod", name, "--wait=false")
    watch.began = time.monotonic()
    cluster.wait_for(lambda: grown(cluster) == [], "the empty node to go")
    watch.note("its pods are deleted: the node is gone")
    assert node_of(cluster, "first") == full["metadata"]["name"]
    watch.print("two pods of 20 and 30 GiB, one node full")


def test_twelve_small_pods_bring_two_nodes_and_not_twelve(cluster: Cluster) -> None:
    """Each could ask for a node of its own; six of 12 GiB fit on a card of 80 GiB."""
    small = [f"small-{at}" for at in range(12)]
    watch = Watch()
    cluster.apply([pod(name, "12Gi") for name in small])
    cluster.wait_for(
        lambda: grown(cluster) and all(node_of(cluster, name) for name in small), "all of them to be placed", 120
    )
    watch.note("all are placed")
    for _ in range(CALM_ROUNDS):
        time.sleep(1.0)
        assert len(grown(cluster)) == 2
    watch.print(f"twelve pods of 12 GiB: {len(grown(cluster))} nodes")
    for name in small:
        cluster.kubectl("delete", "pod", name, "--wait=false")
    cluster.wait_for(lambda: grown(cluster) == [], "the empty nodes to go")
