"""What may stop growth that the signals ask for: it would not help. Pure."""

from autoscaler.law.decision import Rule
from autoscaler.law.inputs import Freshness, SignalKind
from autoscaler.law.turn import Turn


def raised(turn: Turn, up: int) -> int:
    """`up`, or the present count and the reason why not."""
    pods, law = turn.observation.pods, turn.law
    if turn.spec.up.disabled:
        turn.say(Rule.UP_DISABLED, f"signals ask for {up}; behavior.scaleUp is disabled")
        return turn.replicas
    hung_since = turn.state.hung_since
    if turn.spec.queueing and hung_since is not None and turn.now - hung_since >= law.hung_seconds:
        turn.say(Rule.HUNG, "requests wait while the GPUs are idle: the engine hangs, more of it would not help")
        return turn.replicas
    total = pods.ready + len(pods.starting) + len(pods.unschedulable) + pods.crash_looping
    if pods.crash_looping and pods.crash_looping >= law.crash_share * total:
        turn.say(Rule.CRASH_LOOP, f"{pods.crash_looping} of {total} pods crash-loop: no growth until they recover")
        return turn.replicas
    return up


def watch_for_hanging(turn: Turn) -> None:
    """Requests wait and no kernel runs: an engine that hangs, once it has lasted."""
    utilisation, work = turn.observation.utilisation, turn.observation.work
    waiting = work.waiting if work else 0.0
    waiting = max((wish.value for wish in turn.fresh if wish.kind is SignalKind.QUEUE), default=waiting)
    hung = (
        utilisation is not None
        and utilisation.state is Freshness.FRESH
        and utilisation.value < turn.law.hung_utilisation
        and waiting > 0
        and turn.observation.pods.ready > 0
    )
    since = turn.state.hung_since
    turn.note(hung_since=None if not hung else turn.now if since is None else since)
