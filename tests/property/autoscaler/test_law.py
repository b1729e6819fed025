"""What must hold of the law whatever the load, the pods and the history."""

import math
from dataclasses import replace

import msgspec
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from autoscaler.law.budget import Ask, share
from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import Decision, TargetState, decide
from autoscaler.law.inputs import Capacity, Freshness, Observation, PodFacts, Reading, Scheduled, SignalKind, Work
from autoscaler.law.memory.bursts import reserve
from autoscaler.law.memory.learned import Bursts
from autoscaler.law.memory.window import Need, needed_within, record_need
from autoscaler.law.spec import Scaling, SignalSpec, TargetSpec
from autoscaler.law.turn import least
from autoscaler.observation.series import rate

UNTIMED = settings(deadline=None)
STATES = st.sampled_from(list(Freshness))
NOT_FRESH = st.sampled_from([Freshness.STALE, Freshness.EMPTY, Freshness.ERROR])
SIGNALS = {
    SignalKind.RUNNING: (10.0, st.floats(0, 2000)),
    SignalKind.QUEUE: (5.0, st.floats(0, 2000)),
    SignalKind.KV_CACHE: (0.8, st.floats(0, 1)),
    SignalKind.GPU_UTILIZATION: (0.7, st.floats(0, 1)),
    SignalKind.TIME_TO_FIRST_TOKEN: (2.0, st.floats(0, 100)),
}
KINDS = st.lists(st.sampled_from(sorted(SIGNALS)), min_size=1, max_size=3, unique=True)


@st.composite
def pods(draw: st.DrawFn, replicas: int) -> PodFacts:
    ready = draw(st.integers(0, replicas))
    rest = replicas - ready
    starting = draw(st.integers(0, rest))
    ages = st.floats(0, 2000)
    return PodFacts(
        ready=ready,
        starting=tuple(draw(ages) for _ in range(starting)),
        unschedulable=tuple(draw(ages) for _ in range(draw(st.integers(0, rest - starting)))),
        crash_looping=draw(st.integers(0, 2)),
        terminating=tuple(draw(st.lists(ages, max_size=2))),
    )


@st.composite
def situations(draw: st.DrawFn, states: st.SearchStrategy[Freshness] = STATES) -> tuple[TargetSpec, Observation]:
    kinds = draw(KINDS)
    minimum = draw(st.integers(1, 5))
    spec = TargetSpec(
        minimum,
        draw(st.integers(minimum, 60)),
        tuple(SignalSpec(kind, SIGNALS[kind][0], kind.value) for kind in kinds),
        queueing=draw(st.booleans()),
        down=Scaling(window_seconds=draw(st.sampled_from([0.0, 60.0, 300.0]))),
        max_gpus=draw(st.none() | st.floats(1, 40)),
    )
    replicas = draw(st.integers(spec.min_replicas, spec.max_replicas))
    observation = Observation(
        replicas,
        draw(pods(replicas)),
        tuple(Reading(kind.value, draw(states), draw(SIGNALS[kind][1])) for kind in kinds),
        capacity=draw(st.none() | st.builds(Capacity, st.integers(0, 30))),
        utilisation=draw(st.none() | st.just(Reading("u", Freshness.FRESH, 0.5))),
    )
    return spec, observation


def warm(spec: TargetSpec, observation: Observation) -> tuple[TargetState, float]:
    """A state that has seen a full window of this very observation."""
    now, state = 0.0, TargetState()
    for _ in range(25):
        state = decide(spec, state, observation, now).state
        state = replace(state, moves=())
        now += 15.0
    return state, now


@UNTIMED
@given(situations())
def test_the_outcome_is_within_the_bounds(situation: tuple[TargetSpec, Observation]) -> None:
    spec, observation = situation
    state, now = warm(spec, observation)
    decision = decide(spec, state, observation, now)
    room = spec.max_replicas if spec.max_gpus is None else min(spec.max_replicas, int(spec.max_gpus))
    assert decision.replicas <= max(room, observation.replicas)
    assert decision.replicas >= min(spec.min_replicas, room)
    assert decision.unmet >= 0
    assert decision.reasons


