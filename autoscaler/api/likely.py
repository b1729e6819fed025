"""What is allowed in an object and likely a mistake: said in a condition, acted on all the same. Pure."""

from collections.abc import Iterator

from autoscaler.law.inputs import LATENCIES, SignalKind
from autoscaler.law.spec import SignalSpec, TargetSpec

LONGEST_SECONDS = {
    SignalKind.TIME_TO_FIRST_TOKEN: 60.0,
    SignalKind.INTER_TOKEN_LATENCY: 2.0,
    SignalKind.REQUEST_LATENCY: 1800.0,
}
"""No user waits longer; a target beyond it is usually meant in milliseconds."""
SHORTEST_SECONDS = 0.002
LEAST_SHARE = 0.1
MOST_REQUESTS = 10_000.0
"""In flight on one replica."""
LEAST_IDLE_SECONDS = 60.0


def mistakes(spec: TargetSpec) -> tuple[str, ...]:
    """In words for a person, each naming field and value."""
    return tuple(_mistakes(spec))


def _mistakes(spec: TargetSpec) -> Iterator[str]:
    if spec.min_replicas == spec.max_replicas:
        yield f"minReplicas and maxReplicas are both {spec.max_replicas}: nothing is ever scaled"
    for signal in spec.signals:
        if text := _of_signal(signal, spec):
            yield f"signal {signal.name}: {text}"
    yield from _of_objective(spec)
    zero = spec.scale_to_zero
    if zero is not None and zero.idle_seconds < LEAST_IDLE_SECONDS:
        yield f"scaleToZero.idleAfter {zero.idle_seconds:g} s is shorter than it takes to load a model again"
    if spec.down.window_seconds == 0:
        yield "behavior.scaleDown.stabilizationWindowSeconds 0: replicas go with the first lull and take minutes to come back"
    if 0 < spec.burst_factor <= 1:
        yield f"burstFactor {spec.burst_factor:g} keeps nothing: it is a multiple of the usual demand"


def _of_objective(spec: TargetSpec) -> Iterator[str]:
    objective = spec.objective
    if objective is None:
        return
    for name, seconds, kind in (
        ("timeToFirstToken", objective.first_token_seconds, SignalKind.TIME_TO_FIRST_TOKEN),
        ("interTokenLatency", objective.inter_token_seconds, SignalKind.INTER_TOKEN_LATENCY),
        ("requestLatency", objective.request_seconds, SignalKind.REQUEST_LATENCY),
    ):
        if seconds is not None and seconds > LONGEST_SECONDS[kind]:
            yield f"objective.{name} is {seconds:g} s: m stands for minutes and ms for milliseconds"
        elif seconds is not None and seconds < SHORTEST_SECONDS:
            yield f"objective.{name} {seconds:g} s is shorter than any engine answers"


def _of_signal(signal: SignalSpec, spec: TargetSpec) -> str:
    target, kind = signal.target, signal.kind
    if kind in LATENCIES:
        if target > LONGEST_SECONDS[kind]:
            return f"target {target:g} is in seconds; half a second is 500m"
        return f"target {target:g} s is shorter than any engine answers" if target < SHORTEST_SECONDS else ""
    if kind in (SignalKind.WORK, SignalKind.KV_CACHE, SignalKind.GPU_UTILIZATION) and target < LEAST_SHARE:
        return f"target {target:g} is a share of 1, so replicas are kept nearly idle"
    if kind is SignalKind.GPU_UTILIZATION and spec.queueing:
        return (
            "engines that batch keep their cards busy at any load: it grows to maxReplicas; work or queue tell the load"
        )
    if kind in (SignalKind.QUEUE, SignalKind.RUNNING) and target > MOST_REQUESTS:
        return f"target {target:g} requests per replica is more than one can hold"
    return ""
