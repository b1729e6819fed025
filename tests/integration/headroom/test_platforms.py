"""A real Prometheus behind proxies that behave as the platforms do: scheduler, autoscaler and account read through each."""

import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.usage.source import read_usage
from autoscaler.adapters.collector import Collector
from autoscaler.api.resource import DECODER, read
from autoscaler.observation.queries import plan
from autoscaler.observation.scrapes import Windows
from headroom.domain.model import Card, GpuNode
from headroom.prometheus import promql
from headroom.prometheus.client import PrometheusError, PrometheusQueryError, PrometheusSource
from headroom.prometheus.series import DEVICE_JOBS, DeviceJobs
from headroom.prometheus.settings import PrometheusSettings
from headroom.wire import encode
from scheduler.background.measuring import read_all
from scheduler.cluster.measured import Readings
from simulations.usage.hour import prometheus_of
from tests.fakes.platforms import PARTIAL, Platform

MINE = ("cluster=mine",)
RUNNING = "vllm:num_requests_running"
TOKEN = "s3cret-token"
GIB = 2**30
NODES = {"gpu-0": GpuNode("gpu-0", (Card("GPU-a", 0, "L4", 24 * 1024),))}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, float]]:
    """Address of a Prometheus that holds ten minutes of two clusters with pods of equal names, and the time of its end."""
    folder = tmp_path_factory.mktemp("platforms")
    end = time.time() // 15 * 15
    lines: dict[str, list[str]] = {}

    def add(name: str, labels: str, value: float, at: float) -> None:
        lines.setdefault(name, []).append(f"{name}{{{labels}}} {value:g} {at:.3f}")

    for step in range(40, -1, -1):
        at = end - 15.0 * step
        for cluster, load in (("mine", 6.0), ("other", 0.0)):
            for pod in range(2):
                own = f'cluster="{cluster}",namespace="default",pod="llm-{pod}"'
                add(RUNNING, own, load, at)
                add("vllm:num_requests_waiting", own, 1.0, at)
                add("vllm:generation_tokens_total", own, 1000.0 * (40 - step), at)
            card = f'cluster="{cluster}",node="gpu-0",card="GPU-a"'
            add("headroom_card_memory_used_bytes", card, (load + 1) * GIB, at)
            add("headroom_card_observed_seconds_total", f'{card},model="L4",energy="measured"', 15.0 * (40 - step), at)
    metrics = folder / "clusters.om"
    metrics.write_text("".join(f"{line}\n" for found in lines.values() for line in found) + "# EOF\n")
    with prometheus_of(metrics, folder) as url:
        yield url, end


PLATFORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gmp": {},
    "thanos": {},
    "victoriametrics": {},
    "mimir": {"prometheus_headers": ("X-Scope-OrgID=team-a",)},
    "openshift": {"prometheus_bearer_token_file": "token"},
}


@contextlib.asynccontextmanager
async def connected(
    kind: str, upstream: str, tmp_path: Path, **options: Any
) -> AsyncIterator[tuple[Platform, PrometheusSource]]:
    settings = dict(PLATFORMS[kind])
    if "prometheus_bearer_token_file" in settings:
        (tmp_path / "token").write_text(TOKEN)
        settings["prometheus_bearer_token_file"] = str(tmp_path / "token")
    async with Platform(upstream, kind, secret=TOKEN, **options).serve() as platform:
        source = PrometheusSource.of(
            PrometheusSettings(prometheus_url=platform.url, prometheus_matchers=MINE, **settings)
        )
        yield platform, source
        await source.close()


TARGET = read(
    DECODER.decode(
        encode(
            {
                "metadata": {"name": "llm", "namespace": "default"},
                "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "maxReplicas": 9},
            }
        )
    )
)


