"""Which cards a node has, from every source, and what is refused."""

from typing import Any

import pytest

from headroom import wire
from headroom.domain.model import Allocation, Card, Sharing
from headroom.domain.node_cards import InventoryError, encode_cards, node_of, without_cards
from tests.unit.headroom.domain.nodes import CARDS, COUNT, MEMORY, PRODUCT, REPLICAS, T4, card, gfd, node, shape


@pytest.mark.parametrize(
    ("labels", "allocatable", "expected"),
    [
        pytest.param(
            gfd("NVIDIA-A100-SXM4-80GB", 81920, 2), {"nvidia.com/gpu": "2"},
            (Sharing.EXCLUSIVE, "nvidia.com/gpu", [("NVIDIA-A100-SXM4-80GB", 81920, 1)] * 2), id="exclusive",
        ),
        pytest.param(
            gfd("Tesla-T4-SHARED", 15360, 2, 4, "time-slicing"), {"nvidia.com/gpu": "8"},
            (Sharing.TIME_SLICING, "nvidia.com/gpu", [("Tesla-T4", 15360, 4)] * 2), id="time-slicing",
        ),
        pytest.param(
            gfd("Tesla-T4", 15360, 1, 4, "time-slicing"), {"nvidia.com/gpu.shared": "4"},
            (Sharing.TIME_SLICING, "nvidia.com/gpu.shared", [("Tesla-T4", 15360, 4)]), id="time-slicing, renamed resource",
        ),
        pytest.param(
            {PRODUCT: "Tesla-T4-SHARED", MEMORY: "15360", REPLICAS: "4"}, {"nvidia.com/gpu": "8"},
            (Sharing.TIME_SLICING, "nvidia.com/gpu", [("Tesla-T4", 15360, 4)] * 2), id="time-slicing, older labels",
        ),
        pytest.param(
            gfd("NVIDIA-L4-SHARED", 23034, 1, 2, "mps"), {"nvidia.com/gpu": 2},
            (Sharing.MPS, "nvidia.com/gpu", [("NVIDIA-L4", 23034, 2)]), id="MPS",
        ),
        pytest.param(
            gfd("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", 9856, 7) | {"nvidia.com/mig.strategy": "single"},
            {"nvidia.com/gpu": "7"},
            (Sharing.MIG, "nvidia.com/gpu", [("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", 9856, 1)] * 7), id="MIG single",
        ),
        pytest.param(
            gfd("NVIDIA-L4", 23034, 1, 0), {"nvidia.com/gpu": "1"},
            (Sharing.EXCLUSIVE, "nvidia.com/gpu", [("NVIDIA-L4", 23034, 1)]), id="replicas 0 means not shared",
        ),
        pytest.param(
            {PRODUCT: "NVIDIA-H100-80GB-HBM3"}, {"nvidia.com/gpu": "1"},
            (Sharing.EXCLUSIVE, "nvidia.com/gpu", [("NVIDIA-H100-80GB-HBM3", 80990, 1)]), id="memory from the table",
        ),
        pytest.param(
            {"headroom.dev/card-model": "NVIDIA-X", "headroom.dev/card-vram": "24Gi"}, {"nvidia.com/gpu": "1"},
            (Sharing.EXCLUSIVE, "nvidia.com/gpu", [("NVIDIA-X", 24576, 1)]), id="labelled by hand",
        ),
        pytest.param(
            {"amd.com/gpu.product-name": "AMD_Instinct_MI300X", "amd.com/gpu.vram": "192G"}, {"amd.com/gpu": "8"},
            (Sharing.EXCLUSIVE, "amd.com/gpu", [("AMD_Instinct_MI300X", 196608, 1)] * 8), id="AMD",
        ),
        pytest.param(
            {"cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice"}, {"google.com/tpu": "4"},
            (Sharing.EXCLUSIVE, "google.com/tpu", [("tpu-v5-lite-podslice", 16384, 1)] * 4), id="TPU",
        ),
        pytest.param(
            {"headroom.dev/card-model": "Gaudi2"}, {"habana.ai/gaudi": "8"},
            (Sharing.EXCLUSIVE, "habana.ai/gaudi", [("Gaudi2", 98304, 1)] * 8), id="Gaudi",
        ),
        pytest.param({}, {}, (Sharing.EXCLUSIVE, "", []), id="no accelerator"),
        pytest.param({}, {"nvidia.com/gpu": "0"}, (Sharing.EXCLUSIVE, "", []), id="no accelerator any more"),
    ],
)  # fmt: skip
def test_nodes_from_labels(labels: dict[str, str], allocatable: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = node_of(node(labels, allocatable))
    assert shape(found) == expected
    assert [(card.id, card.index) for card in found.cards] == [(str(at), at) for at in range(len(found.cards))]


def test_host_allocatable_cordon_and_allocation_policy() -> None:
    found = node_of(node({"headroom.dev/allocation": "packed", "zone": "a"}, cards=[card()], cordoned=True))
    assert (found.cpu_milli, found.memory_mib, found.schedulable) == (7910, 32768, False)
    assert found.allocation is Allocation.PACKED
    assert found.labels["zone"] == "a"


@pytest.mark.parametrize(
    ("labels", "reserve_mib"),
    [
        pytest.param(gfd("Tesla-T4", 15360, 1), 451, id="known model"),
        pytest.param(gfd("NVIDIA-RTX-A6000", 49140, 1), 1024, id="known model of another memory setting"),
        pytest.param(gfd("NVIDIA-New", 65536, 1), 640, id="unknown model"),
        pytest.param(gfd("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", 9856, 1), 154, id="MIG instance"),
        pytest.param({PRODUCT: "Tesla-T4"}, 0, id="the table's memory is net of it"),
        pytest.param(gfd("Tesla-T4", 15360, 1) | {"headroom.dev/card-reserve": "1Gi"}, 1024, id="said by hand"),
        pytest.param(gfd("Tesla-T4", 15360, 1) | {"headroom.dev/card-reserve": "0"}, 0, id="said to be none"),
    ],
)
def test_driver_reserve_is_kept_off_labelled_memory(labels: dict[str, str], reserve_mib: int) -> None:
    assert node_of(node(labels, {"nvidia.com/gpu": "1"})).cards[0].reserve_mib == reserve_mib


def test_the_annotation_counts_before_labels_and_may_mix_models() -> None:
    found = node_of(
        node(
            gfd("Tesla-T4-SHARED", 15360, 2, 4, "time-slicing"),
            {"nvidia.com/gpu": "8"},
            cards=[
                card(index=0, reserve_mib=475),
                card(id="GPU-b", model="Tesla-T4-SHARED", vram_mib=15360, index=1, slices=4, healthy=False),
            ],
        )
    )
    assert found.sharing is Sharing.TIME_SLICING
    assert found.resource == "nvidia.com/gpu"
    assert found.cards == (
        Card("GPU-a", 0, "NVIDIA-L4", 23034, 475, 4),
        Card("GPU-b", 1, "Tesla-T4", 15360, 0, 4, healthy=False),
    )
    assert [one.usable_mib for one in found.cards] == [22559, 0]


def test_the_annotation_alone_describes_cards_without_a_device_plugin() -> None:
    found = node_of(node(cards=[card()]))
    assert (found.resource, found.sharing, len(found.cards)) == ("", Sharing.EXCLUSIVE, 1)


def test_fewer_devices_than_annotated_slices_is_a_plugin_that_is_behind() -> None:
    assert len(node_of(node({}, {"nvidia.com/gpu": "1"}, cards=[card(), card(id="GPU-b")])).cards) == 2


def test_what_the_agent_writes_is_read_back() -> None:
    cards = (Card("GPU-a", 3, "NVIDIA-L4", 23034, 475, 4), Card("GPU-b", 1, "Tesla-T4", 15360, 0, 1, healthy=False))
    assert node_of(node(cards=encode_cards(cards))).cards == cards


@pytest.mark.parametrize(
    ("cards", "field", "reason"),
    [
        ("{not json", CARDS, "not a list of cards"),
        ("{}", CARDS, "not a list of cards"),
        ("null", CARDS, "not a list of cards"),
        ([{"id": "a"}], CARDS, "missing required field `model`"),
        ([card(vram_mib="many")], CARDS, "got `str` - at `$[0].vram_mib`"),
        ([card(), card(id="b", vram_mib=-5)], f"{CARDS}[1].vram_mib", "at least 0"),
        ([card(reserve_mib=-1)], f"{CARDS}[0].reserve_mib", "at least 0"),
        ([card(reserve_mib=30000)], f"{CARDS}[0].reserve_mib", "more than the card's 23034 MiB"),
        ([card(slices=0)], f"{CARDS}[0].slices", "at least 1"),
        ([card(index=-1)], f"{CARDS}[0].index", "at least 0"),
        ([card(id="")], f"{CARDS}[0].id", "must be there"),
        ([card(id="a,b")], f"{CARDS}[0].id", "without a comma"),
        ([card(), card()], CARDS, "two cards with this id"),
        ([card(index=1), card(id="b", index=1)], CARDS, "two cards with this index"),
    ],
)
def test_malformed_annotations(cards: Any, field: str, reason: str) -> None:
    with pytest.raises(InventoryError) as caught:
        node_of(node(cards=cards))
    assert (caught.value.node, caught.value.field) == ("n1", field)
    assert reason in caught.value.reason


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        pytest.param(node(T4, {"nvidia.com/gpu": "8"}), ["gpu.count", "2 x 1 and 8", "contradict"], id="more devices"),
        pytest.param(node(T4, {"nvidia.com/gpu": "1"}), ["gpu.count", "2 x 1 and 1", "contradict"], id="fewer devices"),
        pytest.param(
            node(T4, {"nvidia.com/gpu": "1"}, capacity={"nvidia.com/gpu": "2"}),
            ["status.allocatable.nvidia.com/gpu", "1 of 2", "do not work"], id="a device broke",
        ),
        pytest.param(
            node(gfd("T4", 15360, 2, 4, "time-slicing"), {"nvidia.com/gpu": "2"}), ["2 x 4 and 2"], id="sharing not live yet"
        ),
        pytest.param(node({}, {"nvidia.com/gpu": "4"}), ["no label names the card model", PRODUCT], id="no labels"),
        pytest.param(node(T4 | {MEMORY: "lots"}, {"nvidia.com/gpu": "2"}), [MEMORY, "lots"], id="memory not a number"),
        pytest.param(
            node(T4 | {"headroom.dev/card-vram": "0"}, {"nvidia.com/gpu": "2"}), ["card-vram", "0", "at least 1 MiB"], id="memory 0"
        ),
        pytest.param(
            node(T4 | {"headroom.dev/card-vram": "8Ei"}, {"nvidia.com/gpu": "2"}), ["8Ei", "at most"], id="memory of no card"
        ),
        pytest.param(
            node(T4 | {COUNT: "1000000"}, {"nvidia.com/gpu": "1000000"}), ["1000000", "more than 4096 cards"],
            id="devices of no node",
        ),
        pytest.param(node(T4 | {REPLICAS: "-2"}, {"nvidia.com/gpu": "2"}), [REPLICAS, "-2"], id="replicas negative"),
        pytest.param(
            node(T4, {"nvidia.com/gpu": "2", "nvidia.com/gpu.shared": "4"}),
            ["nvidia.com/gpu 2, nvidia.com/gpu.shared 4", "under two names"], id="shared and whole",
        ),
        pytest.param(
            node(T4 | {PRODUCT: "NVIDIA-A100-SXM4-40GB-MIG-INVALID"}, {"nvidia.com/gpu": "2"}), ["MIG is not set up"],
            id="MIG set up wrongly",
        ),
        pytest.param(
            node(T4 | {"nvidia.com/mig.strategy": "mixed"}, {"nvidia.com/gpu": "2", "nvidia.com/mig-1g.10gb": "7"}),
            ["mixed", "nvidia.com/mig-1g.10gb"], id="MIG mixed",
        ),
        pytest.param(node({}, {"nvidia.com/gpu": "x"}), ["status.allocatable.nvidia.com/gpu", "not a quantity"], id="count"),
        pytest.param(node({}, {"cpu": "-1"}), ["status.allocatable.cpu", "-1", "below zero"], id="negative CPU"),
        pytest.param(
            node({}, {"nvidia.com/gpu": "4"}, cards=[card()]), ["hands out more devices"], id="annotation knows too few"
        ),
    ],
)  # fmt: skip
def test_contradictions_are_refused_with_a_reason(broken: wire.Node, named: list[str]) -> None:
    with pytest.raises(InventoryError) as caught:
        node_of(broken)
    for part in ["n1", *named]:
        assert part in str(caught.value)


