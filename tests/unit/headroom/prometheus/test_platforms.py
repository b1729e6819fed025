"""Servers that are not quite Prometheus: what they refuse is asked in another way, what they leave out is told."""

from collections.abc import AsyncIterator

import pytest

from headroom.prometheus.client import (
    PrometheusError,
    PrometheusQueryError,
    PrometheusSource,
    PrometheusTooLongError,
    Series,
)
from headroom.prometheus.settings import PrometheusSettings
from tests.fakes.platforms import PARTIAL, Platform
from tests.fakes.prometheus import FakePrometheus, series

NOW = 1_800_000_000.0
BY_NAMES = '{__name__=~"running|waiting"}[60s]'
LONG = "up " + "# padding\n" * 400


@pytest.fixture
async def upstream() -> AsyncIterator[FakePrometheus]:
    async with FakePrometheus().serve() as running:
        running.answer("up", series({"job": "a"}, (NOW, 1.0)))
        for name in ("running", "waiting"):
            running.answer(
                f"^{name}",
                *(series({"__name__": name, "pod": f"llm-{pod}"}, (NOW, float(pod))) for pod in range(2)),
            )
        running.answer(
            "running.waiting",
            *(
                series({"__name__": name, "pod": f"llm-{pod}"}, (NOW, float(pod)))
                for name in ("running", "waiting")
                for pod in range(2)
            ),
        )
        yield running


def names(found: list[Series]) -> list[tuple[str, str]]:
    return [(one.labels["__name__"], one.labels["pod"]) for one in found]


ALL = [("running", "llm-0"), ("running", "llm-1"), ("waiting", "llm-0"), ("waiting", "llm-1")]


async def test_names_are_asked_one_by_one_where_a_pattern_is_refused(upstream: FakePrometheus) -> None:
    """Q11, GoogleCloudPlatform/prometheus-engine#1601: Google's Managed Service takes no =~ on __name__."""
    async with Platform(upstream.url, "gmp").serve() as platform:
        source = PrometheusSource(platform.url)
        assert names(await source.query(BY_NAMES)) == ALL
        assert names(await source.query(BY_NAMES)) == ALL
        await source.close()
        asked = [query for _, query, _ in platform.calls]
        assert asked[0] == BY_NAMES
        assert sorted(asked[1:]) == ["running[60s]"] * 2 + ["waiting[60s]"] * 2


async def test_a_query_refused_for_another_reason_is_not_taken_apart(upstream: FakePrometheus) -> None:
    upstream.refuse("running", 400, "too many samples")
    source = PrometheusSource(upstream.url)
    with pytest.raises(PrometheusQueryError, match=r"^too many samples"):
        await source.query(BY_NAMES)
    assert upstream.queries == [BY_NAMES]
    await source.close()


async def test_a_post_that_is_refused_is_asked_by_get(upstream: FakePrometheus) -> None:
    """Q21: OpenShift's proxy takes POST only from who may `create`."""
    async with Platform(upstream.url, "openshift").serve() as platform:
        source = PrometheusSource.of(
            PrometheusSettings(prometheus_url=platform.url, prometheus_headers=("Authorization=Bearer s3cret-token",))
        )
        for _ in range(2):
            assert len(await source.query(LONG)) == 1
        assert [method for method, _, _ in platform.calls] == ["POST", "GET", "GET"]
        platform.longest = 2000
        with pytest.raises(PrometheusTooLongError, match=r"does not take a query of \d+ characters: URI Too Long"):
            await source.query(LONG)
        await source.close()


async def test_a_caller_without_rights_is_told_of_the_first_refusal(upstream: FakePrometheus) -> None:
    async with Platform(upstream.url, "openshift").serve() as platform:
        source = PrometheusSource(platform.url)
        for _ in range(2):
            with pytest.raises(PrometheusError, match="status 401"):
                await source.query(LONG)
        await source.close()
        assert {method for method, _, _ in platform.calls} == {"POST"}


