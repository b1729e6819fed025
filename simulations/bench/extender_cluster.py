"""Clusters for the benchmarks: objects as large as real ones, and an API server that binds at once."""

import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final

import msgspec

from headroom import names, wire
from headroom.domain.model import Mode
from headroom.kube import calls
from headroom.kube.client import JSON, Query, WatchEvent
from headroom.wire import ADDED, DELETED, MODIFIED
from scheduler.daemon import SchedulerDaemon
from scheduler.settings import SchedulerSettings

_CARDS_PER_NODE: Final = 8
_VRAM_MIB: Final = 80 * 1024
SIZES_GIB: Final = (6, 10, 16, 20, 24, 38)  # a card with one old pod always has room for one more
_DRIVER: Final = "gpu.nvidia.com"
_TIME: Final = "2026-01-01T00:00:00Z"
_PODS_KEPT: Final = 200  # bound pods of the measurement that exist at once; older ones end
_MANAGED_FIELDS: Final[dict[str, Any]] = {"f:spec": {f"f:field{at}": {} for at in range(40)}}


def node_object(at: int) -> dict[str, Any]:
    """A node with eight 80 GB cards, described by the agent's annotation."""
    name = f"node-{at:05d}"
    cards = [
        {
            "id": f"GPU-{at:05d}-{card}",
            "index": card,
            "model": "NVIDIA-A100-SXM4-80GB",
            "vram_mib": _VRAM_MIB,
            "slices": 1,
        }
        for card in range(_CARDS_PER_NODE)
    ]
    return {
        "metadata": {
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "labels": {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
            "annotations": {names.ANNOTATION_NODE_CARDS: json.dumps(cards)},
        },
        "spec": {},
        "status": {"allocatable": {"cpu": "128", "memory": "1Ti", "pods": "110"}},
    }


def pod_object(name: str, vram_gib: int, node: str = "", card: int | None = None) -> dict[str, Any]:
    """A pod as large as real ones are on the wire: about 3 KiB."""
    annotations = {}
    if card is not None:
        annotations = {
            names.ANNOTATION_ASSIGNED_CARDS: f"GPU-{node.removeprefix('node-')}-{card}",
            names.ANNOTATION_ASSIGNED_VRAM_MIB: str(vram_gib * 1024),
            names.ANNOTATION_ASSIGNED_MODE: Mode.PINNED.value,
        }
    quantities = {names.RESOURCE_VRAM: f"{vram_gib}Gi", "cpu": "4", "memory": "16Gi"}
    return {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {
            "name": name,
            "namespace": "models",
            "uid": f"uid-{name}",
            "resourceVersion": "1",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": name.rsplit("-", 1)[0], "pod-template-hash": "6b7f9c4d5"},
            "annotations": annotations,
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": "x" * 36, "controller": True}
            ],
            "managedFields": [
                {
                    "manager": "kube-controller-manager",
                    "operation": "Update",
                    "apiVersion": "v1",
                    "fieldsV1": _MANAGED_FIELDS,
                }
            ],
        },
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            "nodeName": node,
            "containers": [
                {
                    "name": "server",
                    "image": "registry.example/model-server:1",
                    "args": ["--model", "some/model", "--port", "8000"],
                    "env": [{"name": f"VARIABLE_{at}", "value": "value"} for at in range(8)],
                    "resources": {"limits": quantities, "requests": quantities},
                    "ports": [{"containerPort": 8000, "protocol": "TCP"}],
                    "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                }
            ],
            "volumes": [{"name": "cache", "emptyDir": {}}],
            "tolerations": [
                {
                    "key": "node.kubernetes.io/not-ready",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 300,
                }
            ],
            "serviceAccountName": "default",
            "priority": 0,
        },
        "status": {"phase": "Running" if node else "Pending", "qosClass": "Burstable"},
    }


def bound_pods(nodes: int, pods_per_node: int) -> Iterator[dict[str, Any]]:
    """Pods of the usual sizes on every node, one on each card."""
    for at in range(nodes):
        for number in range(pods_per_node):
            yield pod_object(f"old-{at}-{number}", SIZES_GIB[number % len(SIZES_GIB)], f"node-{at:05d}", number)


def class_object(condition: str = "gpu") -> dict[str, Any]:
    """The driver's class, which also serves `nvidia.com/gpu`; `condition` is the type of the devices that it means."""
    expression = f"device.driver == '{_DRIVER}' && device.attributes['{_DRIVER}'].type == '{condition}'"
    return {
        "metadata": {"name": _DRIVER, "uid": "uid-class", "creationTimestamp": _TIME},
        "spec": {"selectors": [{"cel": {"expression": expression}}], "extendedResourceName": "nvidia.com/gpu"},
    }


