"""What strangers may cost: small bodies as they are, an end to every wait, a bounded number of connections."""

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from headroom.daemon.http import Limits, Question, Reply, Site
from headroom.daemon.pages import serving
from tests.waiting import pass_time, turns

LIMITS = Limits(
    body_bytes=2048, body_seconds=0.3, idle_seconds=0.6, send_seconds=0.3, connections=40, connections_per_address=10
)
PATIENT = replace(LIMITS, idle_seconds=30.0, send_seconds=30.0)
"""For what a slow machine must not end."""
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n"
LONG = b"x" * 20_000_000


async def echo(question: Question) -> Reply:
    return Reply(question.body + question.query.get("more", "").encode() + b" for " + question.caller.encode())


async def long(_: Question) -> Reply:
    return Reply(LONG, "text/plain")


async def broken(_: Question) -> Reply:
    raise RuntimeError("an error nobody foresaw")


@contextlib.asynccontextmanager
async def served(limits: Limits = LIMITS) -> AsyncIterator[int]:
    site = Site({("POST", "/echo"): echo, ("GET", "/long"): long, ("GET", "/broken"): broken}, limits=limits)
    async with serving(site, "127.0.0.1", 0, shutdown_seconds=0.1) as port:
        yield port


class Connection:
    """A connection from an address of the caller's choice."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, port: int, source: str = "127.0.0.1") -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0)))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer; 0 when the connection ends instead."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            return int(head.split()[1]), await self.reader.readexactly(length)
        except (asyncio.IncompleteReadError, ConnectionError):
            return 0, b""

    async def ended(self, seconds: float = 5.0) -> bool:
        """Whether the server ends the connection in time."""
        try:
            async with asyncio.timeout(seconds):
                while await self.reader.read(65536):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    async def is_open(self) -> bool:
        await turns()
        return not (self.reader.at_eof() or self.reader.exception())


async def ask(port: int, data: bytes, source: str = "127.0.0.1") -> tuple[int, bytes]:
    connection = await Connection.to(port, source)
    try:
        connection.send(data)
        return await connection.answer()
    finally:
        connection.writer.close()


def post(body: bytes, *headers: bytes) -> bytes:
    return POST + b"".join(header + b"\r\n" for header in headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize(
    ("data", "status", "said"),
    [
        pytest.param(post(b"hello"), 200, b"hello for 127.0.0.1", id="as it should be"),
        pytest.param(post(b""), 200, b" for 127.0.0.1", id="no body"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200, b"hello", id="in chunks"),
        pytest.param(POST.replace(b"/echo", b"/nowhere") + b"\r\n", 404, b"no such page", id="no such page"),
        pytest.param(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n", 405, b"GET is not answered here", id="another method"),
        pytest.param(post(gzip.compress(bytes(10**6)), b"Content-Encoding: gzip"), 415, b"gzip", id="a gzip"),
        pytest.param(post(b"x", b"Content-Encoding: br"), 415, b"br", id="brotli"),
        pytest.param(post(b"x" * 3000), 413, b"longer than 2 KiB", id="too long"),
        pytest.param(POST + b"Content-Length: 99999999999\r\n\r\n", 413, b"longer", id="too long by its own words"),
        pytest.param(
            POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n" + b"800\r\n" + b"x" * 2048,
            413, b"longer", id="too long in chunks",
        ),
        pytest.param(POST + b"Content-Length: 10\r\n\r\nhel", 408, b"did not come within 0.3 s", id="half sent"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhel", 408, b"did not come", id="half a chunk"),
        pytest.param(POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhel", 400, b"", id="a chunk of no length"),
        pytest.param(POST + b"Content-Length: -5\r\n\r\nhello", 400, b"", id="a length below zero"),
        pytest.param(POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, b"", id="two lengths"),
        pytest.param(POST + b"X: " + b"x" * 100_000 + b"\r\n\r\n", 400, b"", id="a header too long"),
        pytest.param(b"nonsense\r\n\r\n", 400, b"", id="no HTTP"),
    ],
)  # fmt: skip
async def test_a_request_gets_its_answer_and_the_next_one_too(data: Any, status: int, said: bytes) -> None:
    """s14, s14b: the large body and the gzip."""
    async with served() as port:
        found, body = await ask(port, data)
        assert found == status
        assert said in body
        assert await ask(port, post(b"again")) == (200, b"again for 127.0.0.1")


async def test_a_body_longer_than_it_says_ends_the_connection() -> None:
    async with served() as port:
        connection = await Connection.to(port)
        connection.send(POST + b"Content-Length: 5\r\n\r\nhello and more\r\n\r\n")
        assert (await connection.answer())[0] == 400
        assert await connection.ended()


async def test_what_is_no_http_is_not_logged_and_an_error_of_ours_is(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as port:
        assert (await ask(port, b"nonsense\r\n\r\n"))[0] == 400
        assert (await ask(port, POST + b"Content-Length: -5\r\n\r\nhello"))[0] == 400
        assert caplog.records == []
        await ask(port, b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "an error nobody foresaw" in caplog.text


async def test_connections_that_send_nothing_or_half_a_request_end() -> None:
    async with served() as port:
        silent, half = await Connection.to(port), await Connection.to(port)
        half.send(POST)
        assert await silent.ended()
        assert await half.ended()


async def test_an_error_in_a_page_is_a_500_and_no_end() -> None:
    async with served() as port:
        assert (await ask(port, b"GET /broken HTTP/1.1\r\nHost: x\r\n\r\n"))[0] == 500
        assert (await ask(port, post(b"again")))[0] == 200


async def test_a_long_answer_arrives_whole() -> None:
    async with served(PATIENT) as port:
        assert await ask(port, GET) == (200, LONG)


async def test_an_answer_that_nobody_reads_is_dropped() -> None:
    async with served() as port:
        connection = await Connection.to(port)
        connection.send(GET)
        await pass_time(1.0)
        read = 0
        with contextlib.suppress(ConnectionError):
            while piece := await connection.reader.read(2**20):
                read += len(piece)
        assert read < len(LONG)


async def test_hundreds_of_half_sent_bodies_leave_room_for_a_whole_one() -> None:
    async with served(Limits(body_bytes=2048, body_seconds=0.5, connections=1000)) as port:
        half = [await Connection.to(port) for _ in range(600)]
        for connection in half:
            connection.send(POST + b"Content-Length: 1000\r\n\r\n{")
        assert (await ask(port, post(b"whole")))[0] == 200
        assert [(await connection.answer())[0] for connection in half] == [408] * 600
        for connection in half:
            assert await connection.ended()


async def test_one_address_has_so_many_connections_and_no_more() -> None:
    async with served(PATIENT) as port:
        kept = [await Connection.to(port, "127.0.0.2") for _ in range(10)]
        more = [await Connection.to(port, "127.0.0.2") for _ in range(5)]
        assert [await connection.ended() for connection in more] == [True] * 5
        assert all([await connection.is_open() for connection in kept[:3]])
        assert (await ask(port, post(b"hello"), "127.0.0.3"))[0] == 200
        kept[0].writer.close()
        await turns()
        assert (await ask(port, post(b"again"), "127.0.0.2"))[0] == 200


async def test_where_all_addresses_have_too_many_the_greediest_loses_its_oldest() -> None:
    async with served(Limits(connections=20, connections_per_address=15)) as port:
        greedy = [await Connection.to(port, "127.0.0.2") for _ in range(15)]
        others = [await Connection.to(port, f"127.0.0.{at}") for at in range(3, 9)]
        assert await greedy[0].ended()
        assert await greedy[1].is_open()
        assert all([await connection.is_open() for connection in others])


async def test_this_machine_is_not_counted_by_address() -> None:
    async with served(PATIENT) as port:
        many = [await Connection.to(port) for _ in range(30)]
        assert all([await connection.is_open() for connection in many[:3]])


@pytest.mark.parametrize("count", [3000])
async def test_thousands_of_connections_are_closed_but_for_so_many(count: int) -> None:
    async with served(Limits(connections=40, connections_per_address=40)) as port:
        opened = [await Connection.to(port, f"127.0.{at % 50}.7") for at in range(count)]
        assert (await ask(port, post(b"hello")))[0] == 200
        still = 0
        for connection in opened:
            still += not connection.reader.at_eof()
            connection.writer.close()
        assert still <= 45


async def test_callers_are_answered_at_a_pace_and_by_turns() -> None:
    """s31."""
    async with served(Limits(answers_per_second=20, connections_per_address=50)) as port:
        greedy = [asyncio.create_task(ask(port, post(b"more"), "127.0.0.2")) for _ in range(20)]
        await turns()
        assert (await ask(port, post(b"once"), "127.0.0.3"))[0] == 200
        assert not all(task.done() for task in greedy)
        assert [status for status, _ in await asyncio.gather(*greedy)] == [200] * 20


async def test_a_caller_who_leaves_during_a_long_answer_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as port:
        for _ in range(5):
            connection = await Connection.to(port)
            connection.send(GET)
            connection.writer.transport.abort()
        assert (await ask(port, post(b"again")))[0] == 200
        await turns()
    assert caplog.records == []
