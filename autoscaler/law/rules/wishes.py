"""From readings to wishes: what each signal alone would ask for. Pure.

A wish has two sides. `up` is what the signal asks for when it may raise; `low` is the lowest count at which it still
calls the load safe (the what-if on fewer replicas), and never more than `up` would allow to keep. Any fresh wish may
raise, all must agree to lower.
"""

import math
from dataclasses import replace
from typing import Final

from autoscaler.law.constants import LawConstants
from autoscaler.law.decision import Wish
from autoscaler.law.inputs import LATENCIES, Freshness, Reading, SignalKind, Work
from autoscaler.law.memory import forecast
from autoscaler.law.rules import experience, staffing
from autoscaler.law.sizing import demand, load
from autoscaler.law.spec import SignalSpec
from autoscaler.law.turn import Supply, Turn

NO_READING: Final = "no such reading was collected"
MOST_REPLICAS: Final = 2**31 - 1
"""The most that a scale and the status can say."""
QUEUE_PER_REPLICA: Final = 4.0
"""While a token has no price, more requests that wait than this for a replica say that it is full (the usual `queue` target)."""


def wishes(turn: Turn, rise: float = 0.0) -> list[Wish]:
    """One wish per signal of the spec, in its order. `rise` is the work (GPU seconds per second) expected to be added."""
    readings = {reading.name: reading for reading in turn.observation.readings}
    return [
        _work_or_fallback(turn, signal, readings, rise)
        if signal.kind is SignalKind.WORK
        else _of_reading(turn, signal, readings.get(signal.name or signal.kind.value))
        for signal in turn.spec.signals
    ]


def _work_or_fallback(turn: Turn, signal: SignalSpec, readings: dict[str, Reading], rise: float) -> Wish:
    work, fallback, law, supply = turn.observation.work, turn.spec.fallback, turn.law, turn.supply
    wish = Wish(signal.name or signal.kind.value, signal.kind, Freshness.EMPTY, target=signal.target)
    if work is None:
        return replace(wish, detail=NO_READING)
    if not work.state.may_raise:
        return replace(wish, state=work.state, detail=work.detail)
    if not work.known:
        if fallback is None:
            return replace(wish, detail=work.unpriced or "cost of a token is not known yet")
        counted = Reading(fallback.name, work.state, work.running + work.waiting, work.age_seconds, work.missing)
        return _counted(turn, work, _of_reading(turn, fallback, readings.get(fallback.name, counted)))
    if turn.spec.objective is not None:
        return _staffed(turn, wish, work)
    offered = demand.offered_work(work, law, rise)
    raw = demand.replicas_for_work(offered, signal.target, law, work.seconds_per_request)
    if work.full_batch > 0:
        crowded = (work.running + work.waiting) / work.full_batch / law.crowd_share
        raw = max(raw, min(crowded, supply.serving + max(1.0, law.gauge_step * supply.serving)))
    cautious = max(raw * _unseen(turn, work), raw + work.missing)
    up, low = _ratio(raw, cautious, supply.replicas, _tolerances(turn, law.work_tolerance), law.lower_margin)
    return _of_work(turn, replace(wish, up=up, low=low, value=offered), work)


def _staffed(turn: Turn, wish: Wish, work: Work) -> Wish:
    """The fewest replicas that keep the objective at the load foreseen for when a replica asked for now is ready."""
    law, state, supply = turn.law, turn.state, turn.supply
    newest = load.load_now(work, law).total
    # What an answer that is not whole shows may be too little: it is neither learned from nor foretold by.
    foreseen, error = newest, state.learned.errors.steady
    if work.state is Freshness.FRESH:
        foreseen, error = _foretold(turn)
    if newest > foreseen + 2 * math.sqrt(2 * load.chance(work, foreseen, law) + 0.02**2):
        foreseen = newest
    foreseen += load.queue(work, law)
    deviation = math.sqrt(min(error, law.forecast_error_counted**2) * foreseen**2 + load.chance(work, foreseen, law))
    aim, curve = experience.aim(turn), state.learned.curve
    up = staffing.fewest(foreseen, deviation, curve, aim)
    few = 1 - law.lower_margin
    low = staffing.fewest(foreseen * _unseen(turn, work) / few, deviation, curve, aim)
    if work.missing:
        low = max(low, staffing.fewest(foreseen / few, deviation, curve, aim) + work.missing)
    if experience.hopeless(turn):
        most = staffing.worth(foreseen, deviation, curve, law.miss_weight)
        up, low = min(up, most), min(low, most)
    if work.full_batch > 0:
        crowded = math.ceil((work.running + work.waiting) / work.full_batch / law.crowd_share)
        up = max(up, min(crowded, supply.serving + supply.step(law)))
    return _of_work(turn, replace(wish, up=up, low=max(low, up), value=foreseen), work)


