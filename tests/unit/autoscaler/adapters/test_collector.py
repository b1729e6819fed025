"""One collection over real HTTP: what is asked, what an answer costs others, what is told of queries without one."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from autoscaler.adapters.collector import Collector
from autoscaler.observation.answers import Snapshot
from autoscaler.observation.queries import CLOCK, GAUGES, Custom, Plan, combine
from autoscaler.observation.series import Sample
from headroom.prometheus.client import PrometheusSource
from headroom.prometheus.settings import PrometheusSettings
from tests.fakes.platforms import Platform
from tests.fakes.prometheus import FakePrometheus, series

NOW = 1_800_000_000.0


@pytest.fixture
async def prometheus() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus().serve() as running:
        yield running


class Clock:
    """Turned by hand."""

    now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def collector(prometheus: FakePrometheus, clock: Clock) -> AsyncIterator[Collector]:
    source = PrometheusSource(prometheus.url, timeout_seconds=5)
    yield Collector(source, short_seconds=30, long_seconds=60, wall_clock=clock)
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
        self, prometheus: FakePrometheus, collector: Collector, clock: Clock
    ) -> None:
        plan = custom("a", "bad", "c", "d")
        number, wrong = await self.asked(prometheus, collector, plan)
        assert (number, list(wrong)) == (5, ["ns/1"])  # all, the halves, the quarters of one half
        assert "parse error" in wrong["ns/1"]
        assert await self.asked(prometheus, collector, plan) == (1, wrong)
        clock.now += 301
        number, again = await self.asked(prometheus, collector, plan)
        assert (number, again) == (5, wrong)

    async def test_a_clock_that_went_back_does_not_keep_it_out_for_ever(
        self, prometheus: FakePrometheus, collector: Collector, clock: Clock
    ) -> None:
        await self.asked(prometheus, collector, custom("bad"))
        clock.now -= 86_400
        number, _ = await self.asked(prometheus, collector, custom("bad"))
        assert number == 1

    async def test_an_error_is_that_of_the_query_that_meets_it(
        self, prometheus: FakePrometheus, collector: Collector
    ) -> None:
        _, wrong = await self.asked(prometheus, collector, custom("a", "bad", "c", "slow"))
        assert sorted(wrong) == ["ns/1", "ns/3"]
        assert "overloaded" in wrong["ns/3"]

    async def test_queries_of_objects_that_are_gone_are_forgotten(
        self, prometheus: FakePrometheus, collector: Collector
    ) -> None:
        await self.asked(prometheus, collector, custom("bad"))
        await self.asked(prometheus, collector, Plan())
        assert (await self.asked(prometheus, collector, custom("bad")))[0] == 1


HISTOGRAM = {"histogram": [NOW, {"count": "10", "sum": "33", "buckets": [[0, "0.1", "0.2", "10"]]}]}


class TestOneHarmsNoOther:
    """Q07, Q08, Q08c: what one query does, the others of its batch are not told."""

    NUMBER = 40

    async def answers(
        self, prometheus: FakePrometheus, times: int = 1, timeout_seconds: float = 5.0, **first: Any
    ) -> tuple[list[Snapshot], list[int]]:
        """Snapshots and numbers of queries; the first of forty queries does what `first` says."""
        queries = [f"q_{number}" for number in range(self.NUMBER)]
        for query in queries:
            prometheus.answer_tagged(query, 55.0)
        prometheus.answer_tagged("q_0", *first.pop("values", (55.0,)), **first)
        prometheus.answer("^vector", series({}, (NOW, NOW)))
        groups = {f"custom{at}": queries[at * 10 : at * 10 + 10] for at in range(4)}
        tagged = {
            group: [(query[2:], Custom(f"ns/{query}", "q", query)) for query in of] for group, of in groups.items()
        }
        plan = Plan({CLOCK: "vector(time())", **{g: combine(p) for g, p in tagged.items()}}, tagged)
        source = PrometheusSource(prometheus.url, timeout_seconds=timeout_seconds)
        one = Collector(
            source, short_seconds=30, long_seconds=60, timeout_seconds=timeout_seconds, wall_clock=lambda: NOW
        )
        snapshots, asked = [], []
        for _ in range(times):
            prometheus.queries.clear()
            snapshots.append(await one.collect(plan))
            asked.append(len(prometheus.queries))
        await source.close()
        return snapshots, asked

    @staticmethod
    def wrong(snapshot: Snapshot) -> dict[str, str]:
        return {key[0]: found for key, found in snapshot.custom.items() if isinstance(found, str)}

    async def test_a_slow_one_is_found_at_once_and_asked_by_itself_from_then_on(
        self, prometheus: FakePrometheus
    ) -> None:
        """kedacore/keda#3152: ten of forty were frozen."""
        (first, second), asked = await self.answers(prometheus, times=2, timeout_seconds=2.0, delay_seconds=60.0)
        for snapshot in (first, second):
            assert list(self.wrong(snapshot)) == ["ns/q_0"]
            assert "no answer within" in self.wrong(snapshot)["ns/q_0"]
            assert len(snapshot.custom) == self.NUMBER
        assert asked[1] < asked[0], "no batch is taken apart for it any more"

    async def test_a_native_histogram(self, prometheus: FakePrometheus) -> None:
        (snapshot,), asked = await self.answers(prometheus, values=(), entries=[HISTOGRAM])
        assert self.wrong(snapshot) == {"ns/q_0": "the query answers with a native histogram, which is no number"}
        assert (len(snapshot.custom), asked) == (self.NUMBER, [5])

    async def test_a_whole_metric(self, prometheus: FakePrometheus) -> None:
        many = [{"metric": {"pod": f"p{number}"}, "value": [NOW, "1"]} for number in range(5000)]
        (snapshot,), _ = await self.answers(prometheus, values=(), entries=many)
        assert self.wrong(snapshot) == {"ns/q_0": "the query answers with more than one series; aggregate it"}
        assert len(snapshot.custom) == self.NUMBER

    @pytest.mark.parametrize("status", [422, 500, 503])
    async def test_one_that_is_too_much_for_the_server(self, prometheus: FakePrometheus, status: int) -> None:
        text = "query processing would load too many samples into memory in query execution"
        (snapshot,), _ = await self.answers(prometheus, fault=(status, text))
        assert list(self.wrong(snapshot)) == ["ns/q_0"]
        assert text in self.wrong(snapshot)["ns/q_0"]

    async def test_a_server_that_answers_nothing_is_not_asked_query_by_query(self, prometheus: FakePrometheus) -> None:
        prometheus.fail(503, "starting up")
        (snapshot,), asked = await self.answers(prometheus)
        assert asked == [5]
        assert len(self.wrong(snapshot)) == self.NUMBER
        assert all(text.startswith("Prometheus is unreachable: ") for text in self.wrong(snapshot).values())

    async def test_a_partial_answer_and_a_remark_are_told(self, prometheus: FakePrometheus) -> None:
        """Q10."""
        prometheus.warnings = ["a store is down", 'PromQL info: metric might not be a counter: "x" (4:7)']
        (snapshot,), _ = await self.answers(prometheus)
        assert set(snapshot.custom_partial.values()) == {"a store is down"}
        assert len(snapshot.custom_partial) == self.NUMBER
        # The fourth line of a batch of one-line queries is the first one of its second query.
        remark = 'PromQL info: metric might not be a counter: "x" (1:7)'
        assert snapshot.remarks == {(f"ns/q_{number}", "q"): remark for number in (1, 11, 21, 31)}


