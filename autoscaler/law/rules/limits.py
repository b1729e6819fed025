"""What stands between what the signals ask for and what is done: bounds, windows, rates, what the cluster can hold. Pure."""

from dataclasses import replace

from autoscaler.law import rates
from autoscaler.law.decision import Decision, Reason, Rule, TargetState
from autoscaler.law.inputs import Freshness, Observation, Rollout
from autoscaler.law.memory import window
from autoscaler.law.rules.wishes import Supply, Wish
from autoscaler.law.spec import LawSettings, TargetSpec


def finish(
    spec: TargetSpec,
    state: TargetState,
    observation: Observation,
    supply: Supply,
    asked: list[Wish],
    wanted: int,
    now: float,
    law: LawSettings,
    reasons: list[Reason],
    active: bool,
    hold: float,
    usual_start: float,
) -> Decision:
    """Bounds, windows, rates and what the cluster can hold, in this order."""
    before = observation.replicas
    bounded = max(spec.min_replicas, min(wanted, spec.max_replicas))
    if bounded > wanted:
        reasons.append(Reason(Rule.MINIMUM, f"signals ask for {wanted}, minReplicas is {spec.min_replicas}"))
    elif bounded < wanted:
        reasons.append(Reason(Rule.MAXIMUM, f"signals ask for {wanted}, maxReplicas is {spec.max_replicas}"))
    replicas = _stabilised_up(spec, state, before, bounded, now, reasons)
    refused = 0
    if spec.max_gpus is not None and observation.gpus_per_replica > 0:
        room = int(spec.max_gpus / observation.gpus_per_replica + 1e-9)
        if replicas > room:
            reasons.append(Reason(Rule.MAX_GPUS, f"maxGPUs {spec.max_gpus:g} is {room} replicas; {bounded} wanted"))
            refused, replicas = replicas - room, room
    replicas, short = refused_by_capacity(spec, observation, before, replicas, reasons)
    refused += short
    if spec.enforce_capacity and replicas >= before:
        replicas, given_back = _give_back(spec, observation, supply, replicas, law, reasons)
        refused += given_back
    replicas = _rates(spec, state, before, replicas, now, reasons)
    if replicas != before:
        rule, verb = (Rule.RAISED, "raised") if replicas > before else (Rule.LOWERED, "lowered")
        reasons.insert(0, Reason(rule, f"{verb} from {before} to {replicas}: {_leading(asked, replicas > before)}"))
    elif not reasons:
        reasons.append(Reason(Rule.STEADY, f"the load fits {replicas} replicas"))
    ups = window.record_wish(state.ups, now, bounded, spec.up.window_seconds) if spec.up.window_seconds else ()
    moves = rates.remember_move(state.moves, now, replicas - before, longest_period(spec))
    if moves != state.moves or ups != state.ups:
        state = replace(state, moves=moves, ups=ups)
    return Decision(replicas, state, bounded, refused, tuple(asked), tuple(reasons), active, hold, usual_start)


def _leading(asked: list[Wish], raising: bool) -> str:
    fresh = [wish for wish in asked if wish.state is Freshness.FRESH]
    if not fresh:
        return "bounds changed"
    wish = max(fresh, key=lambda w: w.up if raising else w.low)
    text = wish.detail or f"{wish.value:g} against a target of {wish.target:g}"
    return f"{wish.name} ({text})"


def _stabilised_up(
    spec: TargetSpec, state: TargetState, before: int, wanted: int, now: float, reasons: list[Reason]
) -> int:
    if wanted <= before or not spec.up.window_seconds:
        return wanted
    lowest = window.lowest_wish(window.record_wish(state.ups, now, wanted, spec.up.window_seconds))
    if lowest < wanted:
        reasons.append(Reason(Rule.UP_WINDOW, f"lowest wish of the last {spec.up.window_seconds:.0f} s was {lowest}"))
    return max(before, min(wanted, lowest))


def refused_by_capacity(
    spec: TargetSpec, observation: Observation, before: int, wanted: int, reasons: list[Reason]
) -> tuple[int, int]:
    """Raise only to what the cluster can hold. An unknown capacity does not limit, pods that wait for a node do."""
    if wanted <= before or not spec.enforce_capacity:
        return wanted, 0
    waiting = len(observation.pods.unschedulable)
    if observation.capacity is None:
        if not waiting:
            return wanted, 0
        reasons.append(Reason(Rule.UNSCHEDULABLE, f"{waiting} pods wait for a node; more would wait with them"))
        return before, wanted - before + waiting
    # Pods that wait for a node take the first places that are free.
    possible = max(before + observation.capacity.fits - waiting, before)
    if possible >= wanted:
        return wanted, 0
    text = f"the cluster can hold {observation.capacity.fits} more of this pod; {wanted} wanted"
    reasons.append(
        Reason(Rule.CAPACITY, f"{text} ({observation.capacity.detail})" if observation.capacity.detail else text)
    )
    return possible, wanted - possible + max(waiting - observation.capacity.fits, 0)


def _give_back(
    spec: TargetSpec, observation: Observation, supply: Supply, replicas: int, law: LawSettings, reasons: list[Reason]
) -> tuple[int, int]:
    """Take back replicas that have found no node for long; the scheduler's queue is no place to wait for days."""
    tired = sum(age > law.give_back_seconds for age in observation.pods.unschedulable)
    floor = max(spec.min_replicas, 1)
    kept = max(replicas - tired, floor, supply.ready)
    if not tired or kept >= replicas or observation.rollout is not Rollout.SETTLED:
        return replicas, 0
    reasons.append(
        Reason(Rule.GIVEN_BACK, f"{tired} pods found no node for {law.give_back_seconds:.0f} s and are taken back")
    )
    return kept, replicas - kept


def _rates(spec: TargetSpec, state: TargetState, before: int, wanted: int, now: float, reasons: list[Reason]) -> int:
    if wanted > before:
        allowed = rates.limit_up(before, wanted, state.moves, spec.up.policies, spec.up.largest, now)
        if allowed < wanted:
            reasons.append(Reason(Rule.UP_RATE, f"behavior.scaleUp allows {allowed} of {wanted} now"))
        return allowed
    if wanted < before:
        allowed = rates.limit_down(before, wanted, state.moves, spec.down.policies, spec.down.largest, now)
        if allowed > wanted:
            reasons.append(Reason(Rule.DOWN_RATE, f"behavior.scaleDown allows {allowed} on the way to {wanted} now"))
        return allowed
    return wanted


def longest_period(spec: TargetSpec) -> float:
    return max((p.period_seconds for p in (*spec.up.policies, *spec.down.policies)), default=0.0)
