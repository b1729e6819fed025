"""Constants of sizing by an objective, each held by what it does: `python tools/double_constants.py` doubles one after another."""

import math
from dataclasses import replace

import pytest

from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import decide
from autoscaler.law.decision import TargetState
from autoscaler.law.inputs import Freshness, Observation, PodFacts, Work
from autoscaler.law.memory import forecast, lateness
from autoscaler.law.memory.learned import LateCurve, Learned
from autoscaler.law.rules import experience
from autoscaler.law.spec import Objective, TargetSpec
from autoscaler.law.turn import Turn, begin

LAW = LawConstants()
NOW = 10_000.0
WORK = Work(
    Freshness.FRESH,
    prompt_tokens_per_second=(3000.0, 3000.0),
    output_tokens_per_second=(3000.0, 3000.0),
    running=120.0,
    seconds_per_prompt_token=0.001,
    seconds_per_output_token=0.001,
    requests_per_second=(30.0, 30.0),
    full_batch=100.0,
    prompt_tokens_per_request=100,
    output_tokens_per_request=100,
    prompt_grain=150,
    answers_per_second=30.0,
)
"""Six GPU seconds per second, half of them of prompts; 30 requests a second."""


def spec(share: float = 0.9, seconds: float = 2.0) -> TargetSpec:
    return TargetSpec(max_replicas=100, objective=Objective(seconds, 0.1, share=share))


def turn(
    work: Work = WORK, learned: Learned | None = None, ready: int = 10, of: TargetSpec | None = None, **state: object
) -> Turn:
    """A turn fifteen seconds after the one before."""
    before = TargetState(learned=learned or Learned(), looked_at=NOW - 15.0, **state)  # type: ignore[arg-type]
    return begin(of or spec(), before, Observation(ready, PodFacts(ready=ready), work=work), NOW, LAW)


def seen_after(seconds: float, age: float, requests: float = 0.0) -> float:
    """What is left of a hundred requests after so long, and what further requests add, where a curve is so old."""
    old = LateCurve(seen=(100.0,) * lateness.CLASSES, missed=(0.0,) * lateness.CLASSES, seconds=age)
    return lateness.note(old, 0.52, requests, 0.0, seconds, LAW).seen[10]


def test_lateness_of_six_hours_ago_counts_a_third() -> None:
    assert seen_after(6 * 3600.0, age=1e6) == pytest.approx(100 / math.e)


def test_the_first_minutes_are_forgotten_within_minutes() -> None:
    assert seen_after(200.0, age=0.0) == pytest.approx(100 * math.exp(-0.5))  # 300 s and half of an age of 200 s
    assert seen_after(400.0, age=0.0) == pytest.approx(100 * math.exp(-0.8))


def test_many_requests_at_once_weigh_as_thirty() -> None:
    assert seen_after(0.0, 1e6, requests=1.0) == pytest.approx(101, abs=0.04)
    assert seen_after(0.0, 1e6, requests=30.0) == pytest.approx(115)
    assert seen_after(0.0, 1e6, requests=1e6) == pytest.approx(130, abs=0.01)


def test_one_request_of_a_thousand_is_late_at_any_load_before_anything_was_seen() -> None:
    assert lateness.share_at(lateness.fitted(LateCurve(), LAW), load=0.0) == pytest.approx(0.001, rel=0.01)


def test_a_few_late_requests_move_the_load_at_which_all_are_late_by_little() -> None:
    """Every fifth of so many requests was late at three quarters of a load: until it is many, the prices of tokens are trusted."""

    def full_after(requests: float) -> float:
        seen, missed = [0.0] * lateness.CLASSES, [0.0] * lateness.CLASSES
        seen[15], missed[15] = requests, requests / 5
        curve = LateCurve(seen=tuple(seen), missed=tuple(missed))
        for _ in range(100):
            curve = lateness.fitted(curve, LAW)
        return curve.full

    assert full_after(0) == pytest.approx(1.0)
    assert full_after(1) == pytest.approx(0.94, abs=0.015)
    assert full_after(1000) == pytest.approx(0.9, abs=0.015)


@pytest.mark.parametrize(
    ("prompt_seconds", "late"),
    [(2.0, math.exp(-1.0)), (200.0, math.exp(-0.6)), (2e6, math.exp(-0.6))],
    ids=["as-long-as-the-objective", "longer", "without-end"],
)
def test_long_prompts_are_late_early_but_not_at_any_load(prompt_seconds: float, late: float) -> None:
    """A tenth below the full load, before anything was seen."""
    taking = turn(replace(WORK, prompt_grain=prompt_seconds / WORK.seconds_per_prompt_token))
    experience.note(taking)
    assert lateness.share_at(taking.state.learned.curve, 0.9) == pytest.approx(late, abs=0.01)


