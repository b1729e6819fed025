"""What Prometheus said in one tick, keyed for look-up. Pure: series in, numbers out."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeAlias

from autoscaler.observation.queries import TAG
from autoscaler.observation.series import PodKey, Rate, Sample, change, identity, pod_of, rate
from headroom.domain.engines import DEVICE_UTILISATION, ENGINES
from headroom.prometheus.series import DeviceJobs, Series, newest

AVERAGED: Final = frozenset(
    name for engine in ENGINES.values() for metric in (engine.kv_cache, engine.gpu_utilisation) for name in metric.names
)
"""Gauges that are shares: a pod with several series of one (a model, an engine rank each) has their mean."""
COUNTED: Final = frozenset(
    name
    for engine in ENGINES.values()
    for metric in (engine.waiting, engine.running, engine.in_flight)
    for name in metric.names
)
"""Gauges whose growth, with the requests that ended, tells how many arrived."""
_DEVICE_SCALE: Final = {name: metric.scale for metric in DEVICE_UTILISATION for name in metric.names}
_DEVICE_RANK: Final = {name: rank for rank, metric in enumerate(DEVICE_UTILISATION) for name in metric.names}
BY_ADDRESS: Final = "@address"
"""In place of a namespace: the series names no pod, only the address it was scraped from."""


class _Entry(NamedTuple):
    """What is kept of one series while an answer is read."""

    what: int
    """Hash of its identity: of thousands of series only this fits in memory beside the answer."""
    at_seconds: float
    value: float
    rate: Rate | None
    """Of a counter, or of a gauge that counts requests."""


_Found: TypeAlias = dict[tuple[str, PodKey], list[_Entry]]


@dataclass(slots=True)
class Device:
    """A card's utilisation and the pods that its exporter names."""

    sample: Sample
    rank: int
    pods: set[PodKey] = field(default_factory=set)


@dataclass(slots=True)
class Snapshot:
    """Answers of one tick; `errors` names the groups that have none."""

    clock_seconds: float
    """Prometheus' own time, against which ages are reckoned."""
    gauges: dict[str, dict[PodKey, Sample]] = field(default_factory=dict)
    changes: dict[str, dict[PodKey, Rate]] = field(default_factory=dict)
    """How fast counts of requests grow."""
    counters: dict[str, dict[PodKey, Rate]] = field(default_factory=dict)
    buckets: dict[str, dict[str, dict[PodKey, dict[float, float]]]] = field(default_factory=dict)
    """Signal kind -> metric -> pod -> cumulative rate by upper edge."""
    devices: dict[str, Device] = field(default_factory=dict)
    """By UUID, and by `node/index`."""
    devices_of: dict[PodKey, set[str]] = field(default_factory=dict)
    custom: dict[tuple[str, str], "Sample | str"] = field(default_factory=dict)
    """(target, signal) -> the number, or what was wrong with the answer; absent when the answer was empty."""
    errors: dict[str, str] = field(default_factory=dict)
    jobs_left_out: set[str] = field(default_factory=set)
    """Scrape jobs of device exporters whose `exported_` labels were not believed."""
    duplicates: int = 0
    """Series that repeat another one: a pod scraped twice."""
    not_finite: int = 0
    """Series without a finite value."""


def add_gauges(
    snapshot: Snapshot,
    series: Iterable[Series],
    short_seconds: float,
    long_seconds: float,
    jobs: DeviceJobs | None = None,
) -> None:
    """Newest finite value per metric and pod, and how fast counts grow; duplicates left out.

    Series of cards may come from `jobs` that speak of other pods than their own.
    """
    found, jobs = _Found(), jobs or DeviceJobs()
    for one in series:
        labels = one.labels
        name = labels.get("__name__", "")
        point = newest(one.points)
        sample = Sample(*point) if point else None
        if sample is None:
            snapshot.not_finite += 1
        elif name in _DEVICE_SCALE:
            if jobs.doubted(labels):
                snapshot.jobs_left_out.add(labels.get("job", ""))
            labels = jobs.own_labels(labels)
            _add_device(snapshot, name, labels, sample)
        else:
            growth = change(one.points, short_seconds, long_seconds) if name in COUNTED else None
            _keep(found, labels, sample.at_seconds, sample.value, growth)
    for name, pod, entries in _distinct(snapshot, found):
        oldest = min([entry.at_seconds for entry in entries])
        value = sum([entry.value for entry in entries]) / (len(entries) if name in AVERAGED else 1)
        snapshot.gauges.setdefault(name, {})[pod] = Sample(oldest, value)
        if total := _total([entry.rate for entry in entries]):
            snapshot.changes.setdefault(name, {})[pod] = total


