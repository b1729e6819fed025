"""A Kubernetes API server in memory, spoken to over real HTTP, for tests of the clients.

It keeps objects of any kind under their paths and answers list (with paging), watch (with bookmarks and expiry), get,
create, replace, merge-patch, delete, and the subresources that Headroom uses: `binding` with the real server's
conflicts, `eviction` with disruption budgets, `status` and `scale`. `fail`, `stall` and `delay` script its faults; `requests`
records what it was asked. `front` gives a client an address of its own, which can be cut off.
"""

import asyncio
import contextlib
import copy
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from tests.fakes.api_faults import Faults, Front
from tests.fakes.api_objects import (
    Object,
    Refusal,
    Request,
    Target,
    check_preconditions,
    merge,
    scale_of,
    selected,
    status_of,
    target_of,
)

_CLUSTER_SCOPED = {
    "nodes",
    "namespaces",
    "priorityclasses",
    "customresourcedefinitions",
    "deviceclasses",
    "resourceslices",
}
_LIST_KIND = {"pods": "PodList", "nodes": "NodeList"}
_STAMP = "2026-01-01T00:00:00Z"


class ApiServer(Faults):
    """Use as `async with ApiServer() as api:`; clients connect to `api.url` or through `api.write_kubeconfig(path)`."""

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []
        self.url = ""
        self.on_evict: Callable[[Object], None] | None = None
        """Called instead of deleting at once, so that a test can keep a pod terminating."""
        self._version = itertools.count(1)
        self._uid = itertools.count(1)
        self.resource_version = 0
        self._objects: dict[str, dict[tuple[str, str], Object]] = {}
        self._log: list[tuple[int, str, str, Object]] = []
        self._expired_before = 0
        self._changed = asyncio.Event()
        self._kinds: dict[str, list[Object]] = {}
        self._watch_tasks: set[asyncio.Task[Any]] = set()
        self._runner: web.AppRunner | None = None
        self._port = 0

    # Life

    async def __aenter__(self) -> "ApiServer":
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port with the same objects."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"

    async def stop(self) -> None:
        """Cut every connection and refuse new ones; the objects stay."""
        self.cut_watches()
        for stall in (*self._stalls, *self._delays):
            stall.released.set()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def front(self) -> Front:
        """One more address, for a client that shall be cut off alone."""
        assert self._runner is not None
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[-1][1]
        self._fronts[port] = Front(self.write_kubeconfig, f"http://127.0.0.1:{port}")
        return self._fronts[port]

    def write_kubeconfig(self, path: Path, url: str = "") -> Path:
        """A kubeconfig for this server, without credentials."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": url or self.url}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        return path

    # Scripting

    def cut_watches(self) -> None:
        """End every open watch, as a restarting API server does."""
        for task in list(self._watch_tasks):
            task.cancel()

    def expire_history(self) -> None:
        """Forget past events: a watch from an old resource version gets 410 Expired."""
        self._expired_before = self.resource_version + 1
        self._log.clear()

    def serve_kind(self, api_version: str, kind: str, plural: str, *, scale: bool = True) -> str:
        """Let discovery show a kind, with a scale subresource or without; returns the path of its objects."""
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        found = self._kinds.setdefault(root, [])
        found.append({"name": plural, "kind": kind, "namespaced": True})
        if scale:
            found.append({"name": f"{plural}/scale", "kind": "Scale", "namespaced": True})
        return f"{root}/{plural}"

    def asked(self, method: str, pattern: str) -> list[Request]:
        """The recorded requests whose method is `method` and whose path matches."""
        return [request for request in self.requests if request.method == method and re.search(pattern, request.path)]

    # Objects

    def put(self, resource: str, body: Object) -> Object:
        """Create or replace an object, as somebody else would; `resource` is e.g. `/api/v1/pods`."""
        meta = body.setdefault("metadata", {})
        plural = resource.rsplit("/", 1)[1]
        namespace = "" if plural in _CLUSTER_SCOPED else meta.setdefault("namespace", "default")
        key = (namespace, meta["name"])
        known = self._objects.setdefault(resource, {})
        old = known.get(key)
        meta.setdefault("uid", old["metadata"]["uid"] if old else f"uid-{next(self._uid)}-{meta['name']}")
        meta.setdefault("creationTimestamp", _STAMP)
        known[key] = body
        self._record("MODIFIED" if old else "ADDED", resource, body)
        return body

    def get(self, resource: str, name: str, namespace: str = "default") -> Object:
        """The object as it stands. Raises KeyError."""
        plural = resource.rsplit("/", 1)[1]
        return self._objects.get(resource, {})["" if plural in _CLUSTER_SCOPED else namespace, name]

    def all(self, resource: str) -> list[Object]:
        """Every object of a resource."""
        return list(self._objects.get(resource, {}).values())

    def remove(self, resource: str, name: str, namespace: str = "default") -> None:
        """Delete an object, as somebody else would."""
        plural = resource.rsplit("/", 1)[1]
        body = self._objects[resource].pop(("" if plural in _CLUSTER_SCOPED else namespace, name))
        self._record("DELETED", resource, body)

    def _record(self, kind: str, resource: str, body: Object) -> None:
        self.resource_version = next(self._version)
        body["metadata"]["resourceVersion"] = str(self.resource_version)
        self._log.append((self.resource_version, resource, kind, copy.deepcopy(body)))
        self._changed.set()
        self._changed = asyncio.Event()

    # HTTP

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        raw = await http.read()
        try:
            body = json.loads(raw) if raw else None
        except ValueError:
            body = raw.decode(errors="replace")
        request = Request(http.method, http.path, dict(http.query), body)
        front = self._front_of(http)
        await self._get_through(http, front)
        self.requests.append(request)
        try:
            for delay in self._delays:
                if delay.method == request.method and delay.path.search(request.path):
                    await delay.released.wait()
            self._raise_fault(request)
            if request.method == "GET" and http.path.rstrip("/") in self._kinds:
                return web.json_response({"kind": "APIResourceList", "resources": self._kinds[http.path.rstrip("/")]})
            target = target_of(http.path)
            if request.query.get("watch") in ("1", "true"):
                return await self._watch(http, target, request)
            answer, status = self._answer(request, target)
            text = json.dumps(answer)  # now: what changes while it is withheld is not in it
            for stall in self._stalls:
                if stall.method == request.method and stall.path.search(request.path):
                    await stall.released.wait()
            await self._get_through(http, front)
            return web.json_response(text=text, status=status)
        except Refusal as refusal:
            return web.json_response(status_of(refusal), status=refusal.code)

    def _answer(self, request: Request, target: Target) -> tuple[Object, int]:
        if request.method == "POST":
            return self._post(request, target)
        if request.method == "GET":
            return (self._read(target) if target.name else self._list(request, target)), 200
        if request.method == "PATCH":
            return self._patch(request, target), 200
        if request.method == "PUT":
            return self._replace(request, target), 200
        if request.method == "DELETE":
            body = self._find(target)
            self.remove(target.resource, target.name, target.namespace)
            return body, 200
        raise Refusal(405, "MethodNotAllowed", request.method)

    def _find(self, target: Target) -> Object:
        try:
            return self._objects[target.resource][target.namespace, target.name]
        except KeyError:
            raise Refusal(404, "NotFound", f'{target.plural} "{target.name}" not found') from None

    def _read(self, target: Target) -> Object:
        body = self._find(target)
        return scale_of(body) if target.subresource == "scale" else body

    def _list(self, request: Request, target: Target) -> Object:
        rows = sorted(self._objects.get(target.resource, {}).items())
        items = [
            body for (namespace, _), body in rows if target.namespace in ("", namespace) and selected(body, request)
        ]
        start = int(request.query.get("continue", "0") or "0")
        limit = int(request.query.get("limit", "0") or "0") or len(items)
        meta = {"resourceVersion": str(self.resource_version)}
        if start + limit < len(items):
            meta["continue"] = str(start + limit)
        kind = _LIST_KIND.get(target.plural, "List")
        return {"kind": kind, "apiVersion": "v1", "metadata": meta, "items": items[start : start + limit]}

    def _post(self, request: Request, target: Target) -> tuple[Object, int]:
        if target.subresource == "binding":
            return self._bind(request, target), 201
        if target.subresource == "eviction":
            return self._evict(request, target), 201
        body = request.body
        meta = body.setdefault("metadata", {})
        if "generateName" in meta and "name" not in meta:
            meta["name"] = f"{meta['generateName']}{next(self._uid)}"
        if target.namespace:
            meta["namespace"] = target.namespace
        if (target.namespace, meta["name"]) in self._objects.get(target.resource, {}):
            raise Refusal(409, "AlreadyExists", f'{target.plural} "{meta["name"]}" already exists')
        return self.put(target.resource, body), 201

    def _patch(self, request: Request, target: Target) -> Object:
        body = self._find(target)
        if target.subresource == "scale":
            body["spec"]["replicas"] = request.body["spec"]["replicas"]
        else:
            changes = copy.deepcopy(request.body)
            if target.subresource == "status":  # and of the metadata, as the real server has it for pods
                changes = {part: changes[part] for part in ("status", "metadata") if part in changes}
            check_preconditions(body, request.body)
            before = copy.deepcopy(body)
            merge(body, changes)
            if body == before:  # what changes nothing gets no new version
                return body
        self._record("MODIFIED", target.resource, body)
        return scale_of(body) if target.subresource == "scale" else body

    def _replace(self, request: Request, target: Target) -> Object:
        body = self._find(target)
        check_preconditions(body, request.body)
        if target.subresource == "status":
            body["status"] = request.body.get("status", {})
        else:
            fresh = copy.deepcopy(request.body)
            fresh["metadata"]["uid"] = body["metadata"]["uid"]
            body.clear()
            body.update(fresh)
        self._record("MODIFIED", target.resource, body)
        return body

    def _bind(self, request: Request, target: Target) -> Object:
        pod = self._find(target)
        meta, wanted = pod["metadata"], request.body.get("metadata", {})
        uid, node = wanted.get("uid"), request.body["target"]["name"]
        if uid and uid != meta["uid"]:
            text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
            raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{target.name}": {text}')
        version = wanted.get("resourceVersion")
        if version and version != meta["resourceVersion"]:
            there = f"ResourceVersion in object meta: {meta['resourceVersion']}"
            text = f"Precondition failed: ResourceVersion in precondition: {version}, {there}"
            raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{target.name}": {text}')
        if meta.get("deletionTimestamp"):
            text = f"pod {target.name} is being deleted, cannot be assigned to a host"
            raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{target.name}": {text}')
        if bound := pod.get("spec", {}).get("nodeName"):
            text = f'pod {target.name} is already assigned to node "{bound}"'
            raise Refusal(409, "Conflict", f'Operation cannot be fulfilled on pods/binding "{target.name}": {text}')
        pod.setdefault("spec", {})["nodeName"] = node
        meta.setdefault("annotations", {}).update(wanted.get("annotations", {}))
        self._record("MODIFIED", target.resource, pod)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}

    def _evict(self, request: Request, target: Target) -> Object:
        pod = self._find(target)
        options = request.body.get("deleteOptions") or {}
        uid = (options.get("preconditions") or {}).get("uid")
        if uid and uid != pod["metadata"]["uid"]:
            raise Refusal(409, "Conflict", f"Precondition failed: UID in precondition: {uid}")
        for budget in self.all("/apis/policy/v1/poddisruptionbudgets"):
            labels = budget["spec"]["selector"]["matchLabels"]
            if (
                labels.items() <= pod["metadata"].get("labels", {}).items()
                and budget["status"]["disruptionsAllowed"] < 1
            ):
                raise Refusal(
                    429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget."
                )
        if options.get("dryRun") != ["All"]:
            if self.on_evict is not None:
                self.on_evict(pod)
            else:
                self.remove(target.resource, target.name, target.namespace)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}

    async def _watch(self, http: web.Request, target: Target, request: Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(http)
        at = int(request.query.get("resourceVersion", "0") or "0")
        task = asyncio.current_task()
        assert task is not None
        self._watch_tasks.add(task)
        try:
            if at + 1 < self._expired_before:
                gone = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
                await response.write(json.dumps({"type": "ERROR", "object": gone}).encode() + b"\n")
                return response
            front = self._front_of(http)
            async for line in self._events(at, target, request):
                await self._get_through(http, front)
                await response.write(line)
        except ConnectionResetError:
            pass
        except asyncio.CancelledError:
            if http.transport is not None:
                http.transport.abort()
            with contextlib.suppress(AttributeError):
                task.uncancel()
        finally:
            self._watch_tasks.discard(task)
        return response

    async def _events(self, at: int, target: Target, request: Request) -> AsyncIterator[bytes]:
        while True:
            await self._flowing.wait()
            changed = self._changed
            for version, resource, kind, body in list(self._log):
                namespace = body["metadata"].get("namespace", "")
                if version <= at or resource != target.resource or target.namespace not in ("", namespace):
                    continue
                at = version
                if selected(body, request):
                    yield json.dumps({"type": kind, "object": body}).encode() + b"\n"
            await changed.wait()

    def bookmark(self, resource: str) -> None:
        """Send a bookmark to watchers of a resource."""
        body = {"kind": "Bookmark", "metadata": {}}
        self._record("BOOKMARK", resource, body)
