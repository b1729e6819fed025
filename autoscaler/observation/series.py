"""From the points of one series to numbers: counter rates, growth, spacing, quantiles; and who an address is. Pure.

Values that are not finite are no reading. Whose `exported_` labels count is said in `headroom.prometheus.series`; which series
of a pod are the same thing seen twice, in `views`.
"""

import ipaddress
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from statistics import median
from typing import NamedTuple

from headroom.prometheus.series import Point

PodKey = tuple[str, str]
"""Namespace and name."""

JITTER_SECONDS = 1.0
"""Scrapes come a little early or late."""


class Sample(NamedTuple):
    """A gauge's newest value."""

    at_seconds: float
    value: float


class Rate(NamedTuple):
    """A counter's rate per second over the short and the long averaging time."""

    at_seconds: float
    short: float
    long: float


class Address(NamedTuple):
    """Host (an IP address in its usual spelling where it is one) and port (0: none given) of an `instance` label."""

    host: str
    port: int


def rate(points: Sequence[Point], short_seconds: float, long_seconds: float) -> Rate | None:
    """Rates over the newest `short_seconds` and `long_seconds`; a counter that falls has restarted from 0.

    With less history than asked, or samples further apart, the rate is over the next longer time that there is. None with
    fewer than two samples.
    """
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) < 2:
        return None
    end = finite[-1][0]
    increase, short, long = 0.0, None, None
    for (at, value), (_, after) in zip(reversed(finite[:-1]), reversed(finite[1:]), strict=True):
        increase += after - value if after >= value else after
        elapsed = end - at
        if elapsed <= 0:
            continue
        long = increase / elapsed
        if short is None and elapsed >= short_seconds - JITTER_SECONDS:
            short = long
        if elapsed >= long_seconds - JITTER_SECONDS:
            break
    if long is None:
        return None
    return Rate(end, long if short is None else short, long)


def increase(points: Sequence[Point]) -> float:
    """How much a counter has grown from the first to the last of these points, restarts included."""
    values = [value for _, value in points if math.isfinite(value)]
    return sum([after - value if after >= value else after for value, after in itertools.pairwise(values)])


def change(points: Sequence[Point], short_seconds: float, long_seconds: float) -> Rate | None:
    """How fast a gauge has risen (or fallen, below 0) over the two averaging times; None with fewer than two samples."""
    finite = [point for point in points if math.isfinite(point[1])]
    if len(finite) < 2:
        return None
    end, value = finite[-1]
    slopes = [(end - at, (value - before) / (end - at)) for at, before in reversed(finite[:-1]) if end > at]
    if not slopes:
        return None
    short = next((slope for elapsed, slope in slopes if elapsed >= short_seconds - JITTER_SECONDS), slopes[-1][1])
    long = next((slope for elapsed, slope in slopes if elapsed >= long_seconds - JITTER_SECONDS), slopes[-1][1])
    return Rate(end, short, long)


def spacing(points: Sequence[Point]) -> float:
    """Seconds between two scrapes: the median of the latest three, so that one missed does not count; 0 with fewer than two points."""
    if len(points) < 2:
        return 0.0
    latest = points[-4:]
    return median([after[0] - before[0] for before, after in itertools.pairwise(latest)])


@lru_cache(maxsize=65536)
def address_of(instance: str) -> Address:
    """Who was scraped: `10.0.0.7:8000`, `[fd00::7]:8000`, `llm-0.llm:8000`, a host without a port, or an URL of one of them."""
    text = instance.partition("://")[2] or instance
    text = text.partition("/")[0]
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    return Address(canonical(host), int(port) if port.isascii() and port.isdigit() else 0)


@lru_cache(maxsize=65536)
def canonical(host: str) -> str:
    """One spelling of an IP address (`FD00:0::7` is `fd00::7`); other text as it is."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


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


def share_above(buckets: Mapping[float, float], value: float) -> float:
    """Share of observations above `value`, from cumulative bucket rates by upper edge; 0 without any.

    Between two edges the share falls exponentially, as the tails of latencies do, and at least as fast as between the two edges
    before, which also tells how fast it falls where the upper edge has nothing above it.
    """
    edges = sorted(buckets)
    total = buckets[edges[-1]] if edges else 0.0
    if total <= 0 or not math.isfinite(total):
        return 0.0
    above = [max(1 - buckets[edge] / total, 0.0) for edge in edges]
    at = next((number for number, edge in enumerate(edges) if edge >= value), len(edges) - 1)
    upper = above[at]
    if at == 0 or math.isinf(edges[at]) or edges[at] == value or above[at - 1] <= 0:
        return above[at - 1] if at and math.isinf(edges[at]) else upper
    low, start = edges[at - 1], above[at - 1]
    falls = [math.log(start / upper) / (edges[at] - low)] if upper > 0 else []
    if at > 1 and above[at - 2] > start:
        falls.append(math.log(above[at - 2] / start) / (low - edges[at - 2]))
    elif upper <= 0:
        falls.append(math.log(2) / (edges[at] - low))
    return min(max(start * math.exp(-max(falls) * (value - low)), upper), start)


def merge_buckets(per_pod: Iterable[Mapping[float, float]]) -> dict[float, float]:
    """Sum cumulative bucket rates over pods. Where a pod lacks an edge, what it has at the next lower one counts there."""
    pods = [{edge: value for edge, value in buckets.items() if math.isfinite(value)} for buckets in per_pod]
    edges = sorted({edge for buckets in pods for edge in buckets})
    total = dict.fromkeys(edges, 0.0)
    for buckets in pods:
        below = 0.0
        for edge in edges:
            below = max(buckets.get(edge, below), below)
            total[edge] += below
    return total
