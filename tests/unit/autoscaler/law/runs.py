"""Targets, what is seen of them, and a run of the law in virtual time."""

from collections.abc import Callable

from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import Decision, Rule, TargetState, decide
from autoscaler.law.inputs import Freshness, Observation, PodFacts, Reading, SignalKind
from autoscaler.law.spec import Scaling, SignalSpec, TargetSpec

TICK = 15.0
FAST_DOWN = Scaling(window_seconds=60.0)
RUNNING = TargetSpec(1, 20, (SignalSpec(SignalKind.RUNNING, 10.0, "running"),), down=FAST_DOWN)


def reading(name: str, value: float, state: Freshness = Freshness.FRESH, missing: int = 0) -> Reading:
    return Reading(name, state, value, 5.0, missing)


def seen(replicas: int, *readings: Reading, ready: int | None = None, **more: object) -> Observation:
    pods = more.pop("pods", PodFacts(ready=replicas if ready is None else ready))
    return Observation(replicas, pods, tuple(readings), **more)  # type: ignore[arg-type]


class Run:
    """Feeds a target tick by tick; the replicas follow the decisions, every pod ready at once."""

    def __init__(self, spec: TargetSpec, replicas: int = 1, law: LawConstants | None = None) -> None:
        self.spec, self.replicas, self.law = spec, replicas, law or LawConstants()
        self.state, self.now = TargetState(), 1000.0
        self.decision: Decision | None = None

    def tick(self, observe: Callable[[int], Observation], times: int = 1) -> int:
        for _ in range(times):
            self.decision = decide(self.spec, self.state, observe(self.replicas), self.now, self.law)
            self.state, self.replicas = self.decision.state, self.decision.replicas
            self.now += TICK
        return self.replicas

    def rules(self) -> set[Rule]:
        assert self.decision is not None
        return {reason.rule for reason in self.decision.reasons}


def in_flight(total: float) -> Callable[[int], Observation]:
    return lambda n: seen(n, reading("running", total))
