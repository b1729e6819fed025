"""Groups in virtual time: the daemon's own code gives all places or none, and the Permit plugin beside it does what it is there to show."""

import dataclasses

import pytest

from simulations.placement.groups import lists
from simulations.placement.groups.cli import Job, comparison, goals, play
from simulations.placement.groups.daemon import BrokenError
from simulations.placement.groups.run import APART, HEADROOM, MODES, PERMIT_600, PERMIT_AT_ONCE, Mode

SMALL = Job(number=2, mode=MODES.index(HEADROOM), nodes=20, hours=30.0, load=1.0)


def in_mode(mode: Mode) -> Job:
    return dataclasses.replace(SMALL, mode=MODES.index(mode))


def test_all_or_none_in_every_step_while_permit_holds_parts() -> None:
    """The run looks after every step; a group with a part of its places, or a card given twice, would end it."""
    ours, permit = play(in_mode(HEADROOM)), play(in_mode(PERMIT_600))
    assert (ours.partial, ours.timeouts, ours.deadlocks, ours.unplaced) == (0, 0, 0, 0)
    assert len(ours.waits["group"]) == len(permit.waits["group"]) >= 5
    assert ours.pod_hours == pytest.approx(permit.pod_hours)
    assert ours.steps > 500
    assert permit.partial > 0
    assert permit.timeouts > 0
    assert permit.idle_held_share > ours.idle_held_share == 0
    assert permit.unplaced == 0


def test_given_up_at_the_first_refusal_nothing_waits_for_the_time_out() -> None:
    found = play(in_mode(PERMIT_AT_ONCE))
    assert found.timeouts == 0
    assert found.unplaced == 0


def test_a_group_that_may_be_bound_in_part_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the run looks for is there to be found: were a group to need one pod only, its members would be placed one by one."""
    monkeypatch.setattr("scheduler.cluster.pods.groups.GroupRecord.number", lambda record: 1)
    with pytest.raises(BrokenError, match=r"of \d places"):
        play(SMALL)


def test_equal_jobs_give_equal_outcomes_and_the_table_has_a_line_for_each_mode() -> None:
    short = dataclasses.replace(SMALL, hours=8.0)
    assert play(short) == play(short)
    by_mode = {mode.name: [play(dataclasses.replace(short, mode=MODES.index(mode)))] for mode in (HEADROOM, APART)}
    assert len(comparison(by_mode).splitlines()) == 4
    assert goals(by_mode[HEADROOM.name], by_mode)[0].startswith("reached: no deadlock")


def test_the_list_has_the_parts_that_are_asked_for() -> None:
    nodes = lists.nodes(100)
    cards = sum(len(node.cards) for node in nodes)
    arrivals = lists.Generator(7, cards, load=0.8, several=0.4).arrivals(800.0)
    work = {
        kind: sum(
            one.size * one.ask.units * one.seconds
            for one in arrivals
            if (one.ask.cards > 1 or one.is_group, one.is_group) == kind
        )
        for kind in ((False, False), (True, False), (True, True))
    }
    total = sum(work.values())
    assert total / (800 * 3600 * cards * 1000) == pytest.approx(0.8, abs=0.08)
    assert work[True, False] / total == pytest.approx(0.2, abs=0.03)
    assert work[True, True] / total == pytest.approx(0.2, abs=0.05)
    assert {one.size for one in arrivals} == {1, 2, 3, 4, 6, 8}
