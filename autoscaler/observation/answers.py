"""What Prometheus said in one tick, keyed for look-up. Pure: series in, numbers out."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from autoscaler.observation import views
from autoscaler.observation.devices import SCALE, Devices
from autoscaler.observation.queries import COUNTERS, GAUGES, SAMPLES_SCRAPED, TAG, UP, Fact
from autoscaler.observation.scrapes import Scrape
from autoscaler.observation.series import PodKey, Rate, Sample, address_of, change, increase, rate, spacing
from autoscaler.observation.views import CLUSTER, Entry, Found, LabelReader, Labels, Latest, Ports, Young
from headroom.domain.engines import Measure
from headroom.prometheus.series import DeviceJobs, Point, Series, newest

BY_ADDRESS: Final = "@address"
"""In place of a namespace: the series names no pod, only the address it was scraped from."""
MOST_REQUESTS: Final = 1e7
"""Inside one pod. What is more is no count."""
MOST_PER_SECOND: Final = 1e9
"""Tokens, or seconds of work, that one pod can count in a second."""


class Up(NamedTuple):
    """What Prometheus itself says of a pod's latest scrape."""

    at_seconds: float
    answered: bool
    samples: float | None
    """How many samples it gave; None where that is not known."""


@dataclass(slots=True)
class Named:
    """All series of one name, whomever they are of."""

    series: int = 0
    labels: frozenset[str] = frozenset()
    """Label names of one that is joined to no pod by its labels, else of the first."""
    joined: bool = False
    """Whether that one carries namespace and pod."""


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
    devices: Devices = field(default_factory=Devices)
    custom: dict[tuple[str, str], "Sample | str"] = field(default_factory=dict)
    """(target, signal) -> the number, or what was wrong with the answer; absent when the answer was empty."""
    custom_partial: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """Numbers of queries that may be too low, and why."""
    remarks: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What Prometheus remarks on the expression of a query."""
    unreadable: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """What Prometheus says of a query that it cannot read, with the place in it."""
    errors: dict[str, str] = field(default_factory=dict)
    partial: dict[str, str] = field(default_factory=dict)
    """Groups whose answers are not whole, and why."""
    scrapes: Mapping[PodKey, Scrape] = field(default_factory=dict)
    """What is known of each pod's scrapes, from earlier ticks too."""
    up: dict[PodKey, Up] = field(default_factory=dict)
    impossible: dict[str, dict[PodKey, str]] = field(default_factory=dict)
    """Metric -> pod -> a value that it cannot have, in words."""
    clusters: dict[PodKey, set[str]] = field(default_factory=dict)
    """The clusters that series of one pod name, where they are several: the pods are not one."""
    named: dict[str, Named] = field(default_factory=dict)
    """What there is of each name that was asked for."""
    hints: Mapping[str, str] = field(default_factory=dict)
    """Of a name that nobody exports: what there is in its place, in words."""
    jobs_left_out: set[str] = field(default_factory=set)
    """Scrape jobs of device exporters whose `exported_` labels were not believed."""


class _Growth(NamedTuple):
    """How a value grew: its rate, the point before, and the counter's youth; nothing of a gauge that was seen once."""

    rate: Rate | None = None
    before: Point | None = None
    young: Young | None = None


_STANDS: Final = _Growth()


