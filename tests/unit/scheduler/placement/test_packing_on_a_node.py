"""Shares of one size on one node fill a card before they open the next one."""

import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import Placer, hold
from scheduler.placement.policies.registry import policy_by_name

GIB = 1024


def fleet_of(cards: int) -> Fleet:
    fleet = Fleet()
    described = tuple(Card(f"c{at}", at, "A100", 80 * GIB, 600) for at in range(cards))
    fleet.upsert_node(GpuNode("n", described, cpu_milli=64000, memory_mib=400000))
    return fleet


@pytest.mark.parametrize("cards", [2, 8])
@pytest.mark.parametrize(
    ("gib", "per_card"),
    [(10, 7), (16, 4), pytest.param(22, 3, id="deploy/examples/vllm-two-on-one-card.yaml"), (32, 2), (39, 2)],
)
def test_a_card_is_filled_before_the_next_is_opened(cards: int, gib: int, per_card: int) -> None:
    """An empty card of 80 GiB was taken beside one with room: costs and ties differed by what was rounded off."""
    fleet = fleet_of(cards)
    placer = Placer(fleet, policy_by_name("headroom"))
    request = GpuRequest(1, vram_mib=gib * GIB, mode=Mode.PINNED)
    taken = []
    for planned in range(2 * per_card):
        placer.observe(request)
        if planned:  # the first one comes before there is a plan
            placer.replan()
        placement = placer.best(request)
        assert placement is not None
        hold(fleet, request, placement)
        taken.append(placement.cards[0])
    assert taken == [0] * per_card + [1] * per_card


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("gib", [10, 22, 39])
def test_the_card_that_has_one_is_taken_where_an_empty_one_comes_first(gib: int, planned: bool) -> None:
    """Either costs the same."""
    fleet = fleet_of(2)
    placer = Placer(fleet, policy_by_name("headroom"))
    request = GpuRequest(1, vram_mib=gib * GIB, mode=Mode.PINNED)
    hold(fleet, request, Placement("n", (1,), (gib * GIB,), Mode.PINNED))
    placer.observe(request)
    if planned:
        placer.replan()
    placement = placer.best(request)
    assert placement is not None
    assert placement.cards == (1,)