@UNTIMED
@given(situations(states=NOT_FRESH))
def test_nothing_moves_without_a_fresh_signal(situation: tuple[TargetSpec, Observation]) -> None:
    spec, observation = situation
    spec, observation = replace(spec, max_gpus=None), replace(observation, pods=PodFacts(ready=observation.replicas))
    state, now = warm(spec, observation)
    assert decide(spec, state, observation, now).replicas == observation.replicas


@UNTIMED
@given(situations(), NOT_FRESH | st.just(Freshness.PARTIAL))
def test_one_signal_that_is_not_fresh_forbids_lowering(
    situation: tuple[TargetSpec, Observation], state_of_one: Freshness
) -> None:
    spec, observation = situation
    spec, observation = replace(spec, max_gpus=None), replace(observation, pods=PodFacts(ready=observation.replicas))
    first, *others = observation.readings
    observation = replace(observation, readings=(replace(first, state=state_of_one), *others))
    state, now = warm(spec, observation)
    assert decide(spec, state, observation, now).replicas >= observation.replicas


@UNTIMED
@given(situations(states=st.just(Freshness.FRESH)), st.floats(1.0, 5.0))
def test_more_load_never_asks_for_fewer(situation: tuple[TargetSpec, Observation], factor: float) -> None:
    spec, observation = situation
    observation = replace(observation, pods=PodFacts(ready=observation.replicas))
    heavier = replace(
        observation,
        readings=tuple(
            replace(
                r,
                value=min(
                    r.value * factor, 1.0 if s.kind in (SignalKind.KV_CACHE, SignalKind.GPU_UTILIZATION) else math.inf
                ),
            )
            for r, s in zip(observation.readings, spec.signals, strict=True)
        ),
    )
    outcome: list[Decision] = []
    for seen in (observation, heavier):
        state, now = warm(spec, seen)
        outcome.append(decide(spec, state, seen, now))
    assert outcome[1].replicas >= outcome[0].replicas


@UNTIMED
@given(st.floats(0, 20_000), st.floats(0, 5_000), st.floats(1.0, 4.0), st.integers(1, 40))
def test_more_work_never_asks_for_fewer(prompt: float, output: float, factor: float, replicas: int) -> None:
    spec = TargetSpec(1, 100, (SignalSpec(SignalKind.WORK, 0.8, "work"),))
    wanted = []
    for scale in (1.0, factor):
        rates = (prompt * scale, prompt * scale), (output * scale, output * scale)
        work = Work(Freshness.FRESH, *rates, 0.0, 0.0, 1.0, 0.00015, 0.0009)
        seen = Observation(replicas, PodFacts(ready=replicas), work=work)
        state, now = warm(spec, seen)
        wanted.append(decide(spec, state, seen, now).replicas)
    assert wanted[1] >= wanted[0]


@UNTIMED
@given(st.floats(0.1, 30.0), st.integers(1, 40))
def test_a_constant_load_comes_to_rest_and_keeps_no_reserve(gpu_seconds: float, replicas: int) -> None:
    spec = TargetSpec(1, 100, (SignalSpec(SignalKind.WORK, 0.9, "work"),))
    rate = gpu_seconds * 1000
    work = Work(
        Freshness.FRESH, (rate, rate), seconds_per_prompt_token=0.001, seconds_per_output_token=0.001, running=1.0
    )
    state, now, counts = TargetState(), 0.0, []
    for _ in range(240):
        decision = decide(spec, state, Observation(replicas, PodFacts(ready=replicas), work=work), now)
        state, replicas, now = decision.state, decision.replicas, now + 15.0
        counts.append(replicas)
    assert len(set(counts[-120:])) == 1
    assert not state.learned.bursts.sudden


@UNTIMED
@given(
    st.dictionaries(st.integers(-20, 60), st.floats(0.1, 1e4), max_size=8), st.integers(-20, 60), st.floats(0.1, 1e4)
)
def test_more_sudden_work_never_means_a_smaller_reserve(sudden: dict[int, float], step: int, more: float) -> None:
    law = LawConstants()
    before = Bursts(tuple(sorted(sudden.items())), 5000.0, 3600.0)
    after = Bursts(tuple(sorted({**sudden, step: sudden.get(step, 0.0) + more}.items())), 5000.0, 3600.0)
    assert reserve(after, 0.0, law) >= reserve(before, 0.0, law)