class SnapshotBuilder:
    """Takes in the answers of one tick in any order; `finish` makes the snapshot of them.

    `facts` says what each metric measures; `means` are the short and the long averaging time in seconds; series of cards may
    come from `jobs` that speak of other pods than their own.
    """

    def __init__(
        self,
        clock_seconds: float,
        facts: Mapping[str, Fact],
        means: tuple[float, float],
        jobs: DeviceJobs | None = None,
    ) -> None:
        self.snapshot = Snapshot(clock_seconds)
        self._facts, self._means, self._jobs = facts, means, jobs or DeviceJobs()
        self._labels, self._ports = LabelReader(), Ports()
        self._gauges, self._counters = Found(), Found()
        self._latest_gauges, self._latest_counters = Latest(), Latest()
        self._ups: Found = {}
        self._buckets: dict[tuple[str, str, PodKey], dict[tuple[int, int], dict[float, float]]] = {}
        """(kind, metric, pod) -> (port, view) -> rates by edge."""
        self._cluster_of: dict[PodKey, str] = {}

    # Answers

    def add_clock(self, series: Iterable[Series]) -> None:
        """Prometheus' own time."""
        for one in series:
            if point := newest(one.points):
                self.snapshot.clock_seconds = point[1]

    def add_gauges(self, series: Iterable[Series]) -> None:
        """Gauges of engines and cards, and what Prometheus says of its scrapes."""
        for one in series:
            name = one.labels.get("__name__", "")
            if name in SCALE:
                self._add_device(name, one)
                continue
            point = newest(one.points)
            if point is None:
                continue
            if name in (UP, SAMPLES_SCRAPED):
                self._keep(self._ups, self._latest_gauges, name, one, point, views.NO_PARTS)
                continue
            fact = self._facts.get(name)
            if fact is not None and self._note(name, fact, one, point):
                growth = change(one.points, *self._means) if fact.measure is Measure.COUNT else None
                self._keep(self._gauges, self._latest_gauges, name, one, point, fact.parts, _Growth(growth))

    def drop(self, group: str) -> None:
        """Forget what was taken in of a group: half an answer is none."""
        if group == GAUGES:
            self._gauges, self._ups, self._latest_gauges = {}, {}, Latest()
            self.snapshot.devices = Devices()
        elif group == COUNTERS:
            self._counters, self._latest_counters = {}, Latest()
        else:
            self._buckets = {key: found for key, found in self._buckets.items() if key[0] != group}

    def add_counters(self, series: Iterable[Series]) -> None:
        """Counters of engines."""
        short, long = self._means
        for one in series:
            name = one.labels.get("__name__", "")
            fact, point = self._facts.get(name), newest(one.points)
            if fact is None or point is None:
                continue
            points = one.points
            measured = rate(points, short, long)
            if not self._note(name, fact, one, point, measured):
                continue
            young = None
            if point[0] - points[0][0] < long:
                young = Young(points[0], increase(points))
            before = points[-2] if len(points) > 1 else None
            self._keep(
                self._counters, self._latest_counters, name, one, point, fact.parts, _Growth(measured, before, young)
            )

    def add_buckets(self, kind: str, series: Iterable[Series]) -> None:
        """Bucket rates of one latency, summed for each scraped target."""
        for one in series:
            point = newest(one.points)
            try:
                edge = float(one.labels.get("le", ""))
            except ValueError:
                continue
            if point is None or point[1] < 0:
                continue
            name = one.labels.get(TAG, "")
            found = self._labels.read(one.labels, views.NO_PARTS | {TAG})
            pod = key_of(one.labels)
            self._ports.note(pod, found.port)
            per_view = self._buckets.setdefault((kind, name, pod), {})
            per_view.setdefault((found.port, found.view), {})[edge] = point[1]

    # What they come to

    def finish(self) -> Snapshot:
        """The snapshot, without what earlier ticks knew of scrapes."""
        self._ports.compare(self._counters, self._gauges)
        self._finish_ups()
        self._finish_gauges()
        self._finish_counters()
        self._finish_buckets()
        self.snapshot.scrapes = self._scrapes()
        self._gauges, self._counters, self._buckets = {}, {}, {}
        return self.snapshot

    def _finish_gauges(self) -> None:
        snapshot = self.snapshot
        for name, pods in self._gauges.items():
            fact, silent = self._facts[name], snapshot.impossible.get(name, {})
            gauges, changes = snapshot.gauges.setdefault(name, {}), snapshot.changes.setdefault(name, {})
            for pod, entries in pods.items():
                if pod in silent:
                    continue
                parts = views.of_gauge(entries, pod, self._latest_gauges, self._ports)
                if not parts:
                    continue
                oldest, value = parts[0].at_seconds, parts[0].value
                if len(parts) > 1:
                    oldest = min([entry.at_seconds for entry in parts])
                    value = sum([entry.value for entry in parts])
                    if fact.measure is Measure.SHARE:
                        value /= len(parts)
                gauges[pod] = Sample(oldest, value)
                if total := _total(parts):
                    changes[pod] = total

    def _finish_counters(self) -> None:
        snapshot = self.snapshot
        for name, pods in self._counters.items():
            silent = snapshot.impossible.get(name, {})
            counters = snapshot.counters.setdefault(name, {})
            for pod, entries in pods.items():
                if pod in silent:
                    continue
                parts = views.of_counter(entries, pod, self._latest_counters, self._ports, self._means)
                if total := _total(parts):
                    counters[pod] = total

    def _finish_ups(self) -> None:
        """A pod has been scraped when one of its targets answered."""
        answers: dict[PodKey, list[Entry]] = {}
        samples: dict[tuple[PodKey, int], float] = {}
        for name, pods in self._ups.items():
            for pod, entries in pods.items():
                going_on = [entry for entry in entries if not self._latest_gauges.has_ended(pod, entry)]
                if name == UP:
                    answers[pod] = going_on
                else:
                    samples.update({(pod, entry.labels.view): entry.value for entry in going_on})
        for pod, entries in answers.items():
            good = [entry for entry in entries if entry.value == 1]
            if not entries:
                continue
            chosen = max(good or entries, key=lambda entry: entry.at_seconds)
            known = [samples[pod, entry.labels.view] for entry in good if (pod, entry.labels.view) in samples]
            self.snapshot.up[pod] = Up(chosen.at_seconds, bool(good), min(known, default=None))

    def _finish_buckets(self) -> None:
        """Of the views of a server the one with most observations; servers are added."""
        for (kind, name, pod), per_view in self._buckets.items():
            servers: dict[int, dict[float, float]] = {}
            known = any(self._ports.server(pod, port) for port, _ in per_view)
            for (port, _), rates in per_view.items():
                server = self._ports.server(pod, port)
                if known and not server:  # a view whose port is not known is one of those
                    continue
                if max(rates.values()) >= max(servers.get(server, {}).values(), default=-1.0):
                    servers[server] = rates
            total: dict[float, float] = {}
            for rates in servers.values():
                for edge, value in rates.items():
                    total[edge] = total.get(edge, 0.0) + value
            self.snapshot.buckets.setdefault(kind, {}).setdefault(name, {})[pod] = total

    def _scrapes(self) -> dict[PodKey, Scrape]:
        found: dict[PodKey, Scrape] = {}
        for latest in (self._latest_gauges, self._latest_counters):
            for pod, at, apart in latest.scrapes():
                known = found.get(pod)
                if known is None or at > known.at_seconds:
                    found[pod] = Scrape(at, apart or (known.spacing_seconds if known else 0.0))
        return found

    # One series

    def _note(self, name: str, fact: Fact, one: Series, point: Point, measured: Rate | None = None) -> bool:
        """Count the series; whether its value can be one of such a metric."""
        labels = one.labels
        named = self.snapshot.named.setdefault(name, Named())
        joined = bool(labels.get("namespace") and labels.get("pod"))
        if not named.series or (named.joined and not joined):
            named.labels, named.joined = frozenset(labels), joined
        named.series += 1
        if fault := _fault(fact, point[1], measured):
            self.snapshot.impossible.setdefault(name, {})[key_of(labels)] = fault
            return False
        return True

    def _keep(
        self,
        found: Found,
        latest: Latest,
        name: str,
        one: Series,
        point: Point,
        parts: frozenset[str],
        growth: _Growth = _STANDS,
    ) -> None:
        labels: Labels = self._labels.read(one.labels, parts)
        pod = key_of(one.labels)
        number = len(one.points)
        apart = spacing(one.points) if number > latest.known_points(pod, labels.view) else 0.0
        if latest.note(pod, labels.view, point[0], apart, number):
            self._ports.note(pod, labels.port)
            self._note_cluster(pod, one.labels.get(CLUSTER, ""))
        found.setdefault(name, {}).setdefault(pod, []).append(
            Entry(labels, *point, growth.rate, growth.before, growth.young)
        )

    def _note_cluster(self, pod: PodKey, cluster: str) -> None:
        if cluster and self._cluster_of.setdefault(pod, cluster) != cluster:
            self.snapshot.clusters.setdefault(pod, {self._cluster_of[pod]}).add(cluster)

    def _add_device(self, name: str, one: Series) -> None:
        if self._jobs.doubted(one.labels):
            self.snapshot.jobs_left_out.add(one.labels.get("job", ""))
        if one.points:
            self.snapshot.devices.add(name, self._jobs.own_labels(one.labels), one.points)