def add_counters(snapshot: Snapshot, series: Iterable[Series], short_seconds: float, long_seconds: float) -> None:
    """Rates per metric and pod, summed over its series, duplicates left out."""
    found: _Found = {}
    for one in series:
        measured = rate(one.points, short_seconds, long_seconds)
        if measured is not None:
            _keep(found, one.labels, measured.at_seconds, 0.0, measured)
    for name, pod, entries in _distinct(snapshot, found):
        if total := _total([entry.rate for entry in entries]):
            snapshot.counters.setdefault(name, {})[pod] = total


def _keep(found: _Found, labels: Mapping[str, str], at_seconds: float, value: float, measured: Rate | None) -> None:
    entry = _Entry(hash(identity(labels)), at_seconds, value, measured)
    found.setdefault((labels.get("__name__", ""), key_of(labels)), []).append(entry)


def _distinct(snapshot: Snapshot, found: _Found) -> Iterator[tuple[str, PodKey, list[_Entry]]]:
    """Of series that measure the same thing the one with the newest sample."""
    for (name, pod), entries in found.items():
        if len(entries) == 1:
            yield name, pod, entries
            continue
        kept: dict[int, _Entry] = {}
        for entry in entries:
            known = kept.get(entry.what)
            if known is None or entry.at_seconds > known.at_seconds:
                kept[entry.what] = entry
        snapshot.duplicates += len(entries) - len(kept)
        yield name, pod, list(kept.values())


def _total(rates: Sequence[Rate | None]) -> Rate | None:
    known = [measured for measured in rates if measured is not None]
    if len(known) < 2:
        return known[0] if known else None
    oldest = min([measured.at_seconds for measured in known])
    return Rate(oldest, sum([measured.short for measured in known]), sum([measured.long for measured in known]))


def add_buckets(snapshot: Snapshot, kind: str, series: Iterable[Series]) -> None:
    """Bucket rates of one latency."""
    for one in series:
        labels = one.labels
        point = newest(one.points)
        try:
            edge = float(labels.get("le", ""))
        except ValueError:
            continue
        if point is not None:
            per_pod = snapshot.buckets.setdefault(kind, {}).setdefault(labels.get(TAG, ""), {})
            per_pod.setdefault(key_of(labels), {})[edge] = point[1]


def add_custom(snapshot: Snapshot, tags: Mapping[str, tuple[str, str]], series: Iterable[Series]) -> None:
    """One number per tagged query; more than one is an error of that query alone."""
    for one in series:
        key = tags.get(one.labels.get(TAG, ""))
        if key is None:
            continue
        if key in snapshot.custom:
            snapshot.custom[key] = "the query answers with more than one series; aggregate it"
            continue
        point = newest(one.points)
        snapshot.custom[key] = Sample(*point) if point else "the query answers with a value that is not a number"


def key_of(labels: Mapping[str, str]) -> PodKey:
    """The pod that a series is about, or the address where no label names it."""
    key = pod_of(labels)
    if key[1]:
        return key
    return BY_ADDRESS, labels.get("instance", "").rsplit(":", 1)[0]


def _add_device(snapshot: Snapshot, name: str, labels: Mapping[str, str], sample: Sample) -> None:
    """One device once, whoever shares it. Time-sliced cards are reported for one sharer or whole for each: sum devices."""
    value = sample.value * _DEVICE_SCALE[name]
    if not 0 <= value <= 1.01 or math.isnan(value):
        snapshot.not_finite += 1  # a sentinel for "not supported"
        return
    node = labels.get("node") or labels.get("Hostname") or ""
    names = [labels.get("UUID") or labels.get("uuid") or labels.get("card") or ""]
    names += [f"{node}/{labels.get('gpu') or labels.get('card') or ''}"] if node else []
    for device_id in filter(None, names):
        known = snapshot.devices.get(device_id)
        if known is None or _DEVICE_RANK[name] < known.rank:
            pods = known.pods if known else set()
            known = snapshot.devices[device_id] = Device(Sample(sample.at_seconds, value), _DEVICE_RANK[name], pods)
        elif _DEVICE_RANK[name] == known.rank and sample.at_seconds > known.sample.at_seconds:
            known.sample = Sample(sample.at_seconds, value)
    if names[0]:
        key = pod_of(labels)
        if key[1]:
            snapshot.devices_of.setdefault(key, set()).add(names[0])
