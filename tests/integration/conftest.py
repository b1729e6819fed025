"""Fixtures on a real control plane. One cluster serves all tests but those that break it, which start their own.

The shared cluster runs kube-scheduler as it comes (for `default-scheduler`) and a second one exactly as `deploy/base`
configures it (for `headroom`), whose extender is expected on `extender_port` (fixture `extender` runs it there).
"""

import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from headroom import names
from headroom.domain.assignment import assignment_of
from headroom.domain.model import GpuNode, Mode
from simulations.kwok.cluster import Cluster, ClusterError
from simulations.kwok.emulator import ServingEmulator
from simulations.kwok.nodes import Description, node_manifest
from simulations.kwok.process import Component, free_port
from tests.paths import DEPLOY


def deployed_scheduler_config(extender_port: int) -> dict[str, Any]:
    """The configuration file of `deploy/base`, for a kube-scheduler outside a cluster: another port, no leader election."""
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "base" / "kube-scheduler.yaml").read_text())
    config["leaderElection"] = {"leaderElect": False}
    config["extenders"][0]["urlPrefix"] = f"http://127.0.0.1:{extender_port}"
    return config


@pytest.fixture(scope="session")
def extender_port() -> int:
    """Where the shared cluster's `headroom` kube-scheduler expects its extender."""
    return free_port()


@pytest.fixture(scope="session")
def cluster(extender_port: int) -> Iterator[Cluster]:
    """The shared cluster: no nodes, Prometheus without targets, audit log on. Leave it as you found it."""
    with Cluster.start(prometheus=True, audit=True) as running:
        running.add_scheduler("headroom-kube-scheduler", deployed_scheduler_config(extender_port))
        yield running


@pytest.fixture
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """`Cluster.start` for tests that kill components; what they start is stopped at their end."""
    started: list[Cluster] = []

    def start(**options: Any) -> Cluster:
        started.append(Cluster.start(**options))
        return started[-1]

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace of the shared cluster; its pods are gone when the next test begins."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    cluster.wait_for(
        lambda: cluster.exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"), f"the service account of {name}"
    )
    yield name
    remove_namespace(cluster, name)


def remove_namespace(cluster: Cluster, name: str) -> None:
    """Delete a namespace and wait until no pod of it is left; the rest may go later."""
    cluster.kubectl("delete", "namespace", name, "--wait=false", "--ignore-not-found")

    def pods_gone() -> bool:
        pods = cluster.pods(name)
        now = {"gracePeriodSeconds": 0}
        cluster.api.delete_all((f"/api/v1/namespaces/{name}/pods/{pod['metadata']['name']}" for pod in pods), now)
        return not pods

    cluster.wait_for(pods_gone, f"the pods of {name} to go")


@pytest.fixture
def gpu_nodes(cluster: Cluster, namespace: str) -> Iterator[Callable[..., None]]:
    """Creates nodes of the shared cluster: `gpu_nodes(uniform_nodes(3), Description.LABELS)`. They go with the test.

    Takes ready-made Node objects too, for nodes that a GpuNode cannot describe.
    """
    created: list[str] = []

    def create(nodes: Iterable[GpuNode | dict[str, Any]], description: Description = Description.ANNOTATION) -> None:
        objects = [node_manifest(node, description) if isinstance(node, GpuNode) else node for node in nodes]
        created.extend(node["metadata"]["name"] for node in objects)
        cluster.create_node_objects(objects)

    yield create
    remove_namespace(cluster, namespace)
    cluster.delete_nodes(created)


@pytest.fixture(scope="session")
def wait_for_admission() -> Callable[[Cluster], None]:
    """Waits until a policy just applied is in force: the API server takes one up within a second or two."""

    def wait(cluster: Cluster) -> None:
        container = {"name": "main", "image": "server", "resources": {"limits": {names.RESOURCE_VRAM: "1Gi"}}}
        probe = {"metadata": {"name": "probe"}, "spec": {"containers": [container]}}

        def in_force() -> bool:
            pod = cluster.api.request("POST", "/api/v1/namespaces/default/pods", probe, query={"dryRun": "All"})
            return "env" in pod["spec"]["containers"][0]

        cluster.wait_for(in_force, "the admission policy to be in force")

    return wait


