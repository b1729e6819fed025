"""Which nodes can run which pods, in scenarios."""

import numpy as np
import pytest

from headroom.cards import greedy_cards
from headroom.fleet import Fleet
from headroom.model import Allocation, Card, GpuNode, GpuRequest, Mode, Sharing
from scheduler.filtering import fit, predicted_shares, refusal

A100 = "NVIDIA-A100-SXM4-80GB"
PLUGIN = "nvidia.com/gpu"


def node(
    *, cards: int = 2, mib: int = 80_000, slices: int = 1, model: str = A100, resource: str = PLUGIN, name: str = "node",
    allocation: Allocation = Allocation.DISTRIBUTED, schedulable: bool = True, healthy: bool = True,
) -> GpuNode:  # fmt: skip
    return GpuNode(
        name=name,
        cards=tuple(Card(str(at), at, model, mib, slices=slices, healthy=healthy) for at in range(cards)),
        sharing=Sharing.TIME_SLICING if slices > 1 else Sharing.EXCLUSIVE,
        allocation=allocation,
        resource=resource,
        cpu_milli=32_000,
        memory_mib=64_000,
        schedulable=schedulable,
    )


def fleet_of(*nodes: GpuNode) -> Fleet:
    fleet = Fleet()
    for each in nodes:
        fleet.upsert_node(each)
    return fleet


def pinned(count: int = 1, **fields: object) -> GpuRequest:
    return GpuRequest(count, **fields)  # type: ignore[arg-type]


def sliced(count: int = 1, **fields: object) -> GpuRequest:
    return GpuRequest(count, Mode.SLICE, resource=PLUGIN, **fields)  # type: ignore[arg-type]


def verdict(fleet: Fleet, request: GpuRequest, *, check_host: bool = False) -> str | None:
    word = refusal(fleet, request, 0, check_host=check_host)
    assert (word is None) == bool(fit(fleet, request, np.array([0]), check_host=check_host).fits[0])
    return word


@pytest.mark.parametrize(
    ("what", "held", "request_", "expected"),
    [
        ("memory on an empty card", (), pinned(vram_mib=20_000), None),
        ("the last free MiB", ((0, 60_000), (1, 80_000)), pinned(vram_mib=20_000), None),
        ("one MiB too much", ((0, 60_001), (1, 80_000)), pinned(vram_mib=20_000), "no card with 20000 MiB free"),
        ("a share on each of two cards", (), pinned(2, vram_mib=50_000), None),
        ("two shares, room on one card only", ((0, 40_000),), pinned(2, vram_mib=50_000), "fewer than 2 cards with 50000 MiB free"),
        ("a share per card, never two on one", (), pinned(3, vram_mib=10), "fewer than 3 cards"),
        ("thousandths", ((0, 40_000), (1, 40_001)), pinned(milli=500), None),
        ("thousandths that do not fit", ((0, 40_001), (1, 40_001)), pinned(milli=500), "no card with 500 thousandths free"),
        ("a whole card", ((0, 1),), pinned(), None),
        ("no whole card left", ((0, 1), (1, 1)), pinned(), "no unused card"),
        ("two whole cards", ((0, 1),), pinned(2), "fewer than 2 unused cards"),
        ("another model", (), pinned(vram_mib=10, models=frozenset({"NVIDIA-L4"})), "card model not allowed"),
    ],
)  # fmt: skip
def test_pinned_pods(what: str, held: tuple[tuple[int, int], ...], request_: GpuRequest, expected: str | None) -> None:
    fleet = fleet_of(node())
    for card, mib in held:
        fleet.take(0, [card], [mib], plugin=False)
    assert verdict(fleet, request_) == expected, what


