"""One collection over real HTTP: what is asked, what an answer costs others, what is told of queries without one."""

from collections.abc import AsyncIterator

import pytest

from autoscaler.adapters.collector import Collector
from autoscaler.observation.queries import CLOCK, GAUGES, Custom, Plan, combine
from headroom.prometheus.client import PrometheusSource
from tests.fakes.prometheus import FakePrometheus, series

NOW = 1_800_000_000.0


@pytest.fixture
async def prometheus() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus().serve() as running:
        yield running


@pytest.fixture
async def collector(prometheus: FakePrometheus) -> AsyncIterator[Collector]:
    source = PrometheusSource(prometheus.url, timeout_seconds=5)
    made = Collector(source, short_seconds=30, long_seconds=60)
    made._wall_clock = lambda: NOW
    yield made
    await source.close()


def custom(*queries: str) -> Plan:
    pairs = [(str(at), Custom(f"ns/{at}", "load", query)) for at, query in enumerate(queries)]
    return Plan({"custom0": combine(pairs)}, {"custom0": pairs})


async def test_ages_are_reckoned_from_prometheus_own_clock(prometheus: FakePrometheus, collector: Collector) -> None:
    prometheus.answer("vector", series({}, (NOW + 500, NOW + 500)))
    snapshot = await collector.collect(Plan({CLOCK: "vector(time())"}))
    assert snapshot.clock_seconds == NOW + 500


async def test_half_an_answer_is_none(prometheus: FakePrometheus, collector: Collector) -> None:
    card = {"__name__": "DCGM_FI_DEV_GPU_UTIL", "UUID": "GPU-1", "pod": "a", "namespace": "ns"}
    found = [{"metric": card, "values": [[NOW, "90"]]}, {"metric": card, "values": 7}]
    prometheus.talk_nonsense({"status": "success", "data": {"resultType": "matrix", "result": found}})
    snapshot = await collector.collect(Plan({GAUGES: "gauges[60s]"}))
    assert "no query result" in snapshot.errors[GAUGES]
    assert (snapshot.gauges, snapshot.devices.by_id, snapshot.devices.of_pod) == ({}, {}, {})


class TestRefusedQueries:
    @pytest.fixture(autouse=True)
    def refusals(self, prometheus: FakePrometheus) -> None:
        prometheus.refuse("bad", 400, "parse error")
        prometheus.refuse("slow", 503, "overloaded")

    async def asked(self, prometheus: FakePrometheus, collector: Collector, plan: Plan) -> tuple[int, dict[str, str]]:
        prometheus.queries.clear()
        snapshot = await collector.collect(plan)
        wrong = {target: answer for (target, _), answer in snapshot.custom.items() if isinstance(answer, str)}
        return len(prometheus.queries), wrong

    async def test_one_is_found_and_kept_out_for_a_while(
        self, prometheus: FakePrometheus, collector: Collector
    ) -> None:
        plan = custom("a", "bad", "c", "d")
        number, wrong = await self.asked(prometheus, collector, plan)
        assert (number, list(wrong)) == (5, ["ns/1"])  # all, the halves, the quarters of one half
        assert "parse error" in wrong["ns/1"]
        assert await self.asked(prometheus, collector, plan) == (1, wrong)
        collector._wall_clock = lambda: NOW + 301
        number, again = await self.asked(prometheus, collector, plan)
        assert (number, again) == (5, wrong)

    async def test_a_clock_that_went_back_does_not_keep_it_out_for_ever(
        self, prometheus: FakePrometheus, collector: Collector
    ) -> None:
        await self.asked(prometheus, collector, custom("bad"))
        collector._wall_clock = lambda: NOW - 86_400
        number, _ = await self.asked(prometheus, collector, custom("bad"))
        assert number == 1

    async def test_no_answer_to_a_half_is_an_error_of_its_queries(
        self, prometheus: FakePrometheus, collector: Collector
    ) -> None:
        _, wrong = await self.asked(prometheus, collector, custom("a", "bad", "c", "slow"))
        assert sorted(wrong) == ["ns/1", "ns/2", "ns/3"]
        assert "overloaded" in wrong["ns/2"]
        assert "overloaded" in wrong["ns/3"]

    async def test_queries_of_objects_that_are_gone_are_forgotten(
        self, prometheus: FakePrometheus, collector: Collector
    ) -> None:
        await self.asked(prometheus, collector, custom("bad"))
        await self.asked(prometheus, collector, Plan())
        assert collector._refused == {}
