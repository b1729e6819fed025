"""The component that leaves pods with NVIDIA devices to Headroom, on a real API server: case s36."""

from collections.abc import Iterator

import pytest

from simulations.kwok.cluster import Cluster
from tests.paths import DEPLOY

POLICY = DEPLOY / "components" / "one-scheduler" / "one-scheduler.yaml"
WORDS = "only the scheduler headroom may place pods that ask for NVIDIA devices: set spec.schedulerName: headroom"


def refusal(cluster: Cluster, *, scheduler: str, devices: str, namespace: str = "default") -> str:
    """What the API server says against a pod; empty when it takes it. Nothing is created."""
    limits = {"nvidia.com/gpu": devices} if devices else {}
    spec = {"containers": [{"name": "c", "image": "i", "resources": {"limits": limits}}]}
    body = {"metadata": {"name": "p"}, "spec": spec | ({"schedulerName": scheduler} if scheduler else {})}
    try:
        cluster.api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body, query={"dryRun": "All"})
    except Exception as error:
        return str(error)
    return ""


@pytest.fixture(scope="module", autouse=True)
def policy(cluster: Cluster) -> Iterator[None]:
    cluster.apply(POLICY)
    cluster.wait_for(lambda: WORDS in refusal(cluster, scheduler="", devices="1"), "the policy to be in force")
    yield
    cluster.kubectl("delete", "-f", str(POLICY), "--ignore-not-found")


@pytest.mark.parametrize("scheduler", ["", "default-scheduler", "volcano"])
def test_no_other_scheduler_places_pods_on_cards(cluster: Cluster, scheduler: str) -> None:
    assert WORDS in refusal(cluster, scheduler=scheduler, devices="1")


@pytest.mark.parametrize(
    ("scheduler", "devices", "namespace"),
    [("headroom", "1", "default"), ("", "", "default"), ("", "0", "default"), ("", "1", "kube-system")],
)
def test_others_pass(cluster: Cluster, scheduler: str, devices: str, namespace: str) -> None:
    assert refusal(cluster, scheduler=scheduler, devices=devices, namespace=namespace) == ""
