"""One fact of one target over its pods: who reports it, how old it is, who is silent and why. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeVar

from autoscaler.law.inputs import Freshness
from autoscaler.observation import absent
from autoscaler.observation.answers import BY_ADDRESS, Snapshot
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.queries import COUNTERS, GAUGES
from autoscaler.observation.scrapes import LONGEST_SPACING_SECONDS, fresh_seconds
from autoscaler.observation.series import PodKey, Rate, Sample, canonical
from headroom.domain.engines import Before, Engine, Metric

T = TypeVar("T")

CLOCK_TOLERANCE_SECONDS: Final = 5.0
"""Samples from further in the future than this come from a clock that is wrong."""
_SPACING_TOLERANCE: Final = 1.1


@dataclass(frozen=True, slots=True)
class ObserveSettings:
    """When a sample is too old, and when a pod is old enough to be expected to report or to teach."""

    stale_seconds: float = 60.0
    report_grace_seconds: float = 45.0
    warm_seconds: float = 60.0


class Gathered(NamedTuple):
    """One fact over the ready pods."""

    state: Freshness
    values: dict[str, float]
    """By pod, of those that report; of the other pods of a group too."""
    age_seconds: float = 0.0
    missing: int = 0
    """Ready pods that do not report."""
    detail: str = ""

    @property
    def total(self) -> float:
        return sum(self.values.values())


class Rates(NamedTuple):
    """A counter over the ready pods."""

    gathered: Gathered
    """Short rates."""
    long: float
    """Total of the long rates."""


class Doubt(NamedTuple):
    """Why what a pod says does not count, in words for a person."""

    state: Freshness
    text: str


class Gatherer:
    """Looks facts of one target's pods up in a snapshot.

    `ready` are its replicas, each of which should report; `others` pods of theirs that may (workers of a group).
    `wall_seconds` is the time that the pods' stamps are reckoned from.
    """

    def __init__(
        self,
        engine: Engine,
        ready: Sequence[PodView],
        others: Sequence[PodView],
        snapshot: Snapshot,
        wall_seconds: float,
        settings: ObserveSettings,
    ) -> None:
        self.engine, self.ready, self.others, self.snapshot = engine, ready, others, snapshot
        self._settings = settings
        self._gauges: dict[tuple[str, ...], Gathered] = {}
        self._counters: dict[tuple[str, ...], Rates] = {}
        self.expected = {pod.name for pod in ready if wall_seconds - pod.ready_at >= settings.report_grace_seconds}
        """Pods that have been ready for long enough to report."""
        self._addresses = {pod.name: _addresses(pod) for pod in (*ready, *others)}
        holders = Counter([address for addresses in self._addresses.values() for address in addresses])
        self._shared = {address for address, pods in holders.items() if pods > 1}
        """Addresses of several of these pods (they use their node's network): they say of none who was scraped."""
        self._scrapes = {pod.name: self.look_up([snapshot.scrapes], pod) for pod in (*ready, *others)}
        self._bounds = {name: fresh_seconds(scrape, settings.stale_seconds) for name, scrape in self._scrapes.items()}
        self._doubts = {pod.name: doubt for pod in (*ready, *others) if (doubt := self._doubt(pod))}
        self.absent: set[str] = set()
        """Names that were looked for and that none of these pods exports."""
        self.idle: frozenset[str] = frozenset()
        """Pods whose requests count as none (`stillness`)."""

    # Facts

    def gauge(self, metric: Metric, *, of_load: bool = True) -> Gathered:
        """A gauge; pods that are idle whatever it says count as 0 where it tells of load."""
        known = self._gauges.get(metric.names)
        if known is None:
            per_name = [self.snapshot.gauges.get(name, {}) for name in metric.names]
            known = self._gather(metric, GAUGES, lambda pod: self.look_up(per_name, pod))
            self._gauges[metric.names] = known
        if of_load and self.idle and known.values:
            values = {name: 0.0 if name in self.idle else value for name, value in known.values.items()}
            return known._replace(values=values, detail=self._idle_words())
        return known

    def rates(self, metric: Metric) -> Rates:
        """A counter."""
        known = self._counters.get(metric.names)
        if known is None:
            known = self._counters[metric.names] = self._gather_rates(metric)
        return known

    def growth(self, metric: Metric) -> tuple[float, float]:
        """How fast a gauge that counts requests has risen, all pods together, over the two averaging times."""
        per_name = [self.snapshot.changes.get(name, {}) for name in metric.names]
        short = long = 0.0
        for pod in (*self.ready, *self.others):
            found = None if pod.name in self.idle else self.look_up(per_name, pod)
            if found is not None:
                short, long = short + found.short, long + found.long
        return short, long

    def spacing(self) -> float:
        """Seconds between two scrapes of the pod that is scraped most rarely; 0: not known."""
        known = [self._scrapes[pod.name] for pod in self.ready]
        return max([scrape.spacing_seconds for scrape in known if scrape], default=0.0)

    def age(self) -> float:
        """Of the latest scrape of the pod whose is the oldest; 0: none is known."""
        known = [self._scrapes[pod.name] for pod in self.ready]
        clock = self.snapshot.clock_seconds
        return clock - min([scrape.at_seconds for scrape in known if scrape], default=clock)

    def silent(self) -> bool:
        """Whether a pod that should report was not scraped lately."""
        return any(pod.name in self.expected and not self._was_scraped(pod) for pod in self.ready)

    # One pod

    def look_up(self, per_name: Sequence[Mapping[PodKey, T]], pod: PodView) -> T | None:
        """The first metric name under which the pod reports, by its name or by an address that it alone has."""
        for samples in per_name:
            found = samples.get((pod.namespace, pod.name))
            if found is None:
                addresses = [address for address in self._addresses[pod.name] if address not in self._shared]
                found = next((samples[BY_ADDRESS, a] for a in addresses if (BY_ADDRESS, a) in samples), None)
            if found is not None:
                return found
        return None

    def is_fresh(self, pod: PodView, at_seconds: float) -> bool:
        """Whether a sample of one of these pods is young enough."""
        return -CLOCK_TOLERANCE_SECONDS <= self.snapshot.clock_seconds - at_seconds <= self._bounds[pod.name]

    def is_overdue(self, pod: PodView) -> bool:
        """Whether the pod was scraped once and has not been lately."""
        return self._scrapes[pod.name] is not None and not self._was_scraped(pod)

    def has_had_no_request(self, pod: PodView) -> bool:
        """Whether the engine exports its counters with its first request, and has had none."""
        return self._before_first_request(COUNTERS, pod) is not None

    def doubt(self, pod: PodView) -> Doubt | None:
        """Why nothing that the pod says counts; None when it does."""
        return self._doubts.get(pod.name)

    def _doubt(self, pod: PodView) -> Doubt | None:
        clusters = self.look_up([self.snapshot.clusters], pod) if self.snapshot.clusters else None
        if clusters:
            several = ", ".join(sorted(clusters))
            text = f"series of {pod.name} come from clusters {several}: set prometheus_matchers to yours"
            return Doubt(Freshness.ERROR, text)
        scrape = self._scrapes[pod.name]
        if scrape and scrape.spacing_seconds > LONGEST_SPACING_SECONDS * _SPACING_TOLERANCE:
            text = f"{pod.name} is scraped every {scrape.spacing_seconds:.0f} s, which is too rarely"
            return Doubt(Freshness.STALE, f"{text}: at most every {LONGEST_SPACING_SECONDS:.0f} s is a basis")
        return None

    # Gathering

    def _gather_rates(self, metric: Metric) -> Rates:
        per_name = [self.snapshot.counters.get(name, {}) for name in metric.names]
        long = 0.0
        found: dict[str, Rate] = {}

        def short(pod: PodView) -> Sample | None:
            measured = self.look_up(per_name, pod)
            if measured is None:
                return None
            found[pod.name] = measured
            return Sample(measured.at_seconds, measured.short)

        gathered = self._gather(metric, COUNTERS, short)
        long = sum([found[name].long * metric.scale for name in gathered.values if name in found])
        return Rates(gathered, long)

    def _gather(self, metric: Metric, group: str, sample_of: Callable[[PodView], Sample | None]) -> Gathered:
        if group in self.snapshot.errors:
            return Gathered(Freshness.ERROR, {}, detail=self.snapshot.errors[group])
        if not self.ready:
            return Gathered(Freshness.EMPTY, {}, detail="no pod is ready")
        values: dict[str, float] = {}
        doubts: list[Doubt] = []
        age, newest = 0.0, float("inf")
        clock = self.snapshot.clock_seconds
        for pod in (*self.ready, *self.others):
            if doubt := self._doubts.get(pod.name) or self._impossible(metric, pod):
                doubts.append(doubt)
                continue
            sample = sample_of(pod) or self._before_first_request(group, pod)
            if sample is None:
                continue
            if self.is_fresh(pod, sample.at_seconds):
                values[pod.name] = sample.value * metric.scale
                age = max(age, clock - sample.at_seconds)
            else:
                newest = min(newest, clock - sample.at_seconds)
        reporting = sum(pod.name in values for pod in self.ready)
        if not reporting:
            return self._nothing(metric, doubts, newest)
        # A new pod is given time before its silence makes the whole fact doubtful, but none before it counts as busy.
        overdue = sum(name not in values for name in self.expected)
        missing = len(self.ready) - reporting
        if reporting < overdue:
            text = f"only {reporting} of {reporting + overdue} pods report {' or '.join(metric.names)}"
            text = "; ".join([text, *[doubt.text for doubt in doubts[:1]]])
            return Gathered(Freshness.STALE, values, age, missing, text)
        return Gathered(Freshness.FRESH, values, age, missing, doubts[0].text if doubts else "")

    def _nothing(self, metric: Metric, doubts: Sequence[Doubt], newest: float) -> Gathered:
        """No ready pod reports: samples that do not count, old ones, or none."""
        if doubts:
            return Gathered(doubts[0].state, {}, detail=doubts[0].text)
        if newest == float("inf"):
            newest = self._last_scraped()
        if newest == float("inf"):
            self.absent.update(metric.names)
            text = absent.words(metric, self.snapshot, self.ready)
            if self.engine.before is not Before.EVERYTHING:
                text += f"; no request yet, or not scraped ({self.engine.name} exports it with its first request)"
            return Gathered(Freshness.EMPTY, {}, detail=text)
        old = f"{newest:.0f} s old" if newest > 0 else f"{-newest:.0f} s in the future"
        text = f"the newest sample of {' or '.join(metric.names)} is {old}"
        if apart := self.spacing():
            text += f" (scraped every {apart:.0f} s)"
        return Gathered(Freshness.STALE, {}, newest, len(self.ready), text)

    def _last_scraped(self) -> float:
        """Age of the latest scrape where no pod was scraped lately; infinite where one was, or where none ever was."""
        if any(self._was_scraped(pod) for pod in self.ready):
            return float("inf")
        known = [scrape.at_seconds for pod in self.ready if (scrape := self._scrapes[pod.name])]
        return self.snapshot.clock_seconds - max(known) if known else float("inf")

    def _was_scraped(self, pod: PodView) -> bool:
        scrape = self._scrapes[pod.name]
        return scrape is not None and self.is_fresh(pod, scrape.at_seconds)

    def _impossible(self, metric: Metric, pod: PodView) -> Doubt | None:
        for name in metric.names:
            if pods := self.snapshot.impossible.get(name):
                fault = self.look_up([pods], pod)
                if fault is not None:
                    return Doubt(Freshness.ERROR, f"{pod.name} says that {name} is {fault}")
        return None

    # Before the first request

    def _before_first_request(self, group: str, pod: PodView) -> Sample | None:
        """0 where the engine is known to export this only with its first request, and the pod is known to have had none."""
        before = self.engine.before
        if before is Before.EVERYTHING or (group == GAUGES and before is not Before.NOTHING):
            return None
        inside = [self._own_gauge(metric, pod) for metric in self.engine.metrics(("running", "waiting", "in_flight"))]
        known = [sample for sample in inside if sample is not None]
        if known:
            idle = group == COUNTERS and len(known) == len(inside) and all(sample.value == 0 for sample in known)
            return Sample(min([sample.at_seconds for sample in known]), 0.0) if idle else None
        up = self.look_up([self.snapshot.up], pod)
        # An exposition that is not empty is somebody else's: a sidecar's.
        if up is None or not up.answered or (before is Before.NOTHING and up.samples):
            return None
        return Sample(up.at_seconds, 0.0)

    def _own_gauge(self, metric: Metric, pod: PodView) -> Sample | None:
        sample = self.look_up([self.snapshot.gauges.get(name, {}) for name in metric.names], pod)
        return sample if sample is not None and self.is_fresh(pod, sample.at_seconds) else None

    def _idle_words(self) -> str:
        names = sorted(self.idle)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        return f"{names[0]}{more} counted as idle: no token and no change of the requests inside for minutes"


def plus(one: Gathered, other: Gathered) -> Gathered:
    """Sum of two facts by pod; the worse of the two states."""
    for part in (one, other):
        if part.state is not Freshness.FRESH:
            return part
    names = one.values.keys() & other.values.keys()
    return Gathered(
        Freshness.FRESH,
        {name: one.values[name] + other.values[name] for name in names},
        max(one.age_seconds, other.age_seconds),
        max(one.missing, other.missing),
        one.detail or other.detail,
    )


def _addresses(pod: PodView) -> list[str]:
    return [canonical(address) for address in (pod.ip, *pod.more_ips) if address]
