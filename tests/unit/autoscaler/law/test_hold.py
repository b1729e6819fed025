"""The hold time: what gaps between bursts teach, and what of it a new leader goes on with (item 5 of the issue on objectives)."""

from dataclasses import replace

import pytest

from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import Rule, TargetState
from autoscaler.law.memory.hold import hold_seconds, note_gaps
from autoscaler.law.memory.learned import Bursts, GapHistogram, Learned
from autoscaler.law.memory.window import Gap
from autoscaler.law.spec import Objective, Scaling
from autoscaler.law.turn import begin
from tests.unit.autoscaler.law.runs import RUNNING, TICK, Run, in_flight

LAW = LawConstants()
OBJECTIVE = Objective(2.0, 0.1, share=0.98)
LEARNS = replace(RUNNING, down=Scaling())


def gaps(seconds: float, count: int = 6) -> GapHistogram:
    """Six of eight replicas were not needed for so long, again and again."""
    histogram = GapHistogram()
    for _ in range(count):
        histogram = note_gaps(histogram, [Gap(seconds, 6, 8)], LAW)
    return histogram


@pytest.mark.parametrize("seconds", [100.0, 300.0, 600.0, 677.0, 680.0, 700.0, 800.0, 899.0])
def test_a_gap_cheaper_than_a_cold_start_is_bridged_however_long_it_is(seconds: float) -> None:
    """law/t10_hold: gaps of 680 to 899 s fell between the last two bins and taught the shortest hold time."""
    assert hold_seconds(gaps(seconds), 60.0, LAW) >= seconds


def test_a_gap_longer_than_the_longest_hold_time_is_not_waited_for() -> None:
    assert hold_seconds(gaps(1300.0), 60.0, LAW) == LAW.hold_minimum_seconds


def restarted(histogram: GapHistogram) -> Run:
    """A new leader, who has what was learned and knows nothing of what was needed lately."""
    run = Run(LEARNS, 8)
    run.state = TargetState(learned=Learned(start_seconds=(60.0,), gaps=histogram))
    return run


def test_a_restart_goes_on_with_the_hold_time_that_was_learned() -> None:
    """law/t10_hold: the histogram came back, the hold time that follows from it only with the next gap."""
    run = restarted(gaps(600.0))
    run.tick(in_flight(20))
    assert run.decision is not None
    assert run.decision.hold_seconds == pytest.approx(hold_seconds(gaps(600.0), 60.0, LAW))
    assert run.tick(in_flight(20), times=int(600 / TICK)) == 8
    assert run.rules() == {Rule.WITHIN_WINDOW}
    assert run.tick(in_flight(20), times=20) == 3
    assert run.tick(in_flight(20), times=20) == 3


def test_a_restart_with_a_short_hold_time_waits_no_longer_than_that() -> None:
    run = restarted(gaps(3000.0))
    assert run.tick(in_flight(20), times=int(90 / TICK)) == 3


def test_a_restart_that_learned_too_little_starts_with_the_default() -> None:
    run = restarted(gaps(600.0, count=0))
    run.tick(in_flight(20), times=int(LAW.hold_default_seconds / TICK))
    assert run.replicas == 8
    assert run.tick(in_flight(20), times=2) == 3


def test_a_stated_window_needs_no_recalling() -> None:
    run = Run(RUNNING, 8)
    run.state = TargetState(learned=Learned(start_seconds=(60.0,), gaps=gaps(600.0)))
    assert run.tick(in_flight(20), times=6) == 3


@pytest.mark.parametrize(
    ("load_seconds", "late", "objective", "held"),
    [
        (600.0, 0.03, OBJECTIVE, 300.0),
        (1799.0, 0.03, OBJECTIVE, 300.0),
        (1800.0, 0.03, OBJECTIVE, 60.0),
        (600.0, 0.019, OBJECTIVE, 60.0),
        (600.0, 0.03, None, 60.0),
    ],
    ids=["young", "nearly-half-an-hour", "half-an-hour", "objective-met", "no-objective"],
)
def test_the_first_half_hour_of_load_does_not_shorten_the_default_while_the_objective_is_missed(
    load_seconds: float, late: float, objective: Objective | None, held: float
) -> None:
    """Gaps longer than a lull cannot have been seen yet: on the code trace nine replicas went just before the burst that needed them."""
    learned = Learned(bursts=Bursts(seconds=load_seconds), late_average=late)
    turn = begin(
        replace(LEARNS, objective=objective),
        TargetState(hold_seconds=60.0, learned=learned),
        in_flight(20)(8),
        1000.0,
        LAW,
    )
    assert turn.hold_seconds == held


def test_a_learned_hold_time_longer_than_the_default_counts_from_the_start() -> None:
    state = TargetState(hold_seconds=679.0, learned=Learned(bursts=Bursts(seconds=60.0), late_average=0.03))
    assert begin(replace(LEARNS, objective=OBJECTIVE), state, in_flight(20)(8), 1000.0, LAW).hold_seconds == 679.0
