"""Prometheus on its bad days, and servers that are not quite it: what an object's status says and what is done."""

import json
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.fakes.autoscaler_bench import IA, Bench
from tests.fakes.platforms import Platform, basic

QUERY = 'sum(router_queue{model="llm"})'
SIGNAL = [{"name": "q", "type": "query", "query": QUERY, "target": "10"}]
PARTIAL = ["No StoreAPIs matched for this query", "receive store 10.0.0.9:10901: rpc error: code = Unavailable"]


def said(bench: Bench, name: str = "llm") -> str:
    return json.dumps(bench.api.get(IA, name).get("status", {}))


@pytest.fixture
def logs() -> Iterator[list[dict[str, str]]]:
    with capture_logs() as found:
        yield found  # type: ignore[misc]


class TestPartialAnswers:
    async def test_half_a_sum_does_not_lower_and_the_warning_is_shown(self, bench: Bench) -> None:
        """Q10, kedacore/keda#6839: Thanos answers 200 with half the sum while a store is down; 8 -> 3 before."""
        bench.workload(replicas=8)
        bench.loads.clear()
        bench.object(engine="custom", signals=SIGNAL)
        bench.prometheus.answer_tagged(QUERY, 78.0)
        await bench.start()
        await bench.tick(8)
        assert bench.replicas() == 8
        bench.prometheus.answer_tagged(QUERY, 20.0)
        bench.prometheus.warnings = PARTIAL
        await bench.tick(16)
        assert bench.replicas() == 8
        signal = bench.api.get(IA, "llm")["status"]["signals"][0]
        assert (signal["state"], signal["value"]) == ("partial", "20")
        assert PARTIAL[1] in signal["message"]
        bench.prometheus.answer_tagged(QUERY, 99.0)
        await bench.tick()
        assert bench.replicas() == 10, "what is seen alone asks for more"
        bench.prometheus.answer_tagged(QUERY, 20.0)
        bench.prometheus.warnings = []
        await bench.tick(16)
        assert bench.replicas() == 3

    async def test_nor_do_pods_metrics_of_which_a_store_is_down(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 1.0)
        async with Platform(busy.prometheus.url, "thanos", missing="llm-5d9f-9", whole=False).serve() as platform:
            await busy.restart(prometheus_url=platform.url)
            await busy.tick(16)
        assert busy.replicas() == 4
        assert busy.api.get(IA, "llm")["status"]["signals"][0]["state"] == "partial"

    async def test_a_remark_of_prometheus_is_shown_and_changes_nothing(self, bench: Bench) -> None:
        bench.workload(replicas=8)
        bench.loads.clear()
        bench.object(engine="custom", signals=SIGNAL)
        bench.prometheus.answer_tagged(QUERY, 20.0)
        bench.prometheus.warnings = ['PromQL info: metric might not be a counter: "router_queue" (2:5)']
        await bench.start()
        await bench.tick(16)
        assert bench.replicas() == 3
        assert "metric might not be a counter" in said(bench)


class TestAway:
    async def test_it_is_logged_once_and_every_object_says_that_it_is_unreachable(
        self, busy: Bench, logs: list[dict[str, str]]
    ) -> None:
        busy.object("second", target="llm", mode="Advisory")
        busy.prometheus.stall()
        await busy.tick(4)
        assert [entry["event"] for entry in logs if entry["event"].startswith("prometheus")] == ["prometheus_away"]
        for name in ("llm", "second"):
            active = busy.condition("ScalingActive", name)
            assert (active["status"], active["reason"]) == ("False", "Outage")
            assert "Prometheus is unreachable" in active["message"]
        assert "did not answer within" in busy.loop.prometheus_away
        busy.prometheus.recover()
        await busy.tick(2)
        assert [entry["event"] for entry in logs if entry["event"].startswith("prometheus")][1:] == ["prometheus_back"]
        assert busy.loop.prometheus_away == ""
        assert busy.condition("ScalingActive")["status"] == "True"


class TestCredentials:
    async def test_a_password_in_the_address_is_sent_and_shown_nowhere(
        self, busy: Bench, logs: list[dict[str, str]]
    ) -> None:
        """Q14 (security): it stood in every object's status."""
        async with Platform(busy.prometheus.url, user="reader", secret="s3cret-pass").serve() as platform:
            await busy.restart(prometheus_url=platform.url.replace("://", "://reader:s3cret-pass@"))
            await busy.tick(2)
            assert busy.condition("ScalingActive")["status"] == "True"
            platform.secret = "rotated"
            await busy.tick(3)
        assert "status 401" in said(busy)
        everything = said(busy) + json.dumps([str(entry) for entry in logs])
        everything += json.dumps([request.body for request in busy.api.requests if request.method != "GET"])
        for secret in ("s3cret-pass", basic("reader", "s3cret-pass").split()[1]):
            assert secret not in everything


async def test_a_query_that_cannot_be_read_is_a_condition_with_its_place(bench: Bench) -> None:
    bench.workload(replicas=2)
    bench.loads.clear()
    bench.object(engine="custom", signals=SIGNAL)
    text = 'invalid parameter "query": 2:9: parse error: unexpected identifier'
    bench.prometheus.answer_tagged(QUERY, fault=(400, text))
    await bench.start()
    await bench.tick(2)
    warning = bench.condition("SpecWarning")
    assert (warning["status"], warning["reason"]) == ("True", "InvalidQuery")
    assert "signal q: " in warning["message"]
    assert "1:9: parse error: unexpected identifier" in warning["message"]
    bench.prometheus.answer_tagged(QUERY, 10.0)
    bench.now += 400
    await bench.tick(2)
    assert bench.condition("SpecWarning")["status"] == "False"


async def test_a_refused_query_shows_the_reason_before_the_query(bench: Bench) -> None:
    """Q22: a query of 600 characters pushed the reason out of the 512 bytes of a message."""
    bench.workload(replicas=2)
    bench.loads.clear()
    query = f"sum(rate({'router_queue_of_a_long_name' * 20}[1m])"
    bench.object(engine="custom", signals=[{**SIGNAL[0], "query": f"{query})"}])
    bench.prometheus.refuse("router_queue", 400, "1:9: parse error: unexpected end of input")
    await bench.start()
    await bench.tick()
    message = bench.api.get(IA, "llm")["status"]["signals"][0]["message"]
    assert message.startswith("1:9: parse error: unexpected end of input")
    assert "router_queue_of_a_long_name" in message
