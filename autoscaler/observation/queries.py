"""The few PromQL queries that serve all targets of a tick. Pure: targets in, texts out.

Gauges and counters are read as range vectors, so that every sample keeps the time at which it was scraped and a counter
that restarted can be seen; joins by pod are made here, not in PromQL, so that their number does not grow with targets.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from autoscaler.api.resource import Target
from autoscaler.law.inputs import SignalKind
from autoscaler.law.sizing.roles import Role
from autoscaler.observation.scrapes import Windows
from headroom.domain import engines
from headroom.domain.engines import DEVICE_UTILISATION, Before, Engine, Measure, Metric

ACTIVATION: Final = "activation"
"""Under this name the activation query of a target is answered; signal names cannot clash with it (it holds a dot there)."""
CUSTOM_QUERIES: Final = 4
TAG: Final = "headroom_query"

CLOCK: Final = "clock"
GAUGES: Final = "gauges"
COUNTERS: Final = "counters"
UP: Final = "up"
SAMPLES_SCRAPED: Final = "scrape_samples_scraped"
"""What Prometheus itself says of a scrape: whether the target answered, and with how many samples."""

HISTOGRAMS: Final = {
    SignalKind.TIME_TO_FIRST_TOKEN: "time_to_first_token",
    SignalKind.INTER_TOKEN_LATENCY: "inter_token",
    SignalKind.REQUEST_LATENCY: "request",
}
FOR_OBJECTIVES: Final = {"perOutputToken": "per_output_token", "promptLength": "prompt_length"}
"""Further histograms that only objectives need, by the group that asks for them."""

TARGET_LABELS: Final = "namespace, pod, instance, job, replica, prometheus_replica, prometheus, cluster"
"""What tells one scraped target from another: bucket rates are summed within each."""


class Fact(NamedTuple):
    """What a metric measures."""

    measure: Measure
    scale: float
    parts: frozenset[str]
    """Labels that tell of parts of it."""


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
    facts: Mapping[str, Fact] = field(default_factory=dict)
    """By the name of a metric of an engine."""
    metrics: Sequence[Metric] = ()
    """Gauges and counters that were asked for."""
    latencies: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Signal kind -> names of histograms."""


def plan(targets: Iterable[Target], windows: Windows) -> Plan:
    """What to ask Prometheus for these targets, and how far back."""
    targets = list(targets)
    used = list({id(target.engine): target.engine for target in targets}.values())
    utilisation = any(
        target.spec.queueing or signal.kind is SignalKind.GPU_UTILIZATION
        for target in targets
        for signal in target.spec.signals
    )
    queries = {CLOCK: "vector(time())"}
    gauges = _names(used, engines.GAUGES)
    if gauges or utilisation:
        gauges += [name for metric in DEVICE_UTILISATION for name in metric.names] if utilisation else []
        gauges += [UP, SAMPLES_SCRAPED] if any(map(needs_up, used)) else []
        queries[GAUGES] = f"{_any_of(gauges)}[{windows.gauges_seconds:.0f}s]"
    prefilling = list({id(target.engine): target.engine for target in targets if target.role is Role.PREFILL}.values())
    counters = _names(used, engines.COUNTERS) + _names(prefilling, engines.OF_PREFILL)
    if counters:
        queries[COUNTERS] = f"{_any_of(counters)}[{windows.counters_seconds:.0f}s]"
    latencies: dict[str, list[str]] = {}
    for kind, fact in HISTOGRAMS.items():
        asked = {
            id(t.engine): t.engine for t in targets if t.spec.objective or any(s.kind is kind for s in t.spec.signals)
        }
        if names := _names(asked.values(), (fact,)):
            latencies[kind.value] = names
            queries[kind.value] = _buckets(names, windows.rates_seconds)
    with_objective = {id(t.engine): t.engine for t in targets if t.spec.objective}
    for group, fact in FOR_OBJECTIVES.items():
        if names := _names(with_objective.values(), (fact,)):
            queries[group] = _buckets(names, windows.rates_seconds)
    custom = _custom(targets)
    queries.update({group: combine(pairs) for group, pairs in custom.items()})
    metrics = {
        metric.names: metric for engine in used for metric in engine.metrics((*engines.GAUGES, *engines.COUNTERS))
    }
    metrics |= {metric.names: metric for engine in prefilling for metric in engine.metrics(engines.OF_PREFILL)}
    return Plan(queries, custom, facts_of(used), tuple(metrics.values()), latencies)


def needs_up(engine: Engine) -> bool:
    """Whether only Prometheus' word that it was scraped tells an engine without a request from one that cannot be read."""
    return engine.before is Before.NOTHING or (engine.before is Before.GAUGES and not engine.running)


def facts_of(used: Iterable[Engine]) -> dict[str, Fact]:
    """What the gauges and counters of these engines measure, by name."""
    found: dict[str, Fact] = {}
    measures = {**engines.GAUGES, **dict.fromkeys((*engines.COUNTERS, *engines.OF_PREFILL), Measure.COUNTER)}
    for engine in used:
        for fact, measure in measures.items():
            for metric in engine.metrics((fact,)):
                for name in metric.names:
                    known = found.get(name)
                    found[name] = Fact(measure, metric.scale, engine.parts | (known.parts if known else frozenset()))
    return found


def combine(pairs: Sequence[tuple[str, Custom]]) -> str:
    """Many queries in one, each answer tagged. A query ends with a line break, so that a comment in it ends too."""
    return " or ".join(f'label_replace(\n{custom.query}\n, "{TAG}", "{tag}", "", "")' for tag, custom in pairs)


def _custom(targets: Iterable[Target]) -> dict[str, list[tuple[str, Custom]]]:
    found: list[Custom] = []
    for target in targets:
        found += [Custom(target.key, s.name, s.query) for s in target.spec.signals if s.kind is SignalKind.QUERY]
        if target.spec.scale_to_zero and target.spec.scale_to_zero.query:
            found.append(Custom(target.key, ACTIVATION, target.spec.scale_to_zero.query))
        if target.gateway is not None:
            found += [Custom(target.key, name, query) for name, query in target.gateway.queries.items()]
    if not found:
        return {}
    size = -(-len(found) // CUSTOM_QUERIES)
    return {
        f"custom{group}": [(str(at), custom) for at, custom in enumerate(found[start : start + size], start)]
        for group, start in enumerate(range(0, len(found), size))
    }


def _names(used: Iterable[Engine], facts: Iterable[str]) -> list[str]:
    facts = tuple(facts)
    return list(dict.fromkeys(name for engine in used for metric in engine.metrics(facts) for name in metric.names))


def _any_of(names: Sequence[str]) -> str:
    return '{__name__=~"' + "|".join(names) + '"}'


def _buckets(names: Sequence[str], seconds: float) -> str:
    """Bucket rates by target. `rate` drops the metric name, so that each name needs a term and a tag of its own."""
    return " or ".join(
        f'label_replace(sum by (le, {TARGET_LABELS}) (rate({name}_bucket[{seconds:.0f}s])), "{TAG}", "{name}", "", "")'
        for name in names
    )
