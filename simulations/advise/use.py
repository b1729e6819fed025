"""What pods used of their cards over a window, from the agents' or dcgm-exporter's metrics."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headroom.prometheus.client import PrometheusSource
from headroom.prometheus.series import DeviceJobs, Series, newest
from headroom.units import MIB

_BY: Final = "by (namespace, pod, exported_namespace, exported_pod, job, uuid, UUID, device, card, gpu)"
_MEMORY: Final = (
    ("headroom_pod_memory_used_bytes", 1 / MIB),
    ("DCGM_FI_DEV_FB_USED", 1.0),
)
_BUSY: Final = (
    ("rate(headroom_pod_busy_seconds_total[5m])", 1.0),
    ("DCGM_FI_DEV_GPU_UTIL", 0.01),
)
_SANE_MIB: Final = 2**24
"""Drivers report `not supported` as numbers near 2^63."""


@dataclass(frozen=True, slots=True)
class Use:
    """What one pod used of each of its cards: the most memory, and the share of time that kernels ran (95th percentile).

    None is what nobody measured.
    """

    peak_mib: int | None = None
    busy_high: float | None = None


async def read_use(source: PrometheusSource, window: str, jobs: DeviceJobs) -> dict[str, Use]:
    """`namespace/pod` -> what it used within `window` (PromQL duration). Raises PrometheusError."""
    peak = await _first(
        source, [(f"max {_BY} (max_over_time({name}[{window}]))", scale) for name, scale in _MEMORY], jobs
    )
    high = await _first(
        source, [(f"max {_BY} (quantile_over_time(0.95, ({name})[{window}:5m]))", scale) for name, scale in _BUSY], jobs
    )
    return {
        pod: Use(
            peak_mib=round(peak[pod]) if pod in peak else None,
            busy_high=min(high[pod], 1.0) if pod in high else None,
        )
        for pod in {*peak, *high}
    }


async def _first(source: PrometheusSource, queries: Sequence[tuple[str, float]], jobs: DeviceJobs) -> dict[str, float]:
    """The largest value of any card by pod; the first source that knows a pod is believed."""
    found: dict[str, float] = {}
    for promql, scale in queries:
        here: dict[str, float] = defaultdict(float)
        for series in await source.query(promql):
            pod, value = _pod_of(series, jobs), newest(series.points)
            if pod and value is not None and 0 <= value[1] * scale < _SANE_MIB:
                here[pod] = max(here[pod], value[1] * scale)
        found = {**here, **found}
    return found


def _pod_of(series: Series, jobs: DeviceJobs) -> str:
    labels = jobs.own_labels(series.labels)
    return f"{labels.get('namespace')}/{labels['pod']}" if labels.get("pod") else ""
