"""The examples of deploy/examples on a real scheduler: each goes where its words say, past nodes that would be wrong."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headroom.domain.model import Mode
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import uniform_nodes
from tests.integration.conftest import conditions
from tests.paths import DEPLOY

NVIDIA_RUNTIME = {
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": "nvidia"},
    "handler": "nvidia",
}

pytestmark = pytest.mark.usefixtures("extender")


@pytest.fixture(scope="module", autouse=True)
def policy(cluster: Cluster, wait_for_admission: Callable[[Cluster], None]) -> Iterator[None]:
    """The admission policy in force, and the runtime class that the NVIDIA GPU operator makes."""
    manifest = DEPLOY / "base" / "admission-policy.yaml"
    cluster.apply(manifest)
    cluster.apply([NVIDIA_RUNTIME])
    wait_for_admission(cluster)
    yield
    cluster.kubectl("delete", "-f", str(manifest))
    cluster.kubectl("delete", "runtimeclass", "nvidia")


def test_fastchat_worker_gets_two_cards_that_are_large_enough(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(1, prefix="small-", cards=8, model="NVIDIA-A100-SXM4-40GB", vram_mib=40960))
    gpu_nodes(uniform_nodes(1, prefix="single-", cards=1))
    gpu_nodes(uniform_nodes(1, prefix="right-", cards=2))
    cluster.apply(DEPLOY / "examples" / "fastchat.yaml", namespace)
    (worker,) = given(part="worker")
    assert worker.node == "right-0000"
    assert sorted(worker.cards) == ["GPU-right-0000-0", "GPU-right-0000-1"]
    assert worker.share_mib == (60 * 1024, 60 * 1024)
    assert worker.mode is Mode.SLICE, "the device plugin hands out the cards"

    def running() -> bool:
        pods = cluster.pods(namespace)
        return len(pods) == 3 and all(pod["status"]["phase"] == "Running" for pod in pods)

    cluster.wait_for(running, "controller, API server and worker to run")


def test_model_server_gets_a_card_that_nobody_shares(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(1, prefix="shared-", cards=1, slices=1))
    pinned = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "first", "labels": {"part": "first"}},
        "spec": {"containers": [{"name": "a", "image": "b", "resources": {"limits": {"headroom.dev/vram": "1Gi"}}}]},
    }
    cluster.apply([pinned], namespace)
    assert given(part="first")[0].node == "shared-0000"
    gpu_nodes(uniform_nodes(1, prefix="free-", cards=1))
    cluster.apply(DEPLOY / "examples" / "model-server.yaml", namespace)
    (server,) = given(app="tgi-llama")
    assert (server.node, server.cards, server.share_mib) == ("free-0000", ("GPU-free-0000-0",), (81920,))


def test_triton_gets_a_slice_of_a_card_with_eight_gib_to_give(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    # Free time slices on both nodes, but only one has the memory.
    gpu_nodes(uniform_nodes(1, prefix="small-", cards=2, model="Tesla-P4", vram_mib=7680, slices=4))
    gpu_nodes(uniform_nodes(1, prefix="right-", cards=2, model="NVIDIA-L4", vram_mib=23034, slices=4))
    cluster.apply(DEPLOY / "examples" / "triton-time-sliced.yaml", namespace)
    (triton,) = given(app="triton")
    assert (triton.node, triton.share_mib, triton.mode) == ("right-0000", (8 * 1024,), Mode.SLICE)
    assert triton.cards == ("GPU-right-0000-0",), "an empty node's plugin hands out its first card first"


def test_two_vllm_servers_share_one_card_and_know_their_part(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(1, prefix="small-", cards=4, model="NVIDIA-A16", vram_mib=15356, resource=""))
    gpu_nodes(uniform_nodes(1, prefix="right-", cards=1, model="NVIDIA-L40S", vram_mib=46068, resource=""))
    cluster.apply(DEPLOY / "examples" / "vllm-two-on-one-card.yaml", namespace)
    servers = given(count=2, app="vllm-qwen")
    for server in servers:
        assert (server.node, server.cards, server.mode) == ("right-0000", ("GPU-right-0000-0",), Mode.PINNED)
        assert server.share_mib == (22 * 1024,)
    pod = cluster.pods(namespace)[0]
    assert pod["metadata"]["annotations"]["headroom.dev/assigned-vram-share"] == "0.489"  # 22528 of 46068 MiB
    variables = {item["name"] for item in pod["spec"]["containers"][0]["env"]}
    assert variables == {"NVIDIA_VISIBLE_DEVICES", "HEADROOM_VRAM_MIB", "HEADROOM_VRAM_SHARE"}


def test_two_trainers_of_four_cards_are_placed_together_once_both_have_room(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(1, prefix="one-", cards=4, resource=""))
    cluster.apply(DEPLOY / "examples" / "group-of-pods.yaml", namespace)

    def refused() -> bool:
        """The first may have been asked about before the second was there: it is not asked about again as long as nothing fits."""
        words = [conditions(pod) for pod in cluster.pods(namespace, labelSelector="app=trainer")]
        late, early = "do not all fit together now", "has 1 of 2 members"
        return (
            len(words) == 2
            and all(late in told or early in told for told in words)
            and any(late in told for told in words)
        )

    cluster.wait_for(refused, "a reason on both pods")
    assert not any(pod["spec"].get("nodeName") for pod in cluster.pods(namespace))
    gpu_nodes(uniform_nodes(1, prefix="two-", cards=4, resource=""))
    trainers = given(count=2, app="trainer")
    assert sorted(trainer.node for trainer in trainers) == ["one-0000", "two-0000"]
    assert all(len(trainer.cards) == 4 and trainer.mode is Mode.PINNED for trainer in trainers)


def test_a_server_with_tensor_parallelism_gets_four_cards_of_one_node(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(3, prefix="pair-", cards=2, resource=""))
    gpu_nodes(uniform_nodes(1, prefix="right-", cards=4, resource=""))
    cluster.apply(DEPLOY / "examples" / "vllm-tensor-parallel.yaml", namespace)
    servers = given(count=2, app="vllm-llama-70b")  # two of 38 GiB share each card
    assert {(server.node, len(set(server.cards))) for server in servers} == {("right-0000", 4)}
    assert all(server.share_mib == (38 * 1024,) * 4 for server in servers)
