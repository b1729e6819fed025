"""Whole devices, several kinds of device on one node, and nodes without a device plugin."""

from typing import Any

import pytest

from headroom.domain.model import Sharing
from headroom.domain.node_cards import InventoryError, node_of
from tests.unit.headroom.domain.nodes import MEMORY, PRODUCT, T4, card, gfd, node, shape

# Memory that nobody tells


@pytest.mark.parametrize(
    ("labels", "allocatable", "models"),
    [
        pytest.param(
            {PRODUCT: "NVIDIA-GB10"}, {"nvidia.com/gpu": "1"}, ["NVIDIA-GB10"],
            id="N01 N03 gpu-operator#1794, KAI#706, HAMi#1511: unified memory",
        ),
        pytest.param({PRODUCT: "NVIDIA-GB10", MEMORY: "0"}, {"nvidia.com/gpu": "1"}, ["NVIDIA-GB10"], id="unified memory, 0 by label"),
        pytest.param({}, {"amd.com/gpu": "8"}, ["AMD"] * 8, id="N07 ROCm/gpu-operator#183: no labeller"),
        pytest.param(
            {"amd.com/gpu.product-name": "AMD_Instinct_MI300A"}, {"amd.com/gpu": "4"}, ["AMD_Instinct_MI300A"] * 4, id="MI300A"
        ),
        pytest.param({}, {"habana.ai/gaudi": "8"}, ["Intel"] * 8, id="N10 dell/omnia#2312: Gaudi carries no model"),
        pytest.param(
            {"cloud.google.com/gke-tpu-accelerator": "tpu-v3-slice"}, {"google.com/tpu": "4"}, ["tpu-v3-slice"] * 4,
            id="N11: a TPU that the table does not know",
        ),
    ],
)  # fmt: skip
def test_whole_devices_need_no_memory(labels: dict[str, str], allocatable: dict[str, Any], models: list[str]) -> None:
    found = node_of(node(labels, allocatable))
    assert [one.model for one in found.cards] == models
    assert not any(one.sized for one in found.cards)
    assert [one.usable_mib for one in found.cards] == [1] * len(models)


def test_the_hand_label_gives_unified_memory_a_size() -> None:
    labels = {PRODUCT: "NVIDIA-GB10", "headroom.dev/card-vram": "110Gi"}
    for annotation in (
        None,
        [{"id": "GPU-a", "model": "NVIDIA-GB10"}],
        [{"id": "GPU-a", "model": "NVIDIA-GB10", "vram_mib": 0}],
    ):
        found = node_of(node(labels, {"nvidia.com/gpu": "1"}, cards=annotation))
        assert [one.vram_mib for one in found.cards] == [112640]


# Several kinds on one node


def test_two_kinds_of_device_on_one_node_each_have_their_cards() -> None:
    """S12 (nixpkgs#288037): an AMD processor with graphics beside an NVIDIA card."""
    both = {"nvidia.com/gpu": "1", "amd.com/gpu": "1"}
    found = node_of(node(gfd("NVIDIA-L4", 23034, 1), both, cards=[card(index=4)]))
    assert [(one.id, one.index, found.resource_of(one), str(one.pin_bar)) for one in found.cards] == [
        ("GPU-a", 4, "nvidia.com/gpu", ""),
        ("amd-0", 5, "amd.com/gpu", "only NVIDIA cards can be picked by Headroom"),
    ]
    pinned_only = node_of(node({}, {"amd.com/gpu": "1"}, cards=[card()]))
    assert [(one.id, pinned_only.resource_of(one)) for one in pinned_only.cards] == [
        ("GPU-a", ""),
        ("amd-0", "amd.com/gpu"),
    ]


def test_a_kind_that_cannot_be_told_does_not_take_the_other_along() -> None:
    for annotation in (None, "{not json"):
        found = node_of(node(T4, {"nvidia.com/gpu": "7", "amd.com/gpu": "1"}, cards=annotation))
        assert [found.resource_of(one) for one in found.cards] == ["amd.com/gpu"]
        assert len(found.problems) == 1


def test_an_annotation_written_by_hand_for_another_vendor_s_devices() -> None:
    found = node_of(
        node({}, {"amd.com/gpu": "1"}, cards=[{"id": "0", "model": "AMD_Instinct_MI300X", "vram_mib": 196608}])
    )
    assert shape(found) == (Sharing.EXCLUSIVE, "amd.com/gpu", [("AMD_Instinct_MI300X", 196608, 1)])


def test_a_resource_without_working_devices_gives_way_to_one_with() -> None:
    """S11 (k8s-device-plugin#990): kubelet shows the old name for five minutes after renameByDefault was switched on."""
    renamed = node(
        gfd("NVIDIA-L4", 23034, 4, 4, "time-slicing"), {"nvidia.com/gpu": "0", "nvidia.com/gpu.shared": "16"},
        capacity={"nvidia.com/gpu": "4", "nvidia.com/gpu.shared": "16"},
    )  # fmt: skip
    assert shape(node_of(renamed)) == (Sharing.TIME_SLICING, "nvidia.com/gpu.shared", [("NVIDIA-L4", 23034, 4)] * 4)
    with pytest.raises(InventoryError, match="0 of 4"):
        node_of(node(gfd("NVIDIA-L4", 23034, 4), {"nvidia.com/gpu": "0"}, capacity={"nvidia.com/gpu": "4"}))
    assert node_of(node({}, {"amd.com/gpu": "7"}, capacity={"amd.com/gpu": "8"})).cards[-1].index == 6


# Cards that are not Headroom's to give, or not to pick


def test_labels_describe_cards_where_no_device_plugin_is() -> None:
    """S16: docs/install.md says that pinned mode needs no device plugin."""
    found = node_of(node(gfd("NVIDIA-L4", 23034, 2)))
    assert shape(found) == (Sharing.EXCLUSIVE, "", [("NVIDIA-L4", 23034, 1)] * 2)
    with pytest.raises(InventoryError, match="cannot be told apart"):
        node_of(node(gfd("NVIDIA-L4", 23034, 2) | {"nvidia.com/mig.strategy": "mixed"}))


def test_a_card_that_only_drives_a_screen_is_left_out() -> None:
    """S17 (gfd#27): a DGX Station lists its display card among the others, the device plugin skips it."""
    station = [
        card(index=0),
        card(id="GPU-d", index=3, model="NVIDIA DGX Display", vram_mib=4096),
        card(id="GPU-e", index=4),
    ]
    found = node_of(node(gfd("NVIDIA-L4", 23034, 2), {"nvidia.com/gpu": "2"}, cards=station))
    assert [one.id for one in found.cards] == ["GPU-a", "GPU-e"]
