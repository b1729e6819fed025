"""Whether replicas may go: every signal fresh and agreed, a full window seen, nothing in the way. Pure."""

from autoscaler.law.decision import Reason, Rule
from autoscaler.law.inputs import Freshness, Rollout
from autoscaler.law.memory import window
from autoscaler.law.sizing import demand
from autoscaler.law.turn import Turn


def lowered(turn: Turn, low: int) -> int:
    """The lowest count that every rule allows; `low` is the lowest that the wishes accept. The rule that stopped a cut is named."""
    replicas = turn.replicas
    blocked = _why_not(turn)
    if blocked is not None:
        turn.reasons.append(blocked)
        return replicas
    held = window.needed_within(turn.state.needs, turn.now, turn.hold_seconds)
    if held >= replicas:
        text = f"{min(held, replicas)} replicas were needed within the last {turn.hold_seconds:.0f} s"
        turn.say(Rule.WITHIN_WINDOW, text)
        return replicas
    return max(held, low)


def _why_not(turn: Turn) -> Reason | None:
    spec, state, law, observation = turn.spec, turn.state, turn.law, turn.observation
    if spec.down.disabled:
        return Reason(Rule.DOWN_DISABLED, "behavior.scaleDown is disabled")
    if state.fresh_at != turn.now:
        names = ", ".join(f"{wish.name} is {wish.state}" for wish in turn.asked if wish.state is not Freshness.FRESH)
        text = f"only fresh signals may lower: {names or 'the activation signal is not fresh'}"
        return Reason(Rule.SIGNALS_NOT_FRESH, text)
    # Replicas that were not needed once since the start need not wait for more than the default.
    full = (
        turn.hold_seconds if spec.down.window_seconds is not None else min(turn.hold_seconds, law.hold_default_seconds)
    )
    if state.fresh_since is None or turn.now - state.fresh_since < full:
        seen = 0.0 if state.fresh_since is None else turn.now - state.fresh_since
        return Reason(Rule.WINDOW_NOT_FULL, f"{seen:.0f} s of the {full:.0f} s window seen since start or outage")
    if _is_rising(turn):
        return Reason(Rule.RISING, "the load is rising")
    if observation.rollout is Rollout.PROGRESSING:
        detail = f": {observation.rollout_detail}" if observation.rollout_detail else ""
        return Reason(Rule.ROLLOUT, f"a rollout is in progress{detail}")
    if observation.rollout is Rollout.PAUSED:
        return Reason(Rule.PAUSED, "the target is paused")
    if any(age < law.drain_wait_seconds for age in observation.pods.terminating):
        return Reason(Rule.DRAINING, f"{len(observation.pods.terminating)} pods still drain")
    return None


def _is_rising(turn: Turn) -> bool:
    work = turn.observation.work
    if work is None or work.state is not Freshness.FRESH or not work.known:
        return False
    short, long = demand.arriving_work(work)
    return short > long * (1 + turn.law.rising_share)
