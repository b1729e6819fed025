"""Sizing by an objective: what it needs, what it learns, what it says."""

import math
from collections.abc import Callable

import pytest

from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import decide
from autoscaler.law.decision import Decision, TargetState
from autoscaler.law.inputs import Freshness, Observation, PodFacts, Work
from autoscaler.law.memory import lateness
from autoscaler.law.memory.learned import LateCurve
from autoscaler.law.rules import staffing
from autoscaler.law.spec import Objective, TargetSpec

LAW = LawConstants()
TICK_SECONDS = 15.0


class Run:
    """A target in virtual time, told its load and how many requests are late."""

    def __init__(self, replicas: int = 2, objective: Objective | None = None, most: int = 60) -> None:
        self.spec = TargetSpec(max_replicas=most, objective=objective or Objective(2.0, 0.1))
        self.replicas, self.now, self.state = replicas, 1000.0, TargetState()
        self.decision: Decision | None = None

    def feed(
        self, load: float, minutes: float, late: Callable[[float], float] = lambda _: 0.0, ready: int | None = None
    ) -> list[int]:
        """`load` in GPU seconds per second; `late` gives the late share at a load of a replica. Returns replicas tick by tick."""
        counts = []
        for _ in range(int(minutes * 60 / TICK_SECONDS)):
            up = self.replicas if ready is None else ready
            work = Work(
                Freshness.FRESH,
                prompt_tokens_per_second=(load * 500, load * 500),
                output_tokens_per_second=(load * 500, load * 500),
                running=load * 20,
                seconds_per_prompt_token=0.001,
                seconds_per_output_token=0.001,
                requests_per_second=(load * 5, load * 5),
                full_batch=40.0,
                prompt_tokens_per_request=100,
                output_tokens_per_request=100,
                prompt_grain=150,
                answers_per_second=load * 5,
                late_share=late(load / up) if up else 0.0,
            )
            seen = Observation(self.replicas, PodFacts(ready=up), work=work)
            self.decision = decide(self.spec, self.state, seen, self.now, LAW)
            self.replicas, self.state = self.decision.replicas, self.decision.state
            self.now += TICK_SECONDS
            counts.append(self.replicas)
        return counts

    @property
    def last(self) -> Decision:
        assert self.decision is not None
        return self.decision


def settled(objective: Objective, load: float = 6.0, late: Callable[[float], float] = lambda _: 0.0) -> int:
    run = Run(objective=objective)
    counts = run.feed(load, minutes=90, late=late)
    tail = set(counts[-80:])
    assert max(tail) - min(tail) <= 1, "it swings"
    return max(tail)


def curve(steepness: float) -> Callable[[float], float]:
    """Lateness by load as an engine may show it."""
    return lambda load: math.exp(min(steepness * (load - 1), 0))


def test_a_tighter_objective_takes_more_replicas() -> None:
    counts = [
        settled(Objective(seconds), late=curve(steepness))
        for seconds, steepness in ((20.0, 40.0), (2.0, 30.0), (0.2, 8.0))
    ]
    assert counts[0] <= counts[1] < counts[2]


def test_a_higher_share_takes_more_replicas() -> None:
    assert settled(Objective(2.0, share=0.9)) < settled(Objective(2.0, share=0.999))


def test_requests_that_are_late_at_a_load_where_none_should_be_are_answered_with_more() -> None:
    """Prices that are off, a router that spreads badly: only the engine's own latencies tell."""
    calm = settled(Objective(2.0))
    assert settled(Objective(2.0), late=lambda load: 0.2 if load > 0.6 else 0.0) > calm


def test_lateness_while_replicas_start_does_not_teach_the_curve() -> None:
    run = Run()
    run.feed(4.0, minutes=20)
    before = run.state.learned.curve.full
    run.replicas = 12
    for ready in (3, 4, 5, 6):
        run.feed(9.0, minutes=0.75, late=lambda _: 0.9, ready=ready)
    assert run.state.learned.curve.full == pytest.approx(before, abs=0.02)
    assert run.state.learned.late_average > 0


def test_what_is_late_at_any_load_is_not_fought_with_replicas() -> None:
    """A twentieth of the prompts takes longer than the objective by itself (public reports ask for this again and again)."""
    run = Run()
    counts = run.feed(6.0, minutes=120, late=lambda _: 0.05)
    assert max(counts[-60:]) < 30
    report = run.last.objective
    assert report is not None
    assert report.hopeless
    assert not report.met


def test_the_report_says_what_one_replica_more_or_fewer_would_do() -> None:
    run = Run()
    run.feed(6.0, minutes=60)
    report = run.last.objective
    assert report is not None
    assert report.met
    assert report.now is not None
    assert report.one_more is not None
    assert report.one_fewer is not None
    assert report.one_fewer < report.now < report.one_more <= 1


def test_without_an_objective_nothing_is_reported() -> None:
    run = Run()
    run.spec = TargetSpec(max_replicas=60)
    run.feed(6.0, minutes=10)
    assert run.last.objective is None


@pytest.mark.parametrize("work", [0.01, 1.0, 37.0, 1e9])
@pytest.mark.parametrize("full", [0.05, 0.5, 1.0])
def test_staffing_is_bounded_however_bad_the_curve(work: float, full: float) -> None:
    count = staffing.fewest(work, 0.1 * work, LateCurve(full=full, steepness=6.0), 1e-6)
    assert 1 <= count <= staffing.MOST
    assert count <= work / max(full, 0.1) / staffing.LEAST_LOAD + 1


def test_the_fewest_keep_the_objective_and_one_fewer_does_not() -> None:
    known = LateCurve()
    count = staffing.fewest(8.0, 0.4, known, 0.016)
    limit = known.floor + (1 - known.floor) * 0.016
    assert lateness.expected_share(known, 8.0 / count, 0.4 / count) <= limit
    assert lateness.expected_share(known, 8.0 / (count - 1), 0.4 / (count - 1)) > limit
