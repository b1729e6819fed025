"""An API server for benchmarks: lists in pages, watches, and what a scheduler asks of it. Another path changes its objects."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

from headroom.daemon import tasks
from headroom.daemon.pages import serving
from headroom.kube import calls
from headroom.wire import ADDED, DELETED, MODIFIED
from simulations.bench.processes import Connection, beside, stay

Object = dict[str, Any]
CONTROL: Final = "/control/"
_LONGEST_CHANGE: Final = 2**28


class Server:
    """Objects as JSON, by path and key, and whoever watches them."""

    def __init__(self, objects: Mapping[str, Iterable[Object]]) -> None:
        self._objects: dict[str, dict[str, bytes]] = {path: {} for path in (*objects, calls.NAMESPACES)}
        self._watchers: dict[str, list[asyncio.Queue[bytes]]] = {path: [] for path in self._objects}
        self._version = 1
        for path, items in objects.items():
            self._put(path, items)

    def app(self) -> web.Application:
        """What to serve."""
        app = web.Application(client_max_size=_LONGEST_CHANGE)
        app.router.add_get("/api/v1/{plural}", self._list_or_watch)
        app.router.add_get("/apis/resource.k8s.io/v1/{plural}", self._list_or_watch)
        app.router.add_post("/api/v1/namespaces/{namespace}/pods/{name}/binding", self._bind)
        app.router.add_post("/api/v1/namespaces/{namespace}/pods/{name}/eviction", self._evict)
        app.router.add_post(CONTROL + "{change}", self._change)
        app.router.add_route("*", "/{rest:.*}", _taken)
        return app

    def _put(self, path: str, objects: Iterable[Object], *, told: bool = False) -> None:
        for one in objects:
            self._version += 1
            one["metadata"]["resourceVersion"] = str(self._version)
            kind = MODIFIED if _key(one) in self._objects[path] else ADDED
            raw = self._objects[path][_key(one)] = msgspec.json.encode(one)
            if told:
                self._tell(path, kind, raw)

    def _remove(self, path: str, keys: Iterable[str]) -> None:
        for key in keys:
            raw = self._objects[path].pop(key, None)
            if raw is not None:
                self._tell(path, DELETED, raw)

    def _tell(self, path: str, kind: str, raw: bytes) -> None:
        line = b'{"type":"%b","object":%b}\n' % (kind.encode(), raw)
        for watcher in self._watchers[path]:
            watcher.put_nowait(line)

    async def _change(self, http: web.Request) -> web.Response:
        """put and remove, of which watchers are told; fill, renew, clear and lower, of which only the next list tells."""
        change, path = http.match_info["change"], http.query["path"]
        body = await http.read()
        match change:
            case "put":
                self._put(path, msgspec.json.decode(body), told=True)
            case "fill":
                self._put(path, msgspec.json.decode(body))
            case "remove":
                self._remove(path, msgspec.json.decode(body))
            case "clear":
                self._objects[path].clear()
            case "renew":
                self._put(path, [msgspec.json.decode(raw) for raw in self._objects[path].values()])
            case "lower_cpu":
                nodes = [msgspec.json.decode(raw) for raw in self._objects[path].values()]
                for node in nodes:
                    node["status"]["allocatable"]["cpu"] = "127"
                self._put(path, nodes)
        return web.Response()

    async def _list_or_watch(self, http: web.Request) -> web.StreamResponse:
        if http.path not in self._objects:
            raise web.HTTPNotFound
        if "watch" in http.query:
            return await self._watch(http)
        items = list(self._objects[http.path].values())
        start = int(http.query.get("continue", "0") or "0")
        end = start + int(http.query.get("limit", len(items) or 1))
        rest = str(end) if end < len(items) else ""
        meta = msgspec.json.encode({"resourceVersion": str(self._version), "continue": rest})
        body = b'{"metadata":%b,"items":[%b]}' % (meta, b",".join(items[start:end]))
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, http: web.Request) -> web.StreamResponse:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._watchers[http.path].append(queue)
        response = web.StreamResponse()
        try:
            await response.prepare(http)
            while True:
                lines = [await queue.get()]
                while not queue.empty():
                    lines.append(queue.get_nowait())
                await response.write(b"".join(lines))
        finally:
            self._watchers[http.path].remove(queue)

    async def _bind(self, http: web.Request) -> web.Response:
        raw = self._objects[calls.PODS].get(f"{http.match_info['namespace']}/{http.match_info['name']}")
        if raw is None:
            return web.json_response({"message": "not found"}, status=404)
        binding, pod = await http.json(), msgspec.json.decode(raw)
        pod["spec"]["nodeName"] = binding["target"]["name"]
        pod["status"]["phase"] = "Running"
        pod["metadata"]["annotations"] |= binding["metadata"].get("annotations") or {}
        self._put(calls.PODS, [pod], told=True)
        return web.json_response({})

    async def _evict(self, http: web.Request) -> web.Response:
        if "dryRun" not in (await http.json())["deleteOptions"]:
            self._remove(calls.PODS, [f"{http.match_info['namespace']}/{http.match_info['name']}"])
        return web.json_response({})


async def _taken(http: web.Request) -> web.Response:
    await http.read()
    return web.json_response({})


def _key(one: Object) -> str:
    meta = one["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if "namespace" in meta else str(meta["name"])


@contextlib.contextmanager
def served(make: Callable[..., web.Application], *args: Any) -> Iterator[str]:
    """The application that `make(*args)` gives, in a process of its own; yields its URL. `make` must be a module's function."""
    with beside(_serve, make, args) as process:
        yield f"http://127.0.0.1:{process.port}"


def _serve(connection: Connection, make: Callable[..., web.Application], args: tuple[Any, ...]) -> None:
    async def serve() -> None:
        async with serving(make(*args), "127.0.0.1", 0) as port:
            await stay(connection, port)

    tasks.run(serve())
