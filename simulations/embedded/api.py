"""The API server of the embedded simulated cluster: the parts of the Kubernetes REST API that Headroom's daemons use, over HTTP.

List and watch (with bookmarks), get, create, merge-patch and delete of any kind; `binding`, `eviction`, `status` and `scale`
of pods and workloads. Answers and refusals follow kube-apiserver 1.36: a Binding merges its annotations into the pod, checks the
uid, and refuses a pod that is bound already.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import web

from simulations.embedded.store import Conflict, Key, Object, Store, StoreError, merge

_KINDS: Final = {
    "pods": "Pod",
    "nodes": "Node",
    "deployments": "Deployment",
    "poddisruptionbudgets": "PodDisruptionBudget",
    "events": "Event",
    "leases": "Lease",
    "inferenceautoscalers": "InferenceAutoscaler",
}
_BOOKMARK_SECONDS: Final = 30.0


class ApiServer:
    """Serves a `Store` on a loopback port. `evicted(namespace, name)` is called when an eviction is accepted."""

    def __init__(self, store: Store, evicted: Callable[[str, str], None]) -> None:
        self._store = store
        self._evicted = evicted
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.requests: Counter[str] = Counter()
        """Calls answered, by method, collection and subresource, e.g. `PATCH nodes`; benchmarks count the writes."""

    async def start(self) -> str:
        """Listen on a free loopback port; returns the address."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{port}"
        return self.url

    async def stop(self) -> None:
        """Close the port and every watch."""
        if self._runner is not None:
            await self._runner.cleanup()

    def write_kubeconfig(self, path: Path) -> None:
        """Write a kubeconfig that points here."""
        context = {"cluster": "simulated", "user": "simulated"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "simulated", "cluster": {"server": self.url}}],
            "users": [{"name": "simulated", "user": {}}],
            "contexts": [{"name": "simulated", "context": context}],
            "current-context": "simulated",
        }
        path.write_text(yaml.safe_dump(config))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        parts = _split(request.path)
        if parts is None:
            return _json({"major": "1", "minor": "36", "gitVersion": "v1.36.0-simulated"})
        group, namespace, collection, name, verb = parts
        self.requests[f"{request.method} {collection}{'/' + verb if verb else ''}"] += 1
        try:
            if request.method == "GET" and not name:
                if request.query.get("watch") in ("1", "true"):
                    return await self._watch(request, collection, namespace)
                return self._list(request, group, collection, namespace)
            body = await request.json() if request.can_read_body else {}
            return _json(self._write(request.method, collection, (namespace, name), verb, body))
        except StoreError as error:
            return _status(error.code, error.reason, str(error))
        except json.JSONDecodeError as error:
            return _status(400, "BadRequest", str(error))

    def _list(self, request: web.Request, group: str, collection: str, namespace: str) -> web.Response:
        wanted = _selector(request)
        items = [value for value in self._store.items(collection, namespace) if wanted(value)]
        kind = _KINDS.get(collection, collection.capitalize())
        return _json(
            {
                "kind": f"{kind}List",
                "apiVersion": group,
                "metadata": {"resourceVersion": str(self._store.version)},
                "items": items,
            }
        )

    async def _watch(self, request: web.Request, collection: str, namespace: str) -> web.StreamResponse:
        wanted = _selector(request)
        since = int(request.query.get("resourceVersion") or self._store.version)
        watch = self._store.watch(collection, since)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            while True:
                try:
                    change = await asyncio.wait_for(watch.queue.get(), _BOOKMARK_SECONDS)
                except TimeoutError:
                    meta = {"metadata": {"resourceVersion": str(self._store.version)}}
                    await response.write(_line("BOOKMARK", {"kind": _KINDS.get(collection, ""), **meta}))
                    continue
                if wanted(change.after) and namespace in ("", change.after["metadata"].get("namespace", "")):
                    await response.write(_line(change.kind, change.after))
        except (ConnectionResetError, asyncio.CancelledError):
            return response
        finally:
            self._store.close(watch)

    def _write(self, method: str, collection: str, key: Key, verb: str, body: Object) -> Object:
        if verb == "binding":
            return self._bind(key, body)
        if verb == "eviction":
            self._store.get("pods", key)
            self._evicted(*key)
            return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}
        if method == "GET":
            value = self._store.get(collection, key)
            return _scale(value) if verb == "scale" else value
        if method == "POST":
            body.setdefault("metadata", {}).setdefault("namespace", key[0])
            return self._store.create(collection, body)
        if method == "PATCH":
            value = self._store.update(collection, key, lambda target: merge(target, body))
            return _scale(value) if verb == "scale" else value
        if method == "PUT":
            return self._store.update(collection, key, lambda target: _replace(target, body))
        if method == "DELETE":
            return self._store.delete(collection, key)
        raise StoreError(f"method {method} is not simulated")

    def _bind(self, key: Key, body: Object) -> Object:
        node = body["target"]["name"]
        meta = body.get("metadata", {})

        def bind(pod: Object) -> None:
            uid = meta.get("uid")
            if uid and uid != pod["metadata"]["uid"]:
                raise Conflict(
                    f"Precondition failed: UID in precondition: {uid}, UID in object meta: {pod['metadata']['uid']}"
                )
            version, there = meta.get("resourceVersion"), pod["metadata"]["resourceVersion"]
            if version and version != there:
                raise Conflict(
                    f"Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {there}"
                )
            if pod["metadata"].get("deletionTimestamp"):
                raise Conflict(f"pod {key[1]} is being deleted, cannot be assigned to a host")
            bound = pod["spec"].get("nodeName")
            if bound:
                raise Conflict(f'pod {key[1]} is already assigned to node "{bound}"')
            pod["spec"]["nodeName"] = node
            for field in ("annotations", "labels"):
                if meta.get(field):
                    pod["metadata"].setdefault(field, {}).update(meta[field])
            pod["status"]["conditions"] = [{"type": "PodScheduled", "status": "True"}]

        self._store.update("pods", key, bind)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}


