"""Reads the agents' counters of a window out of Prometheus, chunk by chunk, so that a month does not have to fit in memory."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from agent.usage.report import CardKey, CardUse, CounterSum, PodKey, PodUse, Usage
from headroom.domain.engines import ENGINES
from headroom.prometheus.series import DeviceJobs, Point, Series, Source, target_labels

_LOOKBACK_SECONDS: Final = 300.0
"""How far before the window its first value is looked for: Prometheus' own lookback."""
_RAW_UP_TO_SECONDS: Final = 6 * 3600.0
_MINUTES_UP_TO_SECONDS: Final = 2 * 86_400.0
_POINTS_PER_CHUNK: Final = 720

TOKEN_METRICS: Final = tuple(
    dict.fromkeys(
        name
        for engine in ENGINES.values()
        for metric in engine.metrics(("prompt_tokens", "output_tokens"))
        for name in metric.names
    )
)


@dataclass(frozen=True, slots=True)
class _Metric:
    """How a counter's increase enters the report."""

    name: str
    book: Callable[[Usage, dict[str, str], float], None]
    born_at_zero: bool = True
    """Whether the counter starts with its series; the driver's own one is older than the agent."""


def step_for(seconds: float) -> float:
    """Distance of the samples to read for a window: 0 for every scrape of a short one, else 60 s or 300 s."""
    if seconds <= _RAW_UP_TO_SECONDS:
        return 0.0
    return 60.0 if seconds <= _MINUTES_UP_TO_SECONDS else _LOOKBACK_SECONDS


async def read_usage(
    source: Source, start: float, end: float, step_seconds: float | None = None, jobs: DeviceJobs | None = None
) -> Usage:
    """All that the report needs for the window [start, end] (Unix seconds). Raises PrometheusError.

    `jobs` scrape the agents: they may speak of other pods than the one that was scraped.
    """
    step = step_for(end - start) if step_seconds is None else step_seconds
    usage, jobs = Usage(start, end), jobs or DeviceJobs()
    nodes: dict[str, float] = {}
    chunks = list(_chunks(start - _LOOKBACK_SECONDS, end, step))
    # First, because it tells when each node was first heard of, and with that which of its series are new.
    await _sum(source, usage, _OBSERVED, chunks, step, nodes, jobs)
    for metric in _METRICS:
        await _sum(source, usage, metric, chunks, step, nodes, jobs)
    await _read_tokens(source, usage, chunks, step)
    return usage


async def _sum(
    source: Source,
    usage: Usage,
    metric: _Metric,
    chunks: Sequence[tuple[float, float]],
    step: float,
    nodes: dict[str, float],
    jobs: DeviceJobs,
) -> None:
    counters: dict[_Identity, CounterSum] = {}
    for low, high in chunks:
        answer = _own(await source.query(_selector(metric.name, low, high, step)), jobs, usage)
        for identity, points in answer.items():
            labels = dict(identity)
            node = labels.get("node", "")
            if metric is _OBSERVED:
                nodes[node] = min(nodes.get(node, math.inf), points[0][0])
                card = _card(usage, labels)
                card.first_seen = min(card.first_seen, points[0][0])
            counter = counters.setdefault(identity, CounterSum(usage.start))
            for at, value in points:
                counter.add(at, value, born=metric.born_at_zero and nodes.get(node, math.inf) < at)
    for identity, counter in counters.items():
        if counter.increase > 0:  # the series of a pod that ended before the window make no line
            metric.book(usage, dict(identity), counter.increase)


async def _read_tokens(source: Source, usage: Usage, chunks: Sequence[tuple[float, float]], step: float) -> None:
    for name in TOKEN_METRICS:
        counters: dict[_Identity, CounterSum] = {}
        first = math.inf
        for low, high in chunks:
            answer = _merged(_of_engines(await source.query(_selector(name, low, high, step))))
            first = min([first, *(points[0][0] for points in answer.values())])
            for identity, points in answer.items():
                counter = counters.setdefault(identity, CounterSum(usage.start))
                for at, value in points:
                    counter.add(at, value, born=first < at)
        for identity, counter in counters.items():
            labels = dict(identity)
            key = (labels.get("namespace", ""), labels.get("pod", ""))
            if key[1] and counter.increase > 0:
                usage.tokens[key] = usage.tokens.get(key, 0.0) + counter.increase


_Identity: TypeAlias = tuple[tuple[str, str], ...]
_Labelled: TypeAlias = tuple[Mapping[str, str], Sequence[Point]]
_OWN_LABELS: Final = frozenset({"node", "card", "model", "source", "energy", "namespace", "pod", "project"})
_TARGET_LABELS: Final = frozenset({"__name__", "instance", "job"})


