"""The Kubernetes client, reflector and lease against a scripted API server over real HTTP."""

import asyncio
import contextlib
import datetime
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from aiohttp import web

from headroom.daemon.guard import Guard
from headroom.daemon.pages import serving
from headroom.daemon.tasks import Backoff
from headroom.kube import aio, calls, client, lease
from headroom.kube.reflector import Reflector
from headroom.wire import ADDED, DELETED, MODIFIED
from tests.waiting import until


class Thing(msgspec.Struct):
    metadata: dict[str, Any]
    size: int = 0


def thing(name: str, version: int, size: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(version)}, "size": size}


class Script:
    """Answers GETs of /things from a list of steps: a list page, or watch lines followed by the end of the stream."""

    def __init__(self) -> None:
        self.lists: list[Any] = []
        self.watches: list[Any] = []
        self.asked: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(dict(request.query))
        if "watch" not in request.query:
            step = self.lists.pop(0) if len(self.lists) > 1 else self.lists[0]
            return step if isinstance(step, web.Response) else web.json_response(step)
        if not self.watches:
            await asyncio.Event().wait()
            return web.Response()
        step = self.watches.pop(0)
        if isinstance(step, web.Response):
            return step
        response = web.StreamResponse()
        await response.prepare(request)
        for event in step:
            await response.write(event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n")
        return response


def page(version: int, *items: dict[str, Any], token: str = "") -> dict[str, Any]:
    return {"metadata": {"resourceVersion": str(version), "continue": token}, "items": list(items)}


@contextlib.asynccontextmanager
async def following(script: Script, tmp_path: Path) -> AsyncIterator[tuple[Reflector[Thing], list[Any], list[Any]]]:
    app = web.Application()
    app.router.add_get("/things", script.handle)
    seen: list[Any] = []
    broken: list[Any] = []
    async with serving(app, "127.0.0.1", 0, shutdown_seconds=0.1) as port:
        kube = await aio.connect(kubeconfig(tmp_path, port))
        reflector = Reflector(
            kube,
            "/things",
            msgspec.json.Decoder(Thing),
            lambda kind, key, item: seen.append((kind, key, item.size)),
            on_broken=lambda key, _: broken.append(key),
            backoff=Backoff(initial_seconds=0.01, maximum_seconds=0.02, rng=random.Random(1)),
        )
        task = asyncio.create_task(reflector.run())
        try:
            yield reflector, seen, broken
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await kube.close()


def kubeconfig(tmp_path: Path, port: int) -> str:
    path = tmp_path / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
            }
        )
    )
    return str(path)


async def test_a_list_in_pages_then_a_watch(tmp_path: Path) -> None:
    script = Script()
    script.lists = [page(5, thing("a", 1, 1), token="more"), page(5, thing("b", 2, 2)), page(9)]
    script.watches = [
        [
            {"type": "MODIFIED", "object": thing("a", 6, 10)},
            {"type": "BOOKMARK", "object": thing("", 7)},
            {"type": "DELETED", "object": thing("b", 8, 2)},
        ]
    ]
    async with following(script, tmp_path) as (reflector, seen, _):
        await until(lambda: len(seen) == 4)
        assert seen == [(ADDED, "a", 1), (ADDED, "b", 2), (MODIFIED, "a", 10), (DELETED, "b", 2)]
        assert reflector.has_synced
        assert list(reflector.items()) == ["a"]
        await until(lambda: len(script.asked) >= 4)
        assert script.asked[3]["resourceVersion"] == "8"  # the next watch goes on from the last event


async def test_an_event_on_which_the_handler_fails_costs_neither_the_watch_nor_itself(tmp_path: Path) -> None:
    """A list brings it again, a deletion included; all other events are taken in meanwhile."""
    script = Script()
    script.lists = [page(5, thing("a", 1, 1), thing("b", 2, 2)), page(9, thing("b", 7, 20))]
    script.watches = [
        [
            {"type": "MODIFIED", "object": thing("b", 7, 20)},
            {"type": "DELETED", "object": thing("a", 8, 1)},
            {"type": "ADDED", "object": thing("c", 9, 3)},
        ]
    ]
    seen: list[Any] = []
    failures: list[Any] = []
    fails = {(MODIFIED, "b"), (DELETED, "a")}

    def take(kind: str, key: str, item: Thing) -> None:
        if (kind, key) in fails:
            fails.remove((kind, key))
            raise RuntimeError("not foreseen")
        seen.append((kind, key, item.size))

    app = web.Application()
    app.router.add_get("/things", script.handle)
    async with serving(app, "127.0.0.1", 0, shutdown_seconds=0.1) as port:
        kube = await aio.connect(kubeconfig(tmp_path, port))
        reflector = Reflector(
            kube,
            "/things",
            msgspec.json.Decoder(Thing),
            take,
            guard=Guard(failures.append),
            backoff=Backoff(initial_seconds=0.01, maximum_seconds=0.02, rng=random.Random(1)),
        )
        task = asyncio.create_task(reflector.run())
        await until(lambda: (DELETED, "a", 1) in seen)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await kube.close()
    assert failures == ["things", "things"]
    assert seen[:3] == [(ADDED, "a", 1), (ADDED, "b", 2), (ADDED, "c", 3)]
    assert (MODIFIED, "b", 20) in seen[3:]
    assert "a" not in reflector.items()


