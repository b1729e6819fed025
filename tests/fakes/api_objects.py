"""Paths, selectors, patches and refusals of a Kubernetes API server, as functions of plain objects."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]


@dataclass
class Request:
    """One call as the server saw it."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass(frozen=True)
class Target:
    """What a path points at."""

    resource: str
    """Group, version and plural, e.g. `/api/v1/pods`."""
    plural: str
    namespace: str
    name: str
    subresource: str


def target_of(path: str) -> Target:
    parts = path.strip("/").split("/")
    depth = 2 if parts[0] == "api" else 3
    if len(parts) <= depth:
        raise Refusal(404, "NotFound", f"the server could not find the requested resource {path}")
    base, rest = "/" + "/".join(parts[:depth]), parts[depth:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    return Target(
        resource=f"{base}/{rest[0]}",
        plural=rest[0],
        namespace=namespace,
        name=rest[1] if len(rest) > 1 else "",
        subresource=rest[2] if len(rest) > 2 else "",
    )


class Refusal(Exception):
    """An answer other than success, as a Status object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


def status_of(refusal: Refusal) -> Object:
    return {
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": refusal.code, "reason": refusal.reason, "message": refusal.message,
    }  # fmt: skip


def scale_of(body: Object) -> Object:
    replicas, status = body.get("spec", {}).get("replicas", 1), body.get("status", {})
    return {
        "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": body["metadata"], "spec": {"replicas": replicas},
        "status": {"replicas": status.get("replicas", replicas), "selector": status.get("selector", "")},
    }  # fmt: skip


def check_preconditions(body: Object, change: Object) -> None:
    meta = change.get("metadata") or {}
    for name in ("uid", "resourceVersion"):
        if meta.get(name) and meta[name] != body["metadata"].get(name):
            raise Refusal(409, "Conflict", f"the object has been modified: {name} is {body['metadata'].get(name)}")


def merge(body: Object, change: Object) -> None:
    """RFC 7386."""
    for key, value in change.items():
        if value is None:
            body.pop(key, None)
        elif isinstance(value, dict) and isinstance(body.get(key), dict):
            merge(body[key], value)
        elif isinstance(value, dict):
            body[key] = {}
            merge(body[key], value)
        else:
            body[key] = value


def selected(body: Object, request: Request) -> bool:
    labels = body["metadata"].get("labels", {})
    wanted = _pairs(request.query.get("labelSelector", ""))
    fields = _pairs(request.query.get("fieldSelector", ""))
    return all(labels.get(key) == value for key, value in wanted) and all(
        _field(body, key) == value for key, value in fields
    )


def _pairs(selector: str) -> Iterator[tuple[str, str]]:
    for part in filter(None, selector.split(",")):
        key, _, value = part.replace("==", "=").partition("=")
        yield key, value


def _field(body: Object, path: str) -> Any:
    value: Any = body
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return value
