"""Every metric of the scheduler extender."""

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headroom.units import MIB
from scheduler.ledger.fleet import Fleet

_LATENCY_BUCKETS: Final = (
    0.00025, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.006, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip


class SchedulerMetrics:
    """Counters and histograms that the parts of the extender write to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.request_seconds = Histogram(
            "headroom_extender_request_seconds",
            "Time to answer kube-scheduler, from the complete request to the complete answer.",
            ["verb"],
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.requests = Counter(
            "headroom_extender_requests_total",
            "Answers to kube-scheduler: placed, refused, passed (no GPU asked), scored, bound, answered (preempt), error,"
            " bad_request, not_ready, standby or forbidden.",
            ["verb", "result"],
            registry=registry,
        )
        self.reservations_ended = Counter(
            "headroom_reservations_ended_total",
            "Reservations by how they ended: bound, expired, deleted, moved, displaced, node_changed, bind_failed, group_ended or"
            " handed_over.",
            ["end"],
            registry=registry,
        )
        self.deciding = Gauge(
            "headroom_extender_deciding",
            "1 for the extender that decides, 0 for those that stand by.",
            registry=registry,
        )
        self.watch_age = Gauge(
            "headroom_watch_age_seconds",
            "Time since the API server was last heard on the watch, events and bookmarks alike.",
            ["kind"],
            registry=registry,
        )
        self.events_read = Counter(
            "headroom_watch_events_total",
            "Changes applied of nodes, pods, and of the classes, slices and claims of DRA.",
            ["kind"],
            registry=registry,
        )
        self.objects_refused = Counter(
            "headroom_objects_not_understood_total",
            "Nodes, pods and resource claims whose fields contradict each other or cannot be read.",
            ["kind"],
            registry=registry,
        )
        self.wakes = Counter(
            "headroom_wakes_total",
            "Node annotations written to have refused pods tried again.",
            ["result"],
            registry=registry,
        )
        self.preemptions = Counter(
            "headroom_preemptions_total",
            "Preemptions by how they ended: completed, timed_out, refused (a disruption budget), failed or cancelled.",
            ["result"],
            registry=registry,
        )
        self.evictions = Counter(
            "headroom_evictions_total",
            "Evictions asked for: accepted, refused or failed.",
            ["result"],
            registry=registry,
        )
        self.named_ahead = Counter(
            "headroom_named_ahead_total",
            "Pods named ahead of kube-scheduler: named, late (the pod was decided before the patch) or failed.",
            ["result"],
            registry=registry,
        )
        self.placeholders = Gauge(
            "headroom_placeholders",
            "Placeholder pods that ask a node autoscaler for room now, and unmet pods beyond their greatest number.",
            ["state"],
            registry=registry,
        )
        self.placeholder_writes = Counter(
            "headroom_placeholder_writes_total",
            "Placeholders created and deleted, and pinned pods labelled so that their nodes do not look free: ok or failed.",
            ["write", "result"],
            registry=registry,
        )
        self.measured_reads = Counter(
            "headroom_measured_reads_total",
            "Readings of measured VRAM from Prometheus: ok or failed.",
            ["result"],
            registry=registry,
        )
        self.measured_cards = Gauge("headroom_measured_cards", "Cards with a fresh measurement.", registry=registry)
        self.measured_series_left_out = Gauge(
            "headroom_measured_series_left_out",
            "Series of measured VRAM that do not count: stale, unusable (no card or no value), unmatched (a card that no node has)"
            " or doubted (a scrape job that is not among device_jobs).",
            ["why"],
            registry=registry,
        )
        self.cycle_failures = Counter(
            "headroom_cycle_failures_total",
            "Rounds of a background task that ended in an unforeseen error; the task goes on.",
            ["task"],
            registry=registry,
        )


class Limits(Protocol):
    """A namespace's quota."""

    @property
    def namespace(self) -> str:
        """Its name."""
        ...

    @property
    def vram_mib(self) -> int | None:
        """Most memory that its pods may hold; None without a limit."""
        ...

    @property
    def cards(self) -> int | None:
        """Most cards and slices that they may hold, None without a limit."""
        ...


class Gauges(Protocol):
    """What the state reports when it is scraped."""

    @property
    def fleet(self) -> Fleet:
        """Cards and what they hold."""
        ...

    @property
    def quotas(self) -> Iterable[tuple[Limits, int, int]]:
        """Namespaces with a quota, and the MiB and cards that their pods hold."""
        ...

    def figures(self) -> dict[str, float]:
        """Gauge name without prefix -> value."""
        ...


class FleetCollector(Collector):
    """Per-node memory and the state's figures, computed when scraped, so that an event costs nothing here.

    It may run beside the event loop; `state` is then a copy as of one moment.
    """

    def __init__(self, state: Gauges, fragmentation: Callable[[], float]) -> None:
        self._state = state
        self._fragmentation = fragmentation

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        fleet = self._state.fleet
        rows = sorted(fleet.row_of.items())
        totals = {
            "usable": fleet.usable_mib.sum(axis=1),
            "declared": fleet.held_mib.sum(axis=1),
            "measured": fleet.measured_mib.sum(axis=1),
            "foreign": fleet.foreign_mib.sum(axis=1),
            "free": fleet.free_mib.sum(axis=1),
        }
        given, left = fleet.slices.sum(axis=1), fleet.slices_free.sum(axis=1)
        vram = GaugeMetricFamily(
            "headroom_node_vram_bytes",
            "GPU memory of a node's cards: usable by pods, declared (their shares), measured (in use), foreign (in use by no pod), free.",
            labels=["node", "state"],
        )
        slices = GaugeMetricFamily(
            "headroom_node_slices",
            "Time slices or cards that the device plugin advertises and has left.",
            labels=["node", "state"],
        )
        for name, row in rows:
            for state, values in totals.items():
                vram.add_metric([name, state], float(values[row]) * MIB)
            slices.add_metric([name, "total"], float(given[row]))
            slices.add_metric([name, "free"], float(left[row]))
        yield vram
        yield slices
        yield GaugeMetricFamily(
            "headroom_largest_free_bytes",
            "Free memory of the emptiest card: no larger share fits anywhere.",
            value=float(np.max(fleet.free_mib, initial=0)) * MIB,
        )
        yield GaugeMetricFamily(
            "headroom_fragmentation_ratio",
            "Part of the free GPU memory that the pods seen lately could not use, weighted by how often each kind comes.",
            value=self._fragmentation(),
        )
        yield from self._quotas()
        for name, value in self._state.figures().items():
            yield GaugeMetricFamily(f"headroom_{name}", _FIGURES[name], value=value)

    def _quotas(self) -> Iterator[Metric]:
        vram = GaugeMetricFamily(
            "headroom_namespace_vram_bytes",
            "GPU memory that the pods of a namespace with a quota hold, and the most that they may (max).",
            labels=["namespace", "state"],
        )
        cards = GaugeMetricFamily(
            "headroom_namespace_cards",
            "Cards and slices that the pods of a namespace with a quota hold, and the most that they may (max).",
            labels=["namespace", "state"],
        )
        for quota, held_mib, held_cards in self._state.quotas:
            vram.add_metric([quota.namespace, "held"], float(held_mib) * MIB)
            cards.add_metric([quota.namespace, "held"], float(held_cards))
            if quota.vram_mib is not None:
                vram.add_metric([quota.namespace, "max"], float(quota.vram_mib) * MIB)
            if quota.cards is not None:
                cards.add_metric([quota.namespace, "max"], float(quota.cards))
        yield vram
        yield cards


_FIGURES: Final = {
    "reservations": "Placements that wait for their binding.",
    "bound_pods": "Bound pods that are accounted for, with or without a GPU.",
    "waiting_pods": "Unbound pods with a GPU demand, whichever scheduler they wait for.",
    "refused_pods": "Pods that fitted nowhere when last asked about.",
    "kept_nodes": "Nodes that are closed to pods that come after one which has been refused for too long.",
    "nodes": "Nodes whose cards are known.",
    "nodes_not_understood": "Nodes whose description of their cards cannot be used.",
    "namespaces_not_understood": "Namespaces whose quota cannot be read; their pods wait.",
    "pods_in_disagreement": "Bound pods whose assignment cannot be read, or is not what they ask for; the larger of the two counts.",
    "pods_under_way": "Bound pods in slice mode whose cards kubelet has not confirmed yet.",
    "pods_trusted": "Pods whose cards were taken as final without confirmation by their node's agent, since the start.",
    "resource_claims": "Resource claims that hold accelerators (DRA).",
    "resource_claims_in_disagreement": "Resource claims of which some devices match no known card; the other devices count.",
    "over_committed_cards": "Cards on which pods hold more than there is, as found in the API.",
}
