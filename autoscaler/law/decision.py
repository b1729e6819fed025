"""What a decision says and what it leaves to the next one. Pure values."""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from autoscaler.law.inputs import Freshness, SignalKind
from autoscaler.law.memory import bursts, forecast
from autoscaler.law.memory.learned import Learned
from autoscaler.law.memory.window import Needs
from autoscaler.law.rates import Move
from autoscaler.law.sizing import demand


class Rule(StrEnum):
    """Which rule set or limited the outcome; the reason words of conditions, events and metrics."""

    RAISED = "Raised"
    LOWERED = "Lowered"
    STEADY = "Steady"
    WOKEN = "Woken"
    BURST_RESERVE = "BurstReserve"
    WITHIN_WINDOW = "WithinWindow"
    WINDOW_NOT_FULL = "WindowNotFull"
    RISING = "LoadRising"
    SIGNALS_NOT_FRESH = "SignalsNotFresh"
    OUTAGE = "Outage"
    OFF = "ScalingDisabled"
    NO_READY_POD = "NoReadyPod"
    IDLE_TIME = "IdleTimeNotOver"
    UP_WINDOW = "UpWindow"
    UP_DISABLED = "ScaleUpDisabled"
    DOWN_DISABLED = "ScaleDownDisabled"
    UP_RATE = "ScaleUpRate"
    DOWN_RATE = "ScaleDownRate"
    DRAINING = "Draining"
    ROLLOUT = "RolloutInProgress"
    PAUSED = "TargetPaused"
    ROLLOUT_FAILED = "RolloutFailed"
    CRASH_LOOP = "CrashLooping"
    HUNG = "EngineHung"
    UNSCHEDULABLE = "Unschedulable"
    AWAITED = "PodsAwaited"
    NOT_CREATED = "PodsNotCreated"
    GIVEN_BACK = "GivenBack"
    CAPACITY = "CapacityLimited"
    MAX_GPUS = "MaxGPUs"
    MINIMUM = "MinReplicas"
    SCHEDULE = "Schedule"
    MAXIMUM = "MaxReplicas"
    BUDGET = "ProjectBudget"


class Reason(NamedTuple):
    """One rule that applied, in words for a person."""

    rule: Rule
    text: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What one signal asks for, and why."""

    name: str
    kind: SignalKind
    state: Freshness
    up: int = 0
    """Replicas wanted by this signal alone; only meaningful while fresh."""
    low: int = 0
    """Lowest count that this signal accepts; only meaningful while fresh."""
    value: float = 0.0
    target: float = 0.0
    age_seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ObjectiveReport:
    """How an objective fares. Shares are those of requests that meet it."""

    met: bool
    wanted: float
    share: float
    """Over about the last hour."""
    now: float | None = None
    """Expected of the load now with the replicas that are ready; None while the load is not known."""
    one_more: float | None = None
    one_fewer: float | None = None
    hopeless: bool = False
    """More requests than allowed are late even where replicas are next to idle: more of them would not help."""


@dataclass(frozen=True, slots=True)
class TargetState:
    """What one decision leaves to the next. Plain values; msgspec writes and reads it as JSON."""

    needs: Needs = ()
    """Levels needed lately, newest first."""
    ups: Needs = ()
    """Wishes of the up window."""
    moves: tuple[Move, ...] = ()
    fresh_since: float | None = None
    """Since when the signals have been fresh without a gap worth mention; None before the first."""
    fresh_at: float | None = None
    """When all signals were fresh last."""
    own_zero: bool = False
    """Whether the law itself brought the target to zero; by anybody else it means that scaling is off."""
    asked: Needs = ()
    """Replicas that the scale has asked for within the last start-up time, for the lowest of them."""
    idle_since: float | None = None
    hung_since: float | None = None
    hold_seconds: float | None = None
    foretold: bursts.Foretold = ()
    """What the signals asked for lately, without a reserve for bursts."""
    rates: demand.Rates = ()
    """Arriving work of the last minutes, for its trend."""
    loads: forecast.Rates = ()
    """The load of the last minutes."""
    smoothed: forecast.Smoothed | None = None
    forecasts: tuple[forecast.Made, ...] = ()
    """Those that cannot be judged yet."""
    backlog_at: float | None = None
    """When the replicas had more to do than fits within the objective, last."""
    ready_count: int = 0
    ready_since: float | None = None
    looked_at: float | None = None
    """When the lateness was noted last."""
    objective_met: bool | None = None
    """What was last said of it."""
    priced: bool = False
    """Whether the cost of a token has been known once."""
    learned: Learned = field(default_factory=Learned)

    def moved(self, delta: int) -> "TargetState":
        """The state after the last move came to `delta` replicas in the end (0: nothing was written)."""
        if not self.moves:
            return self
        *earlier, last = self.moves
        return replace(self, moves=(*earlier, last._replace(delta=delta)) if delta else tuple(earlier))

    def not_moved(self, before: "TargetState") -> "TargetState":
        """The state after a decision that was not carried out: the rates must not count its move."""
        if (self.moves, self.own_zero) == (before.moves, before.own_zero):
            return self
        return replace(self, moves=before.moves, own_zero=before.own_zero)

    def at_zero(self, *, by_law: bool) -> "TargetState":
        """The state as an earlier leader left it, who may have brought the target to zero."""
        return self if self.own_zero is by_law else replace(self, own_zero=by_law)

    def interrupted(self) -> "TargetState":
        """The state of a target that is not watched for a while (asleep, or somebody else's): windows must be seen anew."""
        return replace(
            self,
            needs=(),
            ups=(),
            fresh_since=None,
            fresh_at=None,
            idle_since=None,
            hung_since=None,
            foretold=(),
            rates=(),
            loads=(),
            smoothed=None,
            forecasts=(),
            looked_at=None,
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome and all that is needed to explain it."""

    replicas: int
    state: TargetState
    wanted: int
    """What the signals ask for within the bounds, before capacity, budget and rates."""
    unmet: int
    """Replicas wanted that capacity, GPU limits or budget refuse."""
    wishes: tuple[Wish, ...]
    reasons: tuple[Reason, ...]
    scaling_active: bool = True
    """False while no signal is fresh."""
    hold_seconds: float = 0.0
    start_seconds: float = 0.0
    objective: ObjectiveReport | None = None


def capped(decision: Decision, before: int, allowed: int, rule: Rule, text: str) -> Decision:
    """The decision with fewer replicas than it came to, never fewer than before; what is cut counts as unmet."""
    allowed = max(allowed, min(before, decision.replicas))
    cut = decision.replicas - allowed
    if cut <= 0:
        return decision
    reasons = tuple(r for r in decision.reasons if allowed != before or r.rule is not Rule.RAISED)
    return replace(
        decision,
        replicas=allowed,
        unmet=decision.unmet + cut,
        reasons=(*reasons, Reason(rule, text)),
        state=decision.state.moved(allowed - before),
    )