@dataclass(frozen=True)
class Given:
    """What a bound pod says it was given."""

    node: str
    cards: tuple[str, ...]
    share_mib: tuple[int, ...]
    mode: Mode


@pytest.fixture
def given(cluster: Cluster, namespace: str) -> Callable[..., list[Given]]:
    """Waits until the test's pods (those with a label, if given) are bound, `count` of them; what each was given."""

    def wait(count: int = 1, timeout_seconds: float = 90.0, **selector: str) -> list[Given]:
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in selector.items())} if selector else {}

        def bound() -> list[dict[str, Any]]:
            return [pod for pod in cluster.pods(namespace, **query) if pod["spec"].get("nodeName")]

        try:
            cluster.wait_for(lambda: len(bound()) == count, f"{count} pods to be bound", timeout_seconds)
        except ClusterError as error:
            raise AssertionError(
                f"{error}; conditions: {[conditions(pod) for pod in cluster.pods(namespace)]}"
            ) from None
        return [_given(pod) for pod in bound()]

    return wait


def _given(pod: dict[str, Any]) -> Given:
    assignment = assignment_of(pod["metadata"].get("annotations", {}))
    assert assignment is not None, f"{pod['metadata']['name']} was bound without an assignment"
    return Given(pod["spec"]["nodeName"], assignment.cards, assignment.share_mib, assignment.mode)


def conditions(pod: dict[str, Any]) -> str:
    """Why a pod is not where it should be, in kube-scheduler's words."""
    found = pod["status"].get("conditions", [])
    return f"{pod['metadata']['name']}: " + "; ".join(item.get("message", item["type"]) for item in found)


@pytest.fixture(scope="module")
def extender(cluster: Cluster, extender_port: int) -> Iterator[Component]:
    """`headroom scheduler` as administrator, ready, on the port that the shared `headroom` kube-scheduler asks.

    One for a module: it starts in seconds, and living through many tests' nodes and pods is part of what is tested.
    """
    component = cluster.daemon(
        "scheduler",
        "--port",
        str(extender_port),
        ready_url=f"http://127.0.0.1:{extender_port}/readyz",
    )
    yield component
    assert component.stop() == 0, component.tail()


@pytest.fixture(scope="module")
def emulator(cluster: Cluster) -> Iterator[ServingEmulator]:
    """Plays the inference servers of the shared cluster's pods, scraped by its Prometheus."""
    with ServingEmulator(cluster.kubeconfig) as running:
        assert cluster.prometheus is not None
        cluster.prometheus.scrape("engines", running.address)
        yield running
        cluster.prometheus.scrape("engines")


@pytest.fixture(scope="module")
def start_autoscaler(
    cluster: Cluster, extender: Component, extender_port: int, emulator: ServingEmulator
) -> Iterator[Callable[..., Component]]:
    """`start_autoscaler(*flags, name=...)` runs `headroom autoscaler` on the shared cluster with the haste of a test."""
    assert cluster.prometheus is not None
    prometheus = cluster.prometheus
    cluster.install_crd(DEPLOY / "base" / "crd-inferenceautoscalers.yaml")
    started: list[Component] = []

    def start(*flags: str, name: str = "autoscaler") -> Component:
        port = free_port()
        component = cluster.daemon(
            "autoscaler",
            "--port", str(port), "--prometheus-url", prometheus.url,
            "--extender-url", f"http://127.0.0.1:{extender_port}", "--lease-namespace", "default",
            "--tick-seconds", "1", "--stale-seconds", "6", "--short-mean-seconds", "4", "--long-mean-seconds", "8",
            *flags, name=name, ready_url=f"http://127.0.0.1:{port}/readyz",
        )  # fmt: skip
        started.append(component)
        return component

    yield start
    for component in started:
        component.stop()