def slice_object(at: int) -> dict[str, Any]:
    """The slice of node `at`, with a device for each of its cards."""
    name = f"node-{at:05d}"
    devices = [
        {
            "name": f"gpu-{card}",
            "attributes": {
                "uuid": {"string": f"GPU-{at:05d}-{card}"}, "type": {"string": "gpu"}, "brand": {"string": "Nvidia"},
                "productName": {"string": "NVIDIA A100-SXM4-80GB"}, "architecture": {"string": "Ampere"},
                "cudaComputeCapability": {"version": "8.0.0"}, "driverVersion": {"version": "580.95.5"},
                "resource.kubernetes.io/pcieRoot": {"string": f"pci0000:{card:02x}"},
            },
            "capacity": {"memory": {"value": "80Gi"}},
        }
        for card in range(_CARDS_PER_NODE)
    ]  # fmt: skip
    return {
        "metadata": {"name": f"{name}-{_DRIVER}", "uid": f"uid-slice-{at}", "creationTimestamp": _TIME},
        "spec": {
            "driver": _DRIVER,
            "nodeName": name,
            "pool": {"name": name, "generation": 1, "resourceSliceCount": 1},
            "devices": devices,
        },
    }


def claim_object(at: int, number: int) -> dict[str, Any]:
    """A claim that holds card `number` of node `at` for one pod."""
    name, node = f"claim-{at}-{number}", f"node-{at:05d}"
    request = {"name": "gpu", "exactly": {"deviceClassName": _DRIVER, "allocationMode": "ExactCount", "count": 1}}
    result = {"request": "gpu", "driver": _DRIVER, "pool": node, "device": f"gpu-{number % _CARDS_PER_NODE}"}
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    return {
        "metadata": {
            "name": name, "namespace": "models", "uid": f"uid-{name}", "creationTimestamp": _TIME,
            "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": f"pod-{name}", "controller": True}],
        },
        "spec": {"devices": {"requests": [request]}},
        "status": {
            "allocation": {"devices": {"results": [result]}, "nodeSelector": {"nodeSelectorTerms": [term]}},
            "reservedFor": [{"resource": "pods", "name": name, "uid": f"pod-{name}"}],
        },
    }  # fmt: skip


def device_objects(nodes: int, claims_per_node: int) -> dict[str, Iterator[dict[str, Any]]]:
    """All of them by their path; none where no node has a claim."""
    if not claims_per_node:
        return {calls.DEVICE_CLASSES: iter(()), calls.RESOURCE_SLICES: iter(()), calls.RESOURCE_CLAIMS: iter(())}
    return {
        calls.DEVICE_CLASSES: iter([class_object()]),
        calls.RESOURCE_SLICES: (slice_object(at) for at in range(nodes)),
        calls.RESOURCE_CLAIMS: (claim_object(at, number) for at in range(nodes) for number in range(claims_per_node)),
    }


class InstantApi:
    """A KubeClient that binds at once and tells the state so, as the watch would; the oldest pods end."""

    def __init__(self) -> None:
        self.daemon: SchedulerDaemon | None = None
        self._bound: list[wire.Pod] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = JSON,
        timeout_seconds: float = 10.0,
    ) -> bytes:
        """Only `binding` does anything."""
        if path.endswith("/binding") and self.daemon is not None:
            state, effects = self.daemon.state, self.daemon.effects
            entry = state.pods.entries[body["metadata"]["uid"]]
            pod = wire.POD.decode(wire.encode(entry.pod))
            pod.spec.node_name = body["target"]["name"]
            pod.metadata.annotations = dict(body["metadata"]["annotations"])
            pod.status.phase = "Running"
            effects(state.on_pod(MODIFIED, pod.key, pod))
            self._bound.append(pod)
            if len(self._bound) > _PODS_KEPT:
                gone = self._bound.pop(0)
                effects(state.on_pod(DELETED, gone.key, gone))
        return b"{}"

    async def watch(self, path: str, resource_version: str, *, query: Query = ()) -> AsyncIterator[WatchEvent]:
        """Nothing ever happens by itself."""
        for event in list[WatchEvent]():
            yield event

    async def close(self) -> None:
        """Nothing to release."""


def filled_daemon(node_count: int, pods_per_node: int, policy: str, seed: int = 1) -> SchedulerDaemon:
    """A ready daemon over `node_count` nodes, each with `pods_per_node` bound pods."""
    api = InstantApi()
    daemon = SchedulerDaemon(
        api, SchedulerSettings(host="127.0.0.1", port=0, policy=policy, naming_ahead=False, preemption=False)
    )
    rng = random.Random(seed)
    for at in range(node_count):
        node = wire.NODE.decode(msgspec.json.encode(node_object(at)))
        daemon.state.on_node(ADDED, node.metadata.name, node)
        for number in range(pods_per_node):
            body = pod_object(f"old-{at}-{number}", rng.choice(SIZES_GIB), node.metadata.name, number % _CARDS_PER_NODE)
            pod = wire.POD.decode(msgspec.json.encode(body))
            daemon.state.on_pod(ADDED, pod.key, pod)
    api.daemon = daemon
    for part in ("nodes", "pods", "namespaces"):
        daemon.health.set_ready(part, ready=True)
    return daemon
