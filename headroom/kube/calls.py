"""The API calls that Headroom makes, by name. Each returns decoded or raw bytes; errors are those of `headroom.kube.client`."""

import datetime
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from headroom.kube.client import MERGE_PATCH, KubeClient, Query

T = TypeVar("T")

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
NAMESPACES = "/api/v1/namespaces"
DEVICE_CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
RESOURCE_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
RESOURCE_CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"


def pod_path(namespace: str, name: str) -> str:
    """Path of one pod."""
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


async def get(kube: KubeClient, path: str, decoder: msgspec.json.Decoder[T], *, query: Query = ()) -> T:
    """GET and decode."""
    return decoder.decode(await kube.request("GET", path, query=query, timeout_seconds=60))


async def merge_patch(kube: KubeClient, path: str, patch: Mapping[str, Any], *, manager: str = "") -> bytes:
    """PATCH with a JSON merge patch. Under `manager` the API server records who wrote these fields."""
    query = [("fieldManager", manager)] if manager else []
    return await kube.request("PATCH", path, query=query, body=patch, content_type=MERGE_PATCH)


async def annotate(kube: KubeClient, path: str, annotations: Mapping[str, str | None]) -> bytes:
    """Set annotations (None removes one)."""
    return await merge_patch(kube, path, {"metadata": {"annotations": annotations}})


async def bind(
    kube: KubeClient,
    namespace: str,
    name: str,
    uid: str,
    node: str,
    annotations: Mapping[str, str],
    *,
    resource_version: str = "",
    timeout_seconds: float = 10.0,
) -> None:
    """Bind a pod to a node; the API server merges `annotations` into the pod in the same write and checks `uid`.

    With a `resource_version` it also refuses (Conflict) a pod that has changed since.
    """
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "uid": uid, "annotations": annotations}
        | ({"resourceVersion": resource_version} if resource_version else {}),
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    await kube.request("POST", f"{pod_path(namespace, name)}/binding", body=binding, timeout_seconds=timeout_seconds)


async def nominate(kube: KubeClient, namespace: str, name: str, node: str | None) -> None:
    """Write `status.nominatedNodeName`, which kube-scheduler tries before any other node (None clears it)."""
    await merge_patch(kube, f"{pod_path(namespace, name)}/status", {"status": {"nominatedNodeName": node}})


async def evict(kube: KubeClient, namespace: str, name: str, uid: str, *, dry_run: bool = False) -> None:
    """Evict a pod, keeping its PodDisruptionBudget, or with `dry_run` only ask whether that is allowed now.

    Raises TooManyRequests when the budget forbids it now.
    """
    eviction: dict[str, Any] = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": uid}},
    }
    if dry_run:
        eviction["deleteOptions"]["dryRun"] = ["All"]
    await kube.request("POST", f"{pod_path(namespace, name)}/eviction", body=eviction)


async def record_event(
    kube: KubeClient,
    *,
    regarding: Mapping[str, str],
    reason: str,
    note: str,
    action: str,
    controller: str,
    instance: str,
    now: datetime.datetime,
    warning: bool = False,
) -> None:
    """Create an Event (events.k8s.io/v1) about an object: `regarding` holds apiVersion, kind, namespace, name, uid.

    The API server takes notes of up to 1,024 bytes; longer ones are cut.
    """
    namespace = regarding.get("namespace") or "default"
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        # As client-go names them: the object and the time, in hexadecimal.
        "metadata": {"name": f"{regarding['name'][:230]}.{round(now.timestamp() * 1e6):x}", "namespace": namespace},
        "eventTime": micro_time(now),
        "reportingController": controller,
        "reportingInstance": instance[:128],
        "action": action,
        "reason": reason,
        "regarding": regarding,
        "note": note.encode()[:1024].decode(errors="ignore"),
        "type": "Warning" if warning else "Normal",
    }
    await kube.request("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", body=event)


def micro_time(now: datetime.datetime) -> str:
    """RFC 3339 with microseconds, as MicroTime fields want it. `now` must be in UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
