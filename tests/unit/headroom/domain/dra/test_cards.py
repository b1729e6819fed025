"""A node's cards by its ResourceSlices, beside its annotation, its labels and its device plugin."""

import json
from typing import Any

import pytest

from headroom import wire
from headroom.domain.dra.classes import Classes, read_class
from headroom.domain.dra.devices import read_slice
from headroom.domain.dra.objects import DEVICE_CLASS, RESOURCE_SLICE
from headroom.domain.dra.pools import NodeDevices, Pools
from headroom.domain.model import GpuNode, PinBar
from headroom.domain.node_cards import node_of
from tests.fakes.devices import device, device_class, resource_slice

GPU = "nvidia.com/gpu"
MODEL = "NVIDIA-A100-SXM4-80GB"
SERVED = device_class(resource=GPU)
GIB = 1024


def devices(*slices: dict[str, Any], classes: tuple[dict[str, Any], ...] = (SERVED,)) -> NodeDevices:
    known = Classes()
    for each in classes:
        known.apply(each["metadata"]["name"], read_class(DEVICE_CLASS.decode(json.dumps(each).encode())))
    pools = Pools(known)
    for at, each in enumerate(slices):
        pools.apply(f"{each['metadata']['name']}-{at}", read_slice(RESOURCE_SLICE.decode(json.dumps(each).encode())))
    return pools.of_node("n")


def two_cards(**more: Any) -> dict[str, Any]:
    return resource_slice("n", [device("gpu-0", "GPU-0", **more), device("gpu-1", "GPU-1", **more)])


def described(
    found: NodeDevices,
    *,
    annotation: list[dict[str, Any]] | None = None,
    labels: dict[str, str] | None = None,
    plugin: int = 0,
    pin_claimable: bool = False,
) -> GpuNode:
    node = wire.Node(
        metadata=wire.Meta(
            name="n", labels=labels or {}, annotations={} if annotation is None else {"headroom.dev/cards": json.dumps(annotation)}
        ),
        status=wire.NodeStatus(allocatable={"cpu": "64", "memory": "512Gi", **({GPU: str(plugin)} if plugin else {})}),
    )  # fmt: skip
    return node_of(node, found, pin_claimable=pin_claimable)


def annotated(*ids: str, gib: int = 80) -> list[dict[str, Any]]:
    return [{"id": each, "index": at, "model": MODEL, "vram_mib": gib * GIB} for at, each in enumerate(ids)]


def gfd(count: int) -> dict[str, str]:
    return {"nvidia.com/gpu.product": MODEL, "nvidia.com/gpu.count": str(count), "nvidia.com/gpu.memory": "81920"}


def test_slices_alone_describe_a_node() -> None:
    """A node with NVIDIA's DRA driver and nothing else: no agent, no device plugin, no feature discovery."""
    node = described(devices(two_cards()))
    assert [(card.id, card.model, card.vram_mib, card.reserve_mib) for card in node.cards] == [
        ("GPU-0", MODEL, 80 * GIB, 883), ("GPU-1", MODEL, 80 * GIB, 883),
    ]  # fmt: skip
    assert (node.resource, node.allocates(GPU), node.problems) == (GPU, True, ())
    assert {card.pin_bar for card in node.cards} == {PinBar.CLAIMS}


def test_the_annotation_comes_before_slices_and_slices_before_labels() -> None:
    agent = described(devices(two_cards()), annotation=annotated("GPU-0", "GPU-1"))
    assert [card.reserve_mib for card in agent.cards] == [0, 0]
    labelled = described(devices(two_cards()), labels=gfd(2))
    assert [card.id for card in labelled.cards] == ["GPU-0", "GPU-1"]


def test_a_device_plugin_hands_out_what_it_advertises() -> None:
    """kube-scheduler allocates only where the node does not advertise the resource; claims may have the cards all the same."""
    node = described(devices(two_cards()), labels=gfd(2), plugin=2)
    assert (node.resource, node.allocates(GPU)) == (GPU, False)
    assert all(card.claimable for card in node.cards)


@pytest.mark.parametrize(
    "classes",
    [
        (),
        (device_class(),),
        (device_class(resource=GPU, kind="mig"),),
        (device_class("x", GPU, "gpu.example.com", ""),),
    ],
)
def test_without_a_class_that_maps_it_a_device_is_had_by_claims_alone(classes: tuple[dict[str, Any], ...]) -> None:
    node = described(devices(two_cards(), classes=classes))
    assert (len(node.cards), node.allocates(GPU), node.resource) == (2, False, "")
    assert {card.pin_bar for card in node.cards} == {PinBar.CLAIMS}


def test_pinned_pods_may_have_claimable_cards_where_a_setting_says_so() -> None:
    node = described(devices(two_cards()), pin_claimable=True)
    assert {card.pin_bar for card in node.cards} == {PinBar.NONE}


def test_a_card_that_is_in_no_slice_is_like_any_other() -> None:
    node = described(devices(two_cards()), annotation=annotated("GPU-0", "GPU-1", "GPU-2"))
    assert [(card.claimable, card.by_allocator, card.pin_bar) for card in node.cards] == [
        (True, True, PinBar.CLAIMS), (True, True, PinBar.CLAIMS), (False, False, PinBar.NONE),
    ]  # fmt: skip


def test_taints_withdraw_a_card() -> None:
    tainted = resource_slice(
        "n", [device("gpu-0", "GPU-0", taint="NoSchedule"), device("gpu-1", "GPU-1", taint="None")]
    )
    for node in (described(devices(tainted)), described(devices(tainted), annotation=annotated("GPU-0", "GPU-1"))):
        assert [card.healthy for card in node.cards] == [False, True]


