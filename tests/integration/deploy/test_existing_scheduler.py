"""deploy/overlays/existing-scheduler: the extender added to a cluster's own kube-scheduler, pods keeping its name."""

from collections.abc import Callable

import yaml

from simulations.kwok.cluster import Cluster, scheduler_config
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import free_port
from tests.paths import DEPLOY

OVERLAY = DEPLOY / "overlays" / "existing-scheduler"
SYSTEM = "headroom-system"


def test_pods_of_the_default_scheduler_are_placed_by_memory(
    wait_for_admission: Callable[[Cluster], None],
) -> None:
    port = free_port()
    config = scheduler_config() | yaml.safe_load((OVERLAY / "extender.yaml").read_text())
    config["extenders"][0]["urlPrefix"] = f"http://127.0.0.1:{port}"
    nodes = [
        *uniform_nodes(1, prefix="small-", cards=2, vram_mib=15360, resource=""),
        *uniform_nodes(1, prefix="large-", cards=1, vram_mib=46068, resource=""),
    ]
    with Cluster.start(nodes=nodes, scheduler_config=config, audit=True) as cluster:
        cluster.apply(OVERLAY)
        wait_for_admission(cluster)
        cluster.daemon(
            "scheduler",
            f"--config={OVERLAY / 'settings.yaml'}",
            f"--port={port}",
            ready_url=f"http://127.0.0.1:{port}/readyz",
            kubeconfig=cluster.service_account_kubeconfig(SYSTEM, "headroom-scheduler"),
        )
        container = {"name": "a", "image": "b", "resources": {"limits": {"headroom.dev/vram": "20Gi"}}}
        template = {"metadata": {"labels": {"app": "llm"}}, "spec": {"containers": [container]}}
        spec = {"replicas": 3, "selector": {"matchLabels": {"app": "llm"}}, "template": template}
        cluster.apply(
            [{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "llm"}, "spec": spec}], "default"
        )

        def where() -> list[str]:
            return sorted(pod["spec"].get("nodeName", "") for pod in cluster.pods("default"))

        cluster.wait_for(lambda: where() == ["", "large-0000", "large-0000"], "two of three pods to fit the large card")
        pods = cluster.pods("default")
        assert {pod["spec"]["schedulerName"] for pod in pods} == {"default-scheduler"}
        assert all("NVIDIA_VISIBLE_DEVICES" in str(pod["spec"]["containers"]) for pod in pods)
        _place_words_of_others(cluster)
        forbidden = [
            event["requestURI"]
            for event in cluster.audit_events()
            if event["user"]["username"] == f"system:serviceaccount:{SYSTEM}:headroom-scheduler"
            and event["responseStatus"]["code"] == 403
        ]
        assert forbidden == []


def _place_words_of_others(cluster: Cluster) -> None:
    """HAMi's companions (K01: HAMi#1429, HAMi#43) and KAI's annotations (R15: KAI#257) in the second way of installing."""
    container = {"name": "a", "image": "b"}
    asked = {
        "cores": {"nvidia.com/gpumem": "3000", "nvidia.com/gpucores": "30"},
        "priority": {"nvidia.com/gpumem": "3000", "nvidia.com/priority": "1"},
        "count": {"aliyun.com/gpu-mem": "5", "aliyun.com/gpu-count": "2"},
        "fraction": {},
    }
    pods = [
        {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "annotations": {"gpu-fraction": "0.1"} if name == "fraction" else {}},
            "spec": {"containers": [container | {"resources": {"limits": limits}}]},
        }
        for name, limits in asked.items()
    ]  # fmt: skip
    cluster.apply(pods, "default")

    def given() -> dict[str, str]:
        return {
            pod["metadata"]["name"]: pod["metadata"]["annotations"]["headroom.dev/assigned-vram-mib"]
            for pod in cluster.pods("default")
            if pod["metadata"]["name"] in asked and pod["spec"].get("nodeName")
        }

    cluster.wait_for(lambda: len(given()) == len(asked), "pods in other schedulers' words to be bound")
    placed = given()
    assert (placed["cores"], placed["priority"], placed["count"]) == ("3000", "3000", "5120")
    assert placed["fraction"] in ("1536", "4606")
