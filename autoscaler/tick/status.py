"""The status of an InferenceAutoscaler: built from a decision, compared, and written only when it says something new. Pure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from autoscaler.law.decide import Decision, Reason, Rule
from autoscaler.law.decision import ObjectiveReport
from autoscaler.law.inputs import NO_WORKERS, Gateway, Observation, Scheduled
from autoscaler.observation.cluster.objects import stamp

HISTORY: Final = 10
MESSAGE_BYTES: Final = 512
NOISE_SHARE: Final = 0.05
"""A value that moved by less is not worth a write."""
SHARE_NOISE: Final = 0.005
"""The same of a share of requests."""

READY: Final = "Ready"
SCALING_ACTIVE: Final = "ScalingActive"
ABLE_TO_SCALE: Final = "AbleToScale"
CAPACITY_LIMITED: Final = "CapacityLimited"
CONFLICT: Final = "Conflict"
SPEC_WARNING: Final = "SpecWarning"
OBJECTIVE_MET: Final = "ObjectiveMet"
GATEWAY_KNOWN: Final = "GatewayKnown"
SCHEDULED: Final = "Scheduled"
NO_WINDOW_OPEN: Final = "NoWindowOpen"

AMBIGUOUS_OWNER: Final = "AmbiguousOwner"
ANOTHER_SCALER: Final = "AnotherScaler"
CHANGED_BY_ANOTHER: Final = "ChangedByAnother"
"""Reason of a change in the history that was not the autoscaler's."""

_BLOCKED: Final = (Rule.CRASH_LOOP, Rule.HUNG, Rule.PAUSED, Rule.ROLLOUT)
_FROZEN: Final = (Rule.OFF, Rule.OUTAGE, Rule.NO_READY_POD, Rule.SIGNALS_NOT_FRESH)
_LIMITED: Final = (Rule.NOT_CREATED, Rule.CAPACITY, Rule.UNSCHEDULABLE, Rule.GIVEN_BACK, Rule.MAX_GPUS, Rule.BUDGET)

HOPELESS: Final = (
    "more replicas would not help: as many are late when replicas are next to idle. Shorter prompts, a faster card, smaller prompt"
    " chunks (--max-num-batched-tokens) or a longer objective would"
)

Status = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition before it has a transition time."""

    type: str
    holds: bool | None
    reason: str
    message: str = ""

    @property
    def status(self) -> str:
        """The API's word."""
        return "Unknown" if self.holds is None else str(self.holds)


@dataclass(frozen=True, slots=True)
class Claims:
    """Who else has a say in the replicas."""

    target: str = ""
    """Kind and name of what is scaled."""
    rival: str = ""
    """Who scales the target that this object only advises on."""
    writers: str = ""
    """Others that changed the replicas lately, in words."""
    yields: bool = False
    """They undo every change, so nothing is written for a while."""
    owner: str = ""
    """The object that controls the target."""

    def condition(self) -> Condition:
        """`Conflict`: true while somebody else scales, or keeps changing the replicas."""
        if self.rival:
            return Condition(
                CONFLICT, True, ANOTHER_SCALER, f"{self.rival} scales {self.target}; this object only advises"
            )
        if blocked := self.blocked():
            return Condition(CONFLICT, True, AMBIGUOUS_OWNER, blocked)
        if self.writers:
            return Condition(CONFLICT, True, "OtherWriter", self.writers)
        if self.owner:
            text = f"{self.owner} controls {self.target} and may write its replicas"
            return Condition(CONFLICT, False, "ControlledByOwner", text)
        return Condition(CONFLICT, False, "OnlyScaler")

    def blocked(self) -> str:
        """Why nothing is written; empty where it is, or where nobody asked for it."""
        if not self.yields:
            return ""
        owner = f"; {self.owner} controls {self.target}" if self.owner else ""
        return f"{self.writers}: every change is undone, so none is made for a while{owner}"


def spec_warning(mistakes: Sequence[str], unreadable: Mapping[str, str]) -> Condition:
    """What looks wrong in the spec: queries that Prometheus cannot read (by signal), and what is likely a mistake."""
    texts = [f"signal {signal}: {text}" for signal, text in unreadable.items()] + list(mistakes)
    if not texts:
        return Condition(SPEC_WARNING, False, "NothingFound")
    return Condition(SPEC_WARNING, True, "InvalidQuery" if unreadable else "LikelyMistake", "; ".join(texts))


def gateway_known(gateway: Gateway | None) -> list[Condition]:
    """`GatewayKnown`, where the object names a gateway."""
    if gateway is None:
        return []
    if gateway.state.may_raise:
        return [Condition(GATEWAY_KNOWN, True, "Reporting", gateway.detail)]
    if gateway.reason == NO_WORKERS:
        return [Condition(GATEWAY_KNOWN, None, gateway.reason, gateway.detail)]
    return [Condition(GATEWAY_KNOWN, False, gateway.reason, f"{gateway.detail}; nothing is lowered meanwhile")]


