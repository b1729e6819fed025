"""The decision: how many replicas, and why. Pure: one observation and the state of the last decision in, both sides out.

Order of the rules: wishes of the signals; up if any fresh one asks; down if all are fresh, a full window has been seen
and every wish of it agrees; then what stands in the way (rollout, crash loop, hung engine, drain, rates, capacity).
"""

from dataclasses import replace
from typing import Final

from autoscaler.law.constants import LawConstants
from autoscaler.law.decision import Decision, Reason, Rule, TargetState, Wish, capped
from autoscaler.law.inputs import Freshness, Observation
from autoscaler.law.memory import hold, starts, window
from autoscaler.law.rules import experience, gateway, lowering, outlook, raising, zero
from autoscaler.law.rules.limits import finish
from autoscaler.law.rules.reserve import BURSTS, wish_for_bursts
from autoscaler.law.rules.wishes import wishes
from autoscaler.law.sizing import demand
from autoscaler.law.spec import TargetSpec
from autoscaler.law.turn import Turn, begin

__all__ = ["Decision", "Reason", "Rule", "TargetState", "capped", "decide"]

_CONSTANTS: Final = LawConstants()


def decide(
    spec: TargetSpec, state: TargetState, observation: Observation, now: float, law: LawConstants = _CONSTANTS
) -> Decision:
    """Replicas for one target at `now` (seconds; only differences matter)."""
    turn = begin(spec, state, observation, now, law)
    if observation.replicas == 0:
        return zero.asleep(turn)
    experience.note(turn)
    turn.asked = _asked(turn)
    fresh = turn.fresh
    all_fresh = turn.all_fresh and zero.activation_is_known(turn)
    _note_freshness(turn, all_fresh)
    low = up = observation.replicas
    idle = False
    if fresh:
        low, up = max(wish.low for wish in fresh), max(wish.up for wish in fresh)
        idle = not low and not up and all_fresh and observation.pods.ready > 0
        low, up = _with_lost(turn, low, up)
        _remember(turn, max(low, up))
        reserve = wish_for_bursts(turn, max(low, up))
        if reserve is not None:
            turn.asked.append(reserve)
            low, up = max(low, reserve.low), max(up, reserve.up)
    raising.watch_for_hanging(turn)
    turn.objective = outlook.report(turn)
    return finish(turn, zero.kept_awake(turn, _wanted(turn, low, up), idle=idle))


def _asked(turn: Turn) -> list[Wish]:
    """What the signals ask for, with the requests that wait in the gateway among those that wait."""
    seen, rise = turn.observation, _rise(turn)
    turn.observation = gateway.counted_in(turn)
    asked = wishes(turn, rise)
    turn.observation = seen
    held = gateway.wish(turn)
    return asked if held is None else [*asked, held]


def _rise(turn: Turn) -> float:
    """Note the arriving work; returns the rise to expect until a pod created now is ready.

    What was thought to be needed before a token's cost was known is forgotten when it becomes known.
    """
    work, state = turn.observation.work, turn.state
    if work is None or work.state is not Freshness.FRESH or not work.known:
        turn.note(rates=())
        return 0.0
    rates = demand.note_rate(state.rates, turn.now, demand.arriving_work(work)[1], turn.law)
    turn.note(rates=rates, needs=state.needs if state.priced else (), priced=True)
    return demand.expected_rise(rates, turn.lead_seconds, turn.law)


def _note_freshness(turn: Turn, all_fresh: bool) -> None:
    if not all_fresh:
        return
    at = turn.state.fresh_at
    gap = at is None or turn.now - at > turn.law.outage_grace_seconds
    turn.note(fresh_at=turn.now, fresh_since=turn.now if gap else turn.state.fresh_since)


def _with_lost(turn: Turn, low: int, up: int) -> tuple[int, int]:
    """The lowest count that all wishes accept and the highest that one asks for, with one more for each pod that is of no use.

    Upwards only a step at a time, because overdue pods may still come. A cut must leave enough of the useful pods: a StatefulSet
    may keep its sick ones.
    """
    supply = turn.supply
    if up > supply.credited:
        up += min(supply.lost, supply.step(turn.law))
    return (min(low + supply.sick, max(turn.replicas, low)) if low else low), up


def _remember(turn: Turn, level: int) -> None:
    """Note the level needed now, learn from the gaps it ends, and choose the hold time anew if they teach something."""
    law, state = turn.law, turn.state
    level = min(level, turn.spec.max_replicas)
    learns = turn.spec.down.window_seconds is None
    if learns and state.hold_seconds is None and state.learned.gaps.replicas >= law.gaps_needed:
        state = _recalled(turn)
    needs, gaps = window.record_need(state.needs, turn.now, level, law.hold_memory_seconds)
    turn.note(needs=needs)
    if not learns or not gaps:
        return
    histogram = hold.note_gaps(state.learned.gaps, gaps, law)
    if histogram is not state.learned.gaps:
        seconds = hold.hold_seconds(histogram, turn.start_seconds, law, experience.price(turn))
        turn.note(hold_seconds=seconds, learned=replace(state.learned, gaps=histogram))


def _recalled(turn: Turn) -> TargetState:
    """The state with the hold time that an earlier leader's gaps come to.

    When its replicas were needed last is not known: those that are there count as needed now.
    """
    seconds = hold.hold_seconds(turn.state.learned.gaps, turn.start_seconds, turn.law, experience.price(turn))
    needs, _ = window.record_need(turn.state.needs, turn.now, turn.replicas, turn.law.hold_memory_seconds)
    turn.note(hold_seconds=seconds, needs=needs)
    return turn.state


def _wanted(turn: Turn, low: int, up: int) -> int:
    """Between the two: up if one asks, down if all accept, else what there is."""
    replicas, pods = turn.replicas, turn.observation.pods
    if raising.hangs(turn):
        return raising.held(turn)
    if up > replicas:
        return raising.raised(turn, up)
    if not turn.fresh:
        if pods.ready:
            why = next((f" ({wish.name}: {wish.detail})" for wish in turn.asked if wish.detail), "")
            turn.say(Rule.OUTAGE, f"no signal is fresh: replicas are frozen{why}")
        else:
            turn.say(Rule.NO_READY_POD, f"{_none_ready(turn)}: replicas are frozen")
        return replicas
    if low >= replicas:
        lead = max(turn.asked, key=lambda wish: wish.low)
        if lead.name == BURSTS:
            turn.say(Rule.BURST_RESERVE, f"{lead.low} replicas are kept for bursts: {lead.detail}")
        else:
            turn.say(Rule.STEADY, f"the load fits {replicas} replicas and no fewer")
        return replicas
    return lowering.lowered(turn, low)


def _none_ready(turn: Turn) -> str:
    """Pods that start, and pods that fail their readiness for long, perhaps for the load that they report."""
    pods, late = turn.observation.pods, starts.overdue_seconds(turn.start_seconds, turn.law)
    coming = len([age for age in pods.starting if age <= late]) + len(pods.unschedulable)
    failing = [age for age in pods.starting if age > late]
    texts = [f"{coming} are on the way"] if coming or not failing else []
    if failing:
        texts.append(f"{len(failing)} have had a node for {min(failing):.0f} s or more and are not ready")
    if pods.unready_in_flight > 0:
        texts.append(f"{pods.unready_in_flight:.0f} requests are inside: they are overloaded")
    return f"no pod is ready{'' if failing else ' yet'}, {', '.join(texts)}"
