"""What a person reads when a signal has no number: which series there are, under which names, and what is wrong with them."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from autoscaler.observation.absent import hints, question
from headroom.prometheus.answer import OddSeries, Series
from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import Answered, Value, exposition, grows, refused, together, vllm

LONG_AGO = START - 5000


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    made.deployment(replicas=4)
    yield made
    assert made.failures() == 0
    await made.close()


class TestNoPodExports:
    async def test_series_without_a_namespace_say_so(self, fleet: Fleet) -> None:
        """L05, llm-d-autoscaling#1145."""
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(15.0), namespace=None, instance=pod)
        fleet.object()
        assert await fleet.tick(3) == [4] * 3
        assert fleet.signal()["message"] == (
            "no pod exports vllm:num_requests_running: 4 series of that name have the labels engine, instance, job, model_name, pod: "
            "namespace missing, and their instance is no address of these pods (10.0.0.1)"
        )

    async def test_series_of_other_pods_say_so(self, fleet: Fleet) -> None:
        fleet.pods()
        fleet.scrape("other-1", vllm(15.0))
        fleet.object()
        await fleet.tick(3)
        assert "1 series of that name have the labels" in fleet.signal()["message"]
        assert fleet.signal()["message"].endswith("and are of other pods")

    @pytest.mark.parametrize("prefix", ["kserve_vllm:", "ray_vllm:", "vllm_", "ray_vllm_"])
    async def test_a_prefix_is_found_and_named(self, fleet: Fleet, prefix: str) -> None:
        """L10 kserve#5208, L11 ray#52719."""
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(15.0, kv_cache=0.3, per_second=1.0, since=LONG_AGO, prefix=prefix))
        fleet.object()
        assert await fleet.tick(3) == [4] * 3
        message = fleet.signal()["message"]
        assert (
            f'4 series are named {prefix}num_requests_running: metricNames {{"vllm:*": "{prefix}*"}} would read them'
            in message
        )

    async def test_it_is_found_beside_pods_that_keep_the_published_names(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(15.0, prefix="kserve_vllm:"))
        fleet.scrape("other-7", vllm(1.0))
        fleet.object()
        await fleet.tick(6)
        assert 'metricNames {"vllm:*": "kserve_vllm:*"} would read them' in fleet.wish().detail

    @pytest.mark.parametrize("where", ["object", "installation"])
    async def test_a_map_of_names_reads_them(self, where: str) -> None:
        fleet = Fleet(metric_names=("vllm:*=kserve_vllm:*",) if where == "installation" else ())
        fleet.deployment(replicas=4)
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(15.0, kv_cache=0.3, per_second=1.0, since=LONG_AGO, prefix="kserve_vllm:"))
        fleet.object(metricNames={"vllm:*": "kserve_vllm:*"} if where == "object" else None)
        assert await fleet.tick(3) == [6] * 3
        await fleet.close()

    async def test_bare_counters_are_found_and_read(self, fleet: Fleet) -> None:
        """Counters whose `_total` a collector took away."""
        for pod in fleet.pods():
            counters = {"vllm:prompt_tokens": grows(3000, LONG_AGO), "vllm:generation_tokens": grows(600, LONG_AGO)}
            fleet.scrape(pod, together(vllm(9.0, kv_cache=0.3), exposition(counters, engine="0", model_name="m")))
        work: dict[str, Any] = {"secondsPerPromptToken": "0.0002", "secondsPerOutputToken": "0.0003"}
        fleet.object(signals=[{"name": "work", "type": "work", "target": "0.9"}], work=work)
        await fleet.tick(2)
        assert 'metricNames {"vllm:*_total": "vllm:*"} would read them' in fleet.signal("work")["message"]
        fleet.object(
            signals=[{"name": "work", "type": "work", "target": "0.9"}],
            work=work,
            metricNames={"vllm:*_total": "vllm:*"},
        )
        await fleet.tick(2)
        assert fleet.wish("work").value == pytest.approx(4 * (3000 * 0.0002 + 600 * 0.0003), rel=0.01)

    async def test_nothing_like_it_is_said_plainly(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, exposition({"something": 1.0}))
        fleet.object()
        await fleet.tick(2)
        assert fleet.signal()["message"] == "no pod exports vllm:num_requests_running"

    async def test_it_is_not_asked_at_every_tick(self, fleet: Fleet) -> None:
        fleet.pods()
        fleet.object()
        await fleet.tick(30)
        assert len([query for query in fleet.prometheus.asked if query.endswith("[300s]")]) <= 3

    async def test_a_server_that_refuses_the_question_changes_nothing(self, fleet: Fleet) -> None:
        fleet.pods()
        fleet.object()
        ask = fleet.prometheus.ask

        async def asked(promql: str, timeout_seconds: float | None = None) -> Any:
            if promql.endswith("[300s]"):
                raise refused("=~ is an unsupported matchtype for the __name__ label")
            return await ask(promql)

        fleet.prometheus.ask = asked  # type: ignore[method-assign]
        await fleet.tick(2)
        assert fleet.signal()["state"] == "empty"


