"""From readings to wishes: what each signal alone would ask for. Pure.

A wish has two sides. `up` is what the signal asks for when it may raise; `low` is the lowest count at which it still
calls the load safe (the what-if on fewer replicas), and never more than `up` would allow to keep. Any fresh wish may
raise, all must agree to lower.
"""

import math
from dataclasses import dataclass, replace

from autoscaler.law.inputs import LATENCIES, Freshness, Observation, Reading, SignalKind, Work
from autoscaler.law.sizing import demand
from autoscaler.law.spec import LawSettings, SignalSpec, TargetSpec

NO_READING = "no such reading was collected"


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
class Supply:
    """The replicas that wishes are reckoned against."""

    replicas: int
    """What the scale asks for."""
    ready: int
    coming: int
    """Starting pods that still earn credit."""

    overdue: int = 0
    """Starting pods that have lost it."""

    @property
    def credited(self) -> int:
        """Replicas that serve or soon will."""
        return self.ready + self.coming

    def step(self, law: LawSettings) -> int:
        """What a signal without a ratio adds at once."""
        return max(1, math.floor(law.gauge_step * self.ready))


def wishes(
    spec: TargetSpec, observation: Observation, supply: Supply, law: LawSettings, rise: float = 0.0
) -> list[Wish]:
    """One wish per signal of the spec, in its order. `rise` is the work (GPU seconds per second) expected to be added."""
    readings = {reading.name: reading for reading in observation.readings}
    result = []
    for signal in spec.signals:
        if signal.kind is SignalKind.WORK:
            result.append(_work_or_fallback(spec, signal, observation.work, readings, supply, law, rise))
        else:
            result.append(_of_reading(signal, readings.get(signal.name or signal.kind.value), spec, supply, law))
    return result


def _work_or_fallback(
    spec: TargetSpec,
    signal: SignalSpec,
    work: Work | None,
    readings: dict[str, Reading],
    supply: Supply,
    law: LawSettings,
    rise: float,
) -> Wish:
    name = signal.name or signal.kind.value
    if work is None or work.state is not Freshness.FRESH:
        state = Freshness.EMPTY if work is None else work.state
        return Wish(name, signal.kind, state, target=signal.target, detail=NO_READING if work is None else work.detail)
    if not work.known:
        if spec.fallback is None:
            return Wish(
                name, signal.kind, Freshness.EMPTY, target=signal.target, detail="cost of a token is not known yet"
            )
        reading = readings.get(spec.fallback.name) or Reading(
            spec.fallback.name, work.state, work.running + work.waiting, work.age_seconds, work.missing
        )
        wish = _of_reading(spec.fallback, reading, spec, supply, law)
        # Without a cost the count of requests cannot tell a full replica from a slow one: grow by the queue's rule.
        return replace(wish, up=min(wish.up, _queue_ceiling(supply, law)))
    offered = demand.offered_work(work, law, rise)
    raw = demand.replicas_for_work(offered, signal.target, law, work.seconds_per_request)
    if work.full_batch > 0:
        crowded = (work.running + work.waiting) / work.full_batch / law.crowd_share
        raw = max(raw, min(crowded, supply.ready + max(1.0, law.gauge_step * supply.ready)))
    # Pods that do not report may be as busy as the rest: count them so before lowering, not at all before raising.
    cautious = raw * (supply.ready / max(supply.ready - work.missing, 1)) if work.missing else raw
    up, low = _ratio(raw, cautious, supply.replicas, law.work_tolerance, law.work_tolerance, law.lower_margin)
    return Wish(
        name,
        signal.kind,
        Freshness.FRESH,
        up,
        low,
        offered,
        signal.target,
        work.age_seconds,
        f"{offered:.2f} GPU s/s of work",
    )


def _of_reading(
    signal: SignalSpec, reading: Reading | None, spec: TargetSpec, supply: Supply, law: LawSettings
) -> Wish:
    name = signal.name or signal.kind.value
    if reading is None:
        return Wish(name, signal.kind, Freshness.EMPTY, target=signal.target, detail=NO_READING)
    if reading.state is not Freshness.FRESH:
        return Wish(
            name, signal.kind, reading.state, 0, 0, reading.value, signal.target, reading.age_seconds, reading.detail
        )
    if signal.kind in LATENCIES:
        up, low = _latency(signal, reading.value, supply, law)
    elif signal.kind is SignalKind.GPU_UTILIZATION and not spec.queueing:
        up, low = _busy_share(signal, reading, spec, supply, law)
    elif signal.kind in (SignalKind.KV_CACHE, SignalKind.GPU_UTILIZATION) or signal.capped:
        up, low = _capped(signal, reading, spec, supply, law)
    elif signal.kind is SignalKind.QUEUE:
        up, low = _queue(signal, reading, spec, supply, law)
    else:
        up, low = _load(signal, reading, spec, supply, law)
    return Wish(
        name, signal.kind, Freshness.FRESH, up, low, reading.value, signal.target, reading.age_seconds, reading.detail
    )