@UNTIMED
@given(st.integers(1, 50), st.floats(-0.099, 0.099))
def test_nothing_moves_inside_the_tolerance(replicas: int, off: float) -> None:
    spec = TargetSpec(1, 100, (SignalSpec(SignalKind.RUNNING, 10.0, "running"),), down=Scaling(window_seconds=0.0))
    reading = Reading("running", Freshness.FRESH, 10.0 * replicas * (1 + off))
    seen = Observation(replicas, PodFacts(ready=replicas), (reading,))
    state, now = warm(spec, seen)
    assert decide(spec, state, seen, now).replicas == replicas


@UNTIMED
@given(situations())
def test_a_state_survives_being_written_out(situation: tuple[TargetSpec, Observation]) -> None:
    spec, observation = situation
    state, now = warm(spec, observation)
    again = msgspec.json.decode(msgspec.json.encode(state), type=TargetState)
    assert again == state
    assert decide(spec, again, observation, now) == decide(spec, state, observation, now)


@UNTIMED
@given(st.lists(st.tuples(st.floats(0.1, 200), st.integers(0, 30)), min_size=1, max_size=60), st.floats(0, 2000))
def test_the_window_remembers_the_highest_need(steps: list[tuple[float, int]], window: float) -> None:
    now, seen = 0.0, []
    needs: tuple[Need, ...] = ()
    for pause, level in steps:
        now += pause
        needs, _ = record_need(needs, now, level, keep_seconds=1e6)
        seen.append((now, level))
    assert needed_within(needs, now, window) == max(level for at, level in seen if now - at <= window)


@UNTIMED
@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.integers(0, 10), st.sampled_from([0.5, 1.0, 2.0])), min_size=1, max_size=8
    ),
    st.floats(0, 60),
)
def test_a_budget_is_kept_and_lowers_nobody(asks: list[tuple[int, int, float]], limit: float) -> None:
    named = [Ask(str(at), *ask) for at, ask in enumerate(asks)]
    allowed = share(limit, named)
    used = sum(ask.current * ask.gpus_each for ask in named)
    growth = sum(max(allowed[ask.key] - ask.current, 0) * ask.gpus_each for ask in named)
    assert used + growth <= max(limit, used) + 1e-6
    for ask in named:
        assert min(ask.current, ask.wanted) <= allowed[ask.key] <= max(ask.wanted, ask.current)
        if ask.wanted > allowed[ask.key]:
            assert used + growth + ask.gpus_each > limit


@UNTIMED
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20), st.integers(0, 19))
def test_a_counter_that_restarts_has_no_negative_rate(increments: list[float], reset_at: int) -> None:
    assume(any(increments))
    value, points = 0.0, []
    for at, increment in enumerate(increments):
        value = increment if at == reset_at else value + increment
        points.append((at * 15.0, value))
    found = rate(points, 30.0, 120.0)
    assert found is not None
    assert found.short >= 0
    assert found.long >= 0


@UNTIMED
@given(situations(), st.integers(1, 80), st.booleans())
def test_a_schedule_never_lowers_and_never_goes_beyond_the_bounds(
    situation: tuple[TargetSpec, Observation], floor: int, is_open: bool
) -> None:
    spec, observation = situation
    scheduled = replace(observation, scheduled=Scheduled("day", floor, is_open))
    state, now = warm(spec, observation)
    without, kept = decide(spec, state, observation, now), decide(spec, state, scheduled, now)
    assert without.replicas <= kept.replicas <= max(spec.max_replicas, observation.replicas)
    assert is_open or kept.replicas == without.replicas
    assert least(spec, scheduled) <= spec.max_replicas
    if is_open and observation.capacity is None and spec.max_gpus is None and not observation.pods.unschedulable:
        assert kept.replicas >= min(floor, spec.max_replicas)
