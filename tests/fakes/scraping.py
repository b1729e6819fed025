"""A Prometheus in virtual time: targets that are scraped, samples that are kept, and answers as Prometheus gives them.

`Target` is one scrape target: its labels, what it exposes at a time, how often it is scraped. Labels of an exposition that its
target has too are renamed to `exported_...`; `up` and `scrape_samples_scraped` come with every scrape. A series that an
exposition does not have any more ends. `ScrapedPrometheus` answers the queries that the autoscaler asks, as a source of series.
Expositions of engines (`vllm`, `sglang`, `tgi`) take numbers or functions of the time.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from headroom.prometheus.answer import OddSeries, Series
from headroom.prometheus.errors import PrometheusQueryError

Value = float | Callable[[float], float]
Exposed = Iterable[tuple[str, dict[str, str], float]]
"""(name, labels, value)."""
Exposes = Callable[[float], Exposed]
Key = tuple[tuple[str, str], ...]
"""Labels of a series, `__name__` among them."""
KEPT_SECONDS = 900.0


def at(value: Value, time: float) -> float:
    return value(time) if callable(value) else value


def exposition(metrics: dict[str, Value], **labels: str) -> Exposes:
    """These metrics, all with the same labels."""
    return lambda time: [(name, labels, at(value, time)) for name, value in metrics.items()]


def together(*parts: Exposes) -> Exposes:
    """Several expositions in one."""
    return lambda time: [sample for part in parts for sample in part(time)]


def nothing(time: float) -> Exposed:
    return []


def grows(per_second: float, since: float, start: float = 0.0, until: float = math.inf) -> Value:
    """A counter."""
    return lambda time: start + per_second * max(min(time, until) - since, 0.0)


def histogram(name: str, rates: dict[str, float], since: float, **labels: str) -> Exposes:
    """Cumulative buckets (upper edge -> rate per second)."""

    def expose(time: float) -> Exposed:
        yield from (
            (f"{name}_bucket", {**labels, "le": edge}, at(grows(rate, since), time)) for edge, rate in rates.items()
        )
        count = at(grows(max(rates.values()), since), time)
        yield from ((f"{name}_{part}", labels, count) for part in ("sum", "count"))

    return expose


def vllm(
    running: Value = 5.0, waiting: Value = 0.0, kv_cache: Value | None = None, per_second: float | None = None,
    since: float = 0.0, until: float = math.inf, prefix: str = "vllm:", counts_from: float = 0.0, **labels: str,
) -> Exposes:  # fmt: skip
    """A vLLM: `per_second` requests of 500 prompt and 100 output tokens, since a time and until another."""
    metrics: dict[str, Value] = {"num_requests_running": running, "num_requests_waiting": waiting}
    if kv_cache is not None:
        metrics["kv_cache_usage_perc"] = kv_cache
    if per_second is not None:
        each = {
            "prompt_tokens_total": 500.0, "generation_tokens_total": 100.0, "e2e_request_latency_seconds_count": 1.0,
            "iteration_tokens_total_count": 10.0, "inter_token_latency_seconds_sum": 2.0, "inter_token_latency_seconds_count": 100.0,
        }  # fmt: skip
        metrics |= {name: grows(per_second * count, since, counts_from * count, until) for name, count in each.items()}
    return exposition(
        {prefix + name: value for name, value in metrics.items()}, **{"engine": "0", "model_name": "m", **labels}
    )


def sglang(
    running: Value = 5.0, waiting: Value = 0.0, per_second: float | None = None, since: float = 0.0, **labels: str
) -> Exposes:
    """An SGLang: gauges by rank, counters once there has been a request."""
    gauges = {
        "sglang:num_running_reqs": running,
        "sglang:num_queue_reqs": waiting,
        "sglang:token_usage": 0.1 if running else 0.0,
    }
    parts = [exposition(gauges, **{"tp_rank": "0", "model_name": "m", **labels})]
    if per_second is not None:
        each = {
            "prompt_tokens_total": 500.0, "generation_tokens_total": 100.0, "e2e_request_latency_seconds_count": 1.0,
            "inter_token_latency_seconds_sum": 2.0, "inter_token_latency_seconds_count": 100.0,
        }  # fmt: skip
        metrics = {f"sglang:{name}": grows(per_second * count, since) for name, count in each.items()}
        parts.append(exposition(metrics, model_name="m"))
    return together(*parts)


@dataclass
class Target:
    """One scrape target."""

    labels: dict[str, str]
    exposes: Exposes
    every: float = 15.0
    phase: float = 2.0
    since: float = 0.0
    until: float = math.inf
    down: Callable[[float], bool] = lambda time: False
    """Whether it does not answer at a time."""
    honor_labels: bool = False
    without_up: bool = False
    _series: dict[Key, list[tuple[float, float]]] = field(default_factory=dict)
    _scraped_to: float = -math.inf

    def series(self, end: float) -> dict[Key, list[tuple[float, float]]]:
        """Samples of the last quarter of an hour or so up to `end` by series, oldest first; later ones may be there."""
        begin = max(self._scraped_to, self.since - 1e-6, end - KEPT_SECONDS)
        number = math.floor((begin - self.phase) / self.every) + 1
        while (time := number * self.every + self.phase) <= min(end, self.until):
            for key, value in self._scrape(time):
                self._series.setdefault(key, []).append((time, value))
            self._scraped_to = time
            number += 1
        if number % 64 == 0:
            kept = {
                key: [point for point in points if point[0] > end - KEPT_SECONDS]
                for key, points in self._series.items()
            }
            self._series = {key: points for key, points in kept.items() if points}
        return self._series

    def _scrape(self, time: float) -> list[tuple[Key, float]]:
        down = self.down(time)
        samples = [] if down else [(self._merged(name, labels), value) for name, labels, value in self.exposes(time)]
        if not self.without_up:
            about = {"up": float(not down), "scrape_samples_scraped": float(len(samples))}
            samples += [(_frozen({**self.labels, "__name__": name}), value) for name, value in about.items()]
        return samples

    def _merged(self, name: str, labels: dict[str, str]) -> Key:
        merged = {**self.labels, "__name__": name}
        for label, value in labels.items():
            if self.honor_labels or label not in self.labels:
                merged[label] = value
            else:
                merged[f"exported_{label}"] = value
        return _frozen({label: value for label, value in merged.items() if value})


def _frozen(labels: dict[str, str]) -> Key:
    return tuple(sorted(labels.items()))


class Answered(list[Series]):
    """Series of an answer, and what the server said beside them."""

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    dropped_values = 0
    odd: list[OddSeries]
    partial = False

    def __init__(self, series: Iterable[Series] = (), warnings: Iterable[str] = ()) -> None:
        super().__init__(series)
        self.odd, self.warnings = [], tuple(warnings)
        self.partial = bool(self.warnings)


@dataclass
class ScrapedPrometheus:
    """What a Prometheus answers that scrapes these targets. `now` is turned by hand."""

    now: float = 0.0
    targets: list[Target] = field(default_factory=list)
    custom: dict[str, Any] = field(default_factory=dict)
    """Query -> number, None, list of numbers (as many series), an error, or a function of the time that gives one of them."""
    late: float = 0.0
    """Samples can be asked for so long after their scrape (remote storage)."""
    ahead: float = 0.0
    """Of its clock, before everybody else's."""
    warnings: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    fault: Exception | None = None
    """Raised at every query."""
    _wanted: dict[str, dict[Key, bool]] = field(default_factory=dict)

    async def query(self, promql: str) -> Answered:
        return await self.ask(promql)

    async def ask(self, promql: str, timeout_seconds: float | None = None) -> Answered:
        self.asked.append(promql)
        if self.fault is not None:
            raise self.fault
        now = self.now + self.ahead
        if promql == "vector(time())":
            return Answered([Series({}, ((now, now),))])
        if match := re.fullmatch(r'\{__name__=~"([^"]+)"\}\[(\d+)s\]', promql):
            return Answered(self._range(re.compile(match.group(1)), float(match.group(2))), self.warnings)
        if "_bucket[" in promql:
            return Answered(self._buckets(promql), self.warnings)
        return self._custom(promql)

    async def close(self) -> None:
        pass

    # Answers

    def series(self, wanted: re.Pattern[str], seconds: float) -> dict[Key, list[tuple[float, float]]]:
        """Samples of the last so many seconds by series."""
        start, end = self.now - seconds, self.now - self.late
        found: dict[Key, list[tuple[float, float]]] = {}
        for target in self.targets:
            for key, points in target.series(self.now).items():
                if self._wants(wanted, key):
                    seen = [(time + self.ahead, value) for time, value in points if start < time <= end]
                    if seen:
                        found.setdefault(key, []).extend(seen)
        return found

    def _wants(self, wanted: re.Pattern[str], key: Key) -> bool:
        known = self._wanted.setdefault(wanted.pattern, {})
        if key not in known:
            known[key] = wanted.fullmatch(dict(key)["__name__"]) is not None
        return known[key]

    def _range(self, names: re.Pattern[str], seconds: float) -> Iterator[Series]:
        for labels, points in self.series(names, seconds).items():
            finite = tuple(sorted(point for point in points if math.isfinite(point[1])))
            if finite:
                yield Series(dict(labels), finite)

    def _buckets(self, promql: str) -> Iterator[Series]:
        pattern = r'sum by \(([^)]*)\) \(rate\(([\w:]+)_bucket\[(\d+)s\]\)\), "headroom_query", "([^"]+)"'
        for by, name, seconds, tag in re.findall(pattern, promql):
            kept = by.split(", ")
            sums: dict[Key, float] = {}
            for labels, points in self.series(re.compile(f"{name}_bucket"), float(seconds)).items():
                if len(points) > 1 and points[-1][0] > points[0][0]:
                    group = tuple((label, value) for label, value in labels if label in kept)
                    rate = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
                    sums[group] = sums.get(group, 0.0) + rate
            for group, rate in sums.items():
                yield Series({**dict(group), "headroom_query": tag}, ((self.now, rate),))

    def _custom(self, promql: str) -> Answered:
        found = Answered(warnings=self.warnings)
        for query, tag in re.findall(
            r'label_replace\(\n(.*?)\n, "headroom_query", "(\d+)", "", ""\)', promql, re.S
        ) or [(promql, "0")]:
            answer = self.custom.get(query)
            answer = answer(self.now) if callable(answer) else answer
            if isinstance(answer, Exception):
                raise answer
            values = answer if isinstance(answer, list) else [] if answer is None else [answer]
            for value in values:
                labels = {"headroom_query": tag}
                if math.isfinite(value):
                    found.append(Series(labels, ((self.now, float(value)),)))
                else:
                    found.odd.append(OddSeries(labels, "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"))
        return found


def refused(reason: str) -> PrometheusQueryError:
    """What the client raises for a query that the server refuses."""
    return PrometheusQueryError(f"{reason} (http://prometheus refuses 'x')", reason)
