"""Constants of the law, each held by what it does: `python tools/double_constants.py` doubles one after another."""

import pytest

from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import Rule, TargetState, decide
from autoscaler.law.inputs import Freshness, Observation, PodFacts, Reading, SignalKind, Work
from autoscaler.law.memory.hold import hold_seconds, note_gaps
from autoscaler.law.memory.learned import GapHistogram
from autoscaler.law.memory.starts import start_credit
from autoscaler.law.memory.window import Gap
from autoscaler.law.rules.reserve import wish_for_bursts
from autoscaler.law.sizing.demand import expected_rise, note_rate, replicas_for_work
from autoscaler.law.spec import Scaling, SignalSpec, TargetSpec
from autoscaler.law.turn import begin
from autoscaler.settings import AutoscalerSettings

LAW = LawConstants()
RUNNING = TargetSpec(1, 50, (SignalSpec(SignalKind.RUNNING, 10.0, "running"),), down=Scaling(window_seconds=60.0))
WORK = TargetSpec(1, 50, (SignalSpec(SignalKind.WORK, 0.8, "work"),), down=Scaling(window_seconds=60.0))


def settled(spec: TargetSpec, replicas: int, ticks: int = 12, **seen: object) -> int:
    """Where a target comes to rest, every pod ready at once."""
    state, now = TargetState(), 1000.0
    for _ in range(ticks):
        observation = Observation(replicas, PodFacts(ready=replicas), **seen)  # type: ignore[arg-type]
        decision = decide(spec, state, observation, now)
        state, replicas, now = decision.state, decision.replicas, now + 15.0
    return replicas


def ramp(points: int, seconds: float, per_second: float = 0.01) -> tuple[tuple[float, float], ...]:
    """Work that grows evenly."""
    times = [seconds * at / (points - 1) for at in range(points)]
    return tuple((time, 1.0 + per_second * time) for time in times)


def test_the_means_are_those_of_the_daemons_settings() -> None:
    settings = AutoscalerSettings()
    assert LAW.short_mean_seconds == settings.short_mean_seconds
    assert LAW.long_mean_seconds == settings.long_mean_seconds


def test_without_known_lengths_a_request_is_taken_for_a_fifth_of_a_second() -> None:
    assert replicas_for_work(5.0, 1.0, LAW) == pytest.approx(6.0)  # 5 + sqrt(5 x 0.2)


def test_a_trend_takes_six_points_over_a_minute_and_a_half() -> None:
    assert expected_rise(ramp(5, 170), 100, LAW) == 0
    assert expected_rise(ramp(6, 80), 100, LAW) == 0
    assert expected_rise(ramp(6, 100), 100, LAW) == pytest.approx(1.0)


def test_a_trend_looks_back_three_minutes() -> None:
    rates: tuple[tuple[float, float], ...] = ()
    for time, rate in ramp(41, 600):
        rates = note_rate(rates, time, rate, LAW)
    assert rates[-1][0] - rates[0][0] == pytest.approx(180.0)


def test_a_trend_at_most_doubles_the_load() -> None:
    rates = ramp(6, 100, per_second=0.1)
    assert expected_rise(rates, 1000, LAW) == pytest.approx(rates[-1][1])


def test_a_replica_asked_for_now_serves_in_two_and_a_half_minutes() -> None:
    assert begin(RUNNING, TargetState(), Observation(1, PodFacts(ready=1)), 0.0, LAW).lead_seconds == 150.0


def test_the_last_sixteen_starts_are_remembered() -> None:
    pods = PodFacts(ready=1, started_seconds=tuple(map(float, range(40))))
    state = begin(RUNNING, TargetState(), Observation(1, pods), 0.0, LAW).state
    assert state.learned.start_seconds == tuple(map(float, range(24, 40)))


def test_a_pod_counts_for_three_start_up_times() -> None:
    assert start_credit([359.0, 361.0], 120.0, LAW) == 1


def test_replicas_go_when_the_rest_is_two_and_a_half_percent_below_its_target() -> None:
    def running(total: float) -> int:
        return settled(RUNNING, 9, readings=(Reading("running", Freshness.FRESH, total),))

    assert running(77.0) == 8  # of 80
    assert running(79.0) == 9


def test_work_moves_from_two_percent_on() -> None:
    def gpu_seconds(rate: float) -> int:
        work = Work(Freshness.FRESH, (rate, rate), seconds_per_prompt_token=1.0, seconds_per_output_token=1.0)
        return settled(WORK, 25, ticks=2, work=work)

    assert gpu_seconds(18.67) == 26  # 25.75 replicas
    assert gpu_seconds(18.3) == 25  # 25.27


def test_requests_inside_may_fill_replicas_to_the_last_slot() -> None:
    work = Work(
        Freshness.FRESH, (0.1, 0.1), running=60.0, full_batch=10.0, seconds_per_prompt_token=1.0, seconds_per_output_token=1.0
    )  # fmt: skip
    assert settled(WORK, 5, ticks=1, work=work) == 6
    assert settled(WORK, 6, ticks=3, work=work) == 6


def held(*gaps: float, start: float = 120.0) -> float:
    histogram = GapHistogram()
    for gap in gaps:
        histogram = note_gaps(histogram, [Gap(gap, 1, 1)], LAW)
    return hold_seconds(histogram, start, LAW)


def test_three_gaps_replace_the_default_of_five_minutes() -> None:
    assert held(200.0, 200.0) == 300.0
    assert held(*[200.0] * 4) != 300.0


