"""The chart on a real node: installed in a namespace of another name, two engines on one card, tested, uninstalled, nodes left clean."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from headroom import __version__, names
from simulations.kwok.helm import HELM_4
from simulations.node.cluster import NodeCluster
from tests.chart import CHART, Helm
from tests.image.deployed import two_models

WHERE = "gpu-sharing"


@pytest.fixture(scope="module")
def helm(node: NodeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Helm]:
    """What speaks to the node's cluster; the CRD, which a release leaves behind, is taken away at the end."""
    yield Helm(
        HELM_4,
        tmp_path_factory.mktemp("helm"),
        prefix=node.prefix(),
        flags=[f"--namespace={WHERE}", f"--kubeconfig={node.kubeconfig}"],
        trouble=lambda: node.kubectl("get", "pods", "-A", "-o", "wide"),
    )
    node.kubectl("delete", "crd", "inferenceautoscalers.headroom.dev", "--ignore-not-found")
    node.kubectl("delete", "namespace", WHERE, "--ignore-not-found", "--wait=false")


def test_from_nothing_to_two_engines_on_one_card_and_back(node: NodeCluster, helm: Helm, image: Path) -> None:
    assert image.exists()
    start = time.monotonic()
    helm(
        "install", "headroom", str(CHART), "--create-namespace", "--wait", "--timeout=120s",
        f"--set=image.tag={__version__}",
    )  # fmt: skip
    installed = time.monotonic()
    with two_models(node) as pods:
        print(
            f"installed in {installed - start:.0f} s, two engines on one card {time.monotonic() - start:.0f} s after the start"
        )
        assert len(pods) == 2
        assert len({one["metadata"]["annotations"][names.ANNOTATION_ASSIGNED_CARDS] for one in pods}) == 1

        assert "Succeeded" in helm("test", "headroom", "--timeout=60s")

    assert names.ANNOTATION_NODE_CARDS in node.node()["metadata"]["annotations"]
    helm("uninstall", "headroom", "--timeout=120s")
    left = node.node()["metadata"]["annotations"]
    assert not [name for name in left if name.startswith("headroom.dev/")], left
    assert node.exists("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/inferenceautoscalers.headroom.dev")
    assert not node.exists(f"/apis/apps/v1/namespaces/{WHERE}/deployments/headroom-scheduler")
