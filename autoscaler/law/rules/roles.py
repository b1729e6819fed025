"""One role of a model between its own decision and what it shares with the other (`autoscaler.law.sizing.roles`). Pure."""

from autoscaler.law.decision import Decision
from autoscaler.law.inputs import Freshness, Observation, Rollout
from autoscaler.law.rules.reserve import BURSTS
from autoscaler.law.sizing.roles import Part
from autoscaler.law.spec import TargetSpec
from autoscaler.law.turn import least


def part_of(spec: TargetSpec, observation: Observation, decision: Decision) -> Part:
    """What the role wants, and how few it can do with now.

    Only fresh signals say that it can do with fewer, and never while its target rolls out. A reserve for bursts is kept for later.
    """
    fewest: int | None = None
    wishes = [wish for wish in decision.wishes if wish.name != BURSTS]
    settled = observation.rollout is Rollout.SETTLED and observation.pods.ready > 0 and not spec.down.disabled
    if settled and wishes and all(wish.state is Freshness.FRESH for wish in wishes):
        fewest = max(*(wish.low for wish in wishes), least(spec, observation), 1)
    return Part(observation.replicas, decision.wanted, fewest)
