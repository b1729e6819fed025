"""Every metric of the node agent.

Device totals and per-pod shares are separate families, so that a sum over either is right on shared cards. A reading that is
missing makes its series disappear; it never turns into a zero.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agent.cards.reader import CardReading, Missing, Reading
from agent.energy.attribution import PodMemory
from agent.energy.books import ESTIMATED, MEASURED, UNKNOWN, Account, CardBook, PodBook
from agent.energy.tariff import Tariff
from agent.pods.trespass import Finding
from headroom.domain.model import Card

_CARD: Final = ("node", "card", "model")
_POD: Final = (*_CARD, "namespace", "pod", "project")
_KNOWN_SOURCES: Final = (MEASURED, ESTIMATED)

_GAUGES: Final = (
    ("memory_total_bytes", "Memory of the card, the driver's reserve included."),
    ("memory_reserved_bytes", "Memory that the driver keeps for itself."),
    ("memory_used_bytes", "Memory in use by anyone, reserve not included."),
    ("memory_free_bytes", "Memory in use by no one."),
    ("utilization_ratio", "Share of time that any kernel ran, 0 to 1; it says busy or idle, not how full."),
    ("memory_utilization_ratio", "Share of time that device memory was read or written, 0 to 1."),
    ("sm_ratio", "Multiprocessor share of all processes together, 0 to 1."),
    ("power_watts", "Power draw."),
    ("power_limit_watts", "Power limit in force."),
    ("temperature_celsius", "Temperature of the die."),
)

_MEMORY: Final = frozenset(name for name, _ in _GAUGES if name.startswith("memory_") and name.endswith("_bytes"))


@dataclass(slots=True)
class Snapshot:
    """What the last cycle found; replaced as a whole."""

    reading: Reading | None = None
    """None while the driver cannot be asked: no card series are exported then, rather than old ones."""
    cards: tuple[Card, ...] = ()
    memory: tuple[PodMemory, ...] = ()
    unattributed_bytes: Mapping[str, int] = field(default_factory=dict)
    trespasses: tuple[Finding, ...] = ()


class AgentMetrics(Collector):
    """Exports the last snapshot and the account; holds the counters of the agent itself."""

    def __init__(self, registry: CollectorRegistry, *, node: str, account: Account, tariff: Tariff) -> None:
        self._node, self._account, self._tariff = node, account, tariff
        self.snapshot = Snapshot()
        registry.register(self)

        def count(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(f"headroom_agent_{name}", text, list(labels), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"headroom_agent_{name}", text, registry=registry)

        self.readings = count("readings_total", "Readings of the cards, by result.", ["result"])
        self.driver_up = gauge("driver_up", "1 while the driver answers, else 0.")
        self.reading_seconds = gauge("reading_seconds", "Time the last reading took.")
        self.cycle_seconds = gauge("cycle_seconds", "Time the last cycle took, API calls included.")
        self.read_at = gauge("last_reading_timestamp_seconds", "Unix time of the last reading that succeeded.")
        self.standby = gauge("standby", "1 while another agent on this node holds the lock, else 0.")
        self.faults = count("card_faults_total", "Faults the driver reported, by Xid (0: ECC).", ["xid"])
        self.withdrawals = count("card_withdrawals_total", "Times a card was withdrawn, by reason.", ["reason"])
        self.vanished = gauge("processes_vanished", "Processes gone before they could be looked up, since the start.")
        self.reused = gauge("pids_reused", "Process numbers found to be another process, since the start.")
        self.findings = count(
            "assignments_total", "Pods compared with kubelet's list whose state was settled, by finding.", ["finding"]
        )
        self.trespasses = count(
            "trespasses_total",
            "Pods found to use more than their share of a card (over_share) or a card that is not theirs (foreign_card).",
            ["kind"],
        )
        self.podresources_errors = count(
            "podresources_errors_total", "Failed questions to kubelet, by reason.", ["reason"]
        )
        self.unmatched = Gauge(
            "headroom_agent_unmatched",
            "Entries of kubelet's list that match nothing known, by kind.",
            ["kind"],
            registry=registry,
        )
        self.writes = count("writes_total", "API writes, by object and result.", ["object", "result"])
        self.cycle_errors = count("cycle_errors_total", "Cycles that failed for a reason nobody foresaw.")

    def collect(self) -> Iterator[Metric]:
        """See prometheus_client's Collector."""
        yield from self._readings()
        yield from self._missing()
        yield from self._memory()
        yield from self._card_books()
        yield from self._pod_books()
        yield from self._tariffs()

    def _readings(self) -> Iterator[Metric]:
        cards = self.snapshot.reading.cards if self.snapshot.reading is not None else ()
        for name, text in _GAUGES:
            family = GaugeMetricFamily(f"headroom_card_{name}", text, labels=_CARD)
            for card in cards:
                value = getattr(card, name)
                # The memory of a partitioned card is that of its instances: counted once, there.
                if not isinstance(value, Missing) and (card.allocatable or name not in _MEMORY):
                    family.add_metric(self._labels(card), value)
            yield family
        counter = CounterMetricFamily(
            "headroom_card_device_energy_joules",
            "The driver's own energy counter: what the card drew, whether or not an agent was looking.",
            labels=_CARD,
        )
        for card in cards:
            if not isinstance(card.energy_millijoules, Missing):
                counter.add_metric(self._labels(card), card.energy_millijoules / 1000)
        yield counter
        errors = CounterMetricFamily(
            "headroom_card_ecc_uncorrected_errors",
            "Uncorrected memory errors since the driver was loaded.",
            labels=_CARD,
        )
        for card in cards:
            if not isinstance(card.ecc_uncorrected, Missing):
                errors.add_metric(self._labels(card), card.ecc_uncorrected)
        yield errors
        healthy = GaugeMetricFamily("headroom_card_healthy", "1 for a card that may be used, else 0.", labels=_CARD)
        for published in self.snapshot.cards:
            healthy.add_metric((self._node, published.id, published.model), float(published.healthy))
        yield healthy

    def _missing(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "headroom_agent_missing_fields",
            "Cards for which a field has no value, by field and reason.",
            labels=("field", "reason"),
        )
        counts: dict[tuple[str, str], int] = {}
        reading = self.snapshot.reading
        for _, name, why in reading.missing if reading is not None else ():
            counts[name, why.value] = counts.get((name, why.value), 0) + 1
        for place, number in sorted(counts.items()):
            family.add_metric(place, number)
        yield family
        broken = GaugeMetricFamily(
            "headroom_agent_broken_cards", "Cards that cannot be read, by reason.", labels=("reason",)
        )
        reasons: dict[str, int] = {}
        for card in reading.broken if reading is not None else ():
            reasons[card.reason] = reasons.get(card.reason, 0) + 1
        for reason, number in sorted(reasons.items()):
            broken.add_metric((reason,), number)
        yield broken

    def _memory(self) -> Iterator[Metric]:
        models = {card.id: card.model for card in self.snapshot.reading.cards} if self.snapshot.reading else {}
        used = GaugeMetricFamily(
            "headroom_pod_memory_used_bytes",
            "Card memory that a container's processes hold.",
            labels=(*_CARD, "namespace", "pod", "container", "project"),
        )
        for entry in self.snapshot.memory:
            place = (self._node, entry.card, models.get(entry.card, ""))
            pod = entry.pod
            used.add_metric((*place, pod.namespace, pod.name, entry.container, pod.project), entry.used_bytes)
        yield used
        outside = GaugeMetricFamily(
            "headroom_card_unattributed_memory_bytes",
            "Memory of processes that belong to no pod; absent where the driver does not tell whose processes hold memory.",
            labels=_CARD,
        )
        for card, amount in sorted(self.snapshot.unattributed_bytes.items()):
            outside.add_metric((self._node, card, models.get(card, "")), amount)
        yield outside
        excess = GaugeMetricFamily(
            "headroom_pod_memory_excess_bytes",
            "Card memory that a pod uses and was not given, where that is more than is tolerated: beyond its share (over_share)"
            " or on a card that is not its own (foreign_card).",
            labels=(*_POD, "kind"),
        )
        for found in self.snapshot.trespasses if self.snapshot.reading is not None else ():
            place = (self._node, found.card, models.get(found.card, ""))
            pod = found.pod
            excess.add_metric((*place, pod.namespace, pod.name, pod.project, found.kind.value), found.excess_bytes)
        yield excess

    def _card_books(self) -> Iterator[Metric]:
        def family(name: str, text: str, *labels: str) -> CounterMetricFamily:
            return CounterMetricFamily(f"headroom_card_{name}", text, labels=(*_CARD, *labels))

        energy = family("energy_joules", "Energy drawn, by how it is known.", "source")
        idle = family("idle_energy_joules", "Idle energy of what nobody reserved.", "source")
        outside = family("unattributed_energy_joules", "Energy used by processes outside all pods.", "source")
        observed = family("observed_seconds", "Time under observation, by how its energy is known.", "energy")
        unreserved = family("unreserved_seconds", "Card time that nobody reserved.")
        busy = family("busy_seconds", "Card time with kernels running.")
        outside_busy = family("unattributed_busy_seconds", "Card time with kernels of processes outside all pods.")
        for card_id, book in sorted(self._account.cards.items()):
            place = (self._node, card_id, book.model)
            for source in _KNOWN_SOURCES:
                energy.add_metric((*place, source), book.energy_millijoules[source] / 1000)
                idle.add_metric((*place, source), book.idle_millijoules[source] / 1000)
                outside.add_metric((*place, source), book.unattributed_millijoules[source] / 1000)
            for source in (*_KNOWN_SOURCES, UNKNOWN):
                observed.add_metric((*place, source), book.observed_milliseconds[source] / 1000)
            unreserved.add_metric(place, book.unreserved_milliseconds / 1000)
            busy.add_metric(place, book.busy_milliseconds / 1000)
            outside_busy.add_metric(place, book.unattributed_busy_milliseconds / 1000)
        yield from (energy, idle, outside, observed, unreserved, busy, outside_busy)
        for name, text, value in (
            ("counter_resets", "Energy counters that went back or jumped.", self._account.counter_resets),
            ("clock_anomalies", "Intervals of no or negative length.", self._account.clock_anomalies),
            ("gaps", "Intervals too long to say who used the card.", self._account.gaps),
        ):
            yield CounterMetricFamily(f"headroom_agent_{name}", text, value=value)

    def _pod_books(self) -> Iterator[Metric]:
        energy = CounterMetricFamily(
            "headroom_pod_energy_joules", "Energy booked to a pod, by how it is known.", labels=(*_POD, "source")
        )
        reserved = CounterMetricFamily("headroom_pod_reserved_seconds", "Card time reserved by a pod.", labels=_POD)
        busy = CounterMetricFamily("headroom_pod_busy_seconds", "Card time with a pod's kernels running.", labels=_POD)
        for card_id, book in sorted(self._account.cards.items()):
            for place, entry in self._pods_of(card_id, book):
                for source in _KNOWN_SOURCES:
                    energy.add_metric((*place, source), entry.energy_millijoules[source] / 1000)
                reserved.add_metric(place, entry.reserved_milliseconds / 1000)
                busy.add_metric(place, entry.busy_milliseconds / 1000)
        yield from (energy, reserved, busy)

    def _pods_of(self, card_id: str, book: CardBook) -> Iterator[tuple[tuple[str, ...], PodBook]]:
        for pod, entry in sorted(book.pods.items()):
            yield (self._node, card_id, book.model, pod.namespace, pod.name, pod.project), entry

    def _tariffs(self) -> Iterator[Metric]:
        price = GaugeMetricFamily(
            "headroom_card_hour_price", "Price of a card hour, by model.", labels=("model", "currency")
        )
        models = {book.model for book in self._account.cards.values()}
        for model in sorted(models):
            value = self._tariff.price_of(model)
            if value is not None:
                price.add_metric((model, self._tariff.currency), value)
        yield price
        budget = GaugeMetricFamily(
            "headroom_project_budget", "Money a project may spend in 30 days.", labels=("project", "currency")
        )
        for project, value in sorted(self._tariff.budgets.items()):
            budget.add_metric((project, self._tariff.currency), value)
        yield budget

    def _labels(self, card: CardReading) -> tuple[str, str, str]:
        return (self._node, card.id, card.model)
