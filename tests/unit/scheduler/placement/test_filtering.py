"""Which nodes can run which pods, in scenarios."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headroom.domain.device_plugin import greedy_cards, share_mib
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.placement.filtering import fit
from scheduler.placement.refusals import refusal

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
    assert (
        verdict(fleet_of(node(resource="")), sliced())
        == f"node does not offer {PLUGIN}, neither by a device plugin nor by DRA"
    )


def test_the_host_is_asked_only_where_no_scheduler_does() -> None:
    fleet = fleet_of(node())
    greedy = pinned(vram_mib=1, cpu_milli=32_001)
    assert verdict(fleet, greedy) is None
    assert verdict(fleet, greedy, check_host=True) == "not enough CPU or memory on the host"


CARDS = st.builds(
    Card, id=st.just("id"), index=st.just(0), model=st.just(A100),
    vram_mib=st.integers(1, 90_000), reserve_mib=st.integers(0, 900), slices=st.integers(1, 4), healthy=st.booleans(),
)  # fmt: skip
SIZES = st.one_of(
    st.builds(lambda mib: {"vram_mib": mib}, st.integers(1, 90_000)),
    st.builds(lambda milli: {"milli": milli}, st.integers(1, 1000)),
    st.just({}),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    """A few nodes of odd cards, some of whose devices have been given out."""
    nodes = []
    for number in range(draw(st.integers(1, 4))):
        cards = draw(st.lists(CARDS, min_size=1, max_size=5))
        cards = [replace(card, id=str(at), index=at) for at, card in enumerate(cards)]
        allocation = draw(st.sampled_from(Allocation))
        nodes.append(GpuNode(f"n{number}", tuple(cards), Sharing.TIME_SLICING, allocation, PLUGIN))
    fleet = fleet_of(*nodes)
    for row, each in enumerate(nodes):
        for at in draw(st.lists(st.integers(0, len(each.cards) - 1), max_size=6)):
            if fleet.slices_free[row, at]:
                fleet.take(row, [at], [1], plugin=True)
    return fleet


@given(fleet=fleets(), count=st.integers(1, 7), pinned_mode=st.booleans(), size=SIZES)
def test_one_node_at_a_time_and_many_at_once_are_judged_alike(
    fleet: Fleet, count: int, pinned_mode: bool, size: dict[str, int]
) -> None:
    """The ledger and the agent go card by card; placement goes by arrays. They must mean the same cards and memory."""
    request = pinned(count, **size) if pinned_mode else sliced(count, **size)
    rows = np.arange(len(fleet.nodes))
    found = fit(fleet, request, rows)
    for row, each in enumerate(fleet.nodes.values()):
        width = len(each.cards)
        scalar = [share_mib(request, card.usable_mib, int(fleet.slices[row, at])) for at, card in enumerate(each.cards)]
        assert found.need[row, :width].tolist() == scalar
        if found.take is None:
            continue
        given_out, slices = fleet.plugin[row, :width].tolist(), fleet.slices[row, :width].tolist()
        cards = greedy_cards(given_out, slices, count, each.allocation)
        if cards is None:
            assert not found.fits[row]
        else:
            assert found.take[row, :width].tolist() == [cards.count(at) * scalar[at] for at in range(width)]