def _ratio(
    raw: float, cautious: float, replicas: int, tolerance_up: float, tolerance_down: float, margin: float = 0.0
) -> tuple[int, int]:
    """HPA's rule on a wish as a real number: no move within the tolerance, else the number rounded up.

    Lowering asks whether the load still fits the smaller count with `margin` to spare.
    """
    up = math.ceil(raw) if raw > replicas * (1 + tolerance_up) else min(math.ceil(raw), replicas)
    if cautious >= replicas * (1 - tolerance_down):
        return up, max(up, replicas)
    return up, max(up, min(math.ceil(cautious / (1 - margin)), replicas))


def _tolerances(spec: TargetSpec, law: LawSettings) -> tuple[float, float]:
    up, down = spec.up.tolerance, spec.down.tolerance
    return law.tolerance if up is None else up, law.tolerance if down is None else down


def _load(signal: SignalSpec, reading: Reading, spec: TargetSpec, supply: Supply, law: LawSettings) -> tuple[int, int]:
    """Totals (requests in flight, a query per replica) and `Value` queries (a number the same for any count)."""
    if signal.per_replica:
        raw = reading.value / signal.target
        cautious = raw + reading.missing
    else:
        raw = reading.value / signal.target * supply.ready
        cautious = raw
    return _ratio(raw, cautious, supply.replicas, *_tolerances(spec, law), law.lower_margin)


def _queue(signal: SignalSpec, reading: Reading, spec: TargetSpec, supply: Supply, law: LawSettings) -> tuple[int, int]:
    """Waiting requests: growth is bounded by what is ready, since a queue stays while replicas start.

    An empty queue says that this many replicas are enough, nothing of fewer: it agrees to one less at a time.
    """
    raw = reading.value / signal.target
    up, low = _ratio(raw, raw + reading.missing, supply.replicas, *_tolerances(spec, law), law.lower_margin)
    return min(up, _queue_ceiling(supply, law)), max(low, min(supply.replicas, max(supply.replicas - 1, 0)))


def _queue_ceiling(supply: Supply, law: LawSettings) -> int:
    """The most that requests waiting or running may ask for: they stay while replicas start, which is no new demand."""
    return max(math.ceil(max(supply.ready, 1) * law.queue_growth), supply.ready + 1, supply.replicas)


def _capped(
    signal: SignalSpec, reading: Reading, spec: TargetSpec, supply: Supply, law: LawSettings
) -> tuple[int, int]:
    """A share that cannot pass 1: above the target it asks for a step beyond the supply, whatever its height."""
    tolerance_up, tolerance_down = _tolerances(spec, law)
    ratio = reading.value / signal.target
    low = _share_low(reading, signal.target, supply, tolerance_down, law)
    if ratio <= 1 + tolerance_up and reading.value < law.gauge_full:
        return low, low
    return _step(supply, law), supply.replicas


def _share_low(reading: Reading, target: float, supply: Supply, tolerance: float, law: LawSettings) -> int:
    busy = reading.value * max(supply.ready - reading.missing, 0) + target * reading.missing
    return _ratio(busy / target, busy / target, supply.replicas, tolerance, tolerance, law.lower_margin)[1]


def _busy_share(
    signal: SignalSpec, reading: Reading, spec: TargetSpec, supply: Supply, law: LawSettings
) -> tuple[int, int]:
    """Utilisation of engines without a queue: below saturation the busy shares add up to the offered work."""
    tolerance_up, tolerance_down = _tolerances(spec, law)
    busy = reading.value * max(supply.ready - reading.missing, 0)
    low = _share_low(reading, signal.target, supply, tolerance_down, law)
    up, _ = _ratio(busy / signal.target, busy / signal.target, supply.replicas, tolerance_up, tolerance_down)
    if reading.value >= law.gauge_full:
        return max(up, _step(supply, law)), supply.replicas
    return up, max(low, up) if up <= supply.replicas else supply.replicas


def _latency(signal: SignalSpec, value: float, supply: Supply, law: LawSettings) -> tuple[int, int]:
    """An outcome, not a load: past the objective it asks for a step, well below it agrees to one less."""
    ratio = value / signal.target
    if ratio > 1:
        return _step(supply, law), supply.replicas
    remaining = max(supply.replicas - 1, 0)
    agrees = remaining == 0 or ratio * supply.replicas / remaining <= law.gauge_lower
    return (0 if value == 0 else 1), remaining if agrees else supply.replicas


def _step(supply: Supply, law: LawSettings) -> int:
    """One step above what is ready. Pods on the way count towards it, so that it is asked for once."""
    return supply.ready + supply.step(law)
