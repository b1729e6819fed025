"""Targets that are not a plain Deployment of one's own, on a real control plane: quotas, other writers, other kinds, odd numbers."""

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
ENDLESS = Load(0.0, output_tokens=1e9)
"""Requests that do not end."""
ROLLOUTS = "argoproj.io/v1alpha1"
OPEN: dict[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "rollouts.argoproj.io"},
    "spec": {
        "group": "argoproj.io",
        "scope": "Namespaced",
        "names": {"kind": "Rollout", "plural": "rollouts", "singular": "rollout"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": OPEN, "status": OPEN}}},
                "subresources": {
                    "status": {},
                    "scale": {
                        "specReplicasPath": ".spec.replicas",
                        "statusReplicasPath": ".status.replicas",
                        "labelSelectorPath": ".status.selector",
                    },
                },
            }
        ],
    },
}


@pytest.fixture(scope="module")
def autoscaler(start_autoscaler: Callable[..., Component]) -> Component:
    return start_autoscaler("--extender-url", "")


@pytest.fixture
def rollouts(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    manifest = tmp_path_factory.mktemp("crd") / "rollouts.yaml"
    manifest.write_text(yaml.safe_dump(CRD))
    cluster.install_crd(manifest)
    yield
    cluster.kubectl("delete", "crd", CRD["metadata"]["name"], "--wait=false")


def template() -> dict[str, Any]:
    annotations = {"headroom.dev/sim-cold-start-seconds": "1", "headroom.dev/sim-drain-seconds": "0.5"}
    containers = [{"name": "server", "image": "server"}]
    return {"metadata": {"labels": LABELS, "annotations": annotations}, "spec": {"containers": containers}}


@pytest.fixture
def target(
    cluster: Cluster,
    emulator: ServingEmulator,
    autoscaler: Component,
    namespace: str,
    gpu_nodes: Callable[..., None],
) -> Autoscaled:
    gpu_nodes(uniform_nodes(1, cards=8, resource=""))
    return Autoscaled(cluster, namespace)


def deploy(target: Autoscaled, replicas: int) -> None:
    spec = {"replicas": replicas, "selector": {"matchLabels": LABELS}, "template": template()}
    meta = {"name": target.name, "namespace": target.namespace}
    target.cluster.apply([{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}])


def condition(target: Autoscaled, kind: str) -> dict[str, Any]:
    return next((c for c in target.status.get("conditions", ()) if c["type"] == kind), {})


def test_a_quota_is_named_in_the_controllers_words_and_stops_growth(
    cluster: Cluster, target: Autoscaled, emulator: ServingEmulator
) -> None:
    """C05, veryfront/veryfront-code#188."""
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods", "namespace": target.namespace}}
    cluster.apply([{**quota, "spec": {"hard": {"pods": "2"}}}])
    emulator.serve(target.key, ENDLESS)
    deploy(target, 1)
    target.autoscale(maxReplicas=50)
    target.wait_ready(1)
    emulator.put(target.key, cluster.pods(target.namespace)[0]["metadata"]["name"], 400.0)
    target.wait(lambda: "exceeded quota" in condition(target, "CapacityLimited").get("message", ""), "the quota's name")
    assert condition(target, "CapacityLimited")["reason"] == "PodsNotCreated"
    stands = target.replicas
    assert stands < 20
    target.wait(lambda: target.status["unmetReplicas"] == target.status["desiredReplicas"] - 2, "what is missing")
    assert target.replicas == stands


def test_who_else_writes_the_replicas_is_named(cluster: Cluster, target: Autoscaled, emulator: ServingEmulator) -> None:
    """C06: a GitOps controller applies its count again and again."""
    emulator.serve(target.key, ENDLESS)
    deploy(target, 1)
    target.autoscale(minReplicas=3)
    target.wait(lambda: target.replicas == 3, "three replicas")
    path = f"/apis/apps/v1/namespaces/{target.namespace}/deployments/llm"
    for _ in range(2):
        patch, query = {"spec": {"replicas": 1}}, {"fieldManager": "argocd-controller"}
        cluster.api.request("PATCH", path, patch, query=query, content_type="application/merge-patch+json")
        target.wait(lambda: target.replicas == 3, "three replicas again")
    target.wait(lambda: condition(target, "Conflict").get("reason") == "OtherWriter", "the other writer to be named")
    assert "argocd-controller changed the replicas, 2 times" in condition(target, "Conflict")["message"]


def test_a_rollout_of_argo_is_scaled_as_soon_as_its_kind_is_there(
    cluster: Cluster, target: Autoscaled, emulator: ServingEmulator, request: pytest.FixtureRequest
) -> None:
    """C16: by discovery, by the selector of its scale; the kind comes after the autoscaler."""
    one = Autoscaled(cluster, target.namespace, kind="Rollout", api=ROLLOUTS)
    one.autoscale(scaleTargetRef={"apiVersion": ROLLOUTS, "kind": "Rollout", "name": "llm"})
    one.wait(lambda: condition(one, "Ready").get("reason") == "TargetNotScalable", "the refusal")
    request.getfixturevalue("rollouts")
    emulator.serve(one.key, ENDLESS)
    meta = {"name": "llm", "namespace": one.namespace}
    cluster.apply(
        [{"apiVersion": ROLLOUTS, "kind": "Rollout", "metadata": meta, "spec": {"replicas": 1, "template": template()}}]
    )
    path = f"/apis/{ROLLOUTS}/namespaces/{one.namespace}/rollouts/llm"
    cluster.api.patch(f"{path}/status", {"status": {"replicas": 1, "updatedReplicas": 1, "selector": "app=llm"}})
    pod = template()
    pod["metadata"] |= {"name": "llm-0", "namespace": one.namespace}
    cluster.apply([{"apiVersion": "v1", "kind": "Pod", **pod}])
    cluster.wait_for(lambda: one.status.get("readyReplicas") == 1, "its pod to be found", 150)
    emulator.put(one.key, "llm-0", 28.0)
    one.wait(lambda: one.replicas == 3, "three replicas")


def test_a_kind_without_a_scale_is_refused_in_words(target: Autoscaled) -> None:
    target.autoscale(scaleTargetRef={"apiVersion": "batch/v1", "kind": "Job", "name": "llm"})
    target.wait(lambda: condition(target, "Ready").get("reason") == "TargetNotScalable", "the refusal")
    assert "Job has no scale subresource" in condition(target, "Ready")["message"]


@pytest.mark.parametrize("query", ["vector(1e15)", "vector(1.7e308)"])
def test_a_wish_beyond_all_bounds_can_be_written(target: Autoscaled, query: str) -> None:
    """C25, Q04: the status holds numbers of 32 bits."""
    deploy(target, 1)
    target.autoscale(
        engine="custom", maxReplicas=3, signals=[{"name": "q", "type": "query", "query": query, "target": "10m"}]
    )
    target.wait(lambda: target.replicas == 3, "the maximum")
    target.wait(lambda: target.status["signals"][0].get("wish", 0) > 10**9, "the wish in the status")
    assert condition(target, "Ready")["status"] == "True"
