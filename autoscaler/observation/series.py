"""From Prometheus series to numbers: joins by pod, counter rates, histogram quantiles. Pure.

Every rule about odd data is here: values that are not finite, counters that restart, the same pod scraped twice,
sentinels for `not supported`. Whose `exported_` labels count is said in `headroom.prometheus.series`.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from headroom.prometheus.series import Point

PodKey = tuple[str, str]
"""Namespace and name."""

SCRAPE_LABELS: Final = frozenset(
    {
        "job", "instance", "endpoint", "service", "container", "prometheus", "prometheus_replica", "cluster",
        "exported_job", "exported_instance", "exported_container", "exported_service", "exported_endpoint",
        "kubernetes_name", "node_name",
    }
)  # fmt: skip
"""Labels that tell how a sample was scraped, not what was measured: series that differ in nothing else are duplicates."""


class Sample(NamedTuple):
    """A gauge's newest value."""

    at_seconds: float
    value: float


class Rate(NamedTuple):
    """A counter's rate per second over the short and the long averaging time."""

    at_seconds: float
    short: float
    long: float


def pod_of(labels: Mapping[str, str]) -> PodKey:
    """The pod that a series names."""
    return labels.get("namespace", ""), labels.get("pod", "")


def identity(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    """What is measured: the labels without those of the scrape."""
    return frozenset(item for item in labels.items() if item[0] not in SCRAPE_LABELS)


def rate(points: Sequence[Point], short_seconds: float, long_seconds: float) -> Rate | None:
    """Rates over the newest `short_seconds` and `long_seconds`; a counter that falls has restarted from 0.

    With less history than asked the rate is over what there is. None with fewer than two samples.
    """
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) < 2:
        return None
    end = finite[-1][0]
    increase, result = 0.0, {}
    for (at, value), (_, after) in zip(reversed(finite[:-1]), reversed(finite[1:]), strict=True):
        increase += after - value if after >= value else after
        elapsed = end - at
        if elapsed <= 0:
            continue
        if "short" not in result and elapsed >= short_seconds:
            result["short"] = increase / elapsed
        result["long"] = increase / elapsed
        if elapsed >= long_seconds:
            break
    if "long" not in result:
        return None
    return Rate(end, result.get("short", result["long"]), result["long"])


def change(points: Sequence[Point], short_seconds: float, long_seconds: float) -> Rate | None:
    """How fast a gauge has risen (or fallen, below 0) over the two averaging times; None with fewer than two samples."""
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) < 2:
        return None
    end, value = finite[-1]
    slopes = [(end - at, (value - before) / (end - at)) for at, before in reversed(finite[:-1]) if end > at]
    if not slopes:
        return None
    short = next((slope for elapsed, slope in slopes if elapsed >= short_seconds), slopes[-1][1])
    long = next((slope for elapsed, slope in slopes if elapsed >= long_seconds), slopes[-1][1])
    return Rate(end, short, long)


def quantile(buckets: Mapping[float, float], q: float) -> float:
    """The q-quantile of cumulative bucket rates by upper edge, linear within a bucket (as PromQL's histogram_quantile).

    0 without any observation; the last finite edge when the quantile lies beyond it.
    """
    edges = sorted(buckets)
    total = buckets[edges[-1]] if edges else 0.0
    if total <= 0 or not math.isfinite(total):
        return 0.0
    rank, below, start = q * total, 0.0, 0.0
    for edge in edges:
        count = buckets[edge]
        if count >= rank:
            if math.isinf(edge):
                return start
            return start + (edge - start) * ((rank - below) / (count - below) if count > below else 1.0)
        below, start = count, edge
    return start


def merge_buckets(per_pod: Iterable[Mapping[float, float]]) -> dict[float, float]:
    """Sum cumulative bucket rates over pods."""
    total: dict[float, float] = {}
    for buckets in per_pod:
        for edge, value in buckets.items():
            if math.isfinite(value):
                total[edge] = total.get(edge, 0.0) + value
    return total