def test_consumable_shares_are_slices_of_the_allocator() -> None:
    shared = device("gpu-0", "GPU-0", policy={"default": "20Gi"})
    node = described(devices(resource_slice("n", [shared])), annotation=annotated("GPU-0"))
    assert [card.slices for card in node.cards] == [4]


# Devices without a uuid


BARE = device_class("x", GPU, "gpu.example.com", "")


def bare(count: int) -> NodeDevices:
    listed = [{"name": f"gpu-{at}"} for at in range(count)]
    return devices(resource_slice("n", listed, driver="gpu.example.com"), classes=(BARE,))


def test_devices_without_a_uuid_are_the_cards_that_are_left() -> None:
    node = described(bare(2), annotation=annotated("GPU-0", "GPU-1"))
    assert (node.allocates(GPU), [card.claimable for card in node.cards], node.problems) == (True, [True, True], ())


def test_devices_without_a_uuid_that_cannot_be_told_apart() -> None:
    node = described(bare(1), annotation=annotated("GPU-0", "GPU-1"))
    assert (node.allocates(GPU), [card.claimable for card in node.cards]) == (False, [True, True])
    assert node.problems == ("ResourceSlices: 1 devices without a uuid and 2 cards: which is which cannot be told",)


def test_devices_that_tell_nothing_are_cards_of_unknown_memory() -> None:
    node = described(bare(1))
    assert [(card.id, card.model, card.sized) for card in node.cards] == [("gpu.example.com/n/gpu-0", "NVIDIA", False)]
    assert node.allocates(GPU)


# MIG


def test_instances_that_exist_are_cards_and_parts_that_do_not_are_their_cards() -> None:
    exist = [device(f"mig-{at}", f"MIG-{at}", kind="mig", parent="GPU-0", gib=10) for at in range(2)]
    cut_by_request = [device("gpu-1", "GPU-1"), device("gpu-1-mig-0", kind="mig", parent="GPU-1", gib=10)]
    node = described(devices(resource_slice("n", exist + cut_by_request)))
    assert [(card.id, card.model, card.vram_mib, card.by_allocator) for card in node.cards] == [
        ("MIG-0", f"{MODEL}-MIG-1g.10gb", 10 * GIB, False),
        ("MIG-1", f"{MODEL}-MIG-1g.10gb", 10 * GIB, False),
        ("GPU-1", MODEL, 80 * GIB, True),
    ]


def test_a_card_of_which_parts_can_be_had_is_claimable() -> None:
    parts = [device(f"gpu-0-mig-{at}", kind="mig", parent="GPU-0", gib=10) for at in range(7)]
    node = described(devices(resource_slice("n", parts)), annotation=annotated("GPU-0"))
    assert [(card.id, card.claimable, card.by_allocator) for card in node.cards] == [("GPU-0", True, False)]


def test_a_card_and_the_same_for_a_virtual_machine_are_one() -> None:
    listed = [device("gpu-0", "GPU-0"), device("gpu-vfio-0", "GPU-0", kind="vfio", gib=0)]
    assert [(card.id, card.vram_mib) for card in described(devices(resource_slice("n", listed))).cards] == [
        ("GPU-0", 80 * GIB)
    ]


# Contradictions: named, and the safe reading counts


def test_slices_that_contradict_the_annotation() -> None:
    node = described(devices(two_cards(gib=40)), annotation=annotated("GPU-0", "GPU-1"))
    assert [card.vram_mib for card in node.cards] == [40 * GIB] * 2
    assert node.problems[0] == "card GPU-0: 81920 and 40960 MiB by the node and its ResourceSlices; the smaller counts"


def test_slices_that_contradict_each_other() -> None:
    other = resource_slice("n", [device("a", "GPU-0", gib=40)], driver="hami.example.com")
    node = described(devices(resource_slice("n", [device("gpu-0", "GPU-0")]), other))
    assert [card.vram_mib for card in node.cards] == [40 * GIB]
    assert node.problems == ("card GPU-0: 81920 and 40960 MiB by two ResourceSlices; the smaller counts",)


def test_a_device_that_the_node_has_not() -> None:
    node = described(devices(two_cards()), annotation=annotated("GPU-0"))
    assert [card.id for card in node.cards] == ["GPU-0"]
    assert node.problems == ("ResourceSlices: GPU-1: not among the node's cards",)


def test_a_plugin_that_hands_out_more_than_slices_have_is_believed() -> None:
    node = described(devices(resource_slice("n", [device("gpu-0", "GPU-0")])), labels=gfd(4), plugin=4)
    assert [(card.id, card.claimable) for card in node.cards] == [(str(at), True) for at in range(4)]
    assert "the device plugin hands out more devices than the cards have" in node.problems[0]


def test_a_pool_that_is_not_complete_offers_nothing() -> None:
    node = described(devices(resource_slice("n", [device("gpu-0", "GPU-0")], slices=2)))
    assert ([card.claimable for card in node.cards], node.allocates(GPU)) == ([True], False)
    assert node.problems == ("pool gpu.nvidia.com/n: 1 of 2 ResourceSlices are there",)


def test_128_cards() -> None:
    listed = [device(f"gpu-{at}", f"GPU-{at}") for at in range(128)]
    assert len(described(devices(resource_slice("n", listed))).cards) == 128
