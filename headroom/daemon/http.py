"""An HTTP server that strangers may reach: small bodies, none of them compressed, and an end to every wait.

A connection that sends half a request, lies about a length or does not read its answer costs a bounded amount of memory for a
bounded time; more connections than a limit are closed, those of the greediest address first.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, TypeAlias

import aiohttp
import msgspec
from aiohttp import web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from headroom.daemon.turns import Turns
from headroom.errors import HeadroomError

JSON: Final = "application/json"
THIS_MACHINE: Final = frozenset(("127.0.0.1", "::1"))
"""Addresses of callers on this machine (in its network namespace). The rest of 127.0.0.0/8 does not count: service meshes hand over
calls of other pods from addresses such as 127.0.0.6."""

_PIECE_BYTES: Final = 2**16

Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Question:
    """What a page is asked: the query of the URL, the body, and the address that asks."""

    query: Mapping[str, str]
    body: bytes
    content_type: str
    caller: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a page answers."""

    body: bytes
    content_type: str = JSON
    status: int = 200


Page: TypeAlias = Callable[[Question], Awaitable[Reply]]
Route: TypeAlias = tuple[str, str]
"""Method and path."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What callers may cost."""

    body_bytes: int = 2**18
    """Longest body: a pod template has some kilobytes, the API server takes none above 1.5 MiB."""
    body_seconds: float = 5.0
    """Longest wait for a body."""
    idle_seconds: float = 30.0
    """After so long without a request, half-sent ones included, a connection is closed."""
    send_seconds: float = 15.0
    """Longest time for which a caller may take to read an answer."""
    buffer_bytes: int = 2**16
    """Half of what is read ahead of a handler, for each connection."""
    answers_per_second: float = 0.0
    """To all callers together, who are let in by turns; 0 for as many as there are. Reading a request costs the interpreter's time, too:
    a caller who gets no answer sends no further one."""
    connections: int = 256
    connections_per_address: int = 16
    """Callers on this machine are not counted by address."""