def test_a_refused_node_remains_a_home_for_pods_without_cards() -> None:
    rest = without_cards(node(T4, {"nvidia.com/gpu": "8"}))
    assert (rest.cards, rest.resource, rest.cpu_milli) == ((), "", 7910)


MIG = gfd("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", 4864, 7) | {"nvidia.com/mig.strategy": "single"}


@pytest.mark.parametrize(
    ("described", "bar"),
    [
        pytest.param(node(MIG, {"nvidia.com/gpu": "7"}), "known by position", id="S15 k8s-device-plugin#572: ids are positions"),
        pytest.param(node(MIG, {"nvidia.com/gpu": "1"}, cards=[card(id="MIG-1")]), "", id="S15b: the agent names them"),
        pytest.param(
            node(gfd("NVIDIA-L4-SHARED", 23034, 1, 4, "mps"), {"nvidia.com/gpu": "4"}), "MPS",
            id="S03 k8s-device-plugin#1655: exclusive compute mode",
        ),
        pytest.param(
            node(gfd("NVIDIA-L4-SHARED", 23034, 1, 4, "mps"), {"nvidia.com/gpu": "4"}, cards=[card(slices=4)]), "MPS",
            id="S03 with the agent",
        ),
        pytest.param(
            node(gfd("NVIDIA-L4-SHARED", 23034, 1, 4, "magic"), {"nvidia.com/gpu": "4"}), "does not know", id="a strategy of tomorrow"
        ),
        pytest.param(node({}, {"amd.com/gpu": "1"}), "only NVIDIA", id="another vendor's"),
        pytest.param(node(gfd("NVIDIA-L4-SHARED", 23034, 1, 4, "time-slicing"), {"nvidia.com/gpu": "4"}), "", id="time-sliced"),
    ],
)  # fmt: skip
def test_why_headroom_may_not_pick_a_card_itself(described: wire.Node, bar: str) -> None:
    (found,) = {str(one.pin_bar) for one in node_of(described).cards}
    assert bar in found
    assert bool(bar) == bool(found)