async def test_a_bookmark_moves_the_version_on(tmp_path: Path) -> None:
    script = Script()
    script.lists = [page(5)]
    script.watches = [[{"type": "BOOKMARK", "object": thing("", 40)}]]
    async with following(script, tmp_path):
        await until(lambda: len(script.asked) >= 3)
        assert script.asked[2]["resourceVersion"] == "40"


async def test_an_expired_version_lists_again_and_deletes_what_went_meanwhile(tmp_path: Path) -> None:
    script = Script()
    script.lists = [page(5, thing("a", 1, 1), thing("b", 2, 2)), page(50, thing("a", 1, 1), thing("c", 45, 3))]
    script.watches = [
        [{"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}}]
    ]
    async with following(script, tmp_path) as (reflector, seen, _):
        await until(lambda: reflector.relists == 2)
        assert seen == [(ADDED, "a", 1), (ADDED, "b", 2), (ADDED, "c", 3), (DELETED, "b", 2)]


async def test_a_failing_server_is_asked_again_and_the_cache_stays(tmp_path: Path) -> None:
    script = Script()
    script.lists = [web.json_response({"message": "no"}, status=500), page(5, thing("a", 1, 1))]
    script.watches = [
        web.json_response({"message": "busy"}, status=429),
        [{"type": "ADDED", "object": thing("b", 6, 2)}],
    ]
    async with following(script, tmp_path) as (reflector, seen, _):
        await until(lambda: len(seen) == 2)
        assert seen == [(ADDED, "a", 1), (ADDED, "b", 2)]
        assert reflector.failures == 2
        assert reflector.relists == 1


async def test_one_broken_object_hurts_only_itself(tmp_path: Path) -> None:
    script = Script()
    script.lists = [page(5, thing("a", 1, 1), thing("bad", 2, cast(int, "many")), thing("c", 3, 3))]
    async with following(script, tmp_path) as (_, seen, broken):
        await until(lambda: len(seen) == 2)
        assert seen == [(ADDED, "a", 1), (ADDED, "c", 3)]
        assert broken == ["bad"]


async def test_an_event_longer_than_any_buffer_arrives_whole(tmp_path: Path) -> None:
    script = Script()
    script.lists = [page(5)]
    long = thing("a", 6, 1)
    long["metadata"]["note"] = "x" * 3_000_000
    script.watches = [[{"type": "ADDED", "object": long}]]
    async with following(script, tmp_path) as (_, seen, _broken):
        await until(lambda: seen == [(ADDED, "a", 1)])


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (400, client.BadRequest),
        (401, client.Unauthorized),
        (403, client.Forbidden),
        (404, client.NotFound),
        (409, client.Conflict),
        (410, client.Gone),
        (422, client.Unprocessable),
        (429, client.TooManyRequests),
        (500, client.ServerError),
        (503, client.ServerError),
    ],
)
async def test_each_refusal_has_its_class_and_the_servers_words(tmp_path: Path, code: int, expected: Any) -> None:
    async def refuse(_: web.Request) -> web.Response:
        body = {"kind": "Status", "code": code, "reason": "Because", "message": "the servers words"}
        return web.json_response(body, status=code, headers={"Retry-After": "7"})

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", refuse)
    async with serving(app, "127.0.0.1", 0) as port:
        kube = await aio.connect(kubeconfig(tmp_path, port))
        with pytest.raises(client.KubeError, match="the servers words") as caught:
            await calls.nominate(kube, "default", "p", "u", "n")
        assert type(caught.value) is expected
        assert (caught.value.code, caught.value.reason, caught.value.retry_after_seconds) == (code, "Because", 7.0)
        await kube.close()


async def test_nobody_listening_is_unreachable(tmp_path: Path) -> None:
    kube = await aio.connect(kubeconfig(tmp_path, 1))
    with pytest.raises(client.Unreachable, match="GET /version"):
        await kube.request("GET", "/version")
    await kube.close()


