"""One decision in the making: what its rules read, and what they leave behind. Pure."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

from autoscaler.law.constants import LawConstants
from autoscaler.law.decision import Decision, ObjectiveReport, Reason, Rule, TargetState, Wish
from autoscaler.law.inputs import Freshness, Observation
from autoscaler.law.memory import starts, window
from autoscaler.law.spec import TargetSpec


@dataclass(frozen=True, slots=True)
class Supply:
    """The replicas that wishes are reckoned against."""

    replicas: int
    """What the scale asks for."""
    ready: int
    coming: int
    """Starting pods that still earn credit."""
    serving: int
    """Ready pods among the replicas asked for: those that a rollout has made beside them (surge) are no supply to step from."""
    lost: int = 0
    """Pods of the replicas asked for that are of no use: long overdue, or crash-looping."""
    sick: int = 0
    """The crash-looping ones among them."""

    @property
    def credited(self) -> int:
        """Replicas that serve or soon will."""
        return self.ready + self.coming

    def step(self, law: LawConstants) -> int:
        """What a signal without a ratio adds at once."""
        return max(1, math.floor(law.gauge_step * self.serving))


@dataclass(slots=True)
class Turn:
    """What went in stays as it is; `state` is replaced as the rules learn, `asked` and `reasons` grow."""

    spec: TargetSpec
    observation: Observation
    now: float
    law: LawConstants
    state: TargetState
    supply: Supply
    start_seconds: float
    """Time that a new replica takes to be ready."""
    asked: list[Wish] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    objective: ObjectiveReport | None = None

    def note(self, **changes: Any) -> None:
        """Change fields of the state; nothing is copied when they hold these values already."""
        if any(getattr(self.state, name) != value for name, value in changes.items()):
            self.state = replace(self.state, **changes)

    def say(self, rule: Rule, text: str) -> None:
        """Add a reason."""
        self.reasons.append(Reason(rule, text))

    @property
    def replicas(self) -> int:
        """What the scale asks for now."""
        return self.observation.replicas

    @property
    def least(self) -> int:
        """The fewest replicas that the owner allows now."""
        return least(self.spec, self.observation)

    @property
    def why_least(self) -> Reason:
        """Which field says so."""
        scheduled = self.observation.scheduled
        if scheduled is None or self.least == self.spec.min_replicas:
            return Reason(Rule.MINIMUM, f"minReplicas is {self.spec.min_replicas}")
        return Reason(Rule.SCHEDULE, f"schedule {scheduled.window} keeps at least {self.least}")

    @property
    def fresh(self) -> list[Wish]:
        """The wishes that count. One that rests on a partial answer never accepts fewer than there are."""
        return [wish for wish in self.asked if wish.state.may_raise]

    @property
    def all_fresh(self) -> bool:
        """Whether every signal may be trusted in both directions."""
        return all(wish.state is Freshness.FRESH for wish in self.asked)

    @property
    def lead_seconds(self) -> float:
        """A replica asked for now serves after so long."""
        return self.start_seconds + self.law.trend_margin_seconds

    @property
    def hold_seconds(self) -> float:
        """How long a replica is kept after it was last needed: stated, learned, or the default."""
        if self.spec.down.window_seconds is not None:
            return self.spec.down.window_seconds
        default, learned = self.law.hold_default_seconds, self.state.hold_seconds
        if learned is None:
            return default
        # The first minutes cannot have shown the longer gaps. While more requests are late than the objective allows, what they taught
        # does not shorten the default yet.
        objective, seen = self.spec.objective, self.state.learned
        if (
            objective is None
            or seen.late_average <= 1 - objective.share
            or seen.bursts.seconds >= self.law.burst_young_seconds
        ):
            return learned
        return max(learned, default)

    def decision(self, replicas: int, wanted: int, unmet: int, *, active: bool) -> Decision:
        """How it ends: `replicas` of the `wanted` ones, `unmet` of them refused; `active` unless no signal is fresh."""
        return Decision(
            replicas,
            self.state,
            wanted,
            unmet,
            tuple(self.asked),
            tuple(self.reasons),
            active,
            self.hold_seconds,
            self.start_seconds,
            self.objective,
        )


def least(spec: TargetSpec, observation: Observation) -> int:
    """The fewest replicas that the owner allows now: minReplicas, or what the schedule keeps; never above maxReplicas."""
    scheduled = observation.scheduled
    return max(spec.min_replicas, min(scheduled.floor, spec.max_replicas)) if scheduled else spec.min_replicas


def begin(spec: TargetSpec, state: TargetState, observation: Observation, now: float, law: LawConstants) -> Turn:
    """The turn before any rule has spoken, with the start-up times seen since the last one."""
    pods = observation.pods
    if pods.started_seconds:
        seen = (*state.learned.start_seconds, *pods.started_seconds)[-law.start_memory :]
        state = replace(state, learned=replace(state.learned, start_seconds=seen))
    usual = starts.start_seconds(state.learned.start_seconds, law)
    coming = starts.start_credit(pods.starting, usual, law)
    asked = window.record_wish(state.asked, now, observation.replicas, usual)
    state = replace(state, asked=asked)
    return Turn(spec, observation, now, law, state, _supply(observation, coming, window.lowest_wish(asked)), usual)


def _supply(observation: Observation, coming: int, established: int) -> Supply:
    """`established`: replicas that have been asked for all through the last start-up time.

    While a rollout surges, ready pods of the old revision hide that the ones just asked for are still on the way: what was
    asked for within a start-up time is then taken as not ready yet, so that a step is asked for once.
    """
    pods, replicas = observation.pods, observation.replicas
    surge = max(pods.alive - replicas, 0)
    serving = min(pods.ready, established if surge else replicas)
    overdue = len(pods.starting) - coming
    lost, sick = max(overdue + pods.crash_looping - surge, 0), max(pods.crash_looping - surge, 0)
    return Supply(replicas, pods.ready, coming, serving, lost, sick)