@pytest.mark.parametrize(("seconds", "left_over"), [(0.9, False), (1.1, True)])
def test_a_queue_of_half_the_objective_is_left_over_from_something(seconds: float, left_over: bool) -> None:
    """`seconds` of work wait for each replica, where users are promised two."""
    waiting = turn(replace(WORK, waiting_prompt_tokens=10 * seconds / WORK.seconds_per_prompt_token))
    experience.note(waiting)
    assert (waiting.state.backlog_at == NOW) == left_over


def test_the_loads_of_ten_minutes_are_kept() -> None:
    looked = turn(loads=((NOW - 601.0, 6.0), (NOW - 599.0, 6.0)))
    experience.note(looked)
    assert [NOW - at for at, _ in looked.state.loads] == [599.0, 0.0]


def test_the_share_of_late_requests_is_that_of_an_hour() -> None:
    state, now = TargetState(), NOW
    for _ in range(4 * 60 + 1):
        seen = Observation(10, PodFacts(ready=10), work=replace(WORK, late_share=0.5))
        state, now = decide(spec(), state, seen, now).state, now + 15.0
    assert state.learned.hour_seen == pytest.approx(1 - 1 / math.e, abs=0.01)
    assert state.learned.late_average == pytest.approx(0.5 * (1 - 1 / math.e), abs=0.02)


def overdrawn(late: float, share: float = 0.9) -> Turn:
    """Where so many requests were late lately, and none by themselves."""
    learned = Learned(late_average=late, settled_late_average=late, curve=LateCurve(floor=0.0))
    return turn(learned=learned, of=spec(share))


def test_eight_of_ten_requests_that_may_be_late_are_aimed_at() -> None:
    """One in ten may be late."""
    assert experience.budget_left(overdrawn(0.079)) > 0
    assert experience.budget_left(overdrawn(0.081)) < 0
    assert experience.aim(overdrawn(0.08)) == pytest.approx(0.08)


@pytest.mark.parametrize(("grain", "kept"), [(51.0, 1.0), (150.0, 1.0), (199.0, 1.0), (201.0, 0.1), (49.0, 0.1)])
def test_of_a_mix_with_prompts_of_another_length_little_was_seen(grain: float, kept: float) -> None:
    """The curve was learned at prompts of 100 tokens."""
    many = (100.0,) * lateness.CLASSES
    curve = LateCurve(seen=many, missed=many, seconds=5000.0, steepness=20.0, prompt_tokens=100.0)
    learned = Learned(curve=curve)
    other = turn(replace(WORK, prompt_grain=grain, prompt_tokens_per_request=40.0), learned, loads=((NOW - 15.0, 6.0),))
    experience.note(other)
    after = other.state.learned.curve
    assert after.seen[0] == pytest.approx(100 * kept)
    assert after.missed[0] == pytest.approx(100 * kept)
    assert after.seconds == (5000.0 if kept == 1.0 else 0.0)
    assert after.steepness == pytest.approx(20.0 if kept == 1.0 else 20.0 * math.sqrt(100 / grain))
    assert after.prompt_tokens == (100.0 if kept == 1.0 else grain)


def test_while_none_is_late_twice_as_many_may_be() -> None:
    assert experience.aim(overdrawn(0.0)) == pytest.approx(2 * 0.08)
    assert experience.aim(overdrawn(0.04)) == pytest.approx(1.5 * 0.08)


def test_late_work_gets_about_twice_as_dear_and_no_dearer() -> None:
    calm = experience.price(overdrawn(0.0))
    assert experience.price(overdrawn(0.08)) == pytest.approx(calm)
    assert experience.price(overdrawn(0.12)) == pytest.approx(calm * math.exp(0.5))
    assert experience.price(overdrawn(0.5)) == pytest.approx(2 * calm, rel=0.02)
    assert experience.price(overdrawn(1.0)) == experience.price(overdrawn(0.5))


def test_a_forecast_is_charged_with_no_more_than_a_doubled_load() -> None:
    def error(came: float) -> float:
        made = forecast.Made(NOW - 150.0, 6.0, 6.0)
        return forecast.judged(forecast.Errors(), came, made, 0.2, 6.0, 15.0, LAW).steady

    assert error(9.0) < error(12.0) == error(60.0)


def test_replicas_are_kept_for_a_load_that_is_a_tenth_off_and_no_more() -> None:
    def replicas(error: float) -> int:
        """Asked for while forecasts are off by `error`, as a rule."""
        learned = Learned(
            errors=forecast.Errors(error**2, error**2), curve=LateCurve(steepness=40.0, usual_steepness=40.0)
        )
        state = TargetState(learned=learned)
        seen = Observation(8, PodFacts(ready=8), work=WORK)
        return decide(spec(share=0.99), state, seen, NOW).wishes[0].up

    assert replicas(0.01) < replicas(0.1) == replicas(0.2) == replicas(1.0)
