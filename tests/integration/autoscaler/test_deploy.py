"""The autoscaler's manifests on a real API server: the rights are enough and no more, the examples apply, people can read it."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from headroom.kube import calls
from headroom.kube.aio import connect
from headroom.kube.client import KubeError
from simulations.kwok.cluster import Cluster
from simulations.kwok.emulator import Load, ServingEmulator
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import free_port
from tests.fakes.autoscaled import Autoscaled
from tests.paths import DEPLOY

ACCOUNT = "system:serviceaccount:headroom-system:headroom-autoscaler"
CRD = DEPLOY / "base" / "crd-inferenceautoscalers.yaml"
OPTIONAL = {"leaderworkersets", "leaderworkersets/scale", "statefulsets/scale"}
"""Kinds that this cluster lacks (the autoscaler looks for them now and then) or this test does not scale."""

Right = tuple[str, str, str]


@pytest.fixture(scope="module")
def secured() -> Iterator[Cluster]:
    """A cluster of its own with the autoscaler's manifests."""
    with Cluster.start(nodes=uniform_nodes(1, cards=8, resource=""), prometheus=True, audit=True) as running:
        running.apply(DEPLOY / "base" / "namespace.yaml")
        running.install_crd(CRD)
        manifests = [item for item in yaml.safe_load_all((DEPLOY / "base" / "autoscaler.yaml").read_text()) if item]
        running.apply([item for item in manifests if item["kind"] != "Deployment"])
        running.apply(DEPLOY / "base" / "autoscaler-admission.yaml")
        role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/headroom-autoscaler"
        running.wait_for(lambda: running.api.get(role).get("rules"), "the role to be filled from those with its label")
        yield running


def granted() -> set[Right]:
    documents = yaml.safe_load_all((DEPLOY / "base" / "autoscaler.yaml").read_text())
    return {
        (group, resource, verb)
        for item in documents
        if item["kind"] in ("Role", "ClusterRole")
        for rule in item.get("rules", ())
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if resource not in OPTIONAL
    }


def used(cluster: Cluster) -> set[Right]:
    events = [
        event for event in cluster.audit_events() if event["user"]["username"] == ACCOUNT and "objectRef" in event
    ]
    rights = {
        (ref.get("apiGroup", ""), "/".join(filter(None, (ref["resource"], ref.get("subresource")))), event["verb"])
        for event in events
        for ref in [event["objectRef"]]
    }
    return {right for right in rights if right[1] not in OPTIONAL}


def deployment(name: str, replicas: int) -> dict[str, Any]:
    labels = {"app": name}
    container = {"name": "server", "image": "server"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def refuse_pods_of_a_stateful_set(cluster: Cluster, emulator: ServingEmulator) -> None:
    """One pod in a namespace whose quota takes no other: what the controller says of it is in an Event alone."""
    cluster.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "full"}})
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "pods", "namespace": "full"}}
    cluster.apply([{**quota, "spec": {"hard": {"pods": "1"}}}])
    emulator.serve("full/llm", Load(14.0))
    made = deployment("llm", 1)
    spec = {**made["spec"], "serviceName": "llm", "podManagementPolicy": "Parallel"}
    meta = {"name": "llm", "namespace": "full"}
    cluster.apply([{**made, "kind": "StatefulSet", "metadata": meta, "spec": spec}])
    target = Autoscaled(cluster, "full", kind="StatefulSet")
    target.autoscale()

    def limited() -> str:
        return next((c["message"] for c in target.status.get("conditions", ()) if c["type"] == "CapacityLimited"), "")

    cluster.wait_for(lambda: "exceeded quota" in limited(), "the quota to be named", 90)
    cluster.kubectl("delete", "ia,sts", "llm", "-n", "full")


def test_with_exactly_its_rights_it_raises_and_lowers_and_nothing_is_refused(secured: Cluster) -> None:
    assert secured.prometheus is not None
    port = free_port()
    with ServingEmulator(secured.kubeconfig) as emulator:
        secured.prometheus.scrape("engines", emulator.address)
        emulator.serve("default/llm", Load(14.0))
        component = secured.daemon(
            "autoscaler",
            "--port", str(port), "--prometheus-url", secured.prometheus.url, "--extender-url", "",
            "--tick-seconds", "1", "--stale-seconds", "6",
            ready_url=f"http://127.0.0.1:{port}/readyz",
            kubeconfig=secured.service_account_kubeconfig("headroom-system", "headroom-autoscaler"),
        )  # fmt: skip
        secured.apply([deployment("llm", 1)])
        secured.apply(
            [
                {
                    "apiVersion": "headroom.dev/v1alpha1",
                    "kind": "InferenceAutoscaler",
                    "metadata": {"name": "llm", "namespace": "default"},
                    "spec": {
                        "scaleTargetRef": {"kind": "Deployment", "name": "llm"},
                        "maxReplicas": 6,
                        "signals": [{"name": "running", "type": "running", "target": 10}],
                        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5, "policies": []}},
                    },
                }
            ]
        )

        def replicas() -> int:
            return int(secured.api.get("/apis/apps/v1/namespaces/default/deployments/llm")["spec"]["replicas"])

        secured.wait_for(lambda: replicas() >= 3, "growth")
        refuse_pods_of_a_stateful_set(secured, emulator)
        emulator.change("default/llm", requests_per_second=1.0)
        secured.wait_for(lambda: replicas() == 1, "the cut")
        time.sleep(2)
        component.stop()
    refusals = [
        f"{event['verb']} {event['requestURI']}"
        for event in secured.audit_events()
        if event["user"]["username"] == ACCOUNT and event["responseStatus"]["code"] == 403
    ]
    assert refusals == []
    assert used(secured) == granted()


