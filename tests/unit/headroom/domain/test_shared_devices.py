"""Devices that share a card: how many, of how many cards, and what is refused."""

from typing import Any

import pytest

from headroom.domain.model import Allocation, Sharing
from headroom.domain.node_cards import InventoryError, node_of
from tests.unit.headroom.domain.nodes import COUNT, PRODUCT, REPLICAS, STRATEGY, card, gfd, node, shape

# Sharing, in every way it is told


def hand(**more: str) -> dict[str, str]:
    """Labels that people write."""
    return {"headroom.dev/card-model": "NVIDIA-L4", "headroom.dev/card-vram": "22Gi", **more}


GKE = {
    "cloud.google.com/gke-accelerator": "nvidia-l4",
    "cloud.google.com/gke-gpu-sharing-strategy": "time-sharing",
    "cloud.google.com/gke-max-shared-clients-per-gpu": "3",
}
L4 = ("NVIDIA-L4", 22491, 3)


@pytest.mark.parametrize(
    ("labels", "allocatable", "expected"),
    [
        pytest.param(
            hand() | GKE, {"nvidia.com/gpu": "3"}, (Sharing.TIME_SLICING, "nvidia.com/gpu", [("NVIDIA-L4", 22528, 3)]),
            id="N06 k8s-device-plugin#741: hand labels beside GKE's",
        ),
        pytest.param(
            GKE, {"nvidia.com/gpu": "6"}, (Sharing.TIME_SLICING, "nvidia.com/gpu", [L4, L4]),
            id="N05 k8s-device-plugin#741, karpenter-gcp#319: GKE's labels alone",
        ),
        pytest.param(
            GKE | {"cloud.google.com/gke-gpu-sharing-strategy": "mps"}, {"nvidia.com/gpu": "3"},
            (Sharing.MPS, "nvidia.com/gpu", [L4]), id="GKE with MPS",
        ),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-l4"}, {"nvidia.com/gpu": "2"},
            (Sharing.EXCLUSIVE, "nvidia.com/gpu", [("NVIDIA-L4", 22491, 1)] * 2), id="GKE without sharing",
        ),
        pytest.param(
            {"cloud.google.com/gke-accelerator": "nvidia-tesla-a100", "cloud.google.com/gke-gpu-partition-size": "1g.5gb"},
            {"nvidia.com/gpu": "7"}, (Sharing.MIG, "nvidia.com/gpu", [("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4768, 1)] * 7),
            id="GKE's partitions",
        ),
        pytest.param(
            hand(**{"nvidia.com/gpu.count": "1", STRATEGY: "time-slicing"}), {"nvidia.com/gpu": "3"},
            (Sharing.TIME_SLICING, "nvidia.com/gpu", [("NVIDIA-L4", 22528, 3)]), id="hand labels with gpu.count",
        ),
        pytest.param(
            hand(**{REPLICAS: "3"}), {"nvidia.com/gpu": "3"},
            (Sharing.TIME_SLICING, "nvidia.com/gpu", [("NVIDIA-L4", 22528, 3)]), id="hand labels with gpu.replicas",
        ),
        pytest.param(
            hand(), {"nvidia.com/gpu": "4"}, (Sharing.EXCLUSIVE, "nvidia.com/gpu", [("NVIDIA-L4", 22528, 1)] * 4),
            id="hand labels and no sign of sharing: each device is a card",
        ),
        pytest.param(
            gfd("NVIDIA-L4-SHARED", 23034, 1, 16384, "time-slicing"), {"nvidia.com/gpu": "16384"},
            (Sharing.TIME_SLICING, "nvidia.com/gpu", [("NVIDIA-L4", 23034, 16384)]),
            id="S05 k8s-device-plugin#1433: a device for every MiB or so",
        ),
        pytest.param(
            gfd("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4864, 4, 4, "time-slicing"),
            {"nvidia.com/gpu": "0", "nvidia.com/gpu.shared": "16"},
            (Sharing.TIME_SLICING, "nvidia.com/gpu.shared", [("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4864, 4)] * 4),
            id="S07 bottlerocket#4418: MIG with time-slicing",
        ),
        pytest.param(
            gfd("NVIDIA-L4-SHARED", 23034, 1, 4, "nvlink-magic"), {"nvidia.com/gpu": "4"},
            (Sharing.UNKNOWN, "nvidia.com/gpu", [("NVIDIA-L4", 23034, 4)]), id="a strategy of tomorrow",
        ),
    ],
)  # fmt: skip
def test_shared_devices_are_not_cards(
    labels: dict[str, str], allocatable: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    assert shape(node_of(node(labels, allocatable))) == expected


@pytest.mark.parametrize(
    ("labels", "allocatable", "sign"),
    [
        pytest.param(hand(**{STRATEGY: "time-slicing"}), {"nvidia.com/gpu": "3"}, f"{STRATEGY}: time-slicing", id="strategy"),
        pytest.param(hand(**{PRODUCT: "NVIDIA-L4-SHARED"}), {"nvidia.com/gpu": "3"}, f"{PRODUCT}: NVIDIA-L4-SHARED", id="product"),
        pytest.param(hand(), {"nvidia.com/gpu.shared": "3"}, "nvidia.com/gpu.shared", id="resource"),
        pytest.param(hand(**{"nvidia.com/mps.capable": "true"}), {"nvidia.com/gpu": "3"}, "mps.capable: true", id="MPS"),
        pytest.param(
            hand(**{"cloud.google.com/gke-gpu-sharing-strategy": "time-sharing"}), {"nvidia.com/gpu": "3"},
            "gke-gpu-sharing-strategy: time-sharing", id="GKE",
        ),
    ],
)  # fmt: skip
def test_a_sign_of_sharing_without_a_number_is_refused_with_the_remedy(
    labels: dict[str, str], allocatable: dict[str, Any], sign: str
) -> None:
    with pytest.raises(InventoryError) as caught:
        node_of(node(labels, allocatable))
    for part in (sign, COUNT, REPLICAS, "the agent"):
        assert part in str(caught.value)


def test_devices_of_another_scheduler_s_plugin_are_a_sign_of_sharing() -> None:
    marked = node(hand(), {"nvidia.com/gpu": "10"})
    marked.metadata.annotations["hami.io/node-nvidia-register"] = "GPU-a,10,22528,100,NVIDIA-L4,0,true:"
    with pytest.raises(InventoryError, match=r"node-nvidia-register.*the agent"):
        node_of(marked)


def test_what_kubelet_counts_wins_over_a_replicas_label_beside_an_annotation_without_slices() -> None:
    """S10 (k8s-device-plugin#732): feature discovery wrote gpu.replicas 1 although the plugin shares by 12."""
    found = node_of(
        node(gfd("NVIDIA-A10G-SHARED", 23028, 1, 1, "time-slicing"), {"nvidia.com/gpu": "12"}, cards=[card()])
    )
    assert [one.slices for one in found.cards] == [12]


@pytest.mark.parametrize(
    ("label", "text", "allocation", "one_each"),
    [
        ("headroom.dev/allocation", "random", Allocation.UNKNOWN, False),
        ("headroom.dev/allocation", "spread", Allocation.SPREAD, False),
        ("headroom.dev/fail-requests-greater-than-one", "true", Allocation.DISTRIBUTED, True),
        ("headroom.dev/fail-requests-greater-than-one", "perhaps", Allocation.DISTRIBUTED, True),
        (STRATEGY, "mps", Allocation.DISTRIBUTED, True),
        (STRATEGY, "magic", Allocation.DISTRIBUTED, True),
        ("cloud.google.com/gke-gpu-sharing-strategy", "time-sharing", Allocation.DISTRIBUTED, True),
    ],
)
def test_one_word_that_nobody_knows_costs_no_node(
    label: str, text: str, allocation: Allocation, one_each: bool
) -> None:
    found = node_of(node(gfd("Tesla-T4-SHARED", 15360, 1, 4, "time-slicing") | {label: text}, {"nvidia.com/gpu": "4"}))
    assert (len(found.cards), found.allocation, found.one_device_each) == (1, allocation, one_each)
    unknown = text in ("random", "perhaps", "magic")
    assert [problem.startswith(f"{label}: {text}: ") for problem in found.problems] == [True] * unknown


def test_mps_may_be_told_to_give_several_devices() -> None:
    labels = gfd("Tesla-T4-SHARED", 15360, 1, 4, "mps") | {"headroom.dev/fail-requests-greater-than-one": "false"}
    assert not node_of(node(labels, {"nvidia.com/gpu": "4"})).one_device_each
