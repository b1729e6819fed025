"""Every way of asking for GPU memory, and every way a node says what it has, through a real API server and scheduler."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from headroom.domain.model import GpuNode, Mode, Sharing
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import Description, node_manifest, uniform_nodes

pytestmark = pytest.mark.usefixtures("extender")

GIB = 1024
CARD_MIB = 40 * GIB


def pod_asking(name: str, limits: dict[str, str], **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "server", "resources": {"limits": limits}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"schedulerName": "headroom", "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


@pytest.mark.parametrize(
    ("limits", "slices", "mode", "share_mib"),
    [
        pytest.param({"headroom.dev/vram": "18Gi"}, 0, Mode.PINNED, (18 * GIB,), id="memory alone"),
        pytest.param({"headroom.dev/vram": "1e10"}, 0, Mode.PINNED, (9537,), id="memory in bytes, rounded up to MiB"),
        pytest.param({"headroom.dev/gpu-milli": "476"}, 0, Mode.PINNED, (19496,), id="thousandths of a card"),
        pytest.param({"headroom.dev/gpu": "2"}, 0, Mode.PINNED, (CARD_MIB, CARD_MIB), id="cards of Headroom's choice"),
        pytest.param({"nvidia.com/gpumem": "3000"}, 0, Mode.PINNED, (3000,), id="HAMi MiB"),
        pytest.param({"nvidia.com/gpumem-percentage": "25"}, 0, Mode.PINNED, (10 * GIB,), id="HAMi percent"),
        pytest.param({"aliyun.com/gpu-mem": "6"}, 0, Mode.PINNED, (6 * GIB,), id="gpushare GiB"),
        pytest.param(
            {"nvidia.com/gpu": "1", "headroom.dev/vram": "8Gi"}, 4, Mode.SLICE, (8 * GIB,), id="slice and memory"
        ),
        pytest.param({"nvidia.com/gpu": "1"}, 4, Mode.SLICE, (10 * GIB,), id="a plain slice is its part of the card"),
        pytest.param(
            {"nvidia.com/gpu": "2", "nvidia.com/gpumem": "3000"}, 4, Mode.SLICE, (3000, 3000), id="HAMi, two devices"
        ),
        pytest.param(
            {"nvidia.com/gpu": "1", "nvidia.com/gpumem-percentage": "50"}, 4, Mode.SLICE, (20 * GIB,), id="HAMi, half"
        ),
        pytest.param({"nvidia.com/gpu": "2"}, 1, Mode.SLICE, (CARD_MIB, CARD_MIB), id="whole cards"),
    ],
)
def test_a_pod_gets_what_it_asked_for(
    cluster: Cluster,
    namespace: str,
    gpu_nodes: Callable[..., None],
    given: Callable[..., list[Any]],
    limits: dict[str, str],
    slices: int,
    mode: Mode,
    share_mib: tuple[int, ...],
) -> None:
    resource = "nvidia.com/gpu" if slices else ""
    gpu_nodes(uniform_nodes(1, cards=2, vram_mib=CARD_MIB, slices=slices or 1, resource=resource))
    cluster.apply([pod_asking("pod", limits)], namespace)
    (pod,) = given()
    assert (pod.mode, pod.share_mib) == (mode, share_mib)
    assert pod.cards == ("GPU-gpu-0000-0", "GPU-gpu-0000-1")[: len(share_mib)]


@pytest.mark.parametrize(
    ("sharing", "slices", "limits", "share_mib"),
    [
        pytest.param(
            Sharing.EXCLUSIVE, 1, {"nvidia.com/gpu": "1", "headroom.dev/vram": "30Gi"}, 30 * GIB, id="exclusive"
        ),
        pytest.param(
            Sharing.TIME_SLICING, 4, {"nvidia.com/gpu": "1", "headroom.dev/vram": "8Gi"}, 8 * GIB, id="time-slicing"
        ),
        pytest.param(Sharing.MPS, 4, {"nvidia.com/gpu": "1", "headroom.dev/vram": "8Gi"}, 8 * GIB, id="mps"),
    ],
)
def test_nodes_described_by_feature_discovery_labels(
    cluster: Cluster,
    namespace: str,
    gpu_nodes: Callable[..., None],
    given: Callable[..., list[Any]],
    sharing: Sharing,
    slices: int,
    limits: dict[str, str],
    share_mib: int,
) -> None:
    nodes = uniform_nodes(1, cards=2, model="NVIDIA-A100-SXM4-40GB", vram_mib=CARD_MIB, slices=slices)
    gpu_nodes([replace(node, sharing=sharing) for node in nodes], Description.LABELS)
    cluster.apply([pod_asking("pod", limits)], namespace)
    (pod,) = given()
    assert (pod.node, pod.share_mib, pod.mode) == ("gpu-0000", (share_mib,), Mode.SLICE)
    assert len(pod.cards) == 1


@pytest.mark.parametrize(
    ("resource", "labels", "vram_mib"),
    [
        pytest.param(
            "amd.com/gpu",
            {"amd.com/gpu.product-name": "AMD_Instinct_MI300X", "amd.com/gpu.vram": "192G"},
            192 * GIB,
            id="AMD",
        ),
        pytest.param("google.com/tpu", {"cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice"}, 32 * GIB, id="TPU"),
        pytest.param("habana.ai/gaudi", {"headroom.dev/card-model": "Gaudi3"}, 128 * GIB, id="Gaudi"),
    ],
)
def test_whole_devices_of_other_vendors(
    cluster: Cluster,
    namespace: str,
    gpu_nodes: Callable[..., None],
    given: Callable[..., list[Any]],
    resource: str,
    labels: dict[str, str],
    vram_mib: int,
) -> None:
    node = node_manifest(GpuNode("other-0000", cpu_milli=64000, memory_mib=256 * GIB, labels=labels))
    node["status"]["capacity"][resource] = node["status"]["allocatable"][resource] = "4"
    gpu_nodes([node])
    cluster.apply([pod_asking("pod", {resource: "2"})], namespace)
    (pod,) = given()
    assert (pod.node, pod.share_mib, pod.mode) == ("other-0000", (vram_mib, vram_mib), Mode.SLICE)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        pytest.param({"headroom.dev/vram": "50Gi"}, "51200 MiB", id="above any card"),
        pytest.param(
            {"headroom.dev/vram": "8Gi", "nvidia.com/gpumem": "8000"}, "stated in one way only", id="two dialects"
        ),
        pytest.param({"headroom.dev/gpu-milli": "1001"}, "more than one whole card", id="more than a card"),
        pytest.param(
            {"headroom.dev/vram": "8Gi", "headroom.dev/ram": "1"},
            "Insufficient headroom.dev/ram",
            id="unknown resource",
        ),
        pytest.param(
            {"nvidia.com/gpu": "1", "aliyun.com/gpu-mem": "4"}, "no device beside it", id="gpushare with a device"
        ),
    ],
)
def test_what_cannot_be_given_is_explained_on_the_pod(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], limits: dict[str, str], words: str
) -> None:
    gpu_nodes(uniform_nodes(1, cards=2, vram_mib=CARD_MIB))
    cluster.apply([pod_asking("pod", limits)], namespace)
    cluster.wait_for(lambda: words in cluster.refusal(namespace, "pod"), f"the pod to say {words!r}")
    assert "nodeName" not in cluster.pods(namespace)[0]["spec"]


def test_a_refused_pod_takes_the_place_of_one_that_goes(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(1, cards=1, vram_mib=CARD_MIB, resource=""))
    cluster.apply([pod_asking("first", {"headroom.dev/vram": "30Gi"})], namespace)
    given()
    cluster.apply([pod_asking("second", {"headroom.dev/vram": "20Gi"})], namespace)
    cluster.wait_for(lambda: "20480 MiB" in cluster.refusal(namespace, "second"), "the second pod to say why it waits")
    cluster.kubectl("delete", "pod", "first", "-n", namespace, "--wait=false")
    (second,) = given()
    assert second.share_mib == (20 * GIB,)


def test_pods_without_gpu_pass_and_foreign_pods_are_accounted_for(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], given: Callable[..., list[Any]]
) -> None:
    gpu_nodes(uniform_nodes(2, cards=1, vram_mib=CARD_MIB))
    # Scheduled by the cluster's own scheduler, which Headroom does not extend here: it takes a whole card.
    foreign = pod_asking("foreign", {"nvidia.com/gpu": "1"}, schedulerName="default-scheduler")
    cluster.apply([foreign, pod_asking("plain", {"cpu": "100m"})], namespace)
    cluster.wait_for(lambda: all(pod["spec"].get("nodeName") for pod in cluster.pods(namespace)), "both to be bound")
    taken = next(pod for pod in cluster.pods(namespace) if pod["metadata"]["name"] == "foreign")["spec"]["nodeName"]
    cluster.kubectl("delete", "pod", "plain", "-n", namespace, "--wait=true")
    labelled = pod_asking("ours", {"headroom.dev/vram": "1Gi"})
    labelled["metadata"]["labels"] = {"part": "ours"}
    cluster.apply([labelled], namespace)
    (ours,) = given(part="ours")
    assert ours.node != taken
