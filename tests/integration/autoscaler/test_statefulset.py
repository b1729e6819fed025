"""Targets other than Deployments on a real control plane: a StatefulSet, and a LeaderWorkerSet by its scale subresource alone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from simulations.kwok.cluster import Cluster
from simulations.kwok.emulator import Load, ServingEmulator
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import Component
from tests.fakes.autoscaled import Autoscaled

LABELS = {"app": "llm"}
GROUPS_API = "leaderworkerset.x-k8s.io/v1"
ANYTHING = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
GROUPS_CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "leaderworkersets.leaderworkerset.x-k8s.io"},
    "spec": {
        "group": "leaderworkerset.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "LeaderWorkerSet", "plural": "leaderworkersets", "singular": "leaderworkerset"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": ANYTHING, "status": ANYTHING}}},
                "subresources": {
                    "status": {},
                    "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"},
                },
            }
        ],
    },
}


@pytest.fixture(scope="module")
def groups(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The schema of LeaderWorkerSets as far as scaling goes; nobody makes pods of them here."""
    manifest = tmp_path_factory.mktemp("crd") / "groups.yaml"
    manifest.write_text(yaml.safe_dump(GROUPS_CRD))
    cluster.install_crd(manifest)
    yield
    cluster.kubectl("delete", "crd", GROUPS_CRD["metadata"]["name"], "--wait=false")


@pytest.fixture(scope="module")
def autoscaler(start_autoscaler: Callable[..., Component], groups: None) -> Component:
    return start_autoscaler()


def template(start_seconds: float) -> dict[str, Any]:
    annotations = {
        "headroom.dev/sim-cold-start-seconds": str(start_seconds),
        "headroom.dev/sim-drain-seconds": "0.5",
    }
    limits = {"headroom.dev/vram": "20Gi"}
    containers = [{"name": "server", "image": "server", "resources": {"limits": limits}}]
    return {
        "metadata": {"labels": LABELS, "annotations": annotations},
        "spec": {"schedulerName": "headroom", "containers": containers},
    }


def test_a_stateful_set_grows_and_loses_its_highest_ordinals(
    cluster: Cluster,
    emulator: ServingEmulator,
    autoscaler: Component,
    namespace: str,
    gpu_nodes: Callable[..., None],
) -> None:
    gpu_nodes(uniform_nodes(2, cards=4, vram_mib=40960, resource=""))
    emulator.serve(f"{namespace}/llm", Load(0.0, output_tokens=1e9))  # requests that do not end
    spec = {"replicas": 1, "serviceName": "llm", "selector": {"matchLabels": LABELS}, "template": template(1)}
    meta = {"name": "llm", "namespace": namespace}
    cluster.apply([{"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": meta, "spec": spec}])
    target = Autoscaled(cluster, namespace, kind="StatefulSet")
    target.autoscale(engine=None, maxReplicas=4)
    target.wait_ready(1)
    emulator.put(f"{namespace}/llm", "llm-0", 28.0)
    target.wait_ready(3)
    assert target.replicas == 3
    emulator.put(f"{namespace}/llm", "llm-0", -24.0)
    target.wait(lambda: target.replicas == 1, "one replica")
    target.wait(lambda: [p["metadata"]["name"] for p in cluster.pods(namespace)] == ["llm-0"], "the first pod alone")
    assert "deletion-cost" not in str(cluster.pods(namespace)), "a StatefulSet does not look at it"
    assert [entry["reason"] for entry in target.status["history"]][-1] == "Raised"


def test_a_leader_worker_set_is_raised_by_whole_groups_that_fit(
    cluster: Cluster,
    emulator: ServingEmulator,
    autoscaler: Component,
    namespace: str,
    gpu_nodes: Callable[..., None],
) -> None:
    gpu_nodes(uniform_nodes(1, cards=3, vram_mib=40960, resource=""))
    emulator.serve(f"{namespace}/llm", Load(0.0, output_tokens=1e9))
    spec = {"replicas": 1, "leaderWorkerTemplate": {"size": 2, "workerTemplate": template(1)}}
    meta = {"name": "llm", "namespace": namespace}
    cluster.apply([{"apiVersion": GROUPS_API, "kind": "LeaderWorkerSet", "metadata": meta, "spec": spec}])
    for index in ("0", "1"):
        pod = template(1)
        pod["metadata"] |= {
            "name": f"llm-{index}", "namespace": namespace,
            "labels": LABELS | {
                "leaderworkerset.sigs.k8s.io/name": "llm", "leaderworkerset.sigs.k8s.io/worker-index": index,
            },
        }  # fmt: skip
        cluster.apply([{"apiVersion": "v1", "kind": "Pod", **pod}])
    target = Autoscaled(cluster, namespace, kind="LeaderWorkerSet", api=GROUPS_API)
    target.autoscale(engine=None, maxReplicas=4)
    target.wait_ready(1)  # the leader, which stands for its group
    emulator.put(f"{namespace}/llm", "llm-0", 38.0)
    # Three cards of 40 GiB hold six pods of 20 GiB, two are taken: two more groups, of the three that are wanted.
    target.wait(lambda: target.replicas == 3, "three groups")
    target.wait(lambda: target.status.get("desiredReplicas") == 4, "the wish for a fourth")
