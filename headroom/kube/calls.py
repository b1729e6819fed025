"""The API calls that Headroom makes, by name. Each returns decoded or raw bytes; errors are those of `headroom.kube.client`."""

import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec

from headroom import wire
from headroom.kube.client import MERGE_PATCH, KubeClient, Query

T = TypeVar("T")

NODES = "/api/v1/nodes"
PODS = "/api/v1/pods"
NAMESPACES = "/api/v1/namespaces"
DEVICE_CLASSES = "/apis/resource.k8s.io/v1/deviceclasses"
RESOURCE_SLICES = "/apis/resource.k8s.io/v1/resourceslices"
RESOURCE_CLAIMS = "/apis/resource.k8s.io/v1/resourceclaims"

_PAGE_SIZE: Final = 500


class _Page(wire.Wire):
    metadata: wire.ListMeta = msgspec.field(default_factory=wire.ListMeta)
    items: Sequence[msgspec.Raw] = ()


_PAGE: Final = wire.Decoder(_Page)


def pod_path(namespace: str, name: str) -> str:
    """Path of one pod."""
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


async def get(kube: KubeClient, path: str, decoder: msgspec.json.Decoder[T], *, query: Query = ()) -> T:
    """GET and decode."""
    return decoder.decode(await kube.request("GET", path, query=query, timeout_seconds=60))


async def listed(kube: KubeClient, path: str) -> AsyncIterator[msgspec.Raw]:
    """Every object of a list, not decoded yet, asked for page by page. Raises WireError for an answer that is no list."""
    token = ""
    while True:
        query = [("limit", str(_PAGE_SIZE)), *([("continue", token)] if token else [])]
        page = _PAGE.decode(await kube.request("GET", path, query=query, timeout_seconds=60))
        for item in page.items:
            yield item
        token = page.metadata.continue_
        if not token:
            return


async def merge_patch(kube: KubeClient, path: str, patch: Mapping[str, Any], *, manager: str = "") -> bytes:
    """PATCH with a JSON merge patch. Under `manager` the API server records who wrote these fields."""
    query = [("fieldManager", manager)] if manager else []
    return await kube.request("PATCH", path, query=query, body=patch, content_type=MERGE_PATCH)


async def annotate(kube: KubeClient, path: str, annotations: Mapping[str, str | None]) -> bytes:
    """Set annotations (None removes one)."""
    return await merge_patch(kube, path, {"metadata": {"annotations": annotations}})


@dataclass(frozen=True, slots=True)
class Binding:
    """A pod is to run on a node; `annotations` are merged into it in the same write."""

    namespace: str
    name: str
    uid: str
    """The API server refuses another pod of the same name."""
    node: str
    annotations: Mapping[str, str] = field(default_factory=dict)
    resource_version: str = ""
    """Where it is given, the API server refuses (Conflict) a pod that has changed since."""


async def bind(kube: KubeClient, binding: Binding, *, timeout_seconds: float = 10.0) -> None:
    """Bind a pod to a node."""
    version = {"resourceVersion": binding.resource_version} if binding.resource_version else {}
    body = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": binding.name, "uid": binding.uid, "annotations": binding.annotations} | version,
        "target": {"apiVersion": "v1", "kind": "Node", "name": binding.node},
    }
    path = f"{pod_path(binding.namespace, binding.name)}/binding"
    await kube.request("POST", path, body=body, timeout_seconds=timeout_seconds)


async def nominate(kube: KubeClient, namespace: str, name: str, uid: str, node: str | None) -> bytes:
    """Write `status.nominatedNodeName`, which kube-scheduler tries before any other node (None clears it); gives the pod as it is then.

    Raises Conflict for another pod of the same name.
    """
    patch = {"metadata": {"uid": uid}, "status": {"nominatedNodeName": node}}
    return await merge_patch(kube, f"{pod_path(namespace, name)}/status", patch)


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


@dataclass(frozen=True, slots=True)
class Event:
    """An Event (events.k8s.io/v1) about an object."""

    regarding: Mapping[str, str]
    """Its apiVersion, kind, namespace, name and uid."""
    reason: str
    note: str
    """The API server takes up to 1,024 bytes; longer ones are cut."""
    action: str
    controller: str
    instance: str
    now: datetime.datetime
    warning: bool = False


async def record_event(kube: KubeClient, event: Event) -> None:
    """Create an Event."""
    regarding, now = event.regarding, event.now
    namespace = regarding.get("namespace") or "default"
    body = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        # As client-go names them: the object and the time, in hexadecimal.
        "metadata": {"name": f"{regarding['name'][:230]}.{round(now.timestamp() * 1e6):x}", "namespace": namespace},
        "eventTime": micro_time(now),
        "reportingController": event.controller,
        "reportingInstance": event.instance[:128],
        "action": event.action,
        "reason": event.reason,
        "regarding": regarding,
        "note": event.note.encode()[:1024].decode(errors="ignore"),
        "type": "Warning" if event.warning else "Normal",
    }
    await kube.request("POST", f"/apis/events.k8s.io/v1/namespaces/{namespace}/events", body=body)


def micro_time(now: datetime.datetime) -> str:
    """RFC 3339 with microseconds, as MicroTime fields want it. `now` must be in UTC."""
    return now.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