async def test_a_silent_server_is_unreachable_after_the_timeout(tmp_path: Path) -> None:
    async def sleep(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        return web.Response()

    app = web.Application()
    app.router.add_get("/slow", sleep)
    async with serving(app, "127.0.0.1", 0, shutdown_seconds=0.1) as port:
        kube = await aio.connect(kubeconfig(tmp_path, port))
        with pytest.raises(client.Unreachable, match=r"no answer within 0\.05 s"):
            await kube.request("GET", "/slow", timeout_seconds=0.05)
        await kube.close()


async def test_a_wrong_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(client.KubeConfigError, match=r"absent\.yaml: no such file"):
        await aio.connect(str(tmp_path / "absent.yaml"))
    for text, said in (
        ("just words", "not a kubeconfig"), ("- a\n- b\n", "not a kubeconfig"), ("{a: [", "odd"), ("a: 1\n", "odd"),
    ):  # fmt: skip
        odd = tmp_path / "odd.yaml"
        odd.write_text(text)
        with pytest.raises(client.KubeConfigError, match=said):
            await aio.connect(str(odd))


async def test_a_list_asked_for_shows_what_the_watch_has_not_told(tmp_path: Path) -> None:
    script = Script()
    script.lists = [page(5, thing("a", 1, 1)), page(9, thing("a", 8, 2), thing("b", 9, 3))]
    async with following(script, tmp_path) as (reflector, seen, _):
        await until(lambda: reflector.has_synced)
        await reflector.relist()
        assert seen == [(ADDED, "a", 1), (MODIFIED, "a", 2), (ADDED, "b", 3)]
        assert reflector.relists == 2


async def test_a_binding_carries_uid_and_annotations_and_the_token(tmp_path: Path) -> None:
    got: dict[str, Any] = {}

    async def bind(request: web.Request) -> web.Response:
        got.update(path=request.path, body=await request.json(), token=request.headers["Authorization"])
        return web.json_response({})

    app = web.Application()
    app.router.add_post("/{tail:.*}", bind)
    async with serving(app, "127.0.0.1", 0) as port:
        kube = await aio.connect(kubeconfig(tmp_path, port))
        await calls.bind(kube, calls.Binding("ns", "p", "u-1", "node-1", {"headroom.dev/assigned-cards": "0"}))
        await kube.close()
    assert got["path"] == "/api/v1/namespaces/ns/pods/p/binding"
    assert got["body"]["metadata"] == {"name": "p", "uid": "u-1", "annotations": {"headroom.dev/assigned-cards": "0"}}
    assert got["body"]["target"]["name"] == "node-1"
    assert got["token"] == "Bearer secret"


class LeaseServer:
    """One Lease with optimistic concurrency."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] = {}
        self.version, self.down = 0, False

    def app(self) -> web.Application:
        app = web.Application()
        base = "/apis/coordination.k8s.io/v1/namespaces/n/leases"
        app.router.add_get(base + "/l", self.get)
        app.router.add_post(base, self.post)
        app.router.add_put(base + "/l", self.put)
        return app

    def answer(self) -> web.Response:
        return web.json_response(self.lease)

    async def get(self, _: web.Request) -> web.Response:
        if self.down:
            return web.json_response({"message": "down"}, status=500)
        return self.answer() if self.lease else web.json_response({"message": "no lease"}, status=404)

    async def post(self, request: web.Request) -> web.Response:
        if self.lease:
            return web.json_response({"message": "exists"}, status=409)
        return self.store(await request.json())

    async def put(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["metadata"].get("resourceVersion") != str(self.version):
            return web.json_response({"message": "changed"}, status=409)
        return self.store(body)

    def store(self, body: dict[str, Any]) -> web.Response:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.lease = body
        return self.answer()


async def test_one_leader_at_a_time_and_a_successor_after_the_duration(tmp_path: Path) -> None:
    server, now = LeaseServer(), [0.0]
    async with serving(server.app(), "127.0.0.1", 0) as port:
        kube = await aio.connect(kubeconfig(tmp_path, port))

        def elector(identity: str) -> lease.Elector:
            return lease.Elector(
                kube, namespace="n", name="l", identity=identity, duration_seconds=10, monotonic=lambda: now[0],
                clock=lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(seconds=now[0]),
            )  # fmt: skip

        first, second = elector("first"), elector("second")
        assert await first.attempt()
        assert not await second.attempt()
        now[0] = 6
        assert first.is_leader
        assert await first.attempt()  # renewed at 6
        now[0] = 12
        assert not await second.attempt()  # the record changed since it looked: its own count starts again
        now[0] = 13
        assert not first.is_leader  # stops by itself before anybody else may start
        now[0] = 21
        assert not await second.attempt()
        now[0] = 22
        assert await second.attempt()
        assert not await first.attempt()
        assert server.lease["spec"]["leaseTransitions"] == 1
        await second.release()
        assert await first.attempt()  # a lease given up is free at once
        await kube.close()


async def test_a_leader_that_cannot_renew_steps_down(tmp_path: Path) -> None:
    server, now = LeaseServer(), [0.0]
    async with serving(server.app(), "127.0.0.1", 0) as port:
        kube = await aio.connect(kubeconfig(tmp_path, port))
        only = lease.Elector(
            kube, namespace="n", name="l", identity="only", duration_seconds=9, monotonic=lambda: now[0]
        )
        assert await only.attempt()
        server.down = True
        now[0] = 5.9
        with pytest.raises(client.ServerError):
            await only.attempt()
        assert only.is_leader
        now[0] = 6.1
        assert not only.is_leader
        await kube.close()


def test_backoff_grows_is_bounded_and_never_zero() -> None:
    backoff = Backoff(initial_seconds=1, factor=2, maximum_seconds=8, rng=random.Random(3))
    delays = [backoff.next_seconds() for _ in range(6)]
    for delay, ceiling in zip(delays, [1, 2, 4, 8, 8, 8], strict=True):
        assert ceiling / 2 <= delay <= ceiling
    backoff.reset()
    assert backoff.next_seconds() <= 1
