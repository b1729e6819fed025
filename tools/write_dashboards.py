"""The Grafana dashboards of deploy/dashboards, which `tools.write` writes.

Each dashboard is a table of panels below: title, what it says, queries. Every metric that a query names is one of
`tools.write_metrics`; tests ask a real Prometheus each query. The data source and, where there is one, the namespace are chosen on
the dashboard.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "deploy" / "dashboards"
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS: Final = 24
_HEIGHT: Final = 8
_AT_ONCE: Final = ("stat", "gauge", "table", "bargauge")
"""Panels that show one moment, not a course."""


@dataclass(frozen=True)
class Panel:
    """One picture. A query is (legend, expression)."""

    title: str
    says: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    largest: float | None = None
    stacked: bool = False


@dataclass(frozen=True)
class Dashboard:
    """One file. A variable is (name, label, the metric and label that it takes its values from)."""

    uid: str
    title: str
    says: str
    panels: tuple[Panel, ...]
    variables: tuple[tuple[str, str, str], ...] = ()


_OF_OBJECT: Final = '{namespace=~"$namespace", name=~"$name"}'

DASHBOARDS: Final = (
    Dashboard(
        "headroom-fleet",
        "Headroom / Fleet",
        "Cards: what there is, what is held, what is used, and what would still fit.",
        (
            Panel("GPU memory of the fleet", "What pods may use, what they hold, and what is free.", (
                ("usable", 'sum(max by (node) (headroom_node_vram_bytes{state="usable"}))'),
                ("held by pods", 'sum(max by (node) (headroom_node_vram_bytes{state="declared"}))'),
                ("measured in use", 'sum(max by (node) (headroom_node_vram_bytes{state="measured"}))'),
                ("of nobody's pod", 'sum(max by (node) (headroom_node_vram_bytes{state="foreign"}))'),
                ("free", 'sum(max by (node) (headroom_node_vram_bytes{state="free"}))'),
            ), "bytes"),
            Panel("Free memory that pods could not use", "Fragmentation: 0 is none. Weighted by the kinds of pods that came lately.", (
                ("fragmentation", "max(headroom_fragmentation_ratio)"),
            ), "percentunit", "stat", 4),
            Panel("Emptiest card", "No larger share fits anywhere.", (
                ("free", "max(headroom_largest_free_bytes)"),
            ), "bytes", "stat", 4),
            Panel("Pods that fit nowhere", "When last asked about.", (
                ("refused", "max(headroom_refused_pods)"),
                ("waiting", "max(headroom_waiting_pods)"),
            ), "short", "stat", 4),
            Panel("Memory in use, card by card", "Of what the card has.", (
                ("{{node}} {{card}}", "headroom_card_memory_used_bytes / headroom_card_memory_total_bytes"),
            ), "percentunit", "bargauge", 12, 1.0),
            Panel("Busy, card by card", "Share of time that any kernel ran. It says busy or idle, not how full.", (
                ("{{node}} {{card}}", "headroom_card_utilization_ratio"),
            ), "percentunit", "bargauge", 12, 1.0),
            Panel("Free memory by node", "The twenty emptiest.", (
                ("{{node}}", 'topk(20, max by (node) (headroom_node_vram_bytes{state="free"}))'),
            ), "bytes"),
            Panel("Slices left", "Time slices or whole cards that the device plugin advertises.", (
                ("given", 'sum(max by (node) (headroom_node_slices{state="total"}))'),
                ("left", 'sum(max by (node) (headroom_node_slices{state="free"}))'),
            )),
            Panel("Power", "Drawn by all cards, by model.", (
                ("{{model}}", "sum by (model) (headroom_card_power_watts)"),
            ), "watt", stacked=True),
            Panel("Temperature", "The warmest card of each node.", (
                ("{{node}}", "max by (node) (headroom_card_temperature_celsius)"),
            ), "celsius"),
            Panel("Pods that use more than they were given", "Beyond their share, or on a card that is not theirs.", (
                ("{{namespace}}/{{pod}} {{kind}}", "sum by (namespace, pod, kind) (headroom_pod_memory_excess_bytes)"),
            ), "bytes", "table"),
            Panel("Cards that may not be used", "Withdrawn by the agent, by node.", (
                ("{{node}} {{card}}", "headroom_card_healthy == 0"),
            ), "short", "table"),
        ),
    ),
    Dashboard(
        "headroom-scheduler",
        "Headroom / Scheduler",
        "The extender: whether it decides, how fast, and what it says.",
        (
            Panel("Decides", "1: one extender decides, as it should be.", (
                ("deciding", "sum(headroom_extender_deciding)"),
            ), "short", "stat", 4),
            Panel("Watch age", "Time since the API server was last heard.", (
                ("{{kind}}", "max by (kind) (headroom_watch_age_seconds)"),
            ), "s", "stat", 4),
            Panel("Over-committed cards", "0 is right. Another scheduler, or a pod with a node name of its own.", (
                ("cards", "max(headroom_over_committed_cards)"),
            ), "short", "stat", 4),
            Panel("Answers", "By verb and result.", (
                ("{{verb}} {{result}}", "sum by (verb, result) (rate(headroom_extender_requests_total[$__rate_interval]))"),
            ), "reqps"),
            Panel("Time to answer, 99 of 100", "From the complete request to the complete answer.", (
                ("{{verb}}", "histogram_quantile(0.99, sum by (verb, le) (rate(headroom_extender_request_seconds_bucket[$__rate_interval])))"),
            ), "s"),
            Panel("Reservations by their end", "bound is the usual one.", (
                ("{{end}}", "sum by (end) (rate(headroom_reservations_ended_total[$__rate_interval]))"),
            ), "ops"),
            Panel("Waiting, refused, reserved", "Pods with a GPU demand.", (
                ("waiting", "max(headroom_waiting_pods)"),
                ("refused", "max(headroom_refused_pods)"),
                ("reserved", "max(headroom_reservations)"),
            )),
            Panel("Preemptions and evictions", "By result.", (
                ("preemption {{result}}", "sum by (result) (rate(headroom_preemptions_total[$__rate_interval]))"),
                ("eviction {{result}}", "sum by (result) (rate(headroom_evictions_total[$__rate_interval]))"),
            ), "ops"),
            Panel("What is not understood", "Nodes, quotas and assignments that cannot be used as they are.", (
                ("nodes", "max(headroom_nodes_not_understood)"),
                ("namespaces", "max(headroom_namespaces_not_understood)"),
                ("pods in disagreement", "max(headroom_pods_in_disagreement)"),
            )),
            Panel("Measured memory", "Cards with a fresh measurement, and series that do not count.", (
                ("cards", "max(headroom_measured_cards)"),
                ("left out: {{why}}", "max by (why) (headroom_measured_series_left_out)"),
            )),
            Panel("Quota: memory held", "Of what the namespace may hold.", (
                ("{{namespace}}", 'max by (namespace) (headroom_namespace_vram_bytes{state="held"}) / max by (namespace) (headroom_namespace_vram_bytes{state="max"})'),
            ), "percentunit", "bargauge", 12, 1.0),
        ),
    ),
    Dashboard(
        "headroom-autoscaler",
        "Headroom / Autoscaler",
        "One InferenceAutoscaler at a time: its load, what it wishes for, what it has.",
        (
            Panel("Replicas", "Wanted by the signals, asked of the target, ready.", (
                ("{{name}} wanted", f"max by (namespace, name) (headroom_autoscaler_wanted_replicas{_OF_OBJECT})"),
                ("{{name}} asked", f"max by (namespace, name) (headroom_autoscaler_replicas{_OF_OBJECT})"),
                ("{{name}} ready", f"max by (namespace, name) (headroom_autoscaler_ready_replicas{_OF_OBJECT})"),
            ), width=24),
            Panel("Signals", "Each in its own unit.", (
                ("{{name}} {{signal}}", f"max by (namespace, name, signal) (headroom_autoscaler_signal{_OF_OBJECT})"),
            )),
            Panel("Signals that are not fresh", "0 is a signal without a current reading. Without one, nothing is lowered.", (
                ("{{name}} {{signal}}", f"max by (namespace, name, signal) (headroom_autoscaler_signal_fresh{_OF_OBJECT}) == 0"),
            )),
            Panel("Replicas that could not be had", "Refused by capacity, limits or budget.", (
                ("{{name}}", f"max by (namespace, name) (headroom_autoscaler_unmet_replicas{_OF_OBJECT})"),
            )),
            Panel("Changes", "Written to the target, by direction.", (
                ("{{name}} {{direction}}", f"sum by (namespace, name, direction) (increase(headroom_autoscaler_moves_total{_OF_OBJECT}[$__rate_interval]))"),
            )),
            Panel("Objects", "By whether they are acted on.", (
                ("{{state}}", "max by (state) (headroom_autoscaler_objects)"),
            ), "short", "stat", 8),
            Panel("Prometheus answers", "1 is yes.", (
                ("up", "max(headroom_autoscaler_prometheus_up)"),
            ), "short", "stat", 8),
            Panel("One acts", "1 is right.", (
                ("leaders", "sum(headroom_autoscaler_leader)"),
            ), "short", "stat", 8),
            Panel("Time of a tick, 99 of 100", "", (
                ("tick", "histogram_quantile(0.99, sum by (le) (rate(headroom_autoscaler_tick_seconds_bucket[$__rate_interval])))"),
            ), "s"),
            Panel("Writes to the API server", "By what and result.", (
                ("{{what}} {{result}}", "sum by (what, result) (rate(headroom_autoscaler_writes_total[$__rate_interval]))"),
            ), "ops"),
        ),
        (
            ("namespace", "Namespace", "label_values(headroom_autoscaler_replicas, namespace)"),
            ("name", "InferenceAutoscaler", 'label_values(headroom_autoscaler_replicas{namespace=~"$namespace"}, name)'),
        ),
    ),
    Dashboard(
        "headroom-usage",
        "Headroom / Usage",
        "Card hours, energy and money by project. `headroom usage` makes the bill; this shows its course.",
        (
            Panel("Cards reserved, by project", "Card time reserved for each second.", (
                ("{{project}}", "sum by (project) (rate(headroom_pod_reserved_seconds_total[$__rate_interval]))"),
            ), stacked=True),
            Panel("Cards busy, by project", "Card time with the project's kernels running.", (
                ("{{project}}", "sum by (project) (rate(headroom_pod_busy_seconds_total[$__rate_interval]))"),
            ), stacked=True),
            Panel("Busy while reserved", "A project at 5 % holds cards that it does not use.", (
                ("{{project}}", "sum by (project) (increase(headroom_pod_busy_seconds_total[1d])) / sum by (project) (increase(headroom_pod_reserved_seconds_total[1d]))"),
            ), "percentunit", "bargauge", 12, 1.0),
            Panel("Energy in a day, by project", "Measured or estimated, the device's idle draw included.", (
                ("{{project}}", "sum by (project) (increase(headroom_pod_energy_joules_total[1d]))"),
            ), "joule", "bargauge"),
            Panel("Card hours in a day that nobody reserved", "", (
                ("{{model}}", "sum by (model) (increase(headroom_card_unreserved_seconds_total[1d])) / 3600"),
            ), "h", "stat"),
            Panel("Money a month for cards that are there", "Prices of the tariff.", (
                ("{{model}}", "count by (model) (headroom_card_memory_total_bytes) * on (model) max by (model) (headroom_card_hour_price) * 730"),
            ), "short", "stat"),
        ),
    ),
)  # fmt: skip


def rendered(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard as Grafana imports it (schema 39: Grafana 10 and later)."""
    places = _places(dashboard.panels)
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.says,
        "tags": ["headroom", "gpu"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_data_source(), *(_variable(*one) for one in dashboard.variables)]},
        "panels": [
            _panel(number, panel, place)
            for number, (panel, place) in enumerate(zip(dashboard.panels, places, strict=True), start=1)
        ],
    }


def _places(panels: Sequence[Panel]) -> list[dict[str, int]]:
    """Row by row from the left."""
    places, x, y = [], 0, 0
    for panel in panels:
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        places.append({"x": x, "y": y, "w": panel.width, "h": _HEIGHT})
        x += panel.width
    return places


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name, "label": label, "type": "query", "datasource": _SOURCE, "query": query, "refresh": 2,
        "includeAll": True, "allValue": ".*", "multi": True, "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    instant = panel.kind in _AT_ONCE
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.largest is not None:
        defaults["max"] = panel.largest
    if panel.kind == "timeseries":
        defaults["custom"] = {"fillOpacity": 10, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "instant": instant,
                "range": not instant,
                **({"format": "table"} if panel.kind == "table" else {}),
            }
            for at, (legend, expression) in enumerate(panel.queries)
        ],
    }


def files() -> dict[Path, str]:
    """Content by file."""
    return {
        FOLDER / f"{one.uid.removeprefix('headroom-')}.json": json.dumps(rendered(one), indent=1) + "\n"
        for one in DASHBOARDS
    }
