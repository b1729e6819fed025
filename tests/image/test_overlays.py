"""deploy/overlays for clusters before 1.36, as real pods; with the first the components of deploy/components. See docs/install.md."""

from typing import Any

import pytest

from headroom import names
from simulations.kwok.api import ApiError
from simulations.node.cluster import NodeCluster
from tests.image.conftest import my_cluster
from tests.image.deployed import Deployed
from tests.node.installed import PODS, pod

ASKS = {names.RESOURCE_VRAM: "18Gi"}


def by_hand(name: str) -> dict[str, Any]:
    """A pod with the lines that docs/install.md gives for clusters on which nothing writes them."""
    body = pod(name, ASKS, schedulerName="headroom")
    cards = {"fieldRef": {"fieldPath": f"metadata.annotations['{names.ANNOTATION_ASSIGNED_CARDS}']"}}
    body["spec"]["containers"][0]["env"] = [{"name": "NVIDIA_VISIBLE_DEVICES", "valueFrom": cards}]
    return body


@pytest.mark.parametrize(
    ("overlay", "components"),
    [("without-mutation", ("network-policies", "one-scheduler")), ("mutation-v1beta1", ())],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_an_older_clusters_overlay_runs_and_places(
    node: NodeCluster, tmp_path_factory: pytest.TempPathFactory, overlay: str, components: tuple[str, ...]
) -> None:
    mutated = overlay == "mutation-v1beta1"
    folder = my_cluster(tmp_path_factory.mktemp("overlay"), f"overlays/{overlay}", *components)
    with Deployed(node, folder) as running:
        running.wait_ready(
            "deployment/headroom-scheduler", "deployment/headroom-autoscaler", "daemonset/headroom-agent"
        )
        if mutated:
            node.api.request("POST", PODS, pod("asks", ASKS))
        else:
            with pytest.raises(ApiError, match="schedulerName: headroom"):
                node.api.request("POST", PODS, pod("forgot", ASKS))
            node.api.request("POST", PODS, by_hand("asks"))
        node.wait_for(lambda: node.logs("asks"), "the pod to run")
        cards = node.pod("asks")["metadata"]["annotations"][names.ANNOTATION_ASSIGNED_CARDS]
        assert cards in node.cards.uuids
        assert node.environment("asks")["NVIDIA_VISIBLE_DEVICES"] == cards
        node.kubectl("delete", "pods", "--all", "--now")
