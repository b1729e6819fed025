"""Whether the objective is kept, and what one replica more or one fewer would do: for people, not for the decision. Pure."""

import math
from typing import Final

from autoscaler.law.decision import ObjectiveReport
from autoscaler.law.inputs import SignalKind
from autoscaler.law.memory import lateness
from autoscaler.law.rules import experience
from autoscaler.law.sizing import load
from autoscaler.law.turn import Turn

LEAST_SEEN: Final = 0.05
"""Of the hour over which the share is taken, before it is spoken of: some three minutes."""
NEAR: Final = 0.1
"""By so much of the requests that may be late the share must have passed the objective before another word is said of it."""


def report(turn: Turn) -> ObjectiveReport | None:
    """None without an objective, or while no request's latency has been seen."""
    objective, learned, law = turn.spec.objective, turn.state.learned, turn.law
    work = experience.priced_work(turn)
    if objective is None or work is None or learned.hour_seen < LEAST_SEEN:
        return None
    curve = learned.curve
    late = min(curve.floor + learned.late_average / learned.hour_seen, 1.0)
    may = 1 - objective.share
    met = late <= may * (1 - NEAR if turn.state.objective_met is False else 1 + NEAR if turn.state.objective_met else 1)
    turn.note(objective_met=met)
    wish = next((wish for wish in turn.asked if wish.kind is SignalKind.WORK and wish.state.may_raise), None)
    if wish is None:
        return ObjectiveReport(met, objective.share, 1 - late)
    deviation = math.sqrt(load.chance(work, wish.value, law))

    def share(replicas: int) -> float:
        if replicas < 1:
            return 0.0
        return 1 - lateness.expected_share(curve, wish.value / replicas, deviation / replicas)

    now = turn.supply.ready
    hopeless = curve.floor > may
    return ObjectiveReport(met, objective.share, 1 - late, share(now), share(now + 1), share(now - 1), hopeless)
