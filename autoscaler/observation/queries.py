"""The few PromQL queries that serve all targets of a tick. Pure: targets in, texts out.

Gauges and counters are read as range vectors, so that every sample keeps the time at which it was scraped and a counter
that restarted can be seen; joins by pod are made here, not in PromQL, so that their number does not grow with targets.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from autoscaler.api.resource import Target
from autoscaler.law.inputs import SignalKind
from headroom.domain import engines
from headroom.domain.engines import DEVICE_UTILISATION, Engine, Metric

ACTIVATION: Final = "activation"
"""Under this name the activation query of a target is answered; signal names cannot clash with it (it holds a dot there)."""
CUSTOM_QUERIES: Final = 4
TAG: Final = "headroom_query"

CLOCK: Final = "clock"
GAUGES: Final = "gauges"
COUNTERS: Final = "counters"

HISTOGRAMS: Final = {
    SignalKind.TIME_TO_FIRST_TOKEN: "time_to_first_token",
    SignalKind.INTER_TOKEN_LATENCY: "inter_token",
    SignalKind.REQUEST_LATENCY: "request",
}

POD_LABELS: Final = "namespace, pod"


@dataclass(frozen=True, slots=True)
class Custom:
    """One query of one target."""

    target: str
    signal: str
    query: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Queries by group, and what the tags in the custom ones stand for."""

    queries: dict[str, str] = field(default_factory=dict)
    custom: dict[str, list[tuple[str, Custom]]] = field(default_factory=dict)
    """Group -> (tag, query) pairs."""


def plan(targets: Iterable[Target], lookback_seconds: float, long_seconds: float) -> Plan:
    """What to ask Prometheus for these targets."""
    targets = list(targets)
    used: dict[str, Engine] = {target.engine.name: target.engine for target in targets}
    kinds = {signal.kind for target in targets for signal in target.spec.signals}
    utilisation = any(
        target.spec.queueing or signal.kind is SignalKind.GPU_UTILIZATION
        for target in targets
        for signal in target.spec.signals
    )
    queries = {CLOCK: "vector(time())"}
    gauges = _names(used.values(), engines.GAUGES)
    if utilisation:
        gauges += [name for metric in DEVICE_UTILISATION for name in metric.names]
    if gauges:
        queries[GAUGES] = f"{_any_of(gauges)}[{lookback_seconds:.0f}s]"
    counters = _names(used.values(), engines.COUNTERS)
    if counters:
        queries[COUNTERS] = f"{_any_of(counters)}[{long_seconds + 30:.0f}s]"
    for kind, fact in HISTOGRAMS.items():
        if kind in kinds:
            asked = {t.engine.name: t.engine for t in targets if any(s.kind is kind for s in t.spec.signals)}
            queries[kind.value] = _buckets(_names(asked.values(), (fact,)), long_seconds)
    custom = _custom(targets)
    queries.update({group: combine(pairs) for group, pairs in custom.items()})
    return Plan(queries, custom)


def combine(pairs: Sequence[tuple[str, Custom]]) -> str:
    """Many queries in one, each answer tagged. A query ends with a line break, so that a comment in it ends too."""
    return " or ".join(f'label_replace(\n{custom.query}\n, "{TAG}", "{tag}", "", "")' for tag, custom in pairs)


def _custom(targets: Iterable[Target]) -> dict[str, list[tuple[str, Custom]]]:
    found: list[Custom] = []
    for target in targets:
        found += [Custom(target.key, s.name, s.query) for s in target.spec.signals if s.kind is SignalKind.QUERY]
        if target.spec.scale_to_zero and target.spec.scale_to_zero.query:
            found.append(Custom(target.key, ACTIVATION, target.spec.scale_to_zero.query))
    if not found:
        return {}
    size = -(-len(found) // CUSTOM_QUERIES)
    return {
        f"custom{group}": [(str(at), custom) for at, custom in enumerate(found[start : start + size], start)]
        for group, start in enumerate(range(0, len(found), size))
    }


def _names(engines: Iterable[Engine], facts: Iterable[str]) -> list[str]:
    names: dict[str, None] = {}
    for engine in engines:
        for fact in facts:
            metric: Metric = getattr(engine, fact)
            names.update(dict.fromkeys(metric.names))
    return list(names)


def _any_of(names: Sequence[str]) -> str:
    return '{__name__=~"' + "|".join(names) + '"}'


def _buckets(names: Sequence[str], seconds: float) -> str:
    """Bucket rates by pod. `rate` drops the metric name, so that each name needs a term and a tag of its own."""
    return " or ".join(
        f'label_replace(sum by (le, {POD_LABELS}) (rate({name}_bucket[{seconds:.0f}s])), "{TAG}", "{name}", "", "")'
        for name in names
    )
