"""The chart on a real node: installed in a namespace of another name, two engines on one card, tested, uninstalled, nodes left clean."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from headroom import __version__, names
from simulations.kwok.build import find_binaries
from simulations.kwok.helm import HELM_4
from simulations.node.cluster import NodeCluster
from simulations.node.images.basic import BUSYBOX
from tests.paths import DEPLOY

WHERE = "gpu-sharing"


class Helm:
    """Helm 4 on the node's cluster."""

    def __init__(self, node: NodeCluster, folder: Path) -> None:
        self._node = node
        self._environment = os.environ | {
            f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")
        }

    def __call__(self, *arguments: str) -> str:
        """What it prints. Raises AssertionError with its words and the pods when it fails."""
        program = str(find_binaries(HELM_4) / "helm")
        where = [f"--namespace={WHERE}", f"--kubeconfig={self._node.kubeconfig}"]
        command = [*self._node.prefix(), program, *arguments, *where]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=self._environment)
        assert done.returncode == 0, done.stdout + done.stderr + self._node.kubectl("get", "pods", "-A", "-o", "wide")
        return done.stdout


@pytest.fixture(scope="module")
def helm(node: NodeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """What speaks to the node's cluster; the CRD, which a release leaves behind, is taken away at the end."""
    yield Helm(node, tmp_path_factory.mktemp("helm"))
    node.kubectl("delete", "crd", "inferenceautoscalers.headroom.dev", "--ignore-not-found")
    node.kubectl("delete", "namespace", WHERE, "--ignore-not-found", "--wait=false")


def test_from_nothing_to_two_engines_on_one_card_and_back(node: NodeCluster, helm: Helm, image: Path) -> None:
    assert image.exists()
    start = time.monotonic()
    helm(
        "install", "headroom", str(DEPLOY / "chart"), "--create-namespace", "--wait", "--timeout=120s",
        f"--set=image.tag={__version__}",
    )  # fmt: skip
    installed = time.monotonic()
    objects = list(yaml.safe_load_all((DEPLOY / "examples" / "vllm-two-on-one-card.yaml").read_text()))
    (container,) = objects[0]["spec"]["template"]["spec"]["containers"]
    serve = "mkdir -p /www; echo ok > /www/health; httpd -f -p 8000 -h /www"
    container |= {"image": BUSYBOX, "command": ["sh", "-c", serve, "vllm"]}
    container["resources"]["requests"] = {"cpu": "50m", "memory": "32Mi"}
    node.apply(objects, "default")
    node.kubectl("rollout", "status", "deployment/vllm-qwen", "--timeout=60s", timeout_seconds=70)
    print(
        f"installed in {installed - start:.0f} s, two engines on one card {time.monotonic() - start:.0f} s after the start"
    )
    pods = node.pods("default", labelSelector="app=vllm-qwen")
    assert len(pods) == 2
    assert len({one["metadata"]["annotations"][names.ANNOTATION_ASSIGNED_CARDS] for one in pods}) == 1

    assert "Succeeded" in helm("test", "headroom", "--timeout=60s")

    node.kubectl("delete", "deployment,service", "vllm-qwen")
    assert names.ANNOTATION_NODE_CARDS in node.node()["metadata"]["annotations"]
    helm("uninstall", "headroom", "--timeout=120s")
    left = node.node()["metadata"]["annotations"]
    assert not [name for name in left if name.startswith("headroom.dev/")], left
    assert node.exists("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceautoscalers.headroom.dev")
    assert not node.exists(f"/apis/apps/v1/namespaces/{WHERE}/deployments/headroom-scheduler")