def key_of(labels: Mapping[str, str]) -> PodKey:
    """The pod that a series names, or the address that it was scraped from where it does not name both of its names."""
    pod, namespace = labels.get("pod", ""), labels.get("namespace", "")
    if pod and namespace:
        return namespace, pod
    return BY_ADDRESS, address_of(labels.get("instance", "")).host


def _fault(fact: Fact, value: float, measured: Rate | None) -> str:
    """What is wrong with a value of such a metric; empty when nothing is."""
    if fact.measure is Measure.SHARE:
        return "" if 0 <= value * fact.scale <= 1.01 else f"{value:g}, which is no share"
    if value < 0:
        return f"{value:g}, below 0"
    if fact.measure is Measure.COUNT:
        return "" if value <= MOST_REQUESTS else f"{value:g} requests"
    if measured is not None and max(measured.short, measured.long) * fact.scale > MOST_PER_SECOND:
        return f"{measured.short:g} a second"
    return ""


def _total(parts: Sequence[Entry]) -> Rate | None:
    if len(parts) == 1:
        return parts[0].rate
    known = [entry.rate for entry in parts if entry.rate is not None]
    if len(known) < 2:
        return known[0] if known else None
    oldest = min([measured.at_seconds for measured in known])
    return Rate(oldest, sum([measured.short for measured in known]), sum([measured.long for measured in known]))
