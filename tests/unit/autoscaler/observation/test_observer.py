"""From series and pods to what one decision rests on."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from autoscaler.adapters.fastchat_exporter import FastchatPoller
from autoscaler.api.query_guard import is_closed
from autoscaler.api.resource import DECODER, SpecError, Target, read
from autoscaler.law.inputs import Freshness
from autoscaler.law.sizing import prices
from autoscaler.law.sizing.prices import CostSettings
from autoscaler.observation.answers import Snapshot, SnapshotBuilder
from autoscaler.observation.cluster import pods
from autoscaler.observation.cluster.objects import POD_VIEW, PodView
from autoscaler.observation.gathering import ObserveSettings
from autoscaler.observation.lessons import Lessons
from autoscaler.observation.observer import Observer
from autoscaler.observation.queries import facts_of, plan
from autoscaler.observation.scrapes import Outlook
from autoscaler.observation.series import change, quantile, rate
from autoscaler.observation.traffic import Lengths
from autoscaler.tick.explain import explain
from headroom.daemon.settings import load
from headroom.prometheus.client import Series
from headroom.wire import encode
from tests.paths import FIXTURES

NOW = 1_800_000_000.0


def target(engine: str = "vllm", **spec: Any) -> Target:
    whole = {
        "metadata": {"name": "llm", "namespace": "ns"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}, "engine": engine, "maxReplicas": 9, **spec},
    }
    return read(DECODER.decode(encode(whole)))


def pod(name: str, *, ready_for: float = 1000.0, node: str = "n", cards: tuple[str, ...] = (), **more: Any) -> PodView:
    values: dict[str, Any] = {
        "namespace": "ns", "name": name, "owner": "Deployment/ns/llm", "node": node, "ip": "", "phase": "Running",
        "created_at": NOW - ready_for - 100, "scheduled_at": NOW - ready_for - 90, "ready_at": NOW - ready_for,
        "deleted_at": 0.0, "failing": False, "cards": cards, "share": 0.0, "deletion_cost": "", **more,
    }  # fmt: skip
    return PodView(**values)


def one(name: str, pod_name: str, *points: tuple[float, float], **labels: str) -> Series:
    return Series({"__name__": name, "namespace": "ns", "pod": pod_name, **labels}, points or ((NOW - 2, 1.0),))


def gauge(name: str, pod_name: str, value: float, **labels: str) -> Series:
    return one(name, pod_name, (NOW - 2, value), **labels)


def counter(name: str, pod_name: str, per_second: float, **labels: str) -> Series:
    return one(
        name, pod_name, *((NOW - 2 - 15 * back, 1e6 - per_second * 15 * back) for back in range(6, -1, -1)), **labels
    )


def snapshot_of(
    of: Target, gauges: Sequence[Series] = (), counters: Sequence[Series] = (), buckets: Sequence[Series] = ()
) -> Snapshot:
    builder = SnapshotBuilder(NOW, facts_of([of.engine]), (30, 60))
    builder.add_gauges(gauges)
    builder.add_counters(counters)
    builder.add_buckets("timeToFirstToken", buckets)
    return builder.finish()


def observer(of: Target, own: list[PodView], gauges: list[Series], counters: Sequence[Series] = ()) -> Observer:
    return Observer(of, own, snapshot_of(of, gauges, counters), NOW, ObserveSettings())


class TestSeries:
    @pytest.mark.parametrize(
        ("points", "short", "long"),
        [
            ([(0, 0), (15, 30), (30, 60), (45, 90), (60, 120)], 2.0, 2.0),
            ([(0, 0), (30, 60), (60, 60)], 0.0, 1.0),  # stood still lately
            ([(0, 900), (30, 30), (60, 60)], 1.0, 1.0),  # restarted: 30 since then
            ([(45, 100), (60, 130)], 2.0, 2.0),  # a short history is used for both
        ],
        ids=["steady", "stopped", "restarted", "short"],
    )
    def test_rates(self, points: list[tuple[float, float]], short: float, long: float) -> None:
        found = rate(points, 30, 60)
        assert found is not None
        assert (found.short, found.long) == (pytest.approx(short), pytest.approx(long))

    def test_one_sample_has_no_rate(self) -> None:
        assert rate([(0, 5)], 30, 60) is None
        assert change([(0, 5)], 30, 60) is None

    def test_growth_of_a_gauge_may_be_negative(self) -> None:
        found = change([(0, 10), (30, 8), (60, 2)], 30, 60)
        assert found is not None
        assert (found.short, found.long) == (pytest.approx(-0.2), pytest.approx(-8 / 60))

    def test_quantiles_are_linear_within_a_bucket(self) -> None:
        buckets = {0.1: 10.0, 0.5: 90.0, 1.0: 100.0, math.inf: 100.0}
        assert quantile(buckets, 0.5) == pytest.approx(0.1 + 0.4 * 40 / 80)
        assert quantile({0.1: 0.0, math.inf: 5.0}, 0.9) == 0.1
        assert quantile({0.1: 0.0, math.inf: 0.0}, 0.9) == 0.0
        assert quantile({}, 0.9) == 0.0


class TestReadings:
    def test_counts_are_summed_over_ranks_and_shares_averaged(self) -> None:
        seen = observer(
            target(signals=[{"name": "run", "type": "running", "target": 1}, {"name": "kv", "type": "kvCache", "target": "0.9"}]),
            [pod("a")],
            [
                gauge("vllm:num_requests_running", "a", 3, engine="0"), gauge("vllm:num_requests_running", "a", 5, engine="1"),
                gauge("vllm:num_requests_waiting", "a", 1, engine="0"), gauge("vllm:num_requests_waiting", "a", 0, engine="1"),
                gauge("vllm:kv_cache_usage_perc", "a", 0.2, engine="0"), gauge("vllm:kv_cache_usage_perc", "a", 0.6, engine="1"),
            ],
        ).readings()  # fmt: skip
        assert [reading.value for reading in seen] == [9, pytest.approx(0.4)]

    def test_old_names_are_read_where_the_new_ones_are_not_there(self) -> None:
        of = target(signals=[{"name": "kv", "type": "kvCache", "target": "0.9"}])
        gauges = [gauge("vllm:gpu_cache_usage_perc", "a", 0.4), gauge("vllm:kv_cache_usage_perc", "b", 0.6)]
        seen = observer(of, [pod("a"), pod("b")], gauges)
        assert seen.readings()[0].value == pytest.approx(0.5)

    def test_time_in_the_queue_is_its_length(self) -> None:
        # Little's law: 2.5 s of waiting a second is 2.5 requests that wait.
        of = target("torchserve", signals=[{"name": "queue", "type": "queue", "target": 4}])
        seen = observer(of, [pod("a")], [], [counter("ts_queue_latency_microseconds", "a", 2.5e6)])
        assert seen.readings()[0].value == pytest.approx(2.5)

    def test_torchserve_s_latency_contains_the_wait(self) -> None:
        of = target("torchserve", signals=[{"name": "running", "type": "running", "target": 4}])
        counters = [
            counter("ts_queue_latency_microseconds", "a", 11e6), counter("ts_inference_latency_microseconds", "a", 12e6),
        ]  # fmt: skip
        assert observer(of, [pod("a")], [], counters).readings()[0].value == pytest.approx(12)

    def test_triton_before_its_pending_gauge_is_read_by_the_same_law(self) -> None:
        of = target("triton", signals=[{"name": "queue", "type": "queue", "target": 4}])
        counters = [counter("nv_inference_queue_duration_us", "a", 4e6)]
        assert observer(of, [pod("a")], [], counters).readings()[0].value == pytest.approx(4)
        with_gauge = observer(of, [pod("a")], [gauge("nv_inference_pending_request_count", "a", 7)], counters)
        assert with_gauge.readings()[0].value == 7

    def test_fastchat_counts_both_in_one(self) -> None:
        seen = observer(target("fastchat"), [pod("a")], [gauge("headroom_fastchat_queue_length", "a", 5)])
        assert seen.readings()[0].value == 5

    def test_a_new_pod_is_given_time_to_report(self) -> None:
        of = target(signals=[{"name": "run", "type": "running", "target": 1}])
        gauges = [gauge("vllm:num_requests_running", "a", 3), gauge("vllm:num_requests_waiting", "a", 0)]
        young = [pod(name, ready_for=10) for name in "bcd"]
        assert observer(of, [pod("a"), *young], gauges).readings()[0].state is Freshness.FRESH
        assert observer(of, [pod("a"), pod("b"), pod("c")], gauges).readings()[0].state is Freshness.STALE

    def test_a_silent_pod_counts_as_missing_however_new_it_is(self) -> None:
        of = target(signals=[{"name": "running", "type": "running", "target": 1}])
        gauges = [gauge(name, "a", 3) for name in ("vllm:num_requests_running", "vllm:num_requests_waiting")]
        for ready_for in (10, 1000):
            assert observer(of, [pod("a"), pod("b", ready_for=ready_for)], gauges).readings()[0].missing == 1

    def test_pods_known_only_by_their_address(self) -> None:
        of = target(signals=[{"name": "kv", "type": "kvCache", "target": "0.9"}])
        series = Series({"__name__": "vllm:kv_cache_usage_perc", "instance": "10.0.0.7:8000"}, ((NOW, 0.5),))
        assert observer(of, [pod("a", ip="10.0.0.7")], [series]).readings()[0].value == 0.5

    @pytest.mark.parametrize(
        ("value", "words"),
        [(-1, "a says that vllm:kv_cache_usage_perc is -1, which is no share"), (12, "12, which is no share")],
    )
    def test_a_value_that_cannot_be_silences_its_pod(self, value: float, words: str) -> None:
        """T11, T12: a share in percent, a gauge below 0."""
        of = target(signals=[{"name": "kv", "type": "kvCache", "target": "0.9"}])
        bad = gauge("vllm:kv_cache_usage_perc", "a", value)
        seen = observer(of, [pod("a")], [bad]).readings()[0]
        assert seen.state is Freshness.ERROR
        assert words in seen.detail
        good = [gauge("vllm:kv_cache_usage_perc", name, 0.5) for name in "bc"]
        seen = observer(of, [pod(name) for name in "abc"], [bad, *good]).readings()[0]
        assert (seen.state, seen.value, seen.missing) == (Freshness.FRESH, pytest.approx(0.5), 1)
        assert words in seen.detail

    def test_latency_is_the_quantile_over_all_pods(self) -> None:
        of = target(signals=[{"name": "ttft", "type": "timeToFirstToken", "target": 2, "quantile": "0.5"}])
        buckets = [
            Series(
                {"le": le, "namespace": "ns", "pod": name, "headroom_query": "vllm:time_to_first_token_seconds"},
                ((NOW, value),),
            )
            for name, shares in (("a", (10, 10, 10)), ("b", (0, 10, 10)))
            for le, value in zip(("1", "3", "+Inf"), shares, strict=True)
        ]
        snapshot = snapshot_of(of, buckets=buckets)
        seen = Observer(of, [pod("a"), pod("b")], snapshot, NOW, ObserveSettings()).readings()[0]
        assert (seen.state, seen.value) == (Freshness.FRESH, 1.0)


class TestUtilisation:
    def card(self, name: str, uuid: str, value: float, **labels: str) -> Series:
        return gauge("DCGM_FI_DEV_GPU_UTIL", name, value, UUID=uuid, gpu="0", Hostname="n", **labels)

    def test_a_card_shared_by_two_of_the_pods_counts_once(self) -> None:
        series = [self.card("a", "GPU-1", 90), self.card("b", "GPU-1", 90)]
        seen = observer(target("triton"), [pod("a"), pod("b")], series).utilisation()
        assert (seen.state, seen.value) == (Freshness.FRESH, pytest.approx(0.9))

    def test_a_sharer_that_the_exporter_does_not_name_is_found_by_its_assignment(self) -> None:
        series = [self.card("b", "GPU-1", 80), self.card("c", "GPU-2", 10)]
        own = [pod("a", cards=("GPU-1",)), pod("b", cards=("GPU-1",))]
        seen = observer(target("triton"), own, series).utilisation()
        assert (seen.value, seen.missing) == (pytest.approx(0.8), 0)

    def test_exported_labels_name_the_pod_and_not_the_exporter(self) -> None:
        claim = {"exported_pod": "a", "exported_namespace": "ns"}
        for job, state in (("dcgm-exporter", Freshness.FRESH), ("podmon/evil", Freshness.EMPTY)):
            series = [self.card("dcgm-exporter-x", "GPU-1", 70, job=job, **claim)]
            assert observer(target("triton"), [pod("a")], series).utilisation().state is state

    def test_sentinels_for_not_supported_are_no_reading(self) -> None:
        series = [self.card("a", "GPU-1", 9.223372036854776e18)]
        assert observer(target("triton"), [pod("a")], series).utilisation().state is Freshness.EMPTY

    def test_the_better_metric_of_a_card_wins(self) -> None:
        better = gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "a", 0.4, UUID="GPU-1", gpu="0", Hostname="n")
        for series in ([better, self.card("a", "GPU-1", 100)], [self.card("a", "GPU-1", 100), better]):
            assert observer(target("triton"), [pod("a")], series).utilisation().value == pytest.approx(0.4)

    def test_without_an_exporter_tritons_own_is_used(self) -> None:
        seen = observer(target("triton"), [pod("a")], [gauge("nv_gpu_utilization", "a", 0.6)]).utilisation()
        assert seen.value == pytest.approx(0.6)


def vllm(name: str, batch: float, prompt: float) -> tuple[list[Series], list[Series]]:
    """A pod whose iterations take 20 ms + 0.25 ms a sequence + 0.15 ms a prompt token."""
    seconds = 0.02 + 0.00025 * batch + 0.00015 * prompt
    counters = {
        "prompt_tokens_total": prompt / seconds, "generation_tokens_total": batch / seconds,
        "iteration_tokens_total_count": 1 / seconds, "inter_token_latency_seconds_sum": batch,
        "inter_token_latency_seconds_count": batch / seconds, "e2e_request_latency_seconds_count": batch / seconds / 100,
    }  # fmt: skip
    gauges = {"num_requests_running": batch, "num_requests_waiting": 2.0, "kv_cache_usage_perc": batch / 100}
    return (
        [gauge(f"vllm:{metric}", name, value) for metric, value in gauges.items()],
        [counter(f"vllm:{metric}", name, value) for metric, value in counters.items()],
    )


class TestWork:
    def test_the_cost_of_tokens_is_learned_from_the_engines_counters(self) -> None:
        settings, lessons = CostSettings(), Lessons()
        for tick in range(40):
            made = [
                vllm(name, 4 + (5 * tick + 11 * number) % 28, (tick * 7 + 13 * number) % 90)
                for number, name in enumerate("abc")
            ]
            seen = observer(
                target(), [pod(n) for n in "abc"], [s for g, _ in made for s in g], [s for _, c in made for s in c]
            )
            lessons = seen.learn(lessons, settings)
        found = prices.fit(lessons.cost, settings)
        assert found is not None
        assert found == (
            pytest.approx(0.02, rel=0.05),
            pytest.approx(0.00025, rel=0.1),
            pytest.approx(0.00015, rel=0.1),
        )
        assert lessons.lengths.output == pytest.approx(100, rel=0.01)

    def test_a_pod_just_started_teaches_nothing(self) -> None:
        gauges, counters = vllm("a", 10, 30)
        seen = observer(target(), [pod("a", ready_for=20)], gauges, counters)
        assert seen.learn(Lessons(), CostSettings()).cost == Lessons().cost

    def test_rates_waiting_work_and_arrivals(self) -> None:
        gauges, counters = vllm("a", 10, 30)
        lessons = Lessons(lengths=Lengths(requests=2.0, prompt_tokens=600.0, output_tokens=200.0))
        work = observer(target(), [pod("a")], gauges, counters).work(lessons, prices.Cost(0.0001, 0.001))
        assert work is not None
        seconds = 0.02 + 0.00025 * 10 + 0.00015 * 30
        assert work.prompt_tokens_per_second[0] == pytest.approx(30 / seconds)
        assert work.waiting_prompt_tokens == pytest.approx(2 * 300)
        assert work.requests_per_second == (pytest.approx(10 / seconds / 100), pytest.approx(10 / seconds / 100))

    def test_stated_costs_go_before_learned_ones(self) -> None:
        stated = target(work={"secondsPerPromptToken": "150u", "secondsPerOutputToken": "0.0009"})
        assert stated.costs == (pytest.approx(0.00015), pytest.approx(0.0009))

    def test_an_engine_without_token_counters_has_no_work(self) -> None:
        assert observer(target("fastchat"), [pod("a")], []).work(Lessons(), None) is None


class TestPods:
    def test_states(self) -> None:
        own = [
            pod("ready"),
            pod("fresh", ready_for=30),
            pod("starting", ready_at=0.0, scheduled_at=NOW - 40),
            pod("nowhere", ready_at=0.0, node="", created_at=NOW - 7),
            pod("crashing", ready_at=0.0, failing=True),
            pod("going", deleted_at=NOW - 5),
            pod("done", phase="Succeeded"),
        ]
        facts = pods.facts(own, NOW, {"ready": NOW - 1100})
        assert (facts.ready, facts.starting, facts.unschedulable) == (2, (40.0,), (7.0,))
        assert (facts.crash_looping, facts.terminating, facts.started_seconds) == (1, (5.0,), (90.0,))

    def test_who_is_cheapest_to_lose(self) -> None:
        own = [
            pod("busy"),
            pod("idle-old", ready_for=9000),
            pod("idle-young", ready_for=100),
            pod("silent"),
            pod("starting", ready_at=0.0),
            pod("nowhere", ready_at=0.0, node=""),
        ]
        order = pods.cheapest_to_lose(own, 6, {"busy": 8.0, "idle-old": 0.0, "idle-young": 0.0})
        assert [p.name for p in order] == ["nowhere", "starting", "idle-young", "idle-old", "busy", "silent"]

    def test_of_equally_loaded_pods_the_one_that_frees_a_whole_card_goes(self) -> None:
        alone = pod("alone", cards=("c1",), share=0.3, ready_for=9000)
        shared = pod("shared", cards=("c2",), share=0.3)
        neighbour = pod("neighbour", cards=("c2",), share=0.5, owner="Deployment/ns/other")
        useful = pods.free_share_after([alone, shared], [alone, shared, neighbour])
        assert useful == {"alone": pytest.approx(1.0), "shared": pytest.approx(0.5)}
        assert pods.cheapest_to_lose([shared, alone], 1, {}, useful)[0].name == "alone"

    def test_the_owner_is_the_controller_and_not_a_label(self) -> None:
        body = {
            "metadata": {
                "name": "p", "namespace": "ns", "labels": {"app": "llm", "pod-template-hash": "5d9f"},
                "ownerReferences": [{"kind": "ReplicaSet", "name": "llm-5d9f", "controller": True}],
            },
        }  # fmt: skip
        assert POD_VIEW.decode(encode(body)).owner == "Deployment/ns/llm"
        body["metadata"]["ownerReferences"] = [{"kind": "Job", "name": "llm", "controller": True}]
        assert POD_VIEW.decode(encode(body)).owner == ""


class TestSpec:
    @pytest.mark.parametrize(
        ("spec", "words"),
        [
            ({"minReplicas": 4, "maxReplicas": 2}, "spec.minReplicas: 4 is not between 0 and maxReplicas 2"),
            ({"minReplicas": 0}, "spec.minReplicas: 0 needs scaleToZero"),
            (
                {"scaleTargetRef": {"apiVersion": "extensions/v1beta1", "kind": "Deployment", "name": "llm"}},
                "spec.scaleTargetRef.apiVersion: 'extensions/v1beta1' is not apps/v1, where a Deployment is",
            ),
            ({"engine": "custom"}, "spec.signals: [] are needed for engine custom"),
            (
                {"engine": "fastchat", "signals": [{"name": "kv", "type": "kvCache", "target": "0.5"}]},
                "is not exported by engine fastchat",
            ),
            (
                {"signals": [{"name": "kv", "type": "kvCache", "target": 5}]},
                "spec.signals[0].target: 5 is not above 0 and at most 1",
            ),
            (
                {"signals": [{"name": "q", "type": "queue", "target": "1x"}]},
                "spec.signals[0].target: '1x' is not a number",
            ),
            ({"maxGPUs": 0}, "spec.maxGPUs: 0 is not above 0"),
            ({"burstFactor": "three"}, "spec.burstFactor: 'three' is not a number"),
            ({"burstFactor": 101}, "spec.burstFactor: 101 is not above 0 and at most 100"),
            ({"scaleToZero": {"activationQuery": "sum(x"}}, "quotes or brackets that do not match"),
        ],
    )
    def test_a_mistake_is_named_with_field_and_value(self, spec: dict[str, Any], words: str) -> None:
        with pytest.raises(SpecError) as caught:
            target(**spec)
        assert str(caught.value).startswith("ns/llm: spec.")
        assert words in str(caught.value)

    def test_an_engine_a_target_and_bounds_are_enough(self) -> None:
        assert [signal.name for signal in target().spec.signals] == ["work", "kvCache"]

    @pytest.mark.parametrize(
        ("query", "closed"),
        [
            ('sum(rate(x{a="b)"}[1m]))', True), ("a # comment )\n + b", True), ("label_replace(x, 'a', 'b', '', '')", True),
            ("x) or (y", False), ('x, "a"', False), ('x{a="b}', False), ("sum(x", False), (r'x{a="\""}', True),
            ("x{a=`\\`}", True), ("[(])", False),
        ],
    )  # fmt: skip
    def test_queries_that_may_stand_inside_another(self, query: str, closed: bool) -> None:
        assert is_closed(query) is closed

    def test_a_thousand_targets_need_no_more_queries_than_one(self) -> None:
        signals = [
            {"name": "t", "type": "timeToFirstToken", "target": 1}, {"name": "i", "type": "interTokenLatency", "target": 1},
            {"name": "r", "type": "requestLatency", "target": 1}, {"name": "q", "type": "query", "target": 1, "query": "x"},
        ]  # fmt: skip
        one_target = target(signals=signals, scaleToZero={"activationQuery": "y"})
        many = [replace(one_target, key=f"ns/{number}") for number in range(1000)]
        assert len(plan(many, Outlook().windows(60, 60)).queries) <= 10


class TestFastchat:
    async def test_the_workers_real_answer_becomes_a_metric(self) -> None:
        import json

        fixture = json.loads((FIXTURES / "engines" / "fastchat-0.2.36.json").read_text())
        answers = [web.json_response(fixture["worker_get_status"]), web.Response(status=500)]

        async def status(_: web.Request) -> web.Response:
            return answers.pop(0)

        app = web.Application()
        app.router.add_post("/worker_get_status", status)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        registry = CollectorRegistry()
        poller = FastchatPoller(f"http://127.0.0.1:{runner.addresses[0][1]}", registry)
        async with aiohttp.ClientSession() as session:
            assert await poller.poll(session)
            assert 'headroom_fastchat_queue_length{model_name="demo"} 5.0' in generate_latest(registry).decode()
            assert not await poller.poll(session)
        assert "headroom_fastchat_queue_length{" not in generate_latest(registry).decode()
        await runner.cleanup()


def test_explain_reads_top_to_bottom() -> None:
    status = {
        "observedGeneration": 2, "currentReplicas": 2, "readyReplicas": 2, "desiredReplicas": 5, "unmetReplicas": 3,
        "signals": [{"name": "running", "type": "running", "state": "fresh", "value": "50", "target": "10", "wish": 5, "lowest": 5}],
        "limits": [{"rule": "CapacityLimited", "message": "the cluster can hold 0 more of this pod; 5 wanted"}],
        "history": [{"time": "t", "from": 1, "to": 2, "reason": "Raised", "message": "raised"}],
        "conditions": [{"type": "Ready", "status": "True", "reason": "CapacityLimited", "message": ""}],
        "learned": {"startUpSeconds": "90"},
    }  # fmt: skip
    body = {
        "metadata": {"name": "llm", "namespace": "ns", "generation": 2},
        "spec": {"maxReplicas": 9},
        "status": status,
    }
    text = explain(DECODER.decode(encode(body)))
    assert "Now 2 replicas, 2 ready; the signals ask for 5, 3 unmet." in text
    assert text.index("Why:") < text.index("Signals:") < text.index("History:")
    assert "a new replica takes 90 s to be ready" in text
    fresh = {"metadata": {"name": "llm", "namespace": "ns"}, "spec": {"maxReplicas": 9}}
    assert "No autoscaler has looked at it yet." in explain(DECODER.decode(encode(fresh)))


def test_settings_come_from_environment_and_budgets_are_read() -> None:
    from autoscaler.settings import AutoscalerSettings, BudgetError, budgets

    settings = load(AutoscalerSettings, {}, {"HEADROOM_AUTOSCALER_PROJECT_BUDGETS": "a=4,b=2.5"})
    assert budgets(settings) == {"a": 4.0, "b": 2.5}
    with pytest.raises(BudgetError, match="'c' is not PROJECT=GPUS"):
        budgets(replace(settings, project_budgets=("c",)))
