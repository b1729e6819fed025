"""A Prometheus of scripted answers, spoken to over real HTTP.

`answer(pattern, series...)` gives the series to every query that the pattern is found in, later scripts first; any other
query gets an empty answer. `fail`, `stall` and `talk_nonsense` script its bad days; `queries` records what it was asked.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Points = list[tuple[float, float]]


def series(labels: dict[str, str], *points: tuple[float, float], **more: str) -> tuple[dict[str, str], Points]:
    """One series: labels and (Unix seconds, value) pairs, oldest first."""
    return {**labels, **more}, list(points)


_PARTS = re.compile(r'label_replace\(\n(.*?)\n, "headroom_query", "(\d+)", "", ""\)', re.DOTALL)


@dataclass
class _Tagged:
    """The answer to one query of a batch."""

    values: tuple[float, ...] = ()
    delay_seconds: float = 0.0
    entries: list[Any] | None = None
    fault: tuple[int, str] | None = None


class FakePrometheus:
    """Scripted answers to `/api/v1/query`."""

    def __init__(self) -> None:
        self.url = ""
        self.queries: list[str] = []
        self._answers: list[tuple[re.Pattern[str], Any]] = []
        self._fault: tuple[int, Any] | None = None
        self._stalled: asyncio.Event | None = None
        self._meanwhile: Callable[[], Awaitable[None]] | None = None
        self._refused: list[tuple[re.Pattern[str], int, Any]] = []
        self._tagged: dict[str, _Tagged] = {}
        self.warnings: list[str] = []
        """Come with every answer."""
        self.now = 1_800_000_000.0
        """Time of the answers to tagged queries."""

    def answer(self, pattern: str, *found: tuple[dict[str, str], Points]) -> None:
        """Answer queries that match with these series: as a range where the query is one, else with their last points."""
        self._answers.insert(0, (re.compile(pattern), list(found)))

    def answer_tagged(
        self,
        query: str,
        *values: float,
        delay_seconds: float = 0.0,
        entries: list[Any] | None = None,
        fault: Any = None,
    ) -> None:
        """Answer a query wherever it stands in a batch of tagged ones: with these values, late, with raw entries, or with a
        (status, message) for the whole batch."""
        self._tagged[query] = _Tagged(values, delay_seconds, entries, fault)

    def answer_scalar(self, pattern: str, at: float, value: float) -> None:
        """Answer queries that match with a scalar."""
        self._answers.insert(0, (re.compile(pattern), (at, value)))

    def fail(self, status: int, message: str = "told to fail", kind: str = "bad_data") -> None:
        """Answer every query with an error from now on."""
        self._fault = status, {"status": "error", "errorType": kind, "error": message}

    def refuse(self, pattern: str, status: int = 400, message: str = "told to refuse") -> None:
        """Answer queries that match with an error from now on, the others as scripted."""
        body: dict[str, Any] = {"status": "error", "errorType": "bad_data", "error": message}
        self._refused.append((re.compile(pattern), status, body))

    def talk_nonsense(self, body: Any, status: int = 200) -> None:
        """Answer every query with this body from now on: text as it is, anything else as JSON."""
        self._fault = status, body

    def meanwhile(self, action: Callable[[], Awaitable[None]]) -> None:
        """Do this once, before the next query is answered."""
        self._meanwhile = action

    def forget(self) -> None:
        """Forget the answers scripted so far."""
        self._answers.clear()

    def stall(self) -> None:
        """Leave every query unanswered from now on."""
        self._stalled = asyncio.Event()

    def recover(self) -> None:
        """Answer as scripted again."""
        self._fault = None
        if self._stalled is not None:
            self._stalled.set()
            self._stalled = None

    async def _query(self, request: web.Request) -> web.Response:
        form = {**request.query, **(await request.post())}
        promql = str(form.get("query", ""))
        self.queries.append(promql)
        if self._stalled is not None:
            await self._stalled.wait()
        action, self._meanwhile = self._meanwhile, None
        if action is not None:
            await action()
        if self._fault is not None:
            status, body = self._fault
            if isinstance(body, str):
                return web.Response(status=status, text=body)
            return web.json_response(body, status=status)
        for pattern, status, body in self._refused:
            if pattern.search(promql):
                return web.json_response(body, status=status)
        if self._tagged and (parts := _PARTS.findall(promql)):
            return await self._batch(parts)
        answers = (answer for pattern, answer in self._answers if pattern.search(promql))
        found: Sequence[Any] = next(answers, [])
        return web.json_response({"status": "success", "data": _result(promql, found)})

    async def _batch(self, parts: list[tuple[str, str]]) -> web.Response:
        known = [(self._tagged.get(query, _Tagged()), tag) for query, tag in parts]
        await asyncio.sleep(max(one.delay_seconds for one, _ in known))
        for one, _ in known:
            if one.fault is not None:
                refused = {"status": "error", "errorType": "bad_data", "error": one.fault[1]}
                return web.json_response(refused, status=one.fault[0])
        result: list[Any] = []
        for one, tag in known:
            result += [{"metric": {"headroom_query": tag}, "value": _pair(self.now, value)} for value in one.values]
            for entry in one.entries or ():
                result.append({**entry, "metric": {**entry.get("metric", {}), "headroom_query": tag}})
        body: dict[str, Any] = {
            "status": "success",
            "data": {"resultType": "vector", "result": result},
            "warnings": self.warnings,
        }
        return web.json_response(body)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator["FakePrometheus"]:
        """Listen on a free port of the loopback until the block ends; `url` says where."""
        app = web.Application()
        app.router.add_route("*", "/api/v1/query", self._query)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self.recover()
            await runner.cleanup()


def _result(promql: str, found: Any) -> dict[str, Any]:
    if isinstance(found, tuple):
        return {"resultType": "scalar", "result": _pair(*found)}
    if promql.partition(" @ ")[0].rstrip().endswith("]"):
        result = [{"metric": labels, "values": [_pair(*point) for point in points]} for labels, points in found]
        return {"resultType": "matrix", "result": result}
    result = [{"metric": labels, "value": _pair(*points[-1])} for labels, points in found]
    return {"resultType": "vector", "result": result}


def _pair(at: float, value: float) -> list[Any]:
    if math.isnan(value):
        return [at, "NaN"]
    if math.isinf(value):
        return [at, "+Inf" if value > 0 else "-Inf"]
    return [at, repr(value)]
