"""How busy cards are, as Prometheus has it: for people to see, nothing is decided by it. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from headroom.domain.model import GpuNode
from headroom.prometheus.series import DeviceJobs
from scheduler.cluster.measured import CardFinder, Line, place_of

BUSY_METRICS: Final = {"headroom_card_utilization_ratio": 1.0, "DCGM_FI_DEV_GPU_UTIL": 0.01}
"""Metric -> what turns its values into a share of time, 0 to 1. In the order in which they are believed."""

Busy = dict[str, dict[str, float]]
"""By node name and card id: share of time that any kernel ran, 0 to 1."""


def busy_of(
    lines: Iterable[Line], metric: str, nodes: Mapping[str, GpuNode], jobs: DeviceJobs, *, oldest: float
) -> Busy:
    """The mean of each card's samples that are not older than `oldest` (Unix seconds); of several series the one with the newest."""
    scale, finder = BUSY_METRICS[metric], CardFinder(nodes)
    newest: dict[tuple[str, str], tuple[bool, float, float]] = {}
    for line in lines:
        points = [(at, value) for at, value in line.values if at >= oldest and 0 <= value * scale <= 1]
        believed = jobs.believed(line.metric.job, line.metric.namespace)
        place = place_of(line.metric, believed=believed)
        if line.metric.name != metric or not points or place is None:
            continue
        card = finder.find(place)
        if card is None:
            continue
        found = believed, points[-1][0], scale * sum(value for _, value in points) / len(points)
        newest[card] = max(found, newest.get(card, found))
    busy: Busy = {}
    for (node, card_id), (_, _, share) in newest.items():
        busy.setdefault(node, {})[card_id] = share
    return busy
