"""What the rights of deploy/ let an agent write: its own node and no other, and no correction of a successor."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from agent.pods.reconcile import Device
from headroom.kube.aio import connect
from headroom.kube.calls import NODES, annotate, merge_patch, pod_path
from headroom.kube.client import Forbidden, Unprocessable
from simulations.kwok.cluster import Cluster
from tests.integration.agent.nodes import Node, annotation, ask, kubelet_at
from tests.paths import DEPLOY

BASE = DEPLOY / "base"


@pytest.fixture
def installed(cluster: Cluster) -> Iterator[None]:
    """The agent's account, rights and policy of deploy/base."""
    cluster.apply(BASE / "namespace.yaml")
    for name in ("agent.yaml", "agent-admission.yaml"):
        cluster.apply(BASE / name)
    yield
    for name in ("agent.yaml", "agent-admission.yaml"):
        cluster.kubectl("delete", "-f", str(BASE / name), "--ignore-not-found", "--wait=false")


def _agent_token(cluster: Cluster, node: str, tmp_path: Path) -> Path:
    """A kubeconfig with the token that kubelet would mount into the agent's pod on a node."""
    pods = "/api/v1/namespaces/headroom-system/pods"
    name = f"agent-on-{node}"
    container = {"name": "agent", "image": "headroom"}
    spec = {
        "nodeName": node,
        "serviceAccountName": "headroom-agent",
        "containers": [container],
        "terminationGracePeriodSeconds": 0,
    }
    cluster.api.request("POST", pods, {"metadata": {"name": name}, "spec": spec})
    uid = cluster.api.get(f"{pods}/{name}")["metadata"]["uid"]
    reference = {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}
    path = "/api/v1/namespaces/headroom-system/serviceaccounts/headroom-agent/token"
    answer = cluster.api.request("POST", path, {"spec": {"expirationSeconds": 3600, "boundObjectRef": reference}})
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": answer["status"]["token"]}
    kubeconfig = tmp_path / f"{name}.kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(config))
    return kubeconfig


@pytest.mark.usefixtures("installed")
def test_the_rights_of_deploy_are_enough_for_an_agents_own_node_and_for_no_other(
    cluster: Cluster, namespace: str, node_with_agent: Callable[..., Node], tmp_path: Path
) -> None:
    mine = node_with_agent("agent-mine", slices=2, resource="nvidia.com/gpu", agent=False)
    other = node_with_agent("agent-other", agent=False)
    kubeconfig = _agent_token(cluster, mine.name, tmp_path)
    cluster.wait_for(lambda: not _may(kubeconfig, other.name, "headroom.dev/cards"), "the policy to hold")
    assert _may(kubeconfig, mine.name, "headroom.dev/cards")
    assert not _may(kubeconfig, mine.name, "example.com/cards")
    ask(cluster, namespace, "stranger", 0, devices=1, scheduler="default-scheduler")
    cluster.wait_for(lambda: any(pod["status"].get("startTime") for pod in cluster.pods(namespace)), "the pod to start")
    left_behind = {"status": {"capacity": {"headroom.dev/vram": "160Gi"}}}  # by an earlier version's --publish-capacity
    merge = "application/merge-patch+json"
    cluster.api.request("PATCH", f"/api/v1/nodes/{mine.name}/status", left_behind, content_type=merge)
    probed = len(cluster.audit_events())
    with kubelet_at(mine.socket) as kubelet:
        kubelet.devices = [Device(namespace, "stranger", "engine", "nvidia.com/gpu", f"{mine.card(1)}::1")]
        agent = mine.start_agent("--podresources-socket", str(mine.socket), kubeconfig=kubeconfig)
        cluster.wait_for(lambda: len(mine.published()) == 2, "its cards")
        cluster.wait_for(lambda: annotation(cluster, namespace, "stranger") == mine.card(1), "the report")
        cluster.wait_for(
            lambda: "headroom.dev/vram" not in cluster.api.get(f"/api/v1/nodes/{mine.name}")["status"]["capacity"],
            "the capacity to be taken away",
        )
        agent.stop()
    user = "system:serviceaccount:headroom-system:headroom-agent"
    calls = [event for event in cluster.audit_events()[probed:] if event["user"]["username"] == user]
    assert {event["objectRef"]["resource"] for event in calls} == {"nodes", "pods", "events", "resourceslices"}
    assert [event["requestURI"] for event in calls if event["responseStatus"]["code"] >= 400] == []


def test_the_api_server_refuses_a_correction_of_a_successor(cluster: Cluster, namespace: str) -> None:
    ask(cluster, namespace, "server", 1024)

    async def correct() -> None:
        kube = await connect(str(cluster.kubeconfig))
        body = {
            "metadata": {
                "uid": "00000000-0000-0000-0000-000000000000",
                "annotations": {"headroom.dev/assigned-cards": "x"},
            }
        }
        try:
            await merge_patch(kube, pod_path(namespace, "server"), body)
        finally:
            await kube.close()

    with pytest.raises(Unprocessable, match="field is immutable"):
        asyncio.run(correct())
    assert annotation(cluster, namespace, "server") == ""


def _may(kubeconfig: Path, node: str, key: str) -> bool:
    """Whether the holder of these credentials can write an annotation on a node."""

    async def write() -> bool:
        kube = await connect(str(kubeconfig))
        try:
            await annotate(kube, f"{NODES}/{node}", {key: "[]"})
        except (Forbidden, Unprocessable):
            return False
        finally:
            await kube.close()
        return True

    return asyncio.run(write())
