"""deploy/overlays/existing-scheduler, docs/install.md's way two: the extender beside the cluster's own kube-scheduler."""

import pytest
import yaml

from headroom import names
from simulations.node.cluster import NODE_NAME, NodeCluster
from tests.image.conftest import my_cluster
from tests.image.deployed import Deployed
from tests.node.installed import pod
from tests.paths import DEPLOY

PODS = "/api/v1/namespaces/default/pods"


def test_the_clusters_own_scheduler_asks_the_extender(
    node: NodeCluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Every pod keeps its scheduler's name; those that ask for memory are placed by Headroom and told."""
    node.api.patch(
        f"/api/v1/nodes/{NODE_NAME}", {"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}
    )
    folder = my_cluster(tmp_path_factory.mktemp("overlay"), "overlays/existing-scheduler")
    with Deployed(node, folder) as running:
        running.wait_ready("daemonset/headroom-scheduler", "daemonset/headroom-agent", "deployment/headroom-autoscaler")
        node.component("kube-scheduler").stop()
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            **yaml.safe_load((DEPLOY / "overlays" / "existing-scheduler" / "extender.yaml").read_text()),
        }  # fmt: skip
        node.add_scheduler("kube-scheduler", config)
        for one in (pod("plain", {"cpu": "10m"}), pod("asks", {names.RESOURCE_VRAM: "18Gi"})):
            node.api.request("POST", PODS, one)
        node.wait_for(lambda: node.logs("plain") and node.logs("asks"), "both pods to run")
        asks = node.pod("asks")
        assert asks["spec"]["schedulerName"] == "default-scheduler"
        assert (
            f"NVIDIA_VISIBLE_DEVICES={asks['metadata']['annotations'][names.ANNOTATION_ASSIGNED_CARDS]}"
            in node.logs("asks")
        )
        node.kubectl("delete", "pods", "--all", "--now")