def scheduled(schedule: Scheduled | None) -> list[Condition]:
    """`Scheduled`, where the object has a schedule: whether a window is open, and what comes next."""
    if schedule is None:
        return []
    keeps = f"{schedule.window} keeps at least {schedule.replicas} replicas"
    if schedule.is_open:
        until = f"until {schedule.until}" if schedule.until else "and never ends"
        return [Condition(SCHEDULED, True, "WindowOpen", f"{keeps} {until}")]
    return [Condition(SCHEDULED, False, NO_WINDOW_OPEN, f"next: {keeps} from {schedule.until} on")]


def objective_met(report: ObjectiveReport | None) -> list[Condition]:
    """`ObjectiveMet`, where there is an objective and its requests have been seen."""
    if report is None:
        return []
    text = f"{percent(report.share)} of the requests of about the last hour met the objective, {percent(report.wanted)} are wanted"
    if report.met:
        return [Condition(OBJECTIVE_MET, True, "Met", text)]
    if report.hopeless:
        return [Condition(OBJECTIVE_MET, False, "BeyondReplicas", f"{text}; {HOPELESS}")]
    return [Condition(OBJECTIVE_MET, False, "Missed", text)]


def objective_of(report: ObjectiveReport) -> dict[str, str]:
    """The report as the status holds it."""
    shares = {
        "wanted": report.wanted, "met": report.share, "now": report.now,
        "withOneMore": report.one_more, "withOneFewer": report.one_fewer,
    }  # fmt: skip
    return {
        name: f"{share:.3g}" if share < 0.99 else f"{share:.4f}" for name, share in shares.items() if share is not None
    }


def percent(share: float) -> str:
    """A share for people: 98 %, 99.93 %."""
    return f"{100 * share:.4g} %"


def conditions_of(
    decision: Decision, failure: str = "", unknown_capacity: str = "", claims: Claims | None = None
) -> list[Condition]:
    """The conditions after a decision. `failure` is what the API server said of the last write."""
    claims = claims or Claims()
    disputed = claims.blocked()
    lead = decision.reasons[0]
    frozen = _first(decision.reasons, _FROZEN)
    blocked = _first(decision.reasons, _BLOCKED)
    limited = _first(decision.reasons, _LIMITED)
    active = Condition(SCALING_ACTIVE, True, "SignalsFresh")
    if frozen is not None:
        active = Condition(
            SCALING_ACTIVE, decision.scaling_active and frozen.rule is not Rule.OUTAGE, frozen.rule, frozen.text
        )
    able = Condition(ABLE_TO_SCALE, True, "ReadyForNewScale")
    if failure:
        able = Condition(ABLE_TO_SCALE, False, "FailedUpdateScale", failure)
    elif disputed:
        able = Condition(ABLE_TO_SCALE, False, AMBIGUOUS_OWNER, disputed)
    elif blocked is not None:
        able = Condition(ABLE_TO_SCALE, False, blocked.rule, blocked.text)
    capacity = Condition(CAPACITY_LIMITED, False, "WithinCapacity", unknown_capacity)
    if decision.unmet and limited is not None:
        capacity = Condition(CAPACITY_LIMITED, True, limited.rule, limited.text)
    ready = Condition(READY, True, lead.rule, lead.text)
    if failure or disputed:
        ready = Condition(READY, False, "FailedUpdateScale" if failure else AMBIGUOUS_OWNER, failure or disputed)
    return [ready, active, able, capacity, claims.condition()]


def refused(reason: str, message: str, *, conflict: bool = False) -> list[Condition]:
    """Conditions of an object of which nothing can be decided."""
    return [
        Condition(READY, False, reason, message),
        Condition(SCALING_ACTIVE, False, reason, message),
        Condition(ABLE_TO_SCALE, False, reason, message),
        Condition(CONFLICT, conflict, reason if conflict else "OnlyScaler", message if conflict else ""),
    ]


def merge_conditions(
    wanted: Sequence[Condition], before: Sequence[Mapping[str, Any]], generation: int, now: float
) -> list[dict[str, Any]]:
    """Conditions with transition times: those of before where the status did not change."""
    known = {str(condition.get("type")): condition for condition in before}
    result = []
    for condition in wanted:
        old = known.get(condition.type, {})
        same = old.get("status") == condition.status
        result.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": str(condition.reason),
                "message": cut(condition.message),
                "observedGeneration": generation,
                "lastTransitionTime": old.get("lastTransitionTime")
                if same and old.get("lastTransitionTime")
                else stamp(now),
            }
        )
    return result


