"""Targets, pods and series, and an observer of them."""

from collections.abc import Sequence
from typing import Any

from autoscaler.api.resource import DECODER, Target, read
from autoscaler.observation.answers import Snapshot, SnapshotBuilder
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.gathering import ObserveSettings
from autoscaler.observation.observer import Observer
from autoscaler.observation.queries import facts_of
from headroom.prometheus.client import Series
from headroom.wire import encode

NOW = 1_800_000_000.0


def target(engine: str = "vllm", **spec: Any) -> Target:
    whole = {
        "metadata": {"name": "llm", "namespace": "ns"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "engine": engine, "maxReplicas": 9, **spec},
    }
    return read(DECODER.decode(encode(whole)))


def pod(name: str, *, ready_for: float = 1000.0, node: str = "n", cards: tuple[str, ...] = (), **more: Any) -> PodView:
    values: dict[str, Any] = {
        "namespace": "ns", "name": name, "owner": "Deployment/ns/llm", "node": node, "ip": "", "phase": "Running",
        "created_at": NOW - ready_for - 100, "scheduled_at": NOW - ready_for - 90, "ready_at": NOW - ready_for,
        "deleted_at": 0.0, "failing": False, "cards": cards, "share": 0.0, "deletion_cost": "", **more,
    }  # fmt: skip
    return PodView(**values)


def one(name: str, pod_name: str, *points: tuple[float, float], **labels: str) -> Series:
    return Series({"__name__": name, "namespace": "ns", "pod": pod_name, **labels}, points or ((NOW - 2, 1.0),))


def gauge(name: str, pod_name: str, value: float, **labels: str) -> Series:
    return one(name, pod_name, (NOW - 2, value), **labels)


def counter(name: str, pod_name: str, per_second: float, **labels: str) -> Series:
    return one(
        name, pod_name, *((NOW - 2 - 15 * back, 1e6 - per_second * 15 * back) for back in range(6, -1, -1)), **labels
    )


def snapshot_of(
    of: Target, gauges: Sequence[Series] = (), counters: Sequence[Series] = (), buckets: Sequence[Series] = ()
) -> Snapshot:
    builder = SnapshotBuilder(NOW, facts_of([of.engine]), (30, 60))
    builder.add_gauges(gauges)
    builder.add_counters(counters)
    builder.add_buckets("timeToFirstToken", buckets)
    return builder.finish()


def observer(of: Target, own: list[PodView], gauges: list[Series], counters: Sequence[Series] = ()) -> Observer:
    return Observer(of, own, snapshot_of(of, gauges, counters), NOW, ObserveSettings())
