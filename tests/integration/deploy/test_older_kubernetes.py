"""deploy/ for clusters without MutatingAdmissionPolicy v1: each overlay applies cleanly, twice, and places the examples.

Run on any Kubernetes that the tests have: what an older one lacks, the overlay does without. `HEADROOM_KUBERNETES=1.34` runs it there.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from headroom.domain.model import Mode
from simulations.kwok.cluster import Cluster, ClusterError
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import free_port
from tests.integration.conftest import deployed_scheduler_config
from tests.paths import DEPLOY

OVERLAYS = DEPLOY / "overlays"
EXAMPLES = DEPLOY / "examples"
BETA = (
    "--feature-gates=MutatingAdmissionPolicy=true",
    "--runtime-config=admissionregistration.k8s.io/v1beta1=true",
)
RUNTIME_CLASS = {
    "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "nvidia"}, "handler": "nvidia",
}  # fmt: skip


def field(name: str, annotation: str) -> dict[str, Any]:
    return {
        "name": name,
        "valueFrom": {"fieldRef": {"fieldPath": f"metadata.annotations['headroom.dev/{annotation}']"}},
    }


CARDS = field("NVIDIA_VISIBLE_DEVICES", "assigned-cards")
SHARE = field("HEADROOM_VRAM_SHARE", "assigned-vram-share")


class BetaCluster(Cluster):
    """One whose API server serves the beta of MutatingAdmissionPolicy."""

    api_flags = BETA


@pytest.fixture(scope="module", params=["mutation-v1beta1", "without-mutation"])
def installed(request: pytest.FixtureRequest) -> Iterator[tuple[Cluster, bool]]:
    """A cluster with an overlay on it, Headroom's scheduler beside it, and whether pods are mutated."""
    mutated = request.param == "mutation-v1beta1"
    port = free_port()
    nodes = [
        *uniform_nodes(1, prefix="pinned-", cards=1, model="NVIDIA-L40S", vram_mib=46068, resource=""),
        *uniform_nodes(1, prefix="sliced-", cards=2, model="NVIDIA-L4", vram_mib=23034, slices=4),
        *uniform_nodes(1, prefix="whole-", cards=3),
    ]
    with (BetaCluster if mutated else Cluster).start(nodes=nodes) as running:
        folder = OVERLAYS / request.param
        running.apply(folder)
        running.apply(folder)
        running.apply([RUNTIME_CLASS])
        running.add_scheduler("headroom-kube-scheduler", deployed_scheduler_config(port))
        running.daemon(
            "scheduler",
            "--port",
            str(port),
            ready_url=f"http://127.0.0.1:{port}/readyz",
            kubeconfig=running.service_account_kubeconfig("headroom-system", "headroom-scheduler"),
        )
        in_force(running, "headroom.dev/assigned-cards" if mutated else "schedulerName: headroom", mutated=mutated)
        yield running, mutated


def in_force(cluster: Cluster, sign: str, *, mutated: bool) -> None:
    container = {"name": "main", "image": "server", "resources": {"limits": {"headroom.dev/vram": "1Gi"}}}
    probe = {"metadata": {"name": "probe"}, "spec": {"containers": [container]}}

    def answered() -> bool:
        try:
            pod = cluster.api.request("POST", "/api/v1/namespaces/default/pods", probe, query={"dryRun": "All"})
        except Exception as error:  # what the API server says is what is looked at
            return not mutated and sign in str(error)
        return mutated and sign in str(pod)

    cluster.wait_for(answered, f"the policy to be in force: {sign}", 60)


def by_hand(manifest: str) -> list[dict[str, Any]]:
    """An example with the lines that docs/install.md asks for where nothing writes them."""
    objects: list[dict[str, Any]] = [item for item in yaml.safe_load_all((EXAMPLES / manifest).read_text()) if item]
    for each in objects:
        spec = each["spec"].get("template", {}).get("spec", {})
        for container in spec.get("containers", []):
            limits = container.get("resources", {}).get("limits", {})
            if "headroom.dev/vram" in limits:
                spec["schedulerName"] = "headroom"
                own = [SHARE] if "nvidia.com/gpu" in limits else [CARDS, SHARE]
                container["env"] = [*own, *container.get("env", [])]
    return objects


@pytest.mark.parametrize(
    ("manifest", "selector", "node", "mode", "count"),
    [
        ("vllm-two-on-one-card.yaml", "app=vllm-qwen", "pinned-0000", Mode.PINNED, 2),
        ("triton-time-sliced.yaml", "app=triton", "sliced-0000", Mode.SLICE, 1),
        ("fastchat.yaml", "part=worker", "whole-0000", Mode.SLICE, 1),
        ("model-server.yaml", "app=tgi-llama", "whole-0000", Mode.SLICE, 1),
    ],
)
def test_the_examples_are_placed(
    installed: tuple[Cluster, bool], manifest: str, selector: str, node: str, mode: Mode, count: int
) -> None:
    cluster, mutated = installed
    cluster.apply(EXAMPLES / manifest if mutated else by_hand(manifest), "default")

    def bound() -> list[dict[str, Any]]:
        found = cluster.pods("default", labelSelector=selector)
        return [pod for pod in found if pod["spec"].get("nodeName")]

    cluster.wait_for(lambda: len(bound()) == count, f"{count} pods of {manifest} to be bound", 90)
    for pod in bound():
        assert pod["spec"]["nodeName"] == node
        assert pod["metadata"]["annotations"]["headroom.dev/assigned-mode"] == mode.value
        names = {each["name"] for each in pod["spec"]["containers"][0].get("env", [])}
        if manifest != "model-server.yaml":
            assert "HEADROOM_VRAM_SHARE" in names
        assert ("NVIDIA_VISIBLE_DEVICES" in names) == (mode is Mode.PINNED)


def test_a_pod_that_lacks_its_lines_is_refused_in_words(installed: tuple[Cluster, bool]) -> None:
    cluster, mutated = installed
    if mutated:
        cluster.kubectl("apply", "--dry-run=server", "-f", str(EXAMPLES / "vllm-two-on-one-card.yaml"))
        return
    refused: list[tuple[dict[str, Any], str]] = [
        ({}, "write schedulerName: headroom"),
        ({"schedulerName": "headroom"}, "container main would see every card of its node"),
    ]
    for spec, words in refused:
        container = {"name": "main", "image": "server", "resources": {"limits": {"headroom.dev/vram": "1Gi"}}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "lacks"},
            "spec": {"containers": [container], **spec},
        }
        with pytest.raises(ClusterError, match=words):
            cluster.apply([pod], "default")
