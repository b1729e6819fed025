"""How much memory of each card is really in use, read in one query for the whole fleet.

Two exporters are understood: Headroom's agent and NVIDIA's dcgm-exporter. Only samples younger than the age bound count;
where there is none, free memory falls back to what pods declare.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headroom.domain.model import GpuNode
from headroom.prometheus.series import DeviceJobs, Series, Source, newest
from headroom.units import MIB

AGENT_METRIC: Final = "headroom_card_memory_used_bytes"
DCGM_METRIC: Final = "DCGM_FI_DEV_FB_USED"  # MiB

_NODE_LABELS: Final = ("node", "Hostname")
"""Under which labels a node's name may come; dcgm-exporter says `Hostname`."""
_LARGEST_MIB: Final = 2**24  # 16 TiB: beyond it lie the values that stand for "not supported"


@dataclass(slots=True)
class MeasuredVram:
    """Memory in use by node and card, as of one reading."""

    used_mib: dict[tuple[str, str], int] = field(default_factory=dict)
    """By node name and card id, and by node name and index where the exporter tells it."""
    oldest_seconds: float = 0.0
    """Age of the oldest sample that counts."""
    stale: int = 0
    """Series left out for their age."""
    unusable: int = 0
    """Series left out because they name no card, or because their value cannot be one."""
    jobs_left_out: set[str] = field(default_factory=set)
    """Scrape jobs whose `exported_` labels were not believed."""

    def of_node(self, node: GpuNode) -> list[int]:
        """MiB in use by card position, as `Fleet.set_measured` takes it; 0 where nothing fresh is known."""
        return [self.used_mib.get((node.name, card.id), 0) for card in node.cards]

    def fresh_cards(self, node: GpuNode) -> int:
        """How many of the node's cards have a fresh measurement."""
        return sum((node.name, card.id) in self.used_mib for card in node.cards)

    def covers(self, node: GpuNode) -> bool:
        """Whether every card of the node has a fresh measurement."""
        return all((node.name, card.id) in self.used_mib for card in node.cards)


async def measured_vram(
    source: Source, max_age_seconds: float, now: float, jobs: DeviceJobs | None = None
) -> MeasuredVram:
    """Read all cards at once; `now` is in Unix seconds. Raises PrometheusError."""
    window = max(math.ceil(max_age_seconds), 1)
    series = await source.query(f'{{__name__=~"{AGENT_METRIC}|{DCGM_METRIC}"}}[{window}s]')
    return measured_of(series, max_age_seconds, now, jobs)


def measured_of(
    series: Iterable[Series], max_age_seconds: float, now: float, jobs: DeviceJobs | None = None
) -> MeasuredVram:
    """What the series say. Of several for one card the largest counts. `jobs` may speak of other nodes than their own.

    dcgm-exporter repeats the whole card for every pod that shares it, so its series are never added up; those of MIG
    instances are left out, because they name the card and not the instance that was handed out.
    """
    found, jobs = MeasuredVram(), jobs or DeviceJobs()
    for one in series:
        point = newest(one.points)
        if point is None:
            found.unusable += 1
            continue
        at, value = point
        if now - at > max_age_seconds:
            found.stale += 1
            continue
        if jobs.doubted(one.labels):
            found.jobs_left_out.add(one.labels.get("job", ""))
        labels = jobs.own_labels(one.labels)
        keys, mib = list(_keys(labels)), _mib(labels.get("__name__", ""), value)
        if not keys or mib is None:
            found.unusable += 1
            continue
        found.oldest_seconds = max(found.oldest_seconds, now - at)
        for key in keys:
            found.used_mib[key] = max(found.used_mib.get(key, 0), mib)
    return found


def _keys(labels: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    if labels.get("GPU_I_ID"):
        return
    cards = {labels[name] for name in ("card", "UUID", "gpu") if labels.get(name)}
    for name in _NODE_LABELS:
        if labels.get(name):
            yield from ((labels[name], card) for card in cards)


def _mib(metric: str, value: float) -> int | None:
    mib = value / MIB if metric == AGENT_METRIC else value
    return math.ceil(mib) if 0 <= mib <= _LARGEST_MIB else None