class BodyError(HeadroomError):
    """A body that is not taken; the text says why, `status` is the answer's."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Site:
    """What is served, and what it may cost: handlers that speak HTTP, and pages that only answer questions."""

    def __init__(
        self,
        pages: Mapping[Route, Page],
        handlers: Mapping[Route, Handler] = MappingProxyType({}),
        limits: Limits | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._handlers = dict(handlers) | {route: self._handler(page) for route, page in pages.items()}
        self._paths = {path for _, path in self._handlers}
        pace = self.limits.answers_per_second
        self._turns = Turns(least_rest_seconds=1 / pace, longest_rest_seconds=1 / pace) if pace else None

    def _handler(self, page: Page) -> Handler:
        async def answer(http: web.BaseRequest) -> web.StreamResponse:
            body = await read_body(http, most_bytes=self.limits.body_bytes, within_seconds=self.limits.body_seconds)
            reply = await page(Question(http.query, body, http.content_type, address_of(http.transport)))
            response = web.Response(body=reply.body, status=reply.status)
            response.headers["Content-Type"] = reply.content_type
            return response

        return answer

    def server(self) -> "_Server":
        """A protocol factory for the running event loop."""
        return _Server(self.answer, self.limits)

    async def answer(self, http: web.BaseRequest) -> web.StreamResponse:
        """The answer to one request."""
        if self._turns is not None:
            async with self._turns.turn(address_of(http.transport)):
                pass
        handler = self._handlers.get((http.method, http.path))
        if handler is None:
            known = http.path in self._paths
            return error(405 if known else 404, f"{http.method} is not answered here" if known else "no such page")
        try:
            response = await handler(http)
        except BodyError as refused:
            response = error(refused.status, str(refused))
            response.force_close()
        body = response.body if isinstance(response, web.Response) else None
        if isinstance(body, bytes) and len(body) > _PIECE_BYTES:
            return await self._send(http, response, body)
        return response

    async def _send(self, http: web.BaseRequest, answer: web.StreamResponse, body: bytes) -> web.StreamResponse:
        """A long answer piece by piece, so that one that is not read does not pile up, and ends."""
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(body)
        rest = memoryview(body)
        try:
            async with asyncio.timeout(self.limits.send_seconds):
                await response.prepare(http)
                for at in range(0, len(body), _PIECE_BYTES):
                    await response.write(rest[at : at + _PIECE_BYTES])
        except TimeoutError:
            if http.transport is not None:
                http.transport.abort()
        except ConnectionError:
            pass  # the caller went; nothing that a log need tell
        return response


def _not_the_callers_fault(record: logging.LogRecord) -> bool:
    """Requests that are no HTTP are answered, not logged: who sends them must not fill the log."""
    return record.exc_info is None or not isinstance(record.exc_info[1], HttpProcessingError)


_log = logging.getLogger(__name__)
_log.addFilter(_not_the_callers_fault)


class _Server(web.Server):
    """Counts connections, and closes those that are too many."""

    def __init__(self, handler: Handler, limits: Limits) -> None:
        super().__init__(
            handler,
            access_log=None,
            logger=_log,
            auto_decompress=False,
            keepalive_timeout=limits.idle_seconds,
            lingering_time=1.0,
            read_bufsize=limits.buffer_bytes,
        )
        self._limits = limits
        self._address_of: dict[RequestHandler, str] = {}
        self._of_address: dict[str, OrderedDict[RequestHandler, None]] = {}

    def connection_made(self, handler: RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        address = address_of(transport)
        self._address_of[handler] = address
        mine = self._of_address.setdefault(address, OrderedDict())
        mine[handler] = None
        if address not in THIS_MACHINE and len(mine) > self._limits.connections_per_address:
            handler.force_close()
        elif len(self._address_of) > self._limits.connections:
            by_address: list[OrderedDict[RequestHandler, None]] = list(self._of_address.values())
            greediest = max(by_address, key=len)
            next(iter(greediest)).force_close()  # its oldest

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        address = self._address_of.pop(handler, None)
        if address is None:
            return
        mine = self._of_address[address]
        mine.pop(handler, None)
        if not mine:
            del self._of_address[address]


def address_of(transport: asyncio.BaseTransport | None) -> str:
    """The caller's address; empty where there is none."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""


async def read_body(http: web.BaseRequest, *, most_bytes: int, within_seconds: float) -> bytes:
    """The body of a request. Raises BodyError for one that is too long, too slow, broken or compressed."""
    encoding = http.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise BodyError(415, f"Content-Encoding {encoding[:32]!r} is not taken: send the body as it is")
    too_long = BodyError(413, f"the body is longer than {_size_words(most_bytes)}")
    if (http.content_length or 0) > most_bytes:
        raise too_long
    content = http.content
    pieces: list[bytes] = []
    size = 0
    try:
        if content.is_eof():
            pieces.append(content.read_nowait())
            size = len(pieces[0])
        else:
            async with asyncio.timeout(within_seconds):
                while size <= most_bytes and (piece := await content.readany()):
                    size += len(piece)
                    pieces.append(piece)
    except TimeoutError as slow:
        raise BodyError(408, f"the body did not come within {within_seconds:g} s") from slow
    except (web.RequestPayloadError, aiohttp.ClientError, OSError) as broken:
        raise BodyError(400, f"the body is broken: {broken}") from broken
    if size > most_bytes:
        raise too_long
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _size_words(size: int) -> str:
    return f"{size // 2**20} MiB" if size >= 2**20 else f"{size // 2**10} KiB"


def fault(status: int, message: str) -> Reply:
    """An answer that says what is wrong."""
    return Reply(msgspec.json.encode({"Error": message}), status=status)


def error(status: int, message: str) -> web.Response:
    """`fault` as a response."""
    return web.Response(body=fault(status, message).body, content_type=JSON, status=status)
