"""What stands between what the signals ask for and what is done: bounds, windows, rates, what the cluster can hold. Pure."""

from autoscaler.law import rates
from autoscaler.law.decision import Decision, Reason, Rule
from autoscaler.law.inputs import Rollout, SignalKind
from autoscaler.law.memory import window
from autoscaler.law.spec import TargetSpec
from autoscaler.law.turn import Turn


def finish(turn: Turn, wanted: int) -> Decision:
    """Bounds, windows, rates and what the cluster can hold, in this order."""
    spec, before = turn.spec, turn.replicas
    bounded = max(turn.least, min(wanted, spec.max_replicas))
    if bounded > wanted:
        rule, text = turn.why_least
        turn.say(rule, f"signals ask for {wanted}, {text}")
    elif bounded < wanted:
        turn.say(Rule.MAXIMUM, f"signals ask for {wanted}, maxReplicas is {spec.max_replicas}")
    replicas = _stabilised_up(turn, bounded)
    replicas, refused = within_max_gpus(turn, replicas, bounded)
    replicas, short = refused_by_capacity(turn, replicas)
    refused += short
    replicas, short = _not_created(turn, replicas)
    refused += short
    if spec.enforce_capacity and replicas >= before:
        replicas, given_back = _give_back(turn, replicas)
        refused += given_back
    replicas = _rates(turn, replicas, _most(turn))
    if replicas != before:
        rule, verb = (Rule.RAISED, "raised") if replicas > before else (Rule.LOWERED, "lowered")
        text = f"{verb} from {before} to {replicas}: {_leading(turn, wanted, replicas)}"
        turn.reasons.insert(0, Reason(rule, text))
    elif not turn.reasons:
        turn.say(Rule.STEADY, f"the load fits {replicas} replicas")
    if turn.observation.rollout is Rollout.FAILED:
        detail = turn.observation.rollout_detail
        turn.say(Rule.ROLLOUT_FAILED, f"the target's rollout has failed{f': {detail}' if detail else ''}")
    ups = (
        window.record_wish(turn.state.ups, turn.now, bounded, spec.up.window_seconds) if spec.up.window_seconds else ()
    )
    turn.note(ups=ups, own_zero=replicas == 0)
    remember_move(turn, replicas - before)
    return turn.decision(replicas, bounded, refused, active=bool(turn.fresh))


def remember_move(turn: Turn, delta: int) -> None:
    """Note a move for the rate policies."""
    turn.note(moves=rates.remember_move(turn.state.moves, turn.now, delta, _longest_period(turn.spec)))


def _leading(turn: Turn, wanted: int, replicas: int) -> str:
    """What moved it: the bounds, where the signals ask for nothing of the kind, else the leading signal."""
    raising = replicas > turn.replicas
    if raising and wanted <= turn.replicas:
        return turn.why_least.text
    if not raising and wanted >= turn.replicas:
        return f"{_most(turn)} replicas are the most allowed" if _most(turn) < turn.replicas else "no node was found"
    if not turn.fresh:
        return "bounds changed"
    wish = max(turn.fresh, key=lambda w: w.up if raising else w.low)
    if raising and wish.up <= turn.replicas and turn.supply.lost:
        return f"pods that are long overdue or crash-looping: {turn.supply.lost}"
    text = wish.detail if wish.kind is SignalKind.WORK else f"{wish.value:g} against a target of {wish.target:g}"
    return f"{wish.name} ({text})"


def _stabilised_up(turn: Turn, wanted: int) -> int:
    before, seconds = turn.replicas, turn.spec.up.window_seconds
    if wanted <= before or not seconds:
        return wanted
    lowest = window.lowest_wish(window.record_wish(turn.state.ups, turn.now, wanted, seconds))
    lowest = max(lowest, turn.least)
    if lowest < wanted:
        turn.say(Rule.UP_WINDOW, f"lowest wish of the last {seconds:.0f} s was {lowest}")
    return max(before, min(wanted, lowest))


def within_max_gpus(turn: Turn, replicas: int, wanted: int) -> tuple[int, int]:
    """(replicas, refused)."""
    room = _room_of_max_gpus(turn)
    if room is None or replicas <= room:
        return replicas, 0
    turn.say(Rule.MAX_GPUS, f"maxGPUs {turn.spec.max_gpus:g} is {room} replicas; {wanted} wanted")
    return room, replicas - room


