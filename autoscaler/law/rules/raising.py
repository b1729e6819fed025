"""What may stop growth that the signals ask for: it would not help. Pure."""

from autoscaler.law.decision import Rule
from autoscaler.law.inputs import Freshness, SignalKind
from autoscaler.law.rules import gateway
from autoscaler.law.turn import Turn


def raised(turn: Turn, up: int) -> int:
    """`up`, or the present count and the reason why not."""
    pods = turn.observation.pods
    if turn.spec.up.disabled:
        turn.say(Rule.UP_DISABLED, f"signals ask for {up}; behavior.scaleUp is disabled")
        return turn.replicas
    if _most_are_sick(turn):
        turn.say(Rule.CRASH_LOOP, f"{pods.crash_looping} of {pods.alive} pods crash-loop: no growth until they recover")
        return turn.replicas
    return up


def _most_are_sick(turn: Turn) -> bool:
    """Whether the next pod is likely to crash-loop too. A single one beside healthy ones tells of its card or node, not of them.

    Those that a rollout has made beside the replicas asked for (surge) do not count: the old ones are what is grown.
    """
    sick, pods = turn.supply.sick, turn.observation.pods
    healthy = pods.ready > 0
    return sick > healthy and sick >= turn.law.crash_share * min(pods.alive, max(turn.replicas, 1))


def watch_for_hanging(turn: Turn) -> None:
    """Requests are inside, no token is done, no kernel runs: an engine that hangs, once it has lasted.

    Utilisation alone does not prove it: exporters name the wrong card, or say 0 of one that works.
    """
    observation = turn.observation
    work = observation.work
    waiting = work.waiting if work else 0.0
    queued = [wish.value - gateway.waiting(turn) for wish in turn.fresh if wish.kind is SignalKind.QUEUE]
    waiting = max(queued, default=waiting)
    flows = work is not None and work.flows
    hung = observation.pods.ready > 0 and not flows and (observation.stalled or (waiting > 0 and _is_idle(turn)))
    since = turn.state.hung_since
    turn.note(hung_since=None if not hung else turn.now if since is None else since)


def hangs(turn: Turn) -> bool:
    """Whether the engine has hung for long enough to say so."""
    since = turn.state.hung_since
    return turn.spec.queueing and since is not None and turn.now - since >= turn.law.hung_seconds


def held(turn: Turn) -> int:
    """The present count: more of an engine that hangs would not help, and what its requests need is not known."""
    turn.say(Rule.HUNG, f"{_why_hung(turn)}: the engine hangs, and is neither grown nor cut")
    return turn.replicas


def _is_idle(turn: Turn) -> bool:
    utilisation = turn.observation.utilisation
    return (
        utilisation is not None
        and utilisation.state is Freshness.FRESH
        and utilisation.value < turn.law.hung_utilisation
    )


def _why_hung(turn: Turn) -> str:
    if _is_idle(turn):
        return "requests wait while the GPUs are idle"
    return "requests are inside and no token has been done lately"