def _of_work(turn: Turn, wish: Wish, work: Work) -> Wish:
    """The wish with how far the work may be trusted; its value is GPU seconds per second."""
    text = f"{wish.value:.2f} GPU s/s of work"
    return replace(
        wish,
        state=work.state,
        low=_kept(turn, work.state, wish.low),
        age_seconds=work.age_seconds,
        detail=f"{text}; {work.detail}" if work.detail else text,
    )


def _unseen(turn: Turn, work: Work) -> float:
    """How many times the work that is seen there may be: before lowering, pods that do not report count as busy as the rest, and
    as full at the least. Before raising they count as nothing.
    """
    ready = turn.supply.ready
    return ready / max(ready - work.missing, 1) if work.missing else 1.0


def _foretold(turn: Turn) -> tuple[float, float]:
    """The load when a replica asked for now is ready, by the forecast that was better of late, and its error."""
    law, state, now = turn.law, turn.state, turn.now
    assert state.smoothed is not None  # noted of this very work
    errors = state.learned.errors
    steady = forecast.mean(state.loads, now, law.long_mean_seconds)
    trend = forecast.ahead(state.smoothed, turn.lead_seconds + law.long_mean_seconds / 2, law)
    kept = tuple(one for one in state.forecasts if now - one.at_seconds < turn.lead_seconds + 60)
    turn.note(forecasts=(*kept, forecast.Made(now, steady, trend)))
    return (trend, errors.trend) if errors.trend < errors.steady else (steady, errors.steady)


def _counted(turn: Turn, work: Work, wish: Wish) -> Wish:
    """The wish by requests, while a token has no price.

    Without one their count cannot tell a full replica from a slow one: it grows by the queue's rule, and while requests wait on
    every replica none may go (a prefill server is full with two requests inside).
    """
    if not wish.state.may_raise:
        return wish
    supply = turn.supply
    up, low = wish.up, wish.low
    if work.waiting >= max(supply.ready, 1):
        queue = _whole(work.waiting / QUEUE_PER_REPLICA)
        up, low = max(up, queue), max(low, supply.replicas)
    detail = f"{work.unpriced}: requests are counted instead" if work.unpriced else wish.detail
    return replace(wish, up=min(up, _queue_ceiling(supply, turn.law)), low=low, detail=detail)


def _of_reading(turn: Turn, signal: SignalSpec, reading: Reading | None) -> Wish:
    name = signal.name or signal.kind.value
    if reading is None:
        return Wish(name, signal.kind, Freshness.EMPTY, target=signal.target, detail=NO_READING)
    wish = Wish(
        name,
        signal.kind,
        reading.state,
        value=reading.value,
        target=signal.target,
        age_seconds=reading.age_seconds,
        detail=reading.detail,
    )
    if not reading.state.may_raise:
        return wish
    if reading.value < 0:
        return replace(wish, state=Freshness.ERROR, detail=f"{reading.value:g} is below 0, which no load is")
    if signal.kind in LATENCIES:
        up, low = _latency(turn, signal, reading)
    elif signal.kind is SignalKind.GPU_UTILIZATION and not turn.spec.queueing:
        up, low = _busy_share(turn, signal, reading)
    elif signal.kind in (SignalKind.KV_CACHE, SignalKind.GPU_UTILIZATION) or signal.capped:
        up, low = _capped(turn, signal, reading)
    elif signal.kind is SignalKind.QUEUE:
        up, low = _queue(turn, signal, reading)
    else:
        up, low = _load(turn, signal, reading)
    return replace(wish, up=up, low=_kept(turn, reading.state, low))


def _kept(turn: Turn, state: Freshness, low: int) -> int:
    """The lowest count to accept: never fewer than there are by an answer that may be too low."""
    return low if state is Freshness.FRESH else max(low, turn.replicas)


def _whole(replicas: float) -> int:
    """Rounded up; within what a scale can say, however far off the number is."""
    return math.ceil(min(max(replicas, 0.0), MOST_REPLICAS))


def _ratio(
    raw: float, cautious: float, replicas: int, tolerances: tuple[float, float], margin: float = 0.0
) -> tuple[int, int]:
    """HPA's rule on a wish as a real number: no move within the tolerance (up, down), else the number rounded up.

    Lowering asks whether the load still fits the smaller count with `margin` to spare.
    """
    tolerance_up, tolerance_down = tolerances
    up = _whole(raw) if raw > replicas * (1 + tolerance_up) else min(_whole(raw), replicas)
    if cautious >= replicas * (1 - tolerance_down):
        return up, max(up, replicas)
    return up, max(up, min(_whole(cautious / (1 - margin)), replicas))


