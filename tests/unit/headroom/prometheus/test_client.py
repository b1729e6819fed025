"""Queries to Prometheus over real HTTP, and what they say of the cards' memory."""

import asyncio
import math
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from headroom.domain.model import Card, GpuNode
from headroom.prometheus.client import (
    PrometheusAnswerError,
    PrometheusError,
    PrometheusQueryError,
    PrometheusSource,
    PrometheusTimeoutError,
    PrometheusUnreachableError,
    Series,
)
from scheduler.cluster.measured import measured_of, measured_vram
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


AGENT = {"__name__": "headroom_card_memory_used_bytes"}
DCGM = {"__name__": "DCGM_FI_DEV_FB_USED"}
GIB = 2.0**30


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param([series(AGENT, (NOW, 3 * GIB), node="n1", card="GPU-a")], {("n1", "GPU-a"): 3072}, id="agent"),
        pytest.param(
            [series(AGENT, (NOW, 1.0), node="n1", card="GPU-a")], {("n1", "GPU-a"): 1}, id="rounded up to a MiB"
        ),
        pytest.param(
            [series(DCGM, (NOW, 500.0), Hostname="n1", UUID="GPU-a", gpu="0")],
            {("n1", "GPU-a"): 500, ("n1", "0"): 500}, id="dcgm-exporter: by UUID and by index",
        ),
        pytest.param(
            [series(AGENT, (NOW, GIB), exported_node="n1", node="other", card="a", namespace="headroom-system", job="pods")],
            {("n1", "a"): 1024}, id="labels not honoured",
        ),
        pytest.param(
            [series(AGENT, (NOW, GIB), exported_node="n1", node="other", card="a", namespace="evil", job="pods")],
            {("other", "a"): 1024}, id="a pod that speaks of another node is not believed",
        ),
        pytest.param(
            [
                series(DCGM, (NOW, 700.0), Hostname="n1", UUID="GPU-a", pod="x"),
                series(DCGM, (NOW, 710.0), Hostname="n1", UUID="GPU-a", pod="y"),
            ],
            {("n1", "GPU-a"): 710}, id="a shared card repeated for each pod is one card",
        ),
        pytest.param(
            [
                series(DCGM, (NOW, 900.0), Hostname="n1", UUID="GPU-a"),
                series(AGENT, (NOW, GIB), node="n1", card="GPU-a"),
            ],
            {("n1", "GPU-a"): 1024}, id="two exporters, the larger counts",
        ),
        pytest.param(
            [series(AGENT, (NOW - 90, 9 * GIB), (NOW - 10, GIB), node="n1", card="a")],
            {("n1", "a"): 1024}, id="the last sample counts",
        ),
    ],
)  # fmt: skip
def test_memory_in_use(found: list[Any], expected: dict[tuple[str, str], int]) -> None:
    read = measured_of([Series(labels, tuple(points)) for labels, points in found], 60, NOW)
    assert read.used_mib == expected
    assert (read.stale, read.unusable) == (0, 0)


@pytest.mark.parametrize(
    ("labels", "at", "value", "stale", "unusable"),
    [
        pytest.param({**AGENT, "node": "n", "card": "a"}, NOW - 61, GIB, 1, 0, id="too old"),
        pytest.param({**DCGM, "Hostname": "n", "UUID": "a"}, NOW, 9.2e18, 0, 1, id="not supported"),
        pytest.param({**DCGM, "Hostname": "n", "UUID": "a"}, NOW, 2147483632.0, 0, 1, id="not supported, 32 bit"),
        pytest.param({**AGENT, "node": "n", "card": "a"}, NOW, -1.0, 0, 1, id="negative"),
        pytest.param({**AGENT, "card": "a"}, NOW, GIB, 0, 1, id="no node"),
        pytest.param({**AGENT, "node": "n"}, NOW, GIB, 0, 1, id="no card"),
        pytest.param({**DCGM, "Hostname": "n", "UUID": "a", "GPU_I_ID": "3"}, NOW, 5.0, 0, 1, id="MIG instance"),
    ],
)
def test_what_does_not_count(labels: dict[str, str], at: float, value: float, stale: int, unusable: int) -> None:
    read = measured_of([Series(labels, ((at, value),))], 60, NOW)
    assert (read.used_mib, read.stale, read.unusable) == ({}, stale, unusable)


async def test_one_query_reads_the_fleet(server: FakePrometheus, source: PrometheusSource) -> None:
    server.answer(
        "headroom_card_memory_used_bytes",
        series(AGENT, (NOW - 12, 2 * GIB), node="n1", card="GPU-a"),
        series(DCGM, (NOW - 40, 333.0), Hostname="n2", UUID="GPU-z", gpu="1"),
        series(AGENT, (NOW - 75, 5 * GIB), node="n1", card="GPU-b"),
    )
    read = await measured_vram(source, 60, NOW)
    assert server.queries == ['{__name__=~"headroom_card_memory_used_bytes|DCGM_FI_DEV_FB_USED"}[60s]']
    first = GpuNode("n1", (Card("GPU-a", 0, "L4", 23000), Card("GPU-b", 1, "L4", 23000)))
    second = GpuNode("n2", (Card("0", 0, "T4", 15000), Card("1", 1, "T4", 15000)))
    assert (read.of_node(first), read.covers(first)) == ([2048, 0], False)
    assert read.of_node(second) == [0, 333]
    assert read.covers(GpuNode("n2", (Card("GPU-z", 0, "T4", 15000),)))
    assert (read.oldest_seconds, read.stale) == (40, 1)


async def test_an_outage_is_not_an_empty_fleet(server: FakePrometheus, source: PrometheusSource) -> None:
    server.fail(503, "starting")
    with pytest.raises(PrometheusError):
        await measured_vram(source, 60, NOW)
