"""Queries to Prometheus over real HTTP."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headroom.prometheus.client import (
    PrometheusAnswerError,
    PrometheusError,
    PrometheusQueryError,
    PrometheusSource,
    PrometheusTimeoutError,
    PrometheusUnreachableError,
    Series,
)
from tests.fakes.prometheus import FakePrometheus, series

NOW = 1_700_000_000.0


@pytest.fixture
async def server() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus().serve() as running:
        yield running


@pytest.fixture
async def source(server: FakePrometheus) -> AsyncIterator[PrometheusSource]:
    connected = PrometheusSource(server.url, timeout_seconds=5)
    yield connected
    await connected.close()


async def test_instant_range_and_scalar_answers(server: FakePrometheus, source: PrometheusSource) -> None:
    server.answer("up", series({"job": "a"}, (NOW - 15, 1.0), (NOW, 0.5)))
    server.answer_scalar("time", NOW, 7.0)
    assert await source.query("up") == [Series({"job": "a"}, ((NOW, 0.5),))]
    assert await source.query("up[60s]") == [Series({"job": "a"}, ((NOW - 15, 1.0), (NOW, 0.5)))]
    assert await source.query("time()") == [Series({}, ((NOW, 7.0),))]
    assert server.queries == ["up", "up[60s]", "time()"]


async def test_a_query_of_any_length_arrives(server: FakePrometheus, source: PrometheusSource) -> None:
    server.answer("padding", series({"job": "a"}, (NOW, 1.0)))
    long = "up " + "# padding\n" * 20_000
    assert await source.query(long) == [Series({"job": "a"}, ((NOW, 1.0),))]
    assert server.queries == [long]


async def test_a_large_answer_is_read_while_iterating(server: FakePrometheus, source: PrometheusSource) -> None:
    server.answer("load", *(series({"pod": str(at)}, (NOW, float(at)), (NOW + 1, math.nan)) for at in range(3)))
    answer = await source.ask("load[1m]")
    assert list(answer) == [Series({"pod": str(at)}, ((NOW, float(at)),)) for at in range(3)]
    assert answer.dropped_values == 3
    server.talk_nonsense({"data": {"result": [{"metric": {"pod": "a"}, "value": [NOW, "1"]}, {"metric": 5}]}})
    answer = await source.ask("load")
    read = iter(answer)
    assert next(read).labels == {"pod": "a"}
    with pytest.raises(PrometheusAnswerError, match="no query result"):
        next(read)


async def test_nothing_found_is_an_answer(source: PrometheusSource) -> None:
    assert await source.query("nobody_exports_this") == []


async def test_values_that_are_no_number_are_dropped_and_counted(
    server: FakePrometheus, source: PrometheusSource
) -> None:
    server.answer(
        "load",
        series({"pod": "a"}, (NOW - 2, math.nan), (NOW - 1, 3.0), (NOW, math.inf)),
        series({"pod": "b"}, (NOW, math.nan)),
    )
    assert await source.query("load[1m]") == [Series({"pod": "a"}, ((NOW - 1, 3.0),))]
    assert source.dropped_values == 3


@pytest.mark.parametrize("status", [400, 422])
async def test_a_refused_query_says_what_prometheus_said(
    server: FakePrometheus, source: PrometheusSource, status: int
) -> None:
    server.fail(status, 'parse error: unexpected "}"')
    with pytest.raises(PrometheusQueryError) as caught:
        await source.query("up{{")
    assert 'parse error: unexpected "}"' in str(caught.value)
    assert "up{{" in str(caught.value)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (503, {"status": "error", "errorType": "unavailable", "error": "starting up"}, "status 503: starting up"),
        (500, "a proxy's page", "status 500: a proxy's page"),
        (404, "404 page not found", "status 404"),
        (200, "<html>", "not JSON"),
        (200, {"status": "success"}, "without a result"),
        (200, [], "without a result"),
        (200, {"data": {"result": [{"metric": {}}]}}, "no query result"),
        (200, {"data": {"result": [{"metric": {}, "value": [NOW, "many"]}]}}, "no query result"),
        (200, {"data": {"result": 5}}, "no query result"),
        (200, {"data": {"result": "text"}}, "no query result"),
    ],
)
async def test_answers_that_are_none(
    server: FakePrometheus, source: PrometheusSource, status: int, body: Any, words: str
) -> None:
    server.talk_nonsense(body, status)
    with pytest.raises(PrometheusAnswerError) as caught:
        await source.query("up")
    assert words in str(caught.value)
    server.recover()
    assert await source.query("up") == []


async def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        source = PrometheusSource(f"http://127.0.0.1:{taken.getsockname()[1]}", timeout_seconds=5)
        with pytest.raises(PrometheusUnreachableError, match=r"cannot be reached: .*[Rr]efused") as caught:
            await source.query("up == 1234")
        assert "1234" not in str(caught.value)
        await source.close()


async def test_a_server_that_hangs_and_recovers(server: FakePrometheus) -> None:
    source = PrometheusSource(server.url, timeout_seconds=0.2)
    server.stall()
    with pytest.raises(PrometheusTimeoutError):
        await source.query("up")
    server.recover()
    patient = PrometheusSource(server.url, timeout_seconds=5)
    assert await patient.query("up") == []
    await source.close()
    await patient.close()


async def test_several_queries_at_once(server: FakePrometheus, source: PrometheusSource) -> None:
    for name in "abcdefgh":
        server.answer(f"^{name}$", series({"is": name}, (NOW, 1.0)))
    answers = await asyncio.gather(*(source.query(name) for name in "abcdefgh"))
    assert [answer[0].labels["is"] for answer in answers] == list("abcdefgh")


@pytest.mark.parametrize("url", ["", "prometheus:9090", "ftp://prometheus", "http://"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(PrometheusError, match="not the address"):
        PrometheusSource(url)
