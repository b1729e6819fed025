"""The component that leaves pods with NVIDIA devices to Headroom, on a real API server: case s36."""

from collections.abc import Iterator
from typing import Any

import pytest

from simulations.kwok.cluster import Cluster
from tests.integration.deploy.caller import Caller
from tests.paths import DEPLOY

COMPONENTS = DEPLOY / "components"
POLICIES = [COMPONENTS / name / f"{name}.yaml" for name in ("one-scheduler", "no-node-by-hand")]
NAME_IT = (
    "only the scheduler headroom may place pods that ask for NVIDIA devices: set spec.schedulerName: headroom, not "
)
TAKE_OUT = "take out spec.nodeName, which says n1"
BY_HAND = "only a scheduler may place pods that ask for NVIDIA devices: " + TAKE_OUT
MIG = "nvidia.com/mig-1g.10gb"
KUBELET = {"user": "system:node:n1", "group": "system:nodes"}
MIRROR = {"kubernetes.io/config.mirror": "a1", "kubernetes.io/config.hash": "a1", "kubernetes.io/config.source": "file"}


def pod(*, scheduler: str = "headroom", limits: dict[str, str], at: str = "containers", **spec: Any) -> dict[str, Any]:
    """A pod of which one container, in the list `at`, has these limits."""
    lists = {"containers": [{"name": "c", "image": "i"}], "initContainers": [{"name": "i", "image": "i"}]}
    lists[at][0] |= {"resources": {"limits": limits}}  # type: ignore[dict-item]
    named = {"schedulerName": scheduler} if scheduler else {}
    return {"metadata": {"name": "p"}, "spec": lists | named | spec}


def refusal(call: Caller, body: dict[str, Any], namespace: str = "default", **account: str) -> str:
    """What the API server says against a pod; empty when it takes it. Nothing is created."""
    code, answer, _ = call("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", body, **account)
    return "" if code == 201 else str(answer["message"])


@pytest.fixture(scope="module")
def call(cluster: Cluster) -> Caller:
    return Caller(cluster)


@pytest.fixture(scope="module", autouse=True)
def policies(cluster: Cluster, call: Caller) -> Iterator[None]:
    for path in POLICIES:
        cluster.apply(path)
    for namespace in ("gpu-operator", "nvidia-gpu-operator"):
        call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    elsewhere = pod(scheduler="", limits={"nvidia.com/gpu": "1"})
    by_hand = pod(limits={"nvidia.com/gpu": "1"}, nodeName="n1")
    cluster.wait_for(lambda: NAME_IT in refusal(call, elsewhere), "the policy on schedulers to be in force")
    cluster.wait_for(lambda: TAKE_OUT in refusal(call, by_hand), "the policy on nodes to be in force")
    yield
    for path in POLICIES:
        cluster.kubectl("delete", "-f", str(path), "--ignore-not-found")


@pytest.mark.parametrize("at", ["containers", "initContainers"])
@pytest.mark.parametrize("resource", ["nvidia.com/gpu", MIG])
@pytest.mark.parametrize("scheduler", ["", "default-scheduler", "volcano"])
def test_no_other_scheduler_places_pods_on_cards(call: Caller, scheduler: str, resource: str, at: str) -> None:
    said = refusal(call, pod(scheduler=scheduler, limits={resource: "1"}, at=at))
    assert NAME_IT + (scheduler or "default-scheduler") in said


@pytest.mark.parametrize("at", ["containers", "initContainers"])
@pytest.mark.parametrize("resource", ["nvidia.com/gpu", MIG])
def test_nobody_places_a_pod_on_cards_himself(call: Caller, resource: str, at: str) -> None:
    """A pod that names its node is bound when it is created: whatever scheduler it names beside that is never asked."""
    assert BY_HAND in refusal(call, pod(limits={resource: "1"}, at=at, nodeName="n1"))
    assert TAKE_OUT in refusal(call, pod(scheduler="", limits={resource: "1"}, at=at, nodeName="n1"))


@pytest.mark.parametrize("scheduler", ["headroom", ""])
def test_a_static_pods_mirror_passes_if_a_kubelet_writes_it(call: Caller, scheduler: str) -> None:
    """The pod runs in any case, and only what the API server shows can be counted. Nobody else gets by with the annotation."""
    mirror = pod(scheduler=scheduler, limits={"nvidia.com/gpu": "1"}, nodeName="n1")
    mirror["metadata"]["annotations"] = MIRROR
    assert refusal(call, mirror, **KUBELET) == ""
    assert TAKE_OUT in refusal(call, mirror)
    del mirror["metadata"]["annotations"]
    assert refusal(call, mirror, **KUBELET)


@pytest.mark.parametrize(
    ("body", "namespace"),
    [
        (pod(limits={"nvidia.com/gpu": "1"}), "default"),
        (pod(limits={MIG: "1"}, at="initContainers"), "default"),
        (pod(scheduler="", limits={}), "default"),
        (pod(scheduler="", limits={}, nodeName="n1"), "default"),
        (pod(scheduler="", limits={"nvidia.com/gpu": "0"}, nodeName="n1"), "default"),
        (pod(scheduler="", limits={"nvidia.com/gpu": "1"}), "kube-system"),
        (pod(scheduler="", limits={"nvidia.com/gpu": "1"}, nodeName="n1"), "gpu-operator"),
        (pod(scheduler="", limits={"nvidia.com/gpu": "1"}, nodeName="n1"), "nvidia-gpu-operator"),
    ],
)
def test_others_pass(call: Caller, body: dict[str, Any], namespace: str) -> None:
    assert refusal(call, body, namespace) == ""
