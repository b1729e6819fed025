"""What lies between the API server and a client of it: delays, calls that get lost, answers that get lost, writes that land late,
watches that lag, hang, break or expire. A KubeClient, in virtual time.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from headroom.kube.client import JSON, Query, Unreachable, WatchEvent, error_for
from tests.property.scheduler.daemon.truth import Object, Refusal, Truth

_SILENCE_SECONDS = 150.0
_BOOKMARK_SECONDS = 50.0
_LISTS = ("/api/v1/pods", "/api/v1/nodes", "/api/v1/namespaces")


@dataclass
class Weather:
    """Parts of all calls that meet a fault; `lag_seconds` is the most that a watch is behind."""

    lost: float = 0.0
    unanswered: float = 0.0
    late: float = 0.0
    broken: float = 0.0
    slow: float = 0.0
    """Those whose answer takes seconds, although what they ask for is done at once."""
    lag_seconds: float = 0.05


class Client:
    """One extender's way to the API server."""

    def __init__(
        self,
        name: str,
        truth: Truth,
        rng: random.Random,
        *,
        on_evict_asked: Callable[["Client", str], None],
        on_evict: Callable[[Object], None],
    ) -> None:
        self.name, self._truth, self._rng = name, truth, rng
        self._on_evict_asked, self._on_evict = on_evict_asked, on_evict
        self.weather = Weather()
        self.cut_off = False
        self.dead = False
        """Its process ended: it neither sends nor hears anything any more; what it sent may land yet."""
        self.stops_for: float | None = None
        """With its next binding the process is stopped for so long, between its last look at the lease and its write."""
        self.stopped = False
        """It is: it neither learns nor sends anything."""
        self.hung: set[str] = set()
        """Kinds whose watches say nothing."""
        self.told: dict[str, int] = {"pods": 0, "nodes": 0, "namespaces": 0}
        """The version up to which the watches have told."""
        self.answered_bound: set[str] = set()
        """UIDs of pods of which an answer said that they are bound."""

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

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
        """See KubeClient."""
        if self.dead:
            await asyncio.Event().wait()
        rng, weather, started = self._rng, self.weather, self._now
        body = json.loads(msgspec.json.encode(body)) if body is not None else None
        if path.endswith("/eviction") and not body["deleteOptions"].get("dryRun"):
            self._on_evict_asked(self, path.split("/")[-2])
        draw = rng.random()
        if self.stops_for is not None and path.endswith("/binding"):
            self._stop(self.stops_for, method, path, dict(query), body)
            return await self._silence(started, timeout_seconds, method, path)
        await asyncio.sleep(rng.choice((0.001, 0.004, 0.02)))
        if self.cut_off or self.stopped or draw < weather.lost:
            return await self._silence(started, timeout_seconds, method, path)
        draw -= weather.lost
        if method in ("POST", "PUT", "PATCH") and draw < weather.late:
            after = rng.choice((0.5, 5.0, 12.0, 30.0))
            asyncio.get_running_loop().call_later(after, self._carry_out_unheard, method, path, dict(query), body)
            return await self._silence(started, timeout_seconds, method, path)
        draw -= weather.late
        if draw < weather.broken:
            if rng.random() < 0.5:
                self._carry_out_unheard(method, path, dict(query), body)
            raise error_for(500, b'{"message": "etcdserver: request timed out"}', what=f"{method} {path}")
        draw -= weather.broken
        try:
            answer = msgspec.json.encode(self._carry_out(method, path, dict(query), body))
        except Refusal as refusal:
            answer = json.dumps({"code": refusal.code, "message": refusal.message}).encode()
            raise error_for(refusal.code, answer, what=f"{method} {path}") from refusal
        await self._on_the_way_back(started, timeout_seconds)
        if self.dead:
            await asyncio.Event().wait()
        if self.cut_off or self.stopped or draw < weather.unanswered or self._now - started >= timeout_seconds:
            return await self._silence(started, timeout_seconds, method, path)
        self._note(path, body, answer)
        return answer

    def _stop(self, seconds: float, method: str, path: str, query: dict[str, str], body: Any) -> None:
        self.stops_for, self.stopped = None, True

        def go_on() -> None:
            self.stopped = False
            if not self.dead:
                self._carry_out_unheard(method, path, query, body)

        asyncio.get_running_loop().call_later(seconds, go_on)

    async def _on_the_way_back(self, started: float, timeout_seconds: float) -> None:
        seconds = self._rng.choice((0.001, 0.004, 0.02, 0.5))
        if self._rng.random() < self.weather.slow:
            seconds = self._rng.choice((1.0, 3.0, timeout_seconds))
        await asyncio.sleep(min(seconds, started + timeout_seconds - self._now))

    async def _silence(self, started: float, timeout_seconds: float, method: str, path: str) -> bytes:
        await asyncio.sleep(max(started + timeout_seconds - self._now, 0.0))
        raise Unreachable(f"{method} {path}: no answer within {timeout_seconds} s")

    def _note(self, path: str, sent: Any, answer: bytes) -> None:
        """What this client knows for sure now."""
        if path.endswith("/binding"):
            self.answered_bound.add(sent["metadata"]["uid"])  # another pod may have the name by now
        elif path in _LISTS:
            kind = path.rsplit("/", 1)[1]
            self.told[kind] = max(self.told[kind], int(json.loads(answer)["metadata"]["resourceVersion"]))
        elif "/pods/" in path and "/eviction" not in path:
            body = json.loads(answer)
            if body.get("spec", {}).get("nodeName"):
                self.answered_bound.add(body["metadata"]["uid"])

    def _carry_out_unheard(self, method: str, path: str, query: dict[str, str], body: Any) -> None:
        try:
            self._carry_out(method, path, query, body)
        except Refusal:
            return

    def _carry_out(self, method: str, path: str, query: dict[str, str], body: Any) -> Any:
        truth, parts = self._truth, path.strip("/").split("/")
        if "leases" in parts:
            return self._lease(method, parts[-1], body)
        if "events.k8s.io" in parts:
            return {}
        if path in _LISTS:
            kind = parts[-1]
            return {"metadata": {"resourceVersion": str(truth.version)}, "items": list(getattr(truth, kind).values())}
        if "nodes" in parts:
            if parts[-1] not in truth.nodes:
                raise Refusal(404, "no such node")
            node = truth.nodes[parts[-1]]
            node["metadata"]["annotations"] |= body["metadata"]["annotations"]
            truth.record("MODIFIED", "nodes", node)
            return node
        at = parts.index("pods")
        name, verb = parts[at + 1], "/".join(parts[at + 2 :])
        if verb == "binding":
            truth.bind(name, body)
            return {}
        if verb == "status":
            return truth.patch_status(name, body)
        if verb == "eviction":
            pod = truth.find(name)
            options = body["deleteOptions"]
            if options["preconditions"]["uid"] != pod["metadata"]["uid"]:
                raise Refusal(409, "Precondition failed: UID")
            if not options.get("dryRun"):
                self._on_evict(pod)
            return {}
        return truth.find(name)

    def _lease(self, method: str, name: str, body: Any) -> Object:
        leases = self._truth.leases
        if method == "GET":
            if name not in leases:
                raise Refusal(404, "no lease")
            return leases[name]
        name = body["metadata"]["name"]
        there = leases.get(name)
        if method == "POST" and there is not None:
            raise Refusal(409, "exists")
        if method == "PUT" and (
            there is None or body["metadata"].get("resourceVersion") != there["metadata"]["resourceVersion"]
        ):
            raise Refusal(409, "the lease has been modified")
        body["metadata"]["resourceVersion"] = str(int(there["metadata"]["resourceVersion"]) + 1 if there else 1)
        leases[name] = body
        return body

    async def watch(self, path: str, resource_version: str, *, query: Query = ()) -> AsyncIterator[WatchEvent]:
        """See KubeClient."""
        kind, at = path.rsplit("/", 1)[1], int(resource_version)
        rng, truth, heard = self._rng, self._truth, self._now
        position = len(truth.log)
        while position and truth.log[position - 1][0] > at:
            position -= 1
        breaks_at = self._now + rng.choice((20.0, 300.0, 300.0))
        while True:
            if at < truth.forgotten:
                raise error_for(410, b'{"message": "too old resource version"}', what=f"WATCH {path}")
            if self._now > breaks_at or self._now - heard > _SILENCE_SECONDS:
                raise Unreachable(f"WATCH {path}: broken")
            silent = self.cut_off or self.stopped or kind in self.hung
            while not silent and position < len(truth.log):
                version, changed_at, of, event, body = truth.log[position]
                if of == kind and changed_at + self.weather.lag_seconds > self._now:
                    break
                position += 1
                at = version
                if of == kind:
                    heard = self._now
                    yield WatchEvent(event, msgspec.Raw(msgspec.json.encode(body)))
                    self.told[kind] = version
            else:
                if not silent and self._now - heard > _BOOKMARK_SECONDS:
                    heard = self._now
                    mark = {"metadata": {"resourceVersion": str(at)}}
                    yield WatchEvent("BOOKMARK", msgspec.Raw(msgspec.json.encode(mark)))
            if not silent and position < len(truth.log):
                await asyncio.sleep(max(truth.log[position][1] + self.weather.lag_seconds - self._now, 0.001))
            else:
                await truth.change(10.0)

    async def close(self) -> None:
        """See KubeClient."""