async def test_batches_fit_what_a_server_takes_in_an_address(prometheus: FakePrometheus) -> None:
    """Q21: a proxy that refuses POST takes twelve long queries in parts."""
    queries = [f"sum({name}) " + "# padding\n" * 40 for name in "abcdefghijkl"]
    for query in queries:
        prometheus.answer_tagged(query, 55.0)
    pairs = [(str(at), Custom(f"ns/{at}", "q", query)) for at, query in enumerate(queries)]
    plan = Plan({"custom0": combine(pairs)}, {"custom0": pairs})
    async with Platform(prometheus.url, "openshift", longest=2600).serve() as platform:
        headers = ("Authorization=Bearer s3cret-token",)
        source = PrometheusSource.of(PrometheusSettings(prometheus_url=platform.url, prometheus_headers=headers))
        one = Collector(source, short_seconds=30, long_seconds=60, wall_clock=lambda: NOW)
        for _ in range(3):
            platform.calls.clear()
            snapshot = await one.collect(plan)
            assert all(isinstance(found, Sample) for found in snapshot.custom.values())
            assert len(snapshot.custom) == 12
        assert {method for method, _, _ in platform.calls} == {"GET"}
        assert len(platform.calls) <= 6, "it has learned what fits"
        await source.close()


async def test_the_place_of_an_error_is_that_in_the_users_query(prometheus: FakePrometheus) -> None:
    prometheus.answer_tagged(
        "a\n+ +", fault=(400, 'invalid parameter "query": 3:5: parse error: unexpected end of input')
    )
    source = PrometheusSource(prometheus.url)
    one = Collector(source, short_seconds=30, long_seconds=60, wall_clock=lambda: NOW)
    snapshot = await one.collect(custom("a\n+ +"))
    await source.close()
    assert "2:5: parse error: unexpected end of input" in str(snapshot.custom["ns/0", "load"])
    assert "2:5" in snapshot.unreadable["ns/0", "load"]
