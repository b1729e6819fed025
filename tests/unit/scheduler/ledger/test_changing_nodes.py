"""Nodes and cards that go, come back and change under what is held there."""

from dataclasses import replace

from headroom.domain.model import Card, GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger
from tests.unit.scheduler.ledger.events import (
    GPU,
    L4_MIB,
    STARTED,
    VRAM,
    bound,
    free,
    on,
    pinned,
    whole,
)

# News of nodes


def test_pods_wait_for_their_node(ledger: Ledger) -> None:
    ledger.apply(bound("u1", VRAM, "n2", cards="GPU-1", vram_mib="9000", mode="pinned"))
    ledger.apply(bound("u2", GPU, "n2", started=STARTED))
    assert ledger.check() == []
    ledger.apply_node(whole("n2"))
    assert free(ledger, "n2") == [0, 13000]


def test_a_node_that_goes_and_returns(ledger: Ledger) -> None:
    ledger.apply(bound("u1", VRAM, cards="GPU-1", vram_mib="9000", mode="pinned"))
    ledger.reserve("u2", "ns/u2", pinned(500), on("n1", 0, 500), expires_at=10)
    ledger.forget_node("n1")
    assert list(ledger.holdings) == ["u1"], "the reservation ended with its node"
    assert ledger.check() == []
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    ledger.forget_node("n1")
    ledger.release("u1")
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 22000]


def test_holdings_follow_their_card_to_another_position(ledger: Ledger) -> None:
    ledger.apply(bound("u1", VRAM, cards="GPU-1", vram_mib="9000", mode="pinned"))
    swapped = GpuNode("n1", tuple(reversed(whole().cards)), resource="nvidia.com/gpu")
    ledger.apply_node(swapped)
    assert free(ledger) == [13000, 22000]
    assert ledger.holdings["u1"].placement.cards == (0,)


def test_index_numbers_become_ids_when_an_agent_arrives() -> None:
    ledger = Ledger(Fleet())
    plain = tuple(Card(str(at), at, "NVIDIA-L4", L4_MIB) for at in range(2))
    ledger.apply_node(GpuNode("n1", plain))
    ledger.apply(bound("u1", VRAM, cards="1", vram_mib="9000", mode="pinned"))
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    assert ledger.problems == {}


def test_a_card_that_is_gone_is_booked_on_no_healthy_one(ledger: Ledger) -> None:
    """s26: a card falls off the bus, or MIG is cut anew, under pinned pods; those see no other card."""
    ledger.apply_node(whole(count=3))
    ledger.apply(bound("u1", VRAM, cards="GPU-2", vram_mib="9000", mode="pinned"))
    both = {"headroom.dev/gpu": "2", "headroom.dev/vram": "9000Mi"}
    ledger.apply(bound("u2", both, cards="GPU-2,GPU-1", vram_mib="9000,9000", mode="pinned"))
    ledger.reserve("u3", "ns/u3", pinned(20000), on("n1", 0, 20000), expires_at=10)
    held = ledger.held_in("ns")
    assert ledger.apply_node(whole(count=2)) == []
    assert free(ledger) == [2000, 13000]
    assert list(ledger.problems) == ["u1", "u2"]
    assert "has not the cards written on the pod: GPU-2" in ledger.problems["u2"]
    assert ledger.held_in("ns") == held, "a quota counts what a pod was given until it ends"
    assert ledger.check() == []
    ledger.apply_node(whole(count=3))
    assert free(ledger) == [2000, 13000, 4000]
    assert ledger.problems == {}
    assert ledger.check() == []
    ledger.apply_node(whole(count=2))
    for uid in ("u1", "u2", "u3"):
        ledger.release(uid)
    assert free(ledger) == [22000, 22000]
    assert ledger.check() == []


def test_a_reservation_ends_with_any_of_its_cards(ledger: Ledger) -> None:
    """s26: of two cards one went."""
    request = GpuRequest(count=2, mode=Mode.PINNED, vram_mib=9000)
    ledger.reserve("u1", "ns/u1", request, Placement("n1", (0, 1), (9000, 9000), Mode.PINNED), expires_at=10)
    assert [holding.uid for holding in ledger.apply_node(whole(count=1))] == ["u1"]
    assert free(ledger) == [22000]


def test_where_cards_are_known_by_position_alone_one_that_was_given_by_id_counts_on_some_card(ledger: Ledger) -> None:
    """The agent's annotation was lost: labels tell the cards, and none of their positions says which card is GPU-1."""
    ledger.apply(bound("u1", VRAM, cards="GPU-1", vram_mib="9000", mode="pinned"))
    ledger.apply_node(GpuNode("n1", tuple(Card(str(at), at, "NVIDIA-L4", L4_MIB) for at in range(2))))
    assert sorted(free(ledger)) == [13000, 22000]
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    assert ledger.problems == {}


def test_reservations_end_where_the_card_can_no_longer_keep_them(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 0, 9000), expires_at=10)
    ledger.reserve("u2", "ns/u2", pinned(9000), on("n1", 1, 9000), expires_at=10)
    cards = (whole().cards[0], Card("GPU-1", 1, "NVIDIA-L4", L4_MIB, healthy=False))
    ledger.apply_node(GpuNode("n1", cards, resource="nvidia.com/gpu"))
    assert list(ledger.holdings) == ["u1"]
    ledger.apply_node(whole(count=0))
    assert ledger.holdings == {}


def test_what_bound_pods_hold_of_a_withdrawn_card_stays(ledger: Ledger) -> None:
    """The driver is gone for a while: every card is unhealthy, pods run on, and nothing is counted twice when it is back."""
    ledger.apply(bound("u1", VRAM, cards="GPU-0", vram_mib="9000", mode="pinned"))
    sick = tuple(replace(card, healthy=False) for card in whole().cards)
    for cards, left in ((sick, [0, 0]), (whole().cards, [13000, 22000])):
        assert ledger.apply_node(replace(whole(), cards=cards)) == []
        assert free(ledger) == left
        assert ledger.fleet.held_mib[ledger.fleet.row_of["n1"], :2].tolist() == [9000, 0]
        assert ledger.check() == []


def test_cordoning_changes_no_holding(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 0, 9000), expires_at=10)
    ledger.apply_node(whole(schedulable=False))
    assert free(ledger) == [13000, 22000]
    assert not ledger.fleet.schedulable[ledger.fleet.row_of["n1"]]
    clock = ledger.fleet.clock
    ledger.apply_node(whole(schedulable=False))
    assert ledger.fleet.clock == clock, "the same description again is no news"