def test_it_may_change_no_more_of_a_pod_than_its_deletion_cost(secured: Cluster) -> None:
    template = deployment("guarded", 1)["spec"]["template"]
    secured.apply(
        [{"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "guarded", "namespace": "default"}}]
    )
    kubeconfig = secured.service_account_kubeconfig("headroom-system", "headroom-autoscaler")

    async def write(change: dict[str, Any]) -> str:
        kube = await connect(str(kubeconfig))
        try:
            await calls.merge_patch(kube, calls.pod_path("default", "guarded"), change)
        except KubeError as error:
            return str(error)
        finally:
            await kube.close()
        return ""

    def patch(change: dict[str, Any]) -> str:
        return asyncio.run(write(change))

    cost = "controller.kubernetes.io/pod-deletion-cost"
    secured.wait_for(lambda: patch({"metadata": {"annotations": {"x": "1"}}}), "the policy to hold")
    assert patch({"metadata": {"annotations": {cost: "-1000"}}}) == ""
    assert patch({"metadata": {"annotations": {cost: None}}}) == ""
    for change in (
        {"metadata": {"annotations": {"headroom.dev/assigned-cards": "0"}}},
        {"metadata": {"labels": {"app": "other"}}},
        {"metadata": {"finalizers": ["x.io/stay"]}},
        {"spec": {"activeDeadlineSeconds": 5}},
    ):
        assert "may change no more of a pod" in patch(change)


def headroom(cluster: Cluster, *arguments: str) -> str:
    command = [sys.executable, "-m", "headroom", "autoscaler", "--kubeconfig", str(cluster.kubeconfig), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_one_round_can_be_looked_at_without_writing(secured: Cluster) -> None:
    assert secured.prometheus is not None
    before = len(secured.audit_events())
    said = headroom(secured, "--once", "--dry-run", "--prometheus-url", secured.prometheus.url, "--extender-url", "")
    assert "default/llm: 1 -> 1" in said
    scales = [
        e for e in secured.audit_events()[before:] if e["verb"] in ("patch", "create") and "llm" in e["requestURI"]
    ]
    assert [
        e["requestURI"] for e in scales if "inferenceautoscalers" in e["requestURI"] or "/scale" in e["requestURI"]
    ] == []


def test_people_can_read_it(secured: Cluster) -> None:
    table = secured.kubectl("get", "ia")
    assert table.splitlines()[0].split() == [
        "NAME", "TARGET", "ENGINE", "MIN", "MAX", "REPLICAS", "WANTED", "UNMET", "ACTIVE", "REASON", "AGE",
    ]  # fmt: skip
    description = secured.kubectl("describe", "ia", "llm")
    for words in ("ScalingActive", "SuccessfulRescale", "Unmet Replicas", "History"):
        assert words in description
    command = [
        sys.executable,
        "-m",
        "headroom",
        "autoscaler",
        "--kubeconfig",
        str(secured.kubeconfig),
        "explain",
        "llm",
    ]
    explained = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    assert "default/llm: Deployment llm, engine vllm, Auto, 1 to 6 replicas" in explained
    assert explained.index("Why:") < explained.index("Signals:") < explained.index("History:")


def test_kubectl_explain_reads_like_a_manual(secured: Cluster) -> None:
    assert "500m is half a second" in " ".join(secured.kubectl("explain", "ia.spec.signals.target").split())
    assert "holds at once" in " ".join(secured.kubectl("explain", "ia.spec.minReplicas").split())
    for path in ("ia.spec", "ia.spec.scaleToZero", "ia.spec.behavior.scaleUp.policies", "ia.status.conditions"):
        assert "<no description>" not in secured.kubectl("explain", path)


@pytest.mark.parametrize("name", ["vllm", "triton", "fastchat"])
def test_the_examples_pass_the_api_servers_validation(secured: Cluster, name: str) -> None:
    files = {"vllm": "vllm-two-on-one-card", "triton": "triton-time-sliced", "fastchat": "fastchat"}
    namespace = f"example-{name}"
    secured.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    secured.apply((DEPLOY / "examples" / f"{files[name]}.yaml").read_text(), namespace)
    example = str(DEPLOY / "examples" / f"{name}-autoscaler.yaml")
    secured.kubectl("apply", "--server-side", "--field-manager=autoscaling", "-n", namespace, "-f", example)
    path = f"/apis/headroom.dev/v1alpha1/namespaces/{namespace}/inferenceautoscalers"
    target = secured.api.items(path)[0]["spec"]["scaleTargetRef"]["name"]
    found = secured.api.get(f"/apis/apps/v1/namespaces/{namespace}/deployments/{target}")
    if name == "fastchat":
        containers = {c["name"]: c for c in found["spec"]["template"]["spec"]["containers"]}
        assert set(containers) == {"worker", "queue-exporter"}
        assert containers["worker"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