def _own(answer: Iterable[Series], jobs: DeviceJobs, usage: Usage) -> dict[_Identity, list[Point]]:
    """Counters of the agents by what they are about.

    Where a job is not believed, what it says of pods is left out, and the job named in `usage`.
    """
    return _merged(_of_agents(answer, jobs, usage))


def _of_agents(answer: Iterable[Series], jobs: DeviceJobs, usage: Usage) -> Iterator[_Labelled]:
    for series in answer:
        labels, doubted = jobs.own_labels(series.labels), jobs.doubted(series.labels)
        if doubted:
            usage.jobs_left_out.add(labels.get("job", ""))
        of_pod = "project" in labels
        if not (doubted and of_pod):
            counted = _OWN_LABELS if of_pod else _OWN_LABELS - {"namespace", "pod"}  # those of the agent's own pod
            yield {name: labels[name] for name in labels.keys() & counted}, series.points


def _of_engines(answer: Iterable[Series]) -> Iterator[_Labelled]:
    for series in answer:
        labels = target_labels(series.labels).items()
        yield {name: value for name, value in labels if name not in _TARGET_LABELS}, series.points


def _merged(answer: Iterable[_Labelled]) -> dict[_Identity, list[Point]]:
    """Finite points by their labels, whatever target they were scraped from, in order of time.

    An agent's address changes with every restart of its pod, and two Prometheus servers may read it: same counter all the same.
    """
    merged: dict[_Identity, list[Point]] = {}
    for labels, points in answer:
        if finite := [point for point in points if math.isfinite(point[1])]:
            merged.setdefault(tuple(sorted(labels.items())), []).extend(finite)
    for points in merged.values():
        points.sort()
    return merged


def _chunks(start: float, end: float, step: float) -> Iterator[tuple[float, float]]:
    size = step * _POINTS_PER_CHUNK if step else 3600.0
    low = start
    while low < end:
        yield low, min(low + size, end)
        low += size


def _selector(name: str, low: float, high: float, step: float) -> str:
    """Samples after `low` up to `high`, by PromQL's @ modifier, so that a plain query can ask about the past."""
    width = f"{math.ceil((high - low) * 1000)}ms"
    return f'{{__name__="{name}"}}[{width}{f":{round(step * 1000)}ms" if step else ""}] @ {high:.3f}'


def _card_key(labels: dict[str, str]) -> CardKey:
    return CardKey(labels.get("node", ""), labels.get("card", ""), labels.get("model", ""))


def _card(usage: Usage, labels: dict[str, str]) -> CardUse:
    return usage.cards.setdefault(_card_key(labels), CardUse())


def _pod(usage: Usage, labels: dict[str, str]) -> PodUse:
    key = PodKey(_card_key(labels), labels.get("namespace", ""), labels.get("pod", ""), labels.get("project", ""))
    return usage.pods.setdefault(key, PodUse())


def _into(place: dict[str, float], key: str, amount: float) -> None:
    place[key] = place.get(key, 0.0) + amount


def _metrics() -> Iterable[_Metric]:
    def by_source(name: str, field: str) -> _Metric:
        return _Metric(
            name, lambda usage, labels, x: _into(getattr(_card(usage, labels), field), labels.get("source", ""), x)
        )

    def card_time(name: str, field: str) -> _Metric:
        def book(usage: Usage, labels: dict[str, str], amount: float) -> None:
            card = _card(usage, labels)
            setattr(card, field, getattr(card, field) + amount)

        return _Metric(name, book)

    def pod_time(name: str, field: str) -> _Metric:
        def book(usage: Usage, labels: dict[str, str], amount: float) -> None:
            pod = _pod(usage, labels)
            setattr(pod, field, getattr(pod, field) + amount)

        return _Metric(name, book)

    yield by_source("headroom_card_energy_joules_total", "energy")
    yield by_source("headroom_card_idle_energy_joules_total", "idle_energy")
    yield by_source("headroom_card_unattributed_energy_joules_total", "unattributed_energy")
    yield replace(card_time("headroom_card_device_energy_joules_total", "device_energy"), born_at_zero=False)
    yield card_time("headroom_card_unreserved_seconds_total", "unreserved")
    yield card_time("headroom_card_busy_seconds_total", "busy")
    yield card_time("headroom_card_unattributed_busy_seconds_total", "unattributed_busy")
    yield _Metric(
        "headroom_pod_energy_joules_total",
        lambda usage, labels, amount: _into(_pod(usage, labels).energy, labels.get("source", ""), amount),
    )
    yield pod_time("headroom_pod_reserved_seconds_total", "reserved")
    yield pod_time("headroom_pod_busy_seconds_total", "busy")


_OBSERVED: Final = _Metric(
    "headroom_card_observed_seconds_total",
    lambda usage, labels, amount: _into(_card(usage, labels).observed, labels.get("energy", ""), amount),
)
_METRICS: Final = tuple(_metrics())
