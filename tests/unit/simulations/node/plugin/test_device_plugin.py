"""The stand-in for NVIDIA's device plugin chooses as the scheduler's prediction says, but for ties."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headroom.domain.device_plugin import greedy_cards
from headroom.domain.model import Allocation
from simulations.node.plugin.device_plugin import Chooser, card_of, device_ids, links_of

CARDS = ("GPU-a", "GPU-b", "GPU-c")


def chooser(replicas: int, policy: str, ties: str = "first") -> Chooser:
    return Chooser(device_ids(CARDS, replicas), policy, ties, random.Random(1))


@given(
    policy=st.sampled_from([Allocation.DISTRIBUTED, Allocation.PACKED, Allocation.SPREAD]),
    given_out=st.tuples(*[st.integers(0, 4)] * 3),
    size=st.integers(1, 6),
)
def test_chooses_the_cards_that_are_foretold(policy: Allocation, given_out: tuple[int, ...], size: int) -> None:
    one = chooser(4, policy.value)
    available = [f"{card}::{at}" for card, taken in zip(CARDS, given_out, strict=True) for at in range(taken, 4)]
    foretold = greedy_cards(given_out, (4, 4, 4), size, policy)
    if foretold is not None:
        assert [card_of(device) for device in one.choose(available, [], size)] == [CARDS[at] for at in foretold]


@pytest.mark.parametrize(("ties", "card"), [("first", "GPU-a"), ("last", "GPU-c")])
def test_among_equals_it_takes_whom_it_is_told(ties: str, card: str) -> None:
    one = chooser(2, "distributed", ties)
    assert card_of(one.choose(one.devices, [], 1)[0]) == card


def test_among_equals_it_takes_anyone() -> None:
    one = chooser(2, "distributed", "random")
    assert {card_of(one.choose(one.devices, [], 1)[0]) for _ in range(50)} == set(CARDS)


def test_required_devices_come_first() -> None:
    one = chooser(2, "packed")
    assert one.choose(one.devices, ["GPU-b::1"], 2)[0] == "GPU-b::1"


def test_whole_cards_have_no_replica_in_their_id() -> None:
    assert device_ids(CARDS, 1) == list(CARDS)


def test_linked_takes_the_best_pair_of_what_is_free_and_leaves_the_others_theirs() -> None:
    cards = ["a", "b", "c", "d"]
    one = Chooser(cards, "linked", "first", random.Random(1), links_of(cards, "0-3,1-2"))
    assert one.choose(cards, [], 2) == ["a", "d"]
    assert one.choose(["b", "c", "d"], [], 2) == ["b", "c"]
    assert one.choose(["b", "c", "d"], [], 1) == ["d"], "the one whose partner is taken"
    assert one.choose(cards, ["c"], 2) == ["b", "c"]
    assert Chooser(cards, "none", "first", random.Random(1)).prefers is False