def _tolerances(turn: Turn, default: float) -> tuple[float, float]:
    """(up, down): what the object's `behavior` says, else the default of the signal."""
    up, down = turn.spec.up.tolerance, turn.spec.down.tolerance
    return default if up is None else up, default if down is None else down


def _load(turn: Turn, signal: SignalSpec, reading: Reading) -> tuple[int, int]:
    """Totals (requests in flight, a query per replica) and `Value` queries (a number the same for any count)."""
    if signal.per_replica:
        raw = reading.value / signal.target
        cautious = raw + reading.missing
    else:
        raw = cautious = min(reading.value / signal.target, MOST_REPLICAS) * turn.supply.serving
    law = turn.law
    return _ratio(raw, cautious, turn.supply.replicas, _tolerances(turn, law.tolerance), law.lower_margin)


def _queue(turn: Turn, signal: SignalSpec, reading: Reading) -> tuple[int, int]:
    """Waiting requests: growth is bounded by what is ready, since a queue stays while replicas start.

    An empty queue says that this many replicas are enough, nothing of fewer: it agrees to one less at a time.
    """
    law, supply = turn.law, turn.supply
    raw = reading.value / signal.target
    up, low = _ratio(raw, raw + reading.missing, supply.replicas, _tolerances(turn, law.tolerance), law.lower_margin)
    return min(up, _queue_ceiling(supply, law)), max(low, min(supply.replicas, max(supply.replicas - 1, 0)))


def _queue_ceiling(supply: Supply, law: LawConstants) -> int:
    """The most that requests waiting or running may ask for: they stay while replicas start, which is no new demand."""
    return max(math.ceil(max(supply.serving, 1) * law.queue_growth), supply.serving + 1, supply.replicas)


def _capped(turn: Turn, signal: SignalSpec, reading: Reading) -> tuple[int, int]:
    """A share that cannot pass 1: above the target it asks for a step beyond the supply, whatever its height."""
    tolerance_up, _ = _tolerances(turn, turn.law.tolerance)
    # Pods that do not report count as busy: that may keep replicas, and asks for none.
    low = min(_share_low(turn, signal.target, reading), turn.supply.replicas)
    if reading.value / signal.target <= 1 + tolerance_up and reading.value < turn.law.gauge_full:
        return low, low
    return _step(turn), turn.supply.replicas


def _share_low(turn: Turn, target: float, reading: Reading) -> int:
    law, supply = turn.law, turn.supply
    _, tolerance = _tolerances(turn, law.tolerance)
    busy = reading.value * max(supply.serving - reading.missing, 0) + target * reading.missing
    return _ratio(busy / target, busy / target, supply.replicas, (tolerance, tolerance), law.lower_margin)[1]


def _busy_share(turn: Turn, signal: SignalSpec, reading: Reading) -> tuple[int, int]:
    """Utilisation of engines without a queue: below saturation the busy shares add up to the offered work."""
    law, supply = turn.law, turn.supply
    busy = reading.value * max(supply.serving - reading.missing, 0)
    low = _share_low(turn, signal.target, reading)
    up, _ = _ratio(busy / signal.target, busy / signal.target, supply.replicas, _tolerances(turn, law.tolerance))
    if reading.value >= law.gauge_full:
        return max(up, _step(turn)), supply.replicas
    return up, max(low, up) if up <= supply.replicas else supply.replicas


def _latency(turn: Turn, signal: SignalSpec, reading: Reading) -> tuple[int, int]:
    """An outcome, not a load: past the objective it asks for a step, well below it agrees to one less.

    Pods that do not report count as being at the objective when it comes to lowering.
    """
    ratio = reading.value / signal.target
    replicas, ready = turn.supply.replicas, max(turn.supply.ready, 1)
    if ratio > 1:
        return _step(turn), replicas
    remaining = max(replicas - 1, 0)
    silent = min(reading.missing / ready, 1.0)
    cautious = ratio * (1 - silent) + silent
    agrees = remaining == 0 or cautious * replicas / remaining <= turn.law.gauge_lower
    return (0 if reading.value == 0 and not reading.missing else 1), remaining if agrees else replicas


def _step(turn: Turn) -> int:
    """One step above what serves. Pods on the way count towards it, so that it is asked for once."""
    return turn.supply.serving + turn.supply.step(turn.law)