@pytest.mark.parametrize(
    ("what", "allocation", "held", "request_", "expected"),
    [
        ("the default share of an idle card", Allocation.DISTRIBUTED, (), sliced(), None),
        ("distributed: the emptier card counts", Allocation.DISTRIBUTED, ((0, 70_000),), sliced(vram_mib=20_000), None),
        ("packed: the fuller card counts", Allocation.PACKED, ((0, 70_000),), sliced(vram_mib=20_000),
         "the card that the device plugin will pick has not 20000 MiB free"),
        ("distributed: memory elsewhere is no help", Allocation.DISTRIBUTED, ((0, 70_000), (1, 5_000), (1, 5_000)),
         sliced(vram_mib=20_000), "the card that the device plugin will pick has not 20000 MiB free"),
        ("distributed: cards alike to the plugin must all have room", Allocation.DISTRIBUTED, ((0, 5_000), (1, 70_000)),
         sliced(vram_mib=20_000), "the card that the device plugin will pick has not 20000 MiB free"),
        ("distributed: cards alike to the plugin, in the other order", Allocation.DISTRIBUTED, ((0, 70_000), (1, 5_000)),
         sliced(vram_mib=20_000), "the card that the device plugin will pick has not 20000 MiB free"),
        ("two shares go to two cards", Allocation.DISTRIBUTED, (), sliced(2, vram_mib=80_000), None),
        ("no slice left", Allocation.DISTRIBUTED, ((0, 1), (0, 1), (1, 1), (1, 1)), sliced(), "no free time slice"),
        ("too few slices left", Allocation.DISTRIBUTED, ((0, 1), (0, 1), (1, 1)), sliced(2), "fewer than 2 free time slices"),
    ],
)  # fmt: skip
def test_slices_of_shared_cards(
    what: str, allocation: Allocation, held: tuple[tuple[int, int], ...], request_: GpuRequest, expected: str | None
) -> None:
    fleet = fleet_of(node(slices=2, allocation=allocation))
    for card, mib in held:
        fleet.take(0, [card], [mib], plugin=True)
    assert verdict(fleet, request_) == expected, what


def test_an_exclusive_plugin_may_pick_any_card_so_all_it_has_left_must_do() -> None:
    fleet = fleet_of(node())
    assert verdict(fleet, sliced(vram_mib=20_000)) is None
    fleet.take(0, [1], [1_000], plugin=False)
    assert verdict(fleet, sliced(vram_mib=20_000)) == "the device plugin could pick a card that is in use"
    fleet.take(0, [0], [80_000], plugin=True)
    assert verdict(fleet, sliced(vram_mib=20_000)) == "the device plugin could pick a card that is in use"
    assert verdict(fleet, sliced(2)) == "fewer than 2 free cards"


def test_pinned_pods_keep_off_cards_that_the_plugin_has_given_out() -> None:
    fleet = fleet_of(node(slices=2, cards=1))
    fleet.take(0, [0], [1_000], plugin=True)
    assert verdict(fleet, pinned(vram_mib=1_000)) == "cards with room are in the hands of the device plugin"


def test_nodes_out_of_service() -> None:
    assert verdict(fleet_of(node(schedulable=False)), pinned(vram_mib=1)) == "node cordoned"
    assert verdict(fleet_of(node(healthy=False)), pinned(vram_mib=1)) == "no healthy GPU"
    assert verdict(fleet_of(node(resource="")), sliced()) == f"node does not offer {PLUGIN}"


def test_the_host_is_asked_only_where_no_scheduler_does() -> None:
    fleet = fleet_of(node())
    greedy = pinned(vram_mib=1, cpu_milli=32_001)
    assert verdict(fleet, greedy) is None
    assert verdict(fleet, greedy, check_host=True) == "not enough CPU or memory on the host"


@pytest.mark.parametrize("allocation", list(Allocation))
def test_prediction_is_the_same_for_one_node_and_for_many(allocation: Allocation) -> None:
    rng = np.random.default_rng(1)
    fleet = fleet_of(*[node(name=str(at), cards=4, slices=3, allocation=allocation) for at in range(40)])
    for row in range(40):
        for card in rng.integers(0, 4, rng.integers(0, 10)).tolist():
            if fleet.slices_free[row, card]:
                fleet.take(row, [card], [1], plugin=True)
    for count in (1, 2, 5):
        shares = predicted_shares(fleet, np.arange(40), count)
        for row in range(40):
            cards = greedy_cards(fleet.plugin[row, :4].tolist(), [3] * 4, count, allocation)
            if cards is None:
                assert shares[row].sum() < count
            else:
                assert shares[row, :4].tolist() == [cards.count(at) for at in range(4)]
