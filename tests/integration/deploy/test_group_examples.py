"""The examples of groups over several nodes on a real scheduler, with pods as LeaderWorkerSet's and MPIJob's controllers make them.

With those controllers themselves: `make test-operators`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import yaml

from headroom.domain.model import GpuNode, Mode
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import uniform_nodes
from tests.fakes.operators import LEADER_WORKER_SETS, MPI_JOBS, pods_of_mpi_job, stateful_sets
from tests.integration.conftest import conditions
from tests.integration.deploy.test_examples import NVIDIA_RUNTIME
from tests.paths import DEPLOY

BLOCK = "cloud.google.com/gce-topology-block"

pytestmark = pytest.mark.usefixtures("extender")


@pytest.fixture(scope="module", autouse=True)
def defined(cluster: Cluster, wait_for_admission: Callable[[Cluster], None]) -> Iterator[None]:
    """The two kinds of object, the admission policy, and the runtime class of the NVIDIA GPU operator."""
    manifest = DEPLOY / "base" / "admission-policy.yaml"
    cluster.apply(manifest)
    cluster.apply([NVIDIA_RUNTIME, LEADER_WORKER_SETS, MPI_JOBS])
    for definition in (LEADER_WORKER_SETS, MPI_JOBS):
        cluster.kubectl("wait", "--for=condition=Established", f"crd/{definition['metadata']['name']}")
    wait_for_admission(cluster)
    yield
    cluster.kubectl("delete", "-f", str(manifest))
    cluster.kubectl("delete", "runtimeclass", "nvidia")
    for definition in (LEADER_WORKER_SETS, MPI_JOBS):
        cluster.kubectl("delete", "crd", definition["metadata"]["name"])


def in_block(block: str, nodes: Sequence[GpuNode]) -> list[GpuNode]:
    return [replace(node, labels={**node.labels, BLOCK: block}) for node in nodes]


def applied(cluster: Cluster, namespace: str, example: str, kind: str) -> dict[str, Any]:
    """Apply an example; its object of this kind as the API server has it."""
    cluster.apply(DEPLOY / "examples" / example, namespace)
    bodies = list(yaml.safe_load_all((DEPLOY / "examples" / example).read_text()))
    (body,) = (body for body in bodies if body["kind"] == kind)
    group, plural = body["apiVersion"], f"{kind.lower()}s"
    return dict(cluster.api.get(f"/apis/{group}/namespaces/{namespace}/{plural}/{body['metadata']['name']}"))


def wait_refused(cluster: Cluster, namespace: str, **labels: str) -> None:
    """Both pods of a label wait, and one of them was told that not all fit."""
    selector = ",".join(f"{key}={value}" for key, value in labels.items())

    def refused() -> bool:
        found = cluster.pods(namespace, labelSelector=selector)
        told = any("do not all fit together now" in conditions(pod) for pod in found)
        return len(found) == 2 and told and not any(pod["spec"].get("nodeName") for pod in found)

    cluster.wait_for(refused, "the reason, and no place, on both pods")


def test_a_leader_worker_set_gets_two_nodes_of_eight_cards_in_one_block(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(in_block("one", uniform_nodes(1, prefix="alone-", cards=8, resource="")))
    gpu_nodes(in_block("two", uniform_nodes(2, prefix="pair-", cards=8, resource="")))
    found = applied(cluster, namespace, "leaderworkerset.yaml", "LeaderWorkerSet")
    cluster.apply(stateful_sets(found), namespace)
    members = given(count=2, app="vllm-llama-405b")
    assert sorted(member.node for member in members) == ["pair-0000", "pair-0001"], (
        "not the two that come first by name"
    )
    assert all(len(member.cards) == 8 and member.mode is Mode.PINNED for member in members)


def test_the_workers_of_an_mpi_job_get_their_cards_together_and_the_launcher_goes_anywhere(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(1, prefix="one-", cards=4, resource=""))
    found = applied(cluster, namespace, "mpijob-horovod.yaml", "MPIJob")
    cluster.apply(pods_of_mpi_job(found), namespace)
    wait_refused(cluster, namespace, app="horovod")
    launcher = f"/api/v1/namespaces/{namespace}/pods/horovod-launcher"
    cluster.wait_for(lambda: cluster.api.get(launcher)["spec"].get("nodeName"), "the launcher to be placed")
    gpu_nodes(uniform_nodes(1, prefix="two-", cards=4, resource=""))
    workers = given(count=2, app="horovod")
    assert sorted(worker.node for worker in workers) == ["one-0000", "two-0000"]
    assert all(len(worker.cards) == 4 and worker.mode is Mode.PINNED for worker in workers)