def _split(path: str) -> tuple[str, str, str, str, str] | None:
    """(group/version, namespace, collection, name, subresource) of an API path, None for anything else."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        group, rest = parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, rest = f"{parts[1]}/{parts[2]}", parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 2:
        namespace, rest = rest[1], rest[2:]
    padded = [*rest, "", ""]
    return group, namespace, padded[0], padded[1], padded[2]


def _selector(request: web.Request) -> Callable[[Object], bool]:
    """Field and label selectors of a list or watch: equality and inequality, joined by commas."""
    fields = [_term(term) for term in request.query.get("fieldSelector", "").split(",") if term]
    labels = [_term(term) for term in request.query.get("labelSelector", "").split(",") if term]

    def wanted(value: Object) -> bool:
        own = value["metadata"].get("labels", {})
        return all((_at(value, path) == text) is equal for path, equal, text in fields) and all(
            (own.get(name, "") == text) is equal for name, equal, text in labels
        )

    return wanted


def _term(term: str) -> tuple[str, bool, str]:
    for sign, equal in (("!=", False), ("==", True), ("=", True)):
        if sign in term:
            path, text = term.split(sign, 1)
            return path, equal, text
    return term, False, ""


def _at(value: Any, path: str) -> str:
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


def _replace(target: Object, body: Object) -> None:
    version = body.get("metadata", {}).get("resourceVersion")
    if version and version != target["metadata"]["resourceVersion"]:
        raise Conflict("the object has been modified; please apply your changes to the latest version and try again")
    identity = {name: target["metadata"][name] for name in ("uid", "creationTimestamp")}
    target.clear()
    target.update(body)
    target.setdefault("metadata", {}).update(identity)


def _scale(value: Object) -> Object:
    replicas = value.get("spec", {}).get("replicas", 0)
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": value["metadata"],
        "spec": {"replicas": replicas},
        "status": {"replicas": value.get("status", {}).get("replicas", 0)},
    }


def _line(kind: str, value: Object) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode() + b"\n"


def _json(value: Object) -> web.Response:
    return web.Response(body=json.dumps(value).encode(), content_type="application/json")


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "message": message,
        "code": code,
    }
    return web.Response(status=code, body=json.dumps(body).encode(), content_type="application/json")
