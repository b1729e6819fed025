"""The reserve for bursts: what teaches it, what it keeps, how it goes. Work of 1 GPU second per second needs about one replica."""

from collections.abc import Sequence

import pytest

from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import Decision, Rule, TargetState, decide
from autoscaler.law.inputs import Freshness, Observation, PodFacts, Reading, SignalKind, Work
from autoscaler.law.memory import bursts
from autoscaler.law.memory.learned import Bursts
from autoscaler.law.spec import ScaleToZero, Scaling, SignalSpec, TargetSpec

LAW = LawConstants()
SPEC = TargetSpec(1, 100, (SignalSpec(SignalKind.WORK, 0.9, "work"),), down=Scaling(window_seconds=60.0))
TICK_SECONDS = 15.0


def arriving(gpu_seconds_per_second: float) -> Work:
    """Prompt tokens at a thousandth of a GPU second each."""
    rate = gpu_seconds_per_second * 1000.0
    return Work(
        Freshness.FRESH, (rate, rate), seconds_per_prompt_token=0.001, seconds_per_output_token=0.001, running=1.0
    )


class Run:
    """One target whose replicas are ready at once, since only what is asked for matters here."""

    def __init__(self, spec: TargetSpec = SPEC, replicas: int = 2) -> None:
        self.spec, self.replicas, self.now, self.state = spec, replicas, 0.0, TargetState()
        self.decision: Decision | None = None

    def feed(self, load: float, minutes: float, activation: float | None = None) -> list[int]:
        counts = []
        for _ in range(round(minutes * 60 / TICK_SECONDS)):
            seen = Observation(
                self.replicas,
                PodFacts(ready=self.replicas),
                work=arriving(load),
                activation=None if activation is None else Reading("a", Freshness.FRESH, activation),
            )
            self.decision = decide(self.spec, self.state, seen, self.now, LAW)
            self.replicas, self.state = self.decision.replicas, self.decision.state
            self.now += TICK_SECONDS
            counts.append(self.replicas)
        return counts

    @property
    def sudden(self) -> Sequence[tuple[int, float]]:
        return self.state.learned.bursts.sudden

    def rules(self) -> set[Rule]:
        assert self.decision is not None
        return {reason.rule for reason in self.decision.reasons}


def test_a_steady_load_teaches_nothing() -> None:
    run = Run()
    run.feed(3.0, minutes=60)
    assert not run.sudden


def test_a_load_that_grows_slower_than_replicas_start_teaches_nothing() -> None:
    run = Run()
    for minute in range(60):
        run.feed(1.0 + minute / 10, minutes=1)
    assert not run.sudden


def test_a_burst_is_kept_for_after_it_has_met_too_few_replicas() -> None:
    run = Run()
    run.feed(1.0, minutes=20)
    before = run.replicas
    run.feed(8.0, minutes=3)
    after = run.feed(1.0, minutes=20)
    assert before <= 2
    assert min(after) >= 9
    assert Rule.BURST_RESERVE in run.rules()
    assert run.decision is not None
    assert "came too suddenly" in run.decision.wishes[-1].detail


def test_a_reserve_that_no_burst_needs_goes_in_the_end() -> None:
    run = Run()
    run.feed(1.0, minutes=20)
    run.feed(8.0, minutes=3)
    run.feed(1.0, minutes=8 * 60)
    assert run.replicas <= 2


def test_a_burst_that_the_reserve_meets_still_counts_as_one() -> None:
    run = Run()
    run.feed(1.0, minutes=20)
    for _ in range(3):
        run.feed(8.0, minutes=3)
        run.feed(1.0, minutes=10)
    once = sum(work for _, work in run.sudden)
    run.feed(8.0, minutes=3)
    assert sum(work for _, work in run.sudden) > once


def test_the_first_minutes_after_a_start_are_no_burst() -> None:
    run = Run(replicas=1)
    run.feed(8.0, minutes=30)
    assert not run.sudden


def test_a_burst_factor_asks_before_any_burst() -> None:
    plain = Run()
    plain.feed(2.0, minutes=30)
    wary = Run(TargetSpec(1, 100, SPEC.signals, down=SPEC.down, burst_factor=3.0))
    wary.feed(2.0, minutes=30)
    assert plain.replicas <= 4
    assert wary.replicas >= 7  # 6 GPU seconds per second at 90 % busy


def test_going_to_zero_is_not_held_up_by_a_reserve() -> None:
    zero = ScaleToZero(idle_seconds=600.0, query="up")
    run = Run(TargetSpec(0, 100, SPEC.signals, down=SPEC.down, scale_to_zero=zero))
    run.feed(1.0, minutes=20, activation=1.0)
    run.feed(8.0, minutes=3, activation=1.0)
    held = run.feed(0.0, minutes=8, activation=0.0)
    assert min(held) >= 9
    run.feed(0.0, minutes=15, activation=0.0)
    assert run.replicas == 0


@pytest.mark.parametrize(
    ("sudden", "level"),
    [
        ((), 0.0),
        (((24, 620.0),), 0.0),  # being ready for 8 costs 7 above the usual 1; 40 x 620 / 3,600 is less
        (((24, 640.0),), 8.0),
        (((16, 400.0), (24, 350.0)), 4.0),  # 4.4 - 3 is more than 8.3 - 7
        (((16, 400.0), (24, 600.0)), 8.0),
    ],
)
def test_the_reserve_is_the_level_that_is_worth_most_above_its_cost(
    sudden: tuple[tuple[int, float], ...], level: float
) -> None:
    assert bursts.reserve(Bursts(sudden, 1000.0, 1000.0), 0.0, LAW) == pytest.approx(level)


def test_a_tick_after_a_long_silence_counts_for_a_minute() -> None:
    noted = bursts.note_work(Bursts(), 2.0, 86_400.0, True, LAW)
    assert noted.seconds == pytest.approx(60.0)
    assert sum(work for _, work in noted.sudden) == pytest.approx(120.0)


def test_with_an_objective_the_bursts_of_the_first_half_hour_are_taken_for_usual() -> None:
    """On and off every few minutes: a single burst seen in 15 minutes speaks for more of them than one in three hours."""
    sudden = ((20, 300.0),)
    young, old = Bursts(sudden, 900.0, 900.0), Bursts(sudden, 3600.0, 3600.0)
    assert bursts.reserve(young, 0.0, LAW, price=40.0) > 0
    assert bursts.reserve(old, 0.0, LAW, price=40.0) == 0
    assert bursts.reserve(young, 0.0, LAW) == 0
