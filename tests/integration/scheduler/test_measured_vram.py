"""From the driver to the decision: agent, Prometheus, extender and kube-scheduler, all real but the card."""

import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from headroom.domain.model import GpuNode
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import node_manifest
from simulations.kwok.process import Component, free_port

NODE, CARD = "measured-0000", "GPU-00000000-0000-0000-0000-000000000001"
MAX_AGE_SECONDS = 6


class Driver:
    """What the node's driver tells: a file that the agent reads as it would read NVML."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def show(self, used: str) -> None:
        """`used` is the memory in use, whoever uses it."""
        card = {
            "id": CARD,
            "index": 0,
            "model": "NVIDIA-A100-SXM4-40GB",
            "memory_total_bytes": "40Gi",
            "memory_reserved_bytes": "0",
            "memory_used_bytes": used,
        }
        whole = self.path.with_suffix(".part")
        whole.write_text(yaml.safe_dump({"cards": [card]}))
        whole.rename(self.path)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path / "driver.yaml")


@pytest.fixture
def agent(cluster: Cluster, driver: Driver, gpu_nodes: Callable[..., None]) -> Iterator[Component]:
    """The agent of a node that says nothing of its cards itself, scraped by Prometheus."""
    driver.show("0")
    gpu_nodes([node_manifest(GpuNode(NODE, cpu_milli=64000, memory_mib=262144))])
    port = free_port()
    component = cluster.daemon(
        "agent",
        f"--node={NODE}",
        f"--script={driver.path}",
        f"--port={port}",
        "--interval-seconds=0.5",
        "--podresources-socket=off",
        ready_url=f"http://127.0.0.1:{port}/readyz",
    )
    assert cluster.prometheus is not None
    cluster.prometheus.scrape("agent", f"127.0.0.1:{port}")
    yield component
    component.stop()
    cluster.prometheus.scrape("agent")


@pytest.fixture
def measuring_extender(cluster: Cluster, extender_port: int, agent: Component) -> Iterator[int]:
    assert agent.running
    assert cluster.prometheus is not None
    component = cluster.daemon(
        "scheduler",
        f"--port={extender_port}",
        f"--prometheus-url={cluster.prometheus.url}",
        "--measured-every-seconds=1",
        f"--measured-max-age-seconds={MAX_AGE_SECONDS}",
        ready_url=f"http://127.0.0.1:{extender_port}/readyz",
    )
    yield extender_port
    component.stop()


def measured_mib(port: int) -> float:
    """What the extender takes the node's cards to use, as its own metrics tell."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    wanted = f'headroom_node_vram_bytes{{node="{NODE}",state="measured"}} '
    return next((float(line.removeprefix(wanted)) / 2**20 for line in lines if line.startswith(wanted)), -1.0)


def pod(name: str, vram: str) -> dict[str, Any]:
    container = {"name": "main", "image": "server", "resources": {"limits": {"headroom.dev/vram": vram}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"pod": name}},
        "spec": {"schedulerName": "headroom", "terminationGracePeriodSeconds": 0, "containers": [container]},
    }


def test_a_measurement_that_grew_old_no_longer_counts(
    cluster: Cluster,
    namespace: str,
    driver: Driver,
    agent: Component,
    measuring_extender: int,
    given: Callable[..., list[Any]],
) -> None:
    driver.show("39Gi")
    cluster.wait_for(lambda: measured_mib(measuring_extender) == 39 * 1024, "the extender to learn of the stranger")
    cluster.apply([pod("server", "30Gi")], namespace)
    cluster.wait_for(lambda: "30720 MiB" in cluster.refusal(namespace, "server"), "the pod to be told why it waits")
    agent.kill()
    (server,) = given()
    assert server.cards == (CARD,)
    assert measured_mib(measuring_extender) == 0.0