class TestHistograms:
    async def test_native_ones_say_what_is_missing(self, fleet: Fleet) -> None:
        """T08b, k8s-monitoring-helm#2586."""
        for pod in fleet.pods():
            fleet.scrape(pod, together(vllm(1.0), exposition({"vllm:time_to_first_token_seconds": 1.0})))
        fleet.object(signals=[{"name": "ttft", "type": "timeToFirstToken", "target": 1}])
        await fleet.tick(2)
        assert "as a native histogram: have Prometheus scrape classic histograms too" in fleet.signal("ttft")["message"]

    async def test_summaries_say_so(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            parts: dict[str, Value] = {f"vllm:time_to_first_token_seconds_{part}": 1.0 for part in ("sum", "count")}
            fleet.scrape(pod, together(vllm(1.0), exposition(parts)))
        fleet.object(signals=[{"name": "ttft", "type": "timeToFirstToken", "target": 1}])
        await fleet.tick(2)
        assert "but no vllm:time_to_first_token_seconds_bucket: no classic histogram" in fleet.signal("ttft")["message"]

    async def test_why_requests_are_counted_in_place_of_work(self, fleet: Fleet) -> None:
        """T08: no `_sum` and `_count` of the time between tokens."""
        for pod in fleet.pods():
            counters = {
                "vllm:prompt_tokens_total": grows(3000, LONG_AGO),
                "vllm:generation_tokens_total": grows(600, LONG_AGO),
            }
            native = {"vllm:inter_token_latency_seconds": 1.0}
            fleet.scrape(
                pod, together(vllm(9.0, kv_cache=0.3), exposition({**counters, **native}, engine="0", model_name="m"))
            )
        fleet.object(signals=None)
        await fleet.tick(4)
        message = fleet.signal()["message"]
        assert message.startswith("a token has no price: no pod exports vllm:inter_token_latency_seconds_count")
        assert "native histogram" in message
        assert message.endswith("requests are counted instead")


class TestQueries:
    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (float("nan"), "the query answers with NaN, which is no number"),
            (float("inf"), "the query answers with +Inf, which is no number"),
            (float("-inf"), "the query answers with -Inf, which is no number"),
            (None, "the query answers with nothing"),
            ([30.0, 5.0], "the query answers with more than one series; aggregate it"),
            ([30.0, float("nan")], "the query answers with more than one series; aggregate it"),
        ],
        ids=["Q01 keda#7475", "Q02 keda#3644", "below", "Q03 keda#3065", "Q06", "one of them no number"],
    )
    async def test_what_is_wrong_with_an_answer_is_said(self, fleet: Fleet, answer: Any, words: str) -> None:
        fleet.pods()
        fleet.object(engine="custom", signals=[{"name": "q", "type": "query", "query": "load", "target": "10"}])
        fleet.prometheus.custom["load"] = answer
        assert await fleet.tick(8) == [4] * 8
        assert fleet.signal("q")["message"] == words


async def test_pods_that_are_overloaded_and_not_ready_say_so(fleet: Fleet) -> None:
    """T10, kubernetes#64088."""
    for pod in fleet.pods():
        fleet.pod(pod, ready=False, ready_at=LONG_AGO)
        fleet.scrape(pod, vllm(60.0, 200.0))
    fleet.object()
    await fleet.tick(4)
    text = str(fleet.status()["conditions"])
    assert "are not ready, 1040 requests are inside: they are overloaded" in text


def test_the_question_asks_for_usual_names_and_for_whatever_ends_alike() -> None:
    promql = question(["vllm:prompt_tokens_total", "tgi_queue_size"])
    names = promql.removeprefix('{__name__=~"').removesuffix('"}[300s]').split("|")
    assert {
        "vllm_prompt_tokens",
        "kserve_vllm:prompt_tokens_total",
        "ray_vllm_prompt_tokens_total",
        "kserve_tgi_queue_size",
    } < {*names}
    assert ".*(vllm[:_]prompt_tokens|tgi_queue_size)(_total|_sum|_count|_bucket)?" in promql


def test_one_name_found_says_how_the_others_are_read() -> None:
    there = Answered([Series({"__name__": "llmd_vllm:num_requests_running"}, ((START, 3.0),))])
    found = hints(["vllm:num_requests_running", "vllm:kv_cache_usage_perc"], there)
    assert 'metricNames {"vllm:*": "llmd_vllm:*"} would read them' in found["vllm:kv_cache_usage_perc"]


def test_a_name_of_its_own_is_no_hint() -> None:
    there = Answered(Series({"__name__": name}, ((START, 3.0),)) for name in ("vllm:prompt_tokens_total", "other"))
    assert hints(["vllm:prompt_tokens_total"], there) == {}


def test_a_native_histogram_holds_no_number_and_is_found() -> None:
    there = Answered()
    there.odd.append(OddSeries({"__name__": "vllm:time_to_first_token_seconds"}, "a native histogram"))
    assert (
        "as a native histogram"
        in hints(["vllm:time_to_first_token_seconds_bucket"], there)["vllm:time_to_first_token_seconds_bucket"]
    )