def build(
    decision: Decision,
    observation: Observation,
    *,
    history: Sequence[Mapping[str, Any]],
    last_scale: str,
    conditions: list[dict[str, Any]],
    generation: int,
    now: float,
) -> Status:
    """The status after a decision, but for what was learned (`learned`)."""
    status: Status = {
        "observedGeneration": generation,
        "currentReplicas": observation.replicas,
        "readyReplicas": observation.pods.ready,
        "desiredReplicas": decision.wanted,
        "unmetReplicas": decision.unmet,
        "signals": [_signal(wish, now) for wish in decision.wishes],
        "limits": [{"rule": str(reason.rule), "message": cut(reason.text)} for reason in decision.reasons],
        "history": list(history)[:HISTORY],
        "conditions": conditions,
    }
    if decision.objective is not None:
        status["objective"] = objective_of(decision.objective)
    if last_scale:
        status["lastScaleTime"] = last_scale
    return status


def history_entry(before: int, after: int, reasons: Sequence[Reason], now: float) -> dict[str, Any]:
    """One line of the history."""
    lead = reasons[0]
    return {"time": stamp(now), "from": before, "to": after, "reason": str(lead.rule), "message": cut(lead.text)}


def changed_by_another(before: int, after: int, text: str, now: float) -> dict[str, Any]:
    """A line of the history about a change that was not the autoscaler's."""
    return {"time": stamp(now), "from": before, "to": after, "reason": CHANGED_BY_ANOTHER, "message": cut(text)}


def says_something_new(
    new: Status, old: Mapping[str, Any], seconds_since_write: float, refresh_seconds: float, crowd_seconds: float = 0.0
) -> bool:
    """Whether a status is worth a write: at once when a decision, condition or state changed, readings now and then.

    `crowd_seconds` is by how much later where there are so many objects that their moving loads would keep the API server busy.
    """
    if material(new) != material(old):
        return True
    if new.get("desiredReplicas") != old.get("desiredReplicas") and seconds_since_write >= crowd_seconds:
        return True
    due = seconds_since_write >= refresh_seconds + crowd_seconds
    return due and (readings(new) != readings(old) or _moved(new, old))


def material(status: Mapping[str, Any]) -> dict[str, Any]:
    """The part that is written at once: without readings, what they ask for, their times, and texts that hold live numbers."""
    return {
        "counts": [
            status.get(name) for name in ("observedGeneration", "currentReplicas", "readyReplicas", "unmetReplicas")
        ],
        "history": [(entry.get("time"), entry.get("to")) for entry in status.get("history", ())],
        "states": [(signal.get("name"), signal.get("state")) for signal in status.get("signals", ())],
        "conditions": [(c.get("type"), c.get("status"), _stable(c)) for c in status.get("conditions", ())],
    }


def readings(status: Mapping[str, Any]) -> list[Any]:
    """The part that changes with the load, but for the values themselves: written now and then."""
    signals = [(signal.get("name"), signal.get("wish"), signal.get("lowest")) for signal in status.get("signals", ())]
    return [signals, [limit.get("rule") for limit in status.get("limits", ())]]


def _moved(new: Mapping[str, Any], old: Mapping[str, Any]) -> bool:
    """Whether a value has moved by more than its noise since it was written (rounding would flip at its edges)."""
    shares, before = new.get("objective", {}), old.get("objective", {})
    if any(abs(float(share) - float(before.get(name, "-1"))) > SHARE_NOISE for name, share in shares.items()):
        return True
    pairs = zip(new.get("signals", ()), old.get("signals", ()), strict=False)
    return any(_differ(str(one.get("value", "")), str(other.get("value", ""))) for one, other in pairs)


def _differ(one: str, other: str) -> bool:
    try:
        return not math.isclose(float(one), float(other), rel_tol=NOISE_SHARE)
    except ValueError:
        return one != other


def _stable(condition: Mapping[str, Any]) -> object:
    """A reason that comes and goes with every tick (`Ready` names the leading rule) is no news of its own.

    What a schedule says changes with its windows alone.
    """
    if condition.get("type") == SCHEDULED:
        return condition.get("message")
    return None if condition.get("type") == READY and condition.get("status") == "True" else condition.get("reason")


def _signal(wish: Any, now: float) -> dict[str, Any]:
    signal = {
        "name": wish.name,
        "type": str(wish.kind),
        "state": str(wish.state),
        "value": f"{wish.value:.4g}",
        "target": f"{wish.target:.4g}",
    }
    if wish.state.may_raise:
        signal |= {"wish": wish.up, "lowest": wish.low, "sampledAt": stamp(now - wish.age_seconds)}
    if wish.detail:
        signal["message"] = cut(wish.detail)
    return signal


def cut(text: str) -> str:
    """Within what a status field may hold, and without what a terminal would act on: servers' words end up here."""
    shown = "".join(character if character.isprintable() else " " for character in text[:MESSAGE_BYTES])
    return shown.encode(errors="replace")[:MESSAGE_BYTES].decode(errors="ignore")


def _first(reasons: Sequence[Reason], rules: Sequence[Rule]) -> Reason | None:
    return next((reason for reason in reasons if reason.rule in rules), None)