def test_a_gap_that_every_hold_time_bridges_is_left_out() -> None:
    assert note_gaps(GapHistogram(), [Gap(14.0, 1, 1)], LAW) == GapHistogram()
    assert note_gaps(GapHistogram(), [Gap(16.0, 1, 1)], LAW) != GapHistogram()


def test_no_replica_is_held_for_more_than_sixteen_minutes() -> None:
    assert held(*[600.0] * 10) > 600.0
    assert held(*[1200.0] * 10) == 60.0  # not for twenty minutes: then the least


def test_a_second_of_missed_work_is_worth_forty_of_idling() -> None:
    assert held(*[500.0] * 10, start=10.0) == 60.0
    assert held(*[500.0] * 10, start=20.0) > 500.0


def test_gaps_fade_by_half_a_percent() -> None:
    histogram = note_gaps(GapHistogram(), [Gap(100.0, 1, 1)] * 200, LAW)
    assert histogram.replicas == pytest.approx((1 - 0.995**200) / 0.005)


def ticks(spec: TargetSpec, replicas: int, times: int, pods: PodFacts, **seen: object) -> tuple[int, set[Rule]]:
    """Replicas and reasons after so many ticks of the same picture."""
    state, now, rules = TargetState(), 1000.0, set()
    for _ in range(times):
        decision = decide(spec, state, Observation(replicas, pods, **seen), now)  # type: ignore[arg-type]
        state, now = decision.state, now + 15.0
        rules = {reason.rule for reason in decision.reasons}
    return decision.replicas, rules


def running_of(total: float) -> tuple[Reading, ...]:
    return (Reading("running", Freshness.FRESH, total),)


@pytest.mark.parametrize(("short", "rises"), [(1.1, False), (1.2, True)])
def test_a_load_that_is_fifteen_percent_above_its_mean_is_rising(short: float, rises: bool) -> None:
    work = Work(Freshness.FRESH, (short, 1.0), seconds_per_prompt_token=1.0, seconds_per_output_token=1.0)
    _, rules = ticks(WORK, 10, 10, PodFacts(ready=10), work=work)
    assert (Rule.RISING in rules) == rises


@pytest.mark.parametrize(("age", "waits"), [(299.0, True), (301.0, False)])
def test_a_step_down_waits_five_minutes_for_pods_that_drain(age: float, waits: bool) -> None:
    _, rules = ticks(RUNNING, 4, 10, PodFacts(ready=4, terminating=(age,)), readings=running_of(10.0))
    assert (Rule.DRAINING in rules) == waits


@pytest.mark.parametrize(("pause", "starts_anew"), [(44.0, False), (46.0, True)])
def test_a_gap_in_the_signals_of_45_seconds_starts_the_window_anew(pause: float, starts_anew: bool) -> None:
    seen = Observation(4, PodFacts(ready=4), running_of(40.0))
    state = decide(RUNNING, TargetState(), seen, 0.0).state
    assert (decide(RUNNING, state, seen, pause).state.fresh_since == pause) == starts_anew


@pytest.mark.parametrize(("age", "goes"), [(599.0, False), (601.0, True)])
def test_replicas_without_a_node_are_taken_back_after_ten_minutes(age: float, goes: bool) -> None:
    replicas, _ = ticks(RUNNING, 4, 1, PodFacts(ready=3, unschedulable=(age,)), readings=running_of(40.0))
    assert (replicas == 3) == goes


def test_needs_are_remembered_for_an_hour() -> None:
    state = decide(RUNNING, TargetState(), Observation(4, PodFacts(ready=4), running_of(40.0)), 0.0).state
    less = Observation(4, PodFacts(ready=4), running_of(20.0))
    assert any(need.level == 4 for need in decide(RUNNING, state, less, 3590.0).state.needs)
    assert not any(need.level == 4 for need in decide(RUNNING, state, less, 3610.0).state.needs)


@pytest.mark.parametrize(("sick", "stops"), [(1, False), (2, True)])
def test_growth_stops_when_half_of_the_pods_crash_loop(sick: int, stops: bool) -> None:
    _, rules = ticks(RUNNING, 4, 1, PodFacts(ready=4 - sick, crash_looping=sick), readings=running_of(100.0))
    assert (Rule.CRASH_LOOP in rules) == stops


@pytest.mark.parametrize(
    ("utilisation", "times", "hangs"),
    [(0.04, 6, True), (0.06, 6, False), (0.04, 4, False)],
    ids=["idle", "busy", "soon"],
)
def test_an_engine_hangs_when_its_queue_waits_a_minute_at_less_than_five_percent(
    utilisation: float, times: int, hangs: bool
) -> None:
    queue = TargetSpec(1, 50, (SignalSpec(SignalKind.QUEUE, 5.0, "queue"),))
    seen = {
        "readings": (Reading("queue", Freshness.FRESH, 100.0),),
        "utilisation": Reading("u", Freshness.FRESH, utilisation),
    }
    _, rules = ticks(queue, 4, times, PodFacts(ready=4), **seen)
    assert (Rule.HUNG in rules) == hangs


@pytest.mark.parametrize(("rate", "sudden"), [(3.5, False), (3.8, True)])
def test_demand_is_sudden_from_a_quarter_above_what_was_asked_for(rate: float, sudden: bool) -> None:
    work = Work(Freshness.FRESH, (rate, rate), seconds_per_prompt_token=1.0, seconds_per_output_token=1.0)
    state = TargetState(foretold=((800.0, 4), (985.0, 4)))
    turn = begin(WORK, state, Observation(4, PodFacts(ready=4), work=work), 1000.0, LAW)
    wish_for_bursts(turn, 4)  # 4.8 or 5.2 replicas where 4 were asked for
    assert bool(turn.state.learned.bursts.sudden) == sudden
