"""The study of slice mode's caution: what it prevents happens without it, and never with it."""

import random

from headroom.domain.model import Mode
from simulations.placement.caution import DEVICES, Run, draw, sliced_nodes, table
from simulations.placement.vram import make_mix


def test_caution_prevents_what_a_scheduler_that_believes_itself_does() -> None:
    """Both give out the same memory as long as there is plenty of it."""
    cautious, believing = (Run(42, under_way=20, cautious=side).outcome(0.1) for side in (True, False))
    assert cautious.overcommitted == 0
    assert believing.overcommitted > 0
    assert cautious.asked_mib == believing.asked_mib
    assert cautious.allocated_mib + cautious.later_mib == cautious.asked_mib


def test_with_nobody_under_way_both_are_the_same_scheduler() -> None:
    assert Run(7, under_way=0, cautious=True).outcome(0.05) == Run(7, under_way=0, cautious=False).outcome(0.05)


def test_the_fleet_is_sliced_and_the_mix_wants_parts_of_cards() -> None:
    rng = random.Random(1)
    mix = make_mix(rng)
    assert {card.slices for node in sliced_nodes() for card in node.cards} == {DEVICES}
    assert {(one.mode, one.count) for one in (draw(mix, rng) for _ in range(50))} == {(Mode.SLICE, 1)}


def test_the_table_has_a_row_for_each_kind() -> None:
    lines = table([42], [0, 5], 0.02).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:]] == ["0", "0", "5", "5"]
