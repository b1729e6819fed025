"""From series and pods to what one decision rests on."""

import math
from dataclasses import replace
from typing import Any

import pytest

from autoscaler.api.query_guard import is_closed
from autoscaler.api.resource import DECODER, SpecError
from autoscaler.law.inputs import Freshness
from autoscaler.observation.gathering import ObserveSettings
from autoscaler.observation.observer import Observer
from autoscaler.observation.queries import plan
from autoscaler.observation.scrapes import Outlook
from autoscaler.observation.series import change, quantile, rate
from autoscaler.tick.explain import explain
from headroom.daemon.settings import load
from headroom.prometheus.client import Series
from headroom.wire import encode
from tests.unit.autoscaler.observation.pictures import NOW, counter, gauge, observer, pod, snapshot_of, target


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
