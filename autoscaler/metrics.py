"""Every metric of the autoscaler. Labels: the object's namespace and name, signal names of its spec, fixed words."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class AutoscalerMetrics:
    """Counters and gauges that the loop writes to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        of = ["namespace", "name"]
        self.replicas = Gauge(
            "headroom_autoscaler_replicas", "What the target's scale asks for.", of, registry=registry
        )
        self.ready = Gauge("headroom_autoscaler_ready_replicas", "Ready pods of the target.", of, registry=registry)
        self.wanted = Gauge(
            "headroom_autoscaler_wanted_replicas", "What the signals ask for within the bounds.", of, registry=registry
        )
        self.unmet = Gauge(
            "headroom_autoscaler_unmet_replicas",
            "Replicas refused by capacity, GPU limits or budget.",
            of,
            registry=registry,
        )
        self.needed = Gauge(
            "headroom_autoscaler_needed_replicas",
            "What the load of this moment asks for, without windows, reserve and rates.",
            of,
            registry=registry,
        )
        self.decided = Gauge(
            "headroom_autoscaler_decided_replicas",
            "What was decided: written, or to be followed where the object only advises.",
            of,
            registry=registry,
        )
        self.start_up = Gauge(
            "headroom_autoscaler_start_up_seconds",
            "From the node given to ready, as replicas usually take.",
            of,
            registry=registry,
        )
        self.objective = Gauge(
            "headroom_autoscaler_objective_met_ratio",
            "Share of the requests of about the last hour that met the objective.",
            of,
            registry=registry,
        )
        self.signal = Gauge(
            "headroom_autoscaler_signal", "Reading of a signal, in its own unit.", [*of, "signal"], registry=registry
        )
        self.signal_target = Gauge(
            "headroom_autoscaler_signal_target", "What the reading is held against.", [*of, "signal"], registry=registry
        )
        self.signal_fresh = Gauge(
            "headroom_autoscaler_signal_fresh",
            "1 while the signal is fresh, else 0.",
            [*of, "signal"],
            registry=registry,
        )
        self.moves = Counter(
            "headroom_autoscaler_moves_total", "Changes of replicas written.", [*of, "direction"], registry=registry
        )
        self.objects = Gauge(
            "headroom_autoscaler_objects",
            "InferenceAutoscalers by whether they are acted on.",
            ["state"],
            registry=registry,
        )
        self.leader = Gauge("headroom_autoscaler_leader", "1 on the one that acts.", registry=registry)
        self.tick_seconds = Histogram(
            "headroom_autoscaler_tick_seconds",
            "Time of a whole tick.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0),
            registry=registry,
        )
        self.last_tick = Gauge(
            "headroom_autoscaler_last_tick_timestamp_seconds", "When the last tick ended.", registry=registry
        )
        self.prometheus_up = Gauge(
            "headroom_autoscaler_prometheus_up", "1 while Prometheus answers, else 0.", registry=registry
        )
        self.queries = Counter("headroom_autoscaler_prometheus_queries_total", "Queries asked.", registry=registry)
        self.query_failures = Counter(
            "headroom_autoscaler_prometheus_failures_total", "Queries without an answer.", registry=registry
        )
        self.writes = Counter(
            "headroom_autoscaler_writes_total",
            "Writes to the API server: scale, status, cost, event; by result ok, conflict or error.",
            ["what", "result"],
            registry=registry,
        )
        self.tick_failures = Counter(
            "headroom_autoscaler_failures_total",
            "Errors nobody foresaw, by where: the tick, or one object of it.",
            ["where"],
            registry=registry,
        )

    def forget(self, namespace: str, name: str) -> None:
        """Drop the series of an object that is gone or not acted on."""
        for gauge in (self.replicas, self.ready, self.wanted, self.unmet, self.decided, self.start_up):
            _remove(gauge, namespace, name)
        self.forget_load(namespace, name)
        _remove(self.objective, namespace, name)

    def forget_load(self, namespace: str, name: str) -> None:
        """Drop what the load asks for while no signal is fresh."""
        _remove(self.needed, namespace, name)

    def forget_moves(self, namespace: str, name: str) -> None:
        """Drop the counters of an object that is gone."""
        for direction in ("up", "down"):
            _remove(self.moves, namespace, name, direction)

    def forget_signals(self, namespace: str, name: str, signals: Iterable[str]) -> None:
        """Drop the series of signals that an object no longer has."""
        for signal in signals:
            for gauge in (self.signal, self.signal_target, self.signal_fresh):
                _remove(gauge, namespace, name, signal)


def _remove(metric: Gauge | Counter, *labels: str) -> None:
    try:
        metric.remove(*labels)
    except KeyError:
        return