@pytest.mark.parametrize("kind", PLATFORMS)
class TestEachPlatform:
    """Q11 (gmp), Q12 (mimir), Q13 and Q21 (openshift), L18 (two clusters behind one server)."""

    async def test_the_autoscaler_reads_its_own_cluster(
        self, filled: tuple[str, float], kind: str, tmp_path: Path
    ) -> None:
        url, end = filled
        lookback = time.time() - end + 60
        async with connected(kind, url, tmp_path) as (_, source):
            snapshot = await Collector(source, short_seconds=30, long_seconds=60).collect(
                plan([TARGET], Windows(lookback, lookback, lookback))
            )
        assert snapshot.errors == {}
        assert {pod: sample.value for pod, sample in snapshot.gauges[RUNNING].items()} == {
            ("default", "llm-0"): 6.0,
            ("default", "llm-1"): 6.0,
        }
        assert set(snapshot.counters["vllm:generation_tokens_total"]) == {("default", "llm-0"), ("default", "llm-1")}

    async def test_the_scheduler_reads_its_own_cards(
        self, filled: tuple[str, float], kind: str, tmp_path: Path
    ) -> None:
        url, end = filled
        async with connected(kind, url, tmp_path) as (_, source):
            age, jobs = time.time() - end + 60, DeviceJobs(DEVICE_JOBS)
            readings = Readings(NODES, max_age_seconds=age, now=time.time(), jobs=jobs)
            found, partial = await read_all(source, readings, age)
        assert not partial
        assert {(node, card): use.total_mib for node, cards in found.uses.items() for card, use in cards.items()} == {
            ("gpu-0", "GPU-a"): 7 * 1024
        }

    async def test_the_account_reads_its_own_cards(self, filled: tuple[str, float], kind: str, tmp_path: Path) -> None:
        url, end = filled
        async with connected(kind, url, tmp_path) as (_, source):
            usage = await read_usage(source, end - 300, end)
        assert len(usage.cards) == 1
        assert usage.tokens == pytest.approx({("default", f"llm-{pod}"): 20_000 for pod in range(2)})

    async def test_a_long_query_arrives(self, filled: tuple[str, float], kind: str, tmp_path: Path) -> None:
        url, end = filled
        query = f"sum({RUNNING} @ {end:.0f}) " + "# padding\n" * 400
        async with connected(kind, url, tmp_path) as (_, source):
            for _ in range(2):
                assert [one.points[0][1] for one in await source.query(query)] == [12.0]


@pytest.mark.parametrize("kind", ["thanos", "victoriametrics"])
async def test_half_an_answer_is_told_from_a_whole_one(filled: tuple[str, float], kind: str, tmp_path: Path) -> None:
    url, end = filled
    query = f"{RUNNING} @ {end:.0f}"
    async with connected(kind, url, tmp_path) as (platform, source):
        whole = await source.ask(query)
        platform.whole = False
        half = await source.ask(query)
        assert (whole.partial, len(list(whole))) == (False, 2)
        assert (half.partial, len(list(half))) == (True, 1)
        if kind == "thanos":
            assert half.warnings == (PARTIAL,)


async def test_prometheus_takes_what_the_matchers_were_added_to(filled: tuple[str, float]) -> None:
    """Whatever this Prometheus understands it still understands, and a query that it does not is still its own fault."""
    url, _ = filled
    source = PrometheusSource(url)
    queries = [
        "sum by (x) (rate(a[5m]))", "sum(rate(a[5m])) by (x)", "a / on(x) group_left(y) b", "a and b unless c or d",
        "a > bool b", "a offset -5m + b", "a @ end()", "max_over_time(rate(a[1m])[5m:15s])", "quantile by (x) (0.9, a)",
        'count_values("version", build)', "-a ^ 2", 'a{b="x{y}, z",} # c{d}\n + e', "a{b='it\\'s',c=`\\d`}",
        ":tensorflow:serving:request_count", 'label_replace(a, "x", "$1", "y", "(.*)")', "1e5 + 0x1F - .5 + Inf",
        "histogram_quantile(0.9, sum by (le) (rate(a_bucket[1m])))", "{__name__=~'a|b'}", "a{}", "vector(time())",
    ]  # fmt: skip
    for query in queries:
        await source.query(query)
        await source.query(promql.with_matchers(query, ['cluster="mine"']))
    for query in ("sum(a", "a b", "a[5m]]"):
        with pytest.raises(PrometheusQueryError, match="parse error"):
            await source.query(promql.with_matchers(query, ['cluster="mine"']))
    await source.close()


async def test_a_wrong_token_is_refused_and_not_repeated(filled: tuple[str, float], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("wrong-token")
    async with Platform(filled[0], "openshift", secret=TOKEN).serve() as platform:
        source = PrometheusSource.of(
            PrometheusSettings(prometheus_url=platform.url, prometheus_bearer_token_file=str(tmp_path / "token"))
        )
        with pytest.raises(PrometheusError, match="status 401") as caught:
            await source.query("up")
        await source.close()
    assert "wrong-token" not in str(caught.value)
