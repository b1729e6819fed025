"""To zero after an idle time, and back from it by the signal that outlives the pods. Pure."""

from autoscaler.law.decision import Decision, Rule
from autoscaler.law.inputs import NO_WORKERS, Freshness
from autoscaler.law.memory import window
from autoscaler.law.rules import gateway
from autoscaler.law.rules.limits import refused_by_capacity, remember_move, within_max_gpus
from autoscaler.law.turn import Turn


def asleep(turn: Turn) -> Decision:
    """At zero there are no pods to measure: only the activation signal, the gateway, the schedule or a raised minimum wakes the target.

    A zero that somebody else wrote switches scaling off where minReplicas is 1 or more, as it does for the HPA.
    """
    spec = turn.spec
    wanted, active = spec.min_replicas, True
    if wanted and not turn.state.own_zero:
        wanted, active = 0, False
        text = f"replicas is 0, which switches scaling off while minReplicas is {spec.min_replicas}"
        turn.say(Rule.OFF, f"{text}; any other count switches it on again")
    elif wanted:
        turn.say(Rule.MINIMUM, f"minReplicas is {wanted}")
    else:
        wanted, active = _demand(turn)
        if turn.least > wanted:
            wanted, active = turn.least, True
            turn.reasons.insert(0, turn.why_least)
    held = gateway.wish(turn)
    turn.asked = [] if held is None else [held]
    replicas, refused = within_max_gpus(turn, wanted, wanted) if wanted > 1 else (wanted, 0)
    replicas, short = refused_by_capacity(turn, replicas)
    refused += short
    turn.state = turn.state.interrupted()
    remember_move(turn, replicas)
    if replicas:
        turn.note(needs=window.record_need((), turn.now, replicas, turn.hold_seconds)[0])
    return turn.decision(replicas, wanted, refused, active=active)


def _demand(turn: Turn) -> tuple[int, bool]:
    """(replicas to wake, whether the signals that could wake it are known): requests in a gateway say how many, others that one."""
    zero, activation, held = turn.spec.scale_to_zero, turn.observation.activation, turn.observation.gateway
    held = None if held is not None and held.reason == NO_WORKERS else held
    sources = [source for source in (held, activation) if source is not None]
    if zero is None or not sources:
        other = "" if turn.observation.scheduled is None else ": the schedule brings it back"
        turn.say(Rule.STEADY, f"at zero with minReplicas 0 and no activation signal{other}")
    elif gateway.waiting(turn) > 0:
        count = gateway.woken(turn)
        turn.say(Rule.WOKEN, f"{gateway.waiting(turn):g} requests wait in the gateway: {count} at once")
        return count, True
    elif activation is not None and activation.state.may_raise and activation.value > zero.threshold:
        turn.say(Rule.WOKEN, f"activation signal is {activation.value:g}")
        return 1, True
    elif unknown := next((source for source in sources if not source.state.may_raise), None):
        name = "gateway" if unknown is held else "activation signal"
        turn.say(Rule.OUTAGE, f"at zero and the {name} is {unknown.state}: {unknown.detail}")
        return 0, False
    else:
        turn.say(Rule.STEADY, "at zero, no demand")
    return 0, True


def kept_awake(turn: Turn, wanted: int, *, idle: bool) -> int:
    """To zero only after the whole idle time without work; until then one replica stays."""
    zero, activation = turn.spec.scale_to_zero, turn.observation.activation
    if zero is None or turn.spec.min_replicas > 0:
        return wanted
    if activation is not None and activation.value > zero.threshold:
        idle = False
    if not idle:
        turn.note(idle_since=None)
        return max(wanted, 1)
    if turn.state.idle_since is None:
        turn.note(idle_since=turn.now)
    idle_seconds = turn.now - (turn.state.idle_since or turn.now)
    if wanted == 0 and idle_seconds < zero.idle_seconds:
        if turn.replicas == 1:
            turn.say(Rule.IDLE_TIME, f"idle for {idle_seconds:.0f} s of {zero.idle_seconds:.0f} s before zero")
        return 1
    return wanted


def idle_for_long(turn: Turn) -> bool:
    """Whether the target is to go to zero: no reserve stands in the way of that."""
    zero, since = turn.spec.scale_to_zero, turn.state.idle_since
    return zero is not None and since is not None and turn.now - since >= zero.idle_seconds


def activation_is_known(turn: Turn) -> bool:
    """An activation signal that is configured counts among those that must be fresh to lower."""
    zero, activation = turn.spec.scale_to_zero, turn.observation.activation
    if zero is None or not zero.query:
        return True
    return activation is not None and activation.state is Freshness.FRESH