@pytest.mark.parametrize(("kind", "words"), [("thanos", PARTIAL), ("victoriametrics", "its answer is partial")])
async def test_a_partial_answer_says_so(upstream: FakePrometheus, kind: str, words: str) -> None:
    """Q10, kedacore/keda#6839: a store is down, and the sum of the others comes with status 200."""
    async with Platform(upstream.url, kind).serve() as platform:
        source = PrometheusSource(platform.url)
        answer = await source.ask(BY_NAMES)
        assert (answer.partial, names(list(answer))) == (False, ALL)
        platform.whole = False
        answer = await source.ask(BY_NAMES)
        assert answer.partial
        assert words in " ".join(answer.warnings)
        assert names(list(answer)) == [("running", "llm-0"), ("waiting", "llm-0")]
        await source.close()


async def test_a_remark_on_the_expression_is_no_partial_answer(upstream: FakePrometheus) -> None:
    remarks = ["PromQL info: metric might not be a counter", "PromQL warning: quantile value should be between 0 and 1"]
    async with Platform(upstream.url, notes=remarks).serve() as platform:
        source = PrometheusSource(platform.url)
        answer = await source.ask("up")
        await source.close()
    assert (answer.partial, answer.notes) == (False, tuple(remarks))


async def test_matchers_reach_every_query(upstream: FakePrometheus) -> None:
    """L18, kedacore/keda#2667: one Thanos for two clusters, each with a pod vllm-0."""
    source = PrometheusSource.of(
        PrometheusSettings(prometheus_url=upstream.url, prometheus_matchers=("cluster=mine", 'tenant!="x"'))
    )
    for query in (BY_NAMES, "sum(rate(a[1m]))", "vector(time())"):
        await source.query(query)
    with pytest.raises(PrometheusQueryError, match="WITH templates"):
        await source.query("WITH (x = a) x")
    await source.close()
    assert upstream.queries == [
        '{__name__=~"running|waiting",cluster="mine",tenant!="x"}[60s]',
        'sum(rate(a{cluster="mine",tenant!="x"}[1m]))',
        "vector(time())",
    ]


async def test_a_matcher_stays_when_names_are_asked_one_by_one(upstream: FakePrometheus) -> None:
    async with Platform(upstream.url, "gmp").serve() as platform:
        source = PrometheusSource.of(
            PrometheusSettings(prometheus_url=platform.url, prometheus_matchers=("cluster=mine",))
        )
        await source.query(BY_NAMES)
        await source.close()
        assert 'waiting{cluster="mine"}[60s]' in [query for _, query, _ in platform.calls]


async def test_series_without_a_number_are_told_apart(upstream: FakePrometheus) -> None:
    """Q01, Q02, Q07: not a number, infinite, a native histogram; none of them harms the others of the answer."""
    histogram = {"count": "10", "sum": "33", "buckets": [[0, "0.1", "0.2", "10"]]}
    found = [
        {"metric": {"q": "a"}, "histogram": [NOW, histogram]},
        {"metric": {"q": "b"}, "histograms": [[NOW, histogram]]},
        {"metric": {"q": "c"}, "value": [NOW, "NaN"]},
        {"metric": {"q": "d"}, "value": [NOW, "-Inf"]},
        {"metric": {"q": "e"}, "values": [[NOW, "NaN"], [NOW, "+Inf"]]},
        {"metric": {"q": "f"}, "value": [NOW, "5"]},
    ]
    upstream.talk_nonsense({"status": "success", "data": {"result": found}})
    source = PrometheusSource(upstream.url)
    answer = await source.ask("x")
    assert [one.labels["q"] for one in answer] == ["f"]
    assert {one.labels["q"]: one.held for one in answer.odd} == {
        "a": "a native histogram", "b": "a native histogram", "c": "NaN", "d": "-Inf", "e": "+Inf",
    }  # fmt: skip
    await source.close()