@pytest.mark.parametrize(
    ("labels", "cards", "matched"),
    [
        pytest.param({PRODUCT: "NVIDIA-L4"}, [card(), card(id="b")], True, id="N14 one model, named by the label"),
        pytest.param({PRODUCT: "NVIDIA-L4"}, [card(model="L4-odd")], True, id="N14 spelt otherwise"),
        pytest.param({PRODUCT: "NVIDIA-L4"}, [card(), card(id="b", model="Tesla-T4")], False, id="N12 several models"),
        pytest.param({}, [card()], False, id="no label to match"),
    ],
)
def test_whether_kube_scheduler_has_matched_the_model(labels: dict[str, str], cards: list[Any], matched: bool) -> None:
    assert {one.model_matched for one in node_of(node(labels, cards=cards)).cards} == {matched}


def test_names_in_the_annotation_are_spelt_as_labels_are() -> None:
    """N13 (k8s-device-plugin, internal/lm): '+' and brackets cannot stand in a label value."""
    found = node_of(
        node(cards=[card(model="NVIDIA-A100-SXM4-40GB-MIG-1g.5gb+me"), card(id="b", model="NVIDIA TITAN X (Pascal)")])
    )
    assert [one.model for one in found.cards] == ["NVIDIA-A100-SXM4-40GB-MIG-1g.5gbme", "NVIDIA-TITAN-X-Pascal"]
