"""The decision: how many replicas, and why. Pure: one observation and the state of the last decision in, both sides out.

Order of the rules: wishes of the signals; up if any fresh one asks; down if all are fresh, a full window has been seen
and every wish of it agrees; then what stands in the way (rollout, crash loop, hung engine, drain, rates, capacity).
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from autoscaler.law import rates
from autoscaler.law.decision import Decision, Reason, Rule, TargetState, capped
from autoscaler.law.inputs import Freshness, Observation, PodFacts, Rollout, SignalKind
from autoscaler.law.memory import bursts, window
from autoscaler.law.rules.limits import finish, longest_period, refused_by_capacity
from autoscaler.law.rules.wishes import Supply, Wish, wishes
from autoscaler.law.sizing import demand
from autoscaler.law.spec import LawSettings, TargetSpec

__all__ = ["Decision", "Reason", "Rule", "TargetState", "capped", "decide"]


def decide(
    spec: TargetSpec, state: TargetState, observation: Observation, now: float, law: LawSettings | None = None
) -> Decision:
    """Replicas for one target at `now` (seconds; only differences matter)."""
    law = law or _DEFAULT_LAW
    state = _learn_start(state, observation, law)
    usual_start = demand.start_seconds(state.learned.start_seconds, law)
    pods = observation.pods
    coming = demand.start_credit(pods.starting, usual_start, law)
    supply = Supply(observation.replicas, pods.ready, coming, len(pods.starting) - coming)
    hold = _hold_seconds(spec, state, law)
    if observation.replicas == 0:
        return _asleep(spec, state, observation, now, hold, usual_start)

    state, rise = _track_rate(state, observation, usual_start, now, law)
    asked = wishes(spec, observation, supply, law, rise)
    fresh = [wish for wish in asked if wish.state is Freshness.FRESH]
    all_fresh = len(fresh) == len(asked) and _activation_known(spec, observation)
    state = _track_freshness(state, all_fresh, now, law)
    reasons: list[Reason] = []
    replicas = observation.replicas
    low = up = replicas
    reserve: Wish | None = None
    if fresh:
        low = max(wish.low for wish in fresh)
        up = max(wish.up for wish in fresh)
        if up > supply.credited:
            # Pods that should have been there long ago are stood in for, a step at a time: they may yet come.
            up += min(supply.overdue, supply.step(law))
        state = _remember(spec, state, max(low, up), usual_start, now, law)
        hold = _hold_seconds(spec, state, law)
        state, reserve = _reserve(spec, state, observation, max(low, up), usual_start, now, law)
    idle = not low and not up and all_fresh and pods.ready > 0
    if reserve is not None:
        asked, low, up = [*asked, reserve], max(low, reserve.low), max(up, reserve.up)

    state = _track_hung(state, observation, fresh, now, law)
    if up > replicas:
        wanted = _up(spec, state, observation, up, now, law, reasons)
    elif not fresh:
        wanted = replicas
        reasons.append(_frozen(pods))
    else:
        wanted = _down(spec, state, observation, asked, low, now, hold, law, reasons)
    state, wanted = _idle(spec, state, observation, wanted, idle, now, reasons)
    return finish(spec, state, observation, supply, asked, wanted, now, law, reasons, bool(fresh), hold, usual_start)


_DEFAULT_LAW = LawSettings()
BURSTS: Final = "bursts"
"""Name of the wish for a reserve, beside those of the signals."""


def _frozen(pods: PodFacts) -> Reason:
    """Without a ready pod there is nothing to measure, which is no fault of the signals."""
    if pods.ready:
        return Reason(Rule.OUTAGE, "no signal is fresh: replicas are frozen")
    on_the_way = len(pods.starting) + len(pods.unschedulable)
    return Reason(Rule.NO_READY_POD, f"no pod is ready yet, {on_the_way} are on the way: replicas are frozen")


def _learn_start(state: TargetState, observation: Observation, law: LawSettings) -> TargetState:
    if not observation.pods.started_seconds:
        return state
    seen = (*state.learned.start_seconds, *observation.pods.started_seconds)[-law.start_memory :]
    return replace(state, learned=replace(state.learned, start_seconds=seen))


def _track_rate(
    state: TargetState, observation: Observation, usual_start: float, now: float, law: LawSettings
) -> tuple[TargetState, float]:
    """Note the arriving work; returns the rise to expect until a pod created now is ready.

    What was thought to be needed before a token's cost was known is forgotten when it becomes known.
    """
    work = observation.work
    if work is None or work.state is not Freshness.FRESH or not work.known:
        return (state if not state.rates else replace(state, rates=())), 0.0
    rates = demand.note_rate(state.rates, now, demand.arriving_work(work)[1], law)
    needs = state.needs if state.priced else ()
    state = replace(state, rates=rates, needs=needs, priced=True)
    return state, demand.expected_rise(rates, usual_start + law.trend_margin_seconds, law)


def _reserve(
    spec: TargetSpec,
    state: TargetState,
    observation: Observation,
    level: int,
    usual_start: float,
    now: float,
    law: LawSettings,
) -> tuple[TargetState, Wish | None]:
    """Learn from work that came too suddenly for the replicas asked for; returns the wish for a reserve, if any."""
    lead = usual_start + law.trend_margin_seconds
    before = state.foretold[-1][0] if state.foretold else now
    work = observation.work
    priced = work is not None and work.state is Freshness.FRESH and work.known
    # Without a price nothing is foretold: the replicas that are there stand for it.
    level = level if priced else max(level, observation.replicas)
    foretold = bursts.note_foretold(state.foretold, now, level, lead, law)
    state = replace(state, foretold=foretold)
    if work is None or not priced:
        return state, None
    target = next((signal.target for signal in spec.signals if signal.kind is SignalKind.WORK), 0.0)
    busy = max(target, law.burst_busy_share)
    rate = max(demand.arriving_work(work))
    early = bursts.asked_before(foretold, now, lead)
    need = demand.replicas_for_work(rate, busy, law, work.seconds_per_request)
    sudden = early is not None and need > early * (1 + law.burst_margin)
    learned = bursts.note_work(state.learned.bursts, rate, now - before, sudden, law)
    state = replace(state, learned=replace(state.learned, bursts=learned))
    most = bursts.reserve(learned, spec.burst_factor, law)
    if most <= 0 or _idle_for_long(spec, state, now):
        return state, None
    replicas = math.ceil(demand.replicas_for_work(most, busy, law, work.seconds_per_request))
    text = f"ready for {most:.2f} GPU s/s at once; {100 * bursts.sudden_share(learned):.0f} % of the work came too suddenly"
    wish = Wish(BURSTS, SignalKind.WORK, Freshness.FRESH, replicas, replicas, most, busy, work.age_seconds, text)
    return state, wish


def _idle_for_long(spec: TargetSpec, state: TargetState, now: float) -> bool:
    """Whether the target is to go to zero: no reserve stands in the way of that."""
    zero = spec.scale_to_zero
    return zero is not None and state.idle_since is not None and now - state.idle_since >= zero.idle_seconds


def _hold_seconds(spec: TargetSpec, state: TargetState, law: LawSettings) -> float:
    if spec.down.window_seconds is not None:
        return spec.down.window_seconds
    return law.hold_default_seconds if state.hold_seconds is None else state.hold_seconds


def _activation_known(spec: TargetSpec, observation: Observation) -> bool:
    """An activation signal that is configured counts among those that must be fresh to lower."""
    if spec.scale_to_zero is None or not spec.scale_to_zero.query:
        return True
    return observation.activation is not None and observation.activation.state is Freshness.FRESH


def _track_freshness(state: TargetState, all_fresh: bool, now: float, law: LawSettings) -> TargetState:
    if not all_fresh:
        return state
    gap = state.fresh_at is None or now - state.fresh_at > law.outage_grace_seconds
    return replace(state, fresh_at=now, fresh_since=now if gap else state.fresh_since)


def _remember(
    spec: TargetSpec, state: TargetState, level: int, usual_start: float, now: float, law: LawSettings
) -> TargetState:
    """Note the level needed now, learn from the gaps it ends, and choose the hold time anew if they teach something."""
    level = min(level, spec.max_replicas)
    needs, gaps = window.record_need(state.needs, now, level, law.hold_memory_seconds)
    state = replace(state, needs=needs)
    if spec.down.window_seconds is not None or not gaps:
        return state
    histogram = demand.note_gaps(state.learned.gaps, gaps, law)
    if histogram is state.learned.gaps:
        return state
    hold = demand.hold_seconds(histogram, usual_start, law)
    return replace(state, hold_seconds=hold, learned=replace(state.learned, gaps=histogram))


def _track_hung(
    state: TargetState, observation: Observation, fresh: Iterable[Wish], now: float, law: LawSettings
) -> TargetState:
    """Requests wait and no kernel runs: an engine that hangs, once it has lasted."""
    utilisation = observation.utilisation
    waiting = observation.work.waiting if observation.work else 0.0
    waiting = max((wish.value for wish in fresh if wish.kind is SignalKind.QUEUE), default=waiting)
    hung = (
        utilisation is not None
        and utilisation.state is Freshness.FRESH
        and utilisation.value < law.hung_utilisation
        and waiting > 0
        and observation.pods.ready > 0
    )
    if not hung:
        return state if state.hung_since is None else replace(state, hung_since=None)
    return state if state.hung_since is not None else replace(state, hung_since=now)


def _up(
    spec: TargetSpec,
    state: TargetState,
    observation: Observation,
    up: int,
    now: float,
    law: LawSettings,
    reasons: list[Reason],
) -> int:
    replicas = observation.replicas
    if spec.up.disabled:
        reasons.append(Reason(Rule.UP_DISABLED, f"signals ask for {up}; behavior.scaleUp is disabled"))
        return replicas
    if spec.queueing and state.hung_since is not None and now - state.hung_since >= law.hung_seconds:
        reasons.append(
            Reason(Rule.HUNG, "requests wait while the GPUs are idle: the engine hangs, more of it would not help")
        )
        return replicas
    pods = observation.pods
    total = pods.ready + len(pods.starting) + len(pods.unschedulable) + pods.crash_looping
    if pods.crash_looping and pods.crash_looping >= law.crash_share * total:
        reasons.append(
            Reason(Rule.CRASH_LOOP, f"{pods.crash_looping} of {total} pods crash-loop: no growth until they recover")
        )
        return replicas
    return up


def _down(
    spec: TargetSpec,
    state: TargetState,
    observation: Observation,
    asked: list[Wish],
    low: int,
    now: float,
    hold: float,
    law: LawSettings,
    reasons: list[Reason],
) -> int:
    """The lowest count that every rule allows; the rule that stopped a cut is named."""
    replicas = observation.replicas
    if low >= replicas:
        lead = max(asked, key=lambda wish: wish.low)
        steady = Reason(Rule.STEADY, f"the load fits {replicas} replicas and no fewer")
        kept = Reason(Rule.BURST_RESERVE, f"{lead.low} replicas are kept for bursts: {lead.detail}")
        reasons.append(kept if lead.name == BURSTS else steady)
        return replicas
    blocked = _why_not_lower(spec, state, observation, asked, now, hold, law)
    if blocked is not None:
        reasons.append(blocked)
        return replicas
    held = window.needed_within(state.needs, now, hold)
    if held >= replicas:
        reasons.append(
            Reason(Rule.WITHIN_WINDOW, f"{min(held, replicas)} replicas were needed within the last {hold:.0f} s")
        )
        return replicas
    return max(held, low)


def _why_not_lower(
    spec: TargetSpec,
    state: TargetState,
    observation: Observation,
    asked: list[Wish],
    now: float,
    hold: float,
    law: LawSettings,
) -> Reason | None:
    if spec.down.disabled:
        return Reason(Rule.DOWN_DISABLED, "behavior.scaleDown is disabled")
    if state.fresh_at != now:
        names = ", ".join(f"{wish.name} is {wish.state.value}" for wish in asked if wish.state is not Freshness.FRESH)
        return Reason(
            Rule.SIGNALS_NOT_FRESH, f"only fresh signals may lower: {names or 'the activation signal is not fresh'}"
        )
    # Replicas that were not needed once since the start need not wait for more than the default.
    full = hold if spec.down.window_seconds is not None else min(hold, law.hold_default_seconds)
    if state.fresh_since is None or now - state.fresh_since < full:
        seen = 0.0 if state.fresh_since is None else now - state.fresh_since
        return Reason(Rule.WINDOW_NOT_FULL, f"{seen:.0f} s of the {full:.0f} s window seen since start or outage")
    if _is_rising(observation, law):
        return Reason(Rule.RISING, "the load is rising")
    if observation.rollout is Rollout.PROGRESSING:
        return Reason(Rule.ROLLOUT, "a rollout is in progress")
    if observation.rollout is Rollout.PAUSED:
        return Reason(Rule.PAUSED, "the target is paused")
    if any(age < law.drain_wait_seconds for age in observation.pods.terminating):
        return Reason(Rule.DRAINING, f"{len(observation.pods.terminating)} pods still drain")
    return None


def _is_rising(observation: Observation, law: LawSettings) -> bool:
    work = observation.work
    if work is None or work.state is not Freshness.FRESH or not work.known:
        return False
    short, long = demand.arriving_work(work)
    return short > long * (1 + law.rising_share)


def _asleep(
    spec: TargetSpec, state: TargetState, observation: Observation, now: float, hold: float, usual_start: float
) -> Decision:
    """At zero there are no pods to measure: only the activation signal, or a raised minimum, wakes the target."""
    activation = observation.activation
    wanted, active = spec.min_replicas, True
    reason = Reason(Rule.STEADY, "at zero, no demand")
    if wanted:
        reason = Reason(Rule.MINIMUM, f"minReplicas is {wanted}")
    elif spec.scale_to_zero is None or activation is None:
        reason = Reason(Rule.STEADY, "at zero with minReplicas 0 and no activation signal")
    elif activation.state is not Freshness.FRESH:
        active = False
        reason = Reason(
            Rule.OUTAGE, f"at zero and the activation signal is {activation.state.value}: {activation.detail}"
        )
    elif activation.value > spec.scale_to_zero.threshold:
        wanted = 1
        reason = Reason(Rule.WOKEN, f"activation signal is {activation.value:g}")
    limits: list[Reason] = [reason]
    replicas, refused = refused_by_capacity(spec, observation, 0, wanted, limits)
    moves = rates.remember_move(state.moves, now, replicas, longest_period(spec))
    state = replace(state, moves=moves, idle_since=None, fresh_since=None, fresh_at=None, hung_since=None, ups=())
    if replicas:
        state = replace(state, needs=window.record_need((), now, replicas, hold)[0])
    return Decision(replicas, state, wanted, refused, (), tuple(limits), active, hold, usual_start)


def _idle(
    spec: TargetSpec,
    state: TargetState,
    observation: Observation,
    wanted: int,
    idle: bool,
    now: float,
    reasons: list[Reason],
) -> tuple[TargetState, int]:
    """To zero only after the whole idle time without work; until then one replica stays."""
    if spec.scale_to_zero is None or spec.min_replicas > 0:
        return state, wanted
    if observation.activation is not None and observation.activation.value > spec.scale_to_zero.threshold:
        idle = False
    if not idle:
        return (state if state.idle_since is None else replace(state, idle_since=None)), max(wanted, 1)
    if state.idle_since is None:
        state = replace(state, idle_since=now)
    idle_seconds = now - (state.idle_since or now)
    if wanted == 0 and idle_seconds < spec.scale_to_zero.idle_seconds:
        if observation.replicas == 1:
            reasons.append(
                Reason(
                    Rule.IDLE_TIME,
                    f"idle for {idle_seconds:.0f} s of {spec.scale_to_zero.idle_seconds:.0f} s before zero",
                )
            )
        wanted = 1
    return state, wanted
