"""Targets other than Deployments on a real control plane: a StatefulSet, and a LeaderWorkerSet by its scale subresource alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from simulations.kwok.cluster import Cluster, ClusterError
from simulations.kwok.emulator import Load, ServingEmulator
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import Component, free_port

WAIT_SECONDS = 90.0
"""Far beyond what is needed: a slow machine is no failure."""
CRD = Path(__file__).resolve().parents[2] / "deploy" / "base" / "crd-inferenceautoscalers.yaml"
LABELS = {"app": "llm"}
STATEFUL_SETS = "apps/v1", "statefulsets"
GROUPS = "leaderworkerset.x-k8s.io/v1", "leaderworkersets"
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
def emulator(cluster: Cluster) -> Iterator[ServingEmulator]:
    with ServingEmulator(cluster.kubeconfig) as running:
        assert cluster.prometheus is not None
        cluster.prometheus.scrape("engines", running.address)
        yield running
        cluster.prometheus.scrape("engines")


@pytest.fixture(scope="module")
def autoscaler(
    cluster: Cluster, extender: Component, extender_port: int, emulator: ServingEmulator, groups: None
) -> Iterator[Component]:
    assert cluster.prometheus is not None
    cluster.install_crd(CRD)
    port = free_port()
    component = cluster.daemon(
        "autoscaler",
        "--port", str(port), "--prometheus-url", cluster.prometheus.url,
        "--extender-url", f"http://127.0.0.1:{extender_port}", "--lease-namespace", "default",
        "--tick-seconds", "1", "--stale-seconds", "6", "--short-mean-seconds", "4", "--long-mean-seconds", "8",
        ready_url=f"http://127.0.0.1:{port}/readyz",
    )  # fmt: skip
    yield component
    component.stop()


class Target:
    """Something with a scale subresource, named `llm`, and its InferenceAutoscaler."""

    def __init__(self, cluster: Cluster, namespace: str, api: str, plural: str) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.path = f"/apis/{api}/namespaces/{namespace}/{plural}/llm"

    def autoscale(self, kind: str) -> None:
        spec = {
            "scaleTargetRef": {"kind": kind, "name": "llm"},
            "maxReplicas": 4,
            "signals": [{"name": "running", "type": "running", "target": 10}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 6, "policies": []}},
        }
        meta = {"name": "llm", "namespace": self.namespace}
        self.cluster.apply(
            [{"apiVersion": "headroom.dev/v1alpha1", "kind": "InferenceAutoscaler", "metadata": meta, "spec": spec}]
        )

    @property
    def replicas(self) -> int:
        return int(self.cluster.api.get(self.path)["spec"]["replicas"])

    @property
    def status(self) -> dict[str, Any]:
        path = f"/apis/headroom.dev/v1alpha1/namespaces/{self.namespace}/inferenceautoscalers/llm"
        return self.cluster.api.get(path).get("status", {})  # type: ignore[no-any-return]

    def wait(self, condition: Callable[[], object], what: str) -> None:
        try:
            self.cluster.wait_for(condition, what, WAIT_SECONDS)
        except ClusterError as error:
            tail = self.cluster.component("autoscaler").tail()
            raise AssertionError(f"{error}; status {self.status}; log {tail}") from None


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
    target = Target(cluster, namespace, *STATEFUL_SETS)
    target.autoscale("StatefulSet")
    target.wait(lambda: target.status.get("readyReplicas") == 1, "the first pod")
    emulator.put(f"{namespace}/llm", "llm-0", 28.0)
    target.wait(lambda: target.status.get("readyReplicas") == 3, "three ready pods")
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
    cluster.apply([{"apiVersion": GROUPS[0], "kind": "LeaderWorkerSet", "metadata": meta, "spec": spec}])
    for index in ("0", "1"):
        pod = template(1)
        pod["metadata"] |= {
            "name": f"llm-{index}", "namespace": namespace,
            "labels": LABELS | {
                "leaderworkerset.sigs.k8s.io/name": "llm", "leaderworkerset.sigs.k8s.io/worker-index": index,
            },
        }  # fmt: skip
        cluster.apply([{"apiVersion": "v1", "kind": "Pod", **pod}])
    target = Target(cluster, namespace, *GROUPS)
    target.autoscale("LeaderWorkerSet")
    target.wait(lambda: target.status.get("readyReplicas") == 1, "the leader, which stands for its group")
    emulator.put(f"{namespace}/llm", "llm-0", 38.0)
    # Three cards of 40 GiB hold six pods of 20 GiB, two are taken: two more groups, of the three that are wanted.
    target.wait(lambda: target.replicas == 3, "three groups")
    target.wait(lambda: target.status.get("desiredReplicas") == 4, "the wish for a fourth")