def _room_of_max_gpus(turn: Turn) -> int | None:
    most, each = turn.spec.max_gpus, turn.observation.gpus_per_replica
    return None if most is None or each <= 0 else int(most / each + 1e-9)


def _most(turn: Turn) -> int:
    """The most replicas that the owner allows."""
    room = _room_of_max_gpus(turn)
    return turn.spec.max_replicas if room is None else min(turn.spec.max_replicas, room)


def refused_by_capacity(turn: Turn, wanted: int) -> tuple[int, int]:
    """Raise only to what the cluster can hold. An unknown capacity does not limit, pods that wait for a node do."""
    before, capacity = turn.replicas, turn.observation.capacity
    if wanted <= before or not turn.spec.enforce_capacity:
        return wanted, 0
    waiting = len(turn.observation.pods.unschedulable)
    if capacity is None:
        if not waiting:
            return wanted, 0
        turn.say(Rule.UNSCHEDULABLE, f"{waiting} pods wait for a node; more would wait with them")
        return before, wanted - before + waiting
    # Pods that wait for a node take the first places that are free.
    possible = max(before + capacity.fits - waiting, before)
    if possible >= wanted:
        return wanted, 0
    text = f"the cluster can hold {capacity.fits} more of this pod; {wanted} wanted"
    text = f"{text} ({capacity.detail})" if capacity.detail else text
    turn.say(Rule.CAPACITY, f"{text}; capacityCheck: Off raises anyway, for a node autoscaler to follow")
    return possible, wanted - possible + max(waiting - capacity.fits, 0)


def _not_created(turn: Turn, replicas: int) -> tuple[int, int]:
    """No growth while replicas have no pods: more would go the same way. They count as refused. The minimum is the owner's word."""
    pods, before = turn.observation.pods, turn.replicas
    kept = min(replicas, max(before, turn.least))
    if pods.awaited and kept < replicas:
        turn.say(Rule.AWAITED, f"{pods.awaited} of {before} replicas have no pod yet; {replicas} wanted")
        return kept, 0
    if not pods.not_created:
        return replicas, 0
    unmet = max(replicas - (before - pods.not_created), 0)
    if unmet:
        why = pods.why_not_created or "its controller does not say why"
        turn.say(Rule.NOT_CREATED, f"{pods.not_created} of {before} replicas have no pod: {why}")
    return kept, unmet


def _give_back(turn: Turn, replicas: int) -> tuple[int, int]:
    """Take back replicas that have found no node for long; the scheduler's queue is no place to wait for days."""
    after = turn.law.give_back_seconds
    tired = sum(age > after for age in turn.observation.pods.unschedulable)
    kept = max(replicas - tired, turn.least, 1, turn.supply.ready)
    if not tired or kept >= replicas or turn.observation.rollout is not Rollout.SETTLED:
        return replicas, 0
    turn.say(Rule.GIVEN_BACK, f"{tired} pods found no node for {after:.0f} s and are taken back")
    return kept, replicas - kept


def _rates(turn: Turn, wanted: int, most: int) -> int:
    """As fast as `behavior` allows, but at once into the bounds (`most` replicas), as the HPA does: they are the owner's word."""
    spec, before, moves = turn.spec, turn.replicas, turn.state.moves
    if wanted > before:
        allowed = rates.limit_up(before, wanted, moves, spec.up.policies, spec.up.largest, turn.now)
        allowed = max(allowed, min(wanted, turn.least))
        if allowed < wanted:
            turn.say(Rule.UP_RATE, f"behavior.scaleUp allows {allowed} of {wanted} now")
        return allowed
    if wanted < before:
        allowed = rates.limit_down(before, wanted, moves, spec.down.policies, spec.down.largest, turn.now)
        allowed = min(allowed, max(wanted, most))
        if allowed > wanted:
            turn.say(Rule.DOWN_RATE, f"behavior.scaleDown allows {allowed} on the way to {wanted} now")
        return allowed
    return wanted


def _longest_period(spec: TargetSpec) -> float:
    return max((p.period_seconds for p in (*spec.up.policies, *spec.down.policies)), default=0.0)
