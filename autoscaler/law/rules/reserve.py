"""The reserve for bursts: what came too suddenly teaches, and asks for replicas beside the signals. Pure."""

import math
from dataclasses import replace
from typing import Final

from autoscaler.law.decision import Wish
from autoscaler.law.inputs import Freshness, SignalKind
from autoscaler.law.memory import bursts
from autoscaler.law.rules import experience, staffing, zero
from autoscaler.law.sizing import demand
from autoscaler.law.turn import Turn

BURSTS: Final = "bursts"
"""Name of the wish for a reserve, beside those of the signals."""


def wish_for_bursts(turn: Turn, level: int) -> Wish | None:
    """Learn from work that came too suddenly for the replicas asked for (`level` now); the wish for a reserve, if any."""
    law, state, work = turn.law, turn.state, experience.priced_work(turn)
    before = state.foretold[-1][0] if state.foretold else turn.now
    # Without a price nothing is foretold: the replicas that are there stand for it.
    level = level if work is not None else max(level, turn.replicas)
    foretold = bursts.note_foretold(state.foretold, turn.now, level, turn.lead_seconds, law)
    turn.note(foretold=foretold)
    if work is None:
        return None
    target = next((signal.target for signal in turn.spec.signals if signal.kind is SignalKind.WORK), 0.0)
    busy = max(target, law.burst_busy_share)
    early = bursts.asked_before(foretold, turn.now, turn.lead_seconds)
    if turn.spec.objective is not None:
        rate = turn.state.loads[-1][1]
        sudden = early is not None and rate > early * turn.state.learned.curve.full
    else:
        rate = max(demand.arriving_work(work))
        need = demand.replicas_for_work(rate, busy, law, work.seconds_per_request)
        sudden = early is not None and need > early * (1 + law.burst_margin)
    learned = bursts.note_work(state.learned.bursts, rate, turn.now - before, sudden, law)
    turn.note(learned=replace(turn.state.learned, bursts=learned))
    most = bursts.reserve(learned, turn.spec.burst_factor, law, experience.price(turn))
    if most <= 0 or zero.idle_for_long(turn):
        return None
    if turn.spec.objective is not None:
        replicas = staffing.fewest(most, 0.0, turn.state.learned.curve, experience.allowed(turn))
    else:
        replicas = math.ceil(demand.replicas_for_work(most, busy, law, work.seconds_per_request))
    share = 100 * bursts.sudden_share(learned)
    text = f"ready for {most:.2f} GPU s/s at once; {share:.0f} % of the work came too suddenly"
    return Wish(BURSTS, SignalKind.WORK, Freshness.FRESH, replicas, replicas, most, busy, work.age_seconds, text)
