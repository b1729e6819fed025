"""Pods and nodes of values that nobody would write: none of them stops a watch, and the books stay in order.

Made from case s12; what becomes of an event whose handler fails is in tests/unit/headroom/kube/test_client.py.
"""

import json
import random
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from headroom import wire
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name

AMOUNTS = (
    "1",
    "0",
    "-1",
    "1e3",
    "1e300",
    "1e999",
    "5Gi",
    "0.5",
    "100m",
    "1n",
    "9" * 22,
    "",
    "x",
    "1E6",
    "\u0663",
    7,
    7.5,
    -3,
    1e300,
    True,
)
RESOURCES = (
    "nvidia.com/gpu", "headroom.dev/vram", "headroom.dev/gpu-milli", "headroom.dev/gpu", "nvidia.com/gpumem", "aliyun.com/gpu-mem", "cpu",
    "memory", "nvidia.com/gpumem-percentage", "amd.com/gpu", "headroom.dev/x", "foo/bar",
)  # fmt: skip
WRITTEN = {
    "assigned-cards": ("g0", "g0,g0", "g0,g1", "", "0", ",", "1, 0", "g9", "9999", ",".join(["g0"] * 5000)),
    "assigned-vram-mib": ("1", "0", "999999999", "9999999999", "-1", "", "1,2", "x", "0,0"),
    "assigned-mode": ("pinned", "slice", "", "x"),
    "kubelet-cards": ("", "g0", "g0,g1", ",", "g9"),
}
LABELS = {
    "nvidia.com/gpu.count": ("1", "2", "0", "x", "999999999"), "nvidia.com/gpu.replicas": ("0", "1", "4", "999999999"),
    "nvidia.com/gpu.product": ("NVIDIA-L4", "NVIDIA-L4-SHARED", "A100-MIG-1g", ""),
    "nvidia.com/gpu.memory": ("23034", "0", "999999999", "x", "1G"), "headroom.dev/card-vram": ("10Gi", "1", "-1", "1e300", "x"),
    "headroom.dev/card-reserve": ("1Gi", "1e300", "-1", "x"), "headroom.dev/allocation": ("packed", "x"),
    "nvidia.com/gpu.sharing-strategy": ("none", "mps", "time-slicing", "x"), "nvidia.com/mig.strategy": ("mixed", "single"),
}  # fmt: skip
CARDS = ("x", "[]", "[1]", '[{"id": "a", "model": "b", "vram_mib": 1.5}]')


class Oddities:
    """Objects as JSON, drawn by a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.one_of = self._rng.choice

    def some(self, names: tuple[str, ...], most: int) -> dict[str, Any]:
        return {name: self.one_of(AMOUNTS) for name in self._rng.sample(names, self._rng.randint(0, most))}

    def drawn(self, values: dict[str, tuple[str, ...]], part: float, prefix: str = "") -> dict[str, str]:
        return {prefix + key: self.one_of(texts) for key, texts in values.items() if self._rng.random() < part}

    def pod(self) -> dict[str, Any]:
        containers = [
            {"name": f"c{at}", "resources": {"limits": self.some(RESOURCES, 3)}}
            for at in range(self._rng.randint(0, 2))
        ]
        sidecar = {
            "name": "i",
            "restartPolicy": self.one_of(("", "Always")),
            "resources": {"limits": self.some(RESOURCES, 2)},
        }
        return {
            "metadata": {
                "name": self.one_of("abc"), "namespace": self.one_of(("default", "")), "uid": self.one_of(("u1", "u2", "u3", "u4", "")),
                "annotations": self.drawn(WRITTEN, 0.6, "headroom.dev/"), "creationTimestamp": self.one_of((None, "2026-01-01T00:00:00Z")),
                "deletionTimestamp": self.one_of((None, None, "2026-01-01T00:00:00Z")),
            },
            "spec": {
                "nodeName": self.one_of(("", "n1", "n2", "nx")), "priority": self.one_of((0, 5, -5, 2**31 - 1)), "containers": containers,
                "initContainers": [sidecar] * self._rng.randint(0, 1), "overhead": self.some(("cpu", "memory"), 1),
                "schedulerName": self.one_of(("headroom", "other")),
            },
            "status": {
                "phase": self.one_of(("Pending", "Running", "Succeeded", "Failed", "")),
                "startTime": self.one_of((None, "2026-01-01T00:00:01Z")),
            },
        }  # fmt: skip

    def node(self) -> dict[str, Any]:
        card = {
            "model": "NVIDIA-L4",
            "vram_mib": self.one_of((1, 23034, 2**31, 2**31 + 1, 0)),
            "slices": self.one_of((1, 4, 4096, 5000)),
        }
        more = {"reserve_mib": self.one_of((0, 500, 2**31)), "healthy": self.one_of((True, True, False))}
        cards = json.dumps([{"id": f"g{at}"} | card | more for at in range(self._rng.randint(0, 4))])
        return {
            "metadata": {
                "name": self.one_of(("n1", "n2")), "labels": self.drawn(LABELS, 0.4),
                "annotations": self.drawn({"headroom.dev/cards": (cards, cards, *CARDS)}, 0.5),
            },
            "spec": {"unschedulable": self.one_of((False, False, True))},
            "status": {"allocatable": self.some(RESOURCES, 4), "capacity": self.some(RESOURCES, 2)},
        }  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_no_object_is_an_error_of_ours(seed: int) -> None:
    odd, state = (
        Oddities(seed),
        ClusterState(policy_by_name("headroom"), SchedulerMetrics(CollectorRegistry()), monotonic=lambda: 0.0),
    )
    for _ in range(60):
        is_node, kind = odd.one_of((True, False, False)), odd.one_of(("ADDED", "MODIFIED", "MODIFIED", "DELETED"))
        raw = json.dumps(odd.node() if is_node else odd.pod()).encode()
        try:
            if is_node:
                node = wire.NODE.decode(raw)
                state.on_node(kind, node.metadata.name, node)
            else:
                pod = wire.POD.decode(raw)
                state.on_pod(kind, pod.key, pod)
        except wire.WireError:
            continue
        assert state.ledger.check() + state.pods.check() == []
