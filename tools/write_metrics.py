"""docs/metrics.md, the list of every metric of the three daemons, from the code that declares them; `tools.write` writes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.energy.books import Account
from agent.energy.tariff import Tariff
from agent.metrics import AgentMetrics
from autoscaler.metrics import AutoscalerMetrics
from scheduler.cluster.state import ClusterState
from scheduler.cluster.view import StateView
from scheduler.metrics import FleetCollector, SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"

_HEAD: Final = """# Metrics

Every metric of the three daemons, made from the code by `make tables`. All are served at `/metrics`: scheduler on port
8901, autoscaler on 8902, agent on 8903. Units are base units: bytes, seconds, joules, watts, ratios from 0 to 1.

Alerts on them are in `deploy/base/alerts.yaml`, dashboards in `deploy/dashboards` ([dashboards](dashboards.md)). What the account makes of
them is on the page [usage](usage.md).
"""


@dataclass(frozen=True)
class Entry:
    """A metric as Prometheus knows it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str


class _Registry(CollectorRegistry):
    """Remembers the labels of what is registered: a family without a sample does not tell them."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: dict[str, tuple[str, ...]] = {}

    def register(self, collector: Collector) -> None:
        super().register(collector)
        name = getattr(collector, "_name", None)
        if name is not None:
            self.labels[name] = tuple(getattr(collector, "_labelnames", ()))

    def entries(self) -> Iterator[Entry]:
        """In order of their names."""
        for family in sorted(self.collect(), key=lambda one: one.name):
            labels = self.labels.get(family.name, _labels(family))
            name = f"{family.name}_total" if family.type == "counter" else family.name
            yield Entry(name, family.type, labels, family.documentation)


def _labels(family: Metric) -> tuple[str, ...]:
    return tuple(getattr(family, "_labelnames", ()))


def daemons() -> dict[str, tuple[Entry, ...]]:
    """Metrics by daemon."""
    schedulers, autoscalers, agents = _Registry(), _Registry(), _Registry()
    state = ClusterState(policy_by_name("fgd"), SchedulerMetrics(schedulers), monotonic=lambda: 0.0)
    schedulers.register(FleetCollector(StateView(state), lambda: 0.0))
    AutoscalerMetrics(autoscalers)
    AgentMetrics(agents, node="n1", account=Account(longest_gap_seconds=30.0), tariff=Tariff())
    registries = {"Scheduler": schedulers, "Autoscaler": autoscalers, "Agent": agents}
    return {name: tuple(registry.entries()) for name, registry in registries.items()}


def files() -> dict[Path, str]:
    """The text of docs/metrics.md."""
    parts = [_HEAD]
    for daemon, entries in daemons().items():
        parts.append(f"\n## {daemon}\n\n| metric | kind | labels | what it says |\n|---|---|---|---|\n")
        for entry in entries:
            labels = ", ".join(f"`{label}`" for label in entry.labels)
            parts.append(f"| `{entry.name}` | {entry.kind} | {labels} | {entry.text} |\n")
    return {PAGE: "".join(parts)}
