"""The simulated cluster itself: what tests, benchmarks and the demo rely on."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from headroom.prometheus.client import PrometheusSource
from simulations.kwok.cluster import Cluster, ClusterError
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import ComponentError


def pod(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "annotations": {f"headroom.dev/{key.replace('_', '-')}": value for key, value in annotations.items()},
        },
        "spec": {"containers": [{"name": "main", "image": "server"}]},
    }


def state(cluster: Cluster, namespace: str, name: str) -> tuple[str, bool]:
    """Phase, and whether Ready."""
    found = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")["status"]
    ready = any(item["type"] == "Ready" and item["status"] == "True" for item in found.get("conditions", []))
    return found["phase"], ready


def test_pods_follow_their_annotations(cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None]) -> None:
    gpu_nodes(uniform_nodes(1))
    slow = pod("slow", sim_cold_start_seconds="4", sim_drain_seconds="1")
    job = pod("job", sim_run_seconds="1")
    cluster.apply([slow, job], namespace)
    cluster.wait_for(lambda: state(cluster, namespace, "slow") == ("Running", False), "the cold start to begin")
    cluster.wait_for(lambda: state(cluster, namespace, "job")[0] == "Succeeded", "the job to end")
    cluster.wait_for(lambda: state(cluster, namespace, "slow") == ("Running", True), "the cold start to end")
    cluster.kubectl("delete", "pod", "slow", "-n", namespace, "--wait=false", "--grace-period=600")
    path = f"/api/v1/namespaces/{namespace}/pods/slow"
    cluster.wait_for(lambda: not cluster.exists(path), "the pod to drain sooner than its grace period")


async def test_prometheus_reads_targets_named_while_it_runs(cluster: Cluster) -> None:
    assert cluster.prometheus is not None
    address = cluster.prometheus.url.removeprefix("http://")
    cluster.prometheus.scrape("itself", address, labels={"node": "gpu-0000"})
    source = PrometheusSource(cluster.prometheus.url, timeout_seconds=2)
    while not (series := await source.query('up{job="itself"} == 1')):
        await asyncio.sleep(0.1)  # the test's time-out ends this
    assert [one.labels["node"] for one in series] == ["gpu-0000"]


def test_clusters_side_by_side_and_the_api_server_killed(start_cluster: Callable[..., Cluster]) -> None:
    one = start_cluster(nodes=uniform_nodes(1, prefix="one-"), without=("kube-controller-manager", "kwok"))
    two = start_cluster(nodes=uniform_nodes(1, prefix="two-"), without=("kube-controller-manager", "kwok"))
    assert [node["metadata"]["name"] for node in one.api.items("/api/v1/nodes")] == ["one-0000"]
    server = one.component("kube-apiserver")
    server.kill()
    with pytest.raises(OSError, match="refused"):
        one.api.get("/api/v1/nodes")
    assert [node["metadata"]["name"] for node in two.api.items("/api/v1/nodes")] == ["two-0000"]
    server.start()
    assert [node["metadata"]["name"] for node in one.api.items("/api/v1/nodes")] == ["one-0000"]
    processes = [one.component(name).pid for name in ("etcd", "kube-apiserver", "kube-scheduler")]
    folder = one.folder
    one.stop()
    assert not folder.exists()
    for pid in processes:
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            raise AssertionError(f"process {pid} outlived its cluster")


def test_a_bad_scheduler_configuration_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ComponentError, match=r"(?s)kube-scheduler ended with status 1.*unknown field .*kettle"):
        Cluster.start(
            keep=tmp_path / "cluster",
            without=("kube-controller-manager", "kwok"),
            scheduler_config={
                "apiVersion": "kubescheduler.config.k8s.io/v1",
                "kind": "KubeSchedulerConfiguration",
                "kettle": True,
            },
        )
    assert (tmp_path / "cluster" / "kube-scheduler.log").exists(), "kept for a look at the logs"


def test_kubectls_own_words_reach_the_reader(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match='namespaces "nowhere" not found'):
        cluster.kubectl("get", "namespace", "nowhere")
    with pytest.raises(ClusterError, match=r"no component 'kettle'; there are etcd, kube-apiserver"):
        cluster.component("kettle")
