"""Gauges against counters: engines before their first request, engines that stand still, cards that are said to idle."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from autoscaler.law.inputs import Freshness
from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import Exposes, Value, at, exposition, grows, nothing, sglang, together, vllm

LONG_AGO = START - 5000
WORK = {"secondsPerPromptToken": "0.0002", "secondsPerOutputToken": "0.0003"}
TO_ZERO: dict[str, Any] = {"minReplicas": 0, "scaleToZero": {"idleAfter": "5m", "activationQuery": "sum(gateway)"}}


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    made.deployment(replicas=4)
    yield made
    assert made.failures() == 0
    await made.close()


def card(number: int, **labels: str) -> dict[str, str]:
    return {
        "UUID": f"GPU-{number}",
        "gpu": "0",
        "Hostname": f"n{number}",
        "namespace": "default",
        "pod": f"llm-5d9f-{number}",
        **labels,
    }


def cards(fleet: Fleet, number: int, metrics: dict[str, Any], **labels: str) -> None:
    exporter = exposition(metrics, **card(number, **labels))
    fleet.scrape(f"dcgm-{number}", exporter, job="dcgm-exporter", namespace="gpu-operator", honor="x")


class TestBeforeTheFirstRequest:
    async def test_an_idle_sglang_fleet_is_lowered(self, fleet: Fleet) -> None:
        """T07: its counters come with the first request."""
        for pod in fleet.pods():
            fleet.scrape(pod, sglang(0.0))
        fleet.object(engine="sglang", signals=None)
        await fleet.tick(60)
        assert (fleet.replicas, fleet.wish().state) == (1, Freshness.FRESH)

    async def test_one_pod_that_has_requests_is_heard(self, fleet: Fleet) -> None:
        """T07b: prefix-aware routing sends all to one."""
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(pod, sglang(0.0) if number else sglang(200.0, 300.0, per_second=20.0, since=LONG_AGO))
        fleet.object(engine="sglang", signals=None, work=WORK, maxReplicas=40)
        await fleet.tick(3)
        assert fleet.wish("work").state is Freshness.FRESH
        assert fleet.replicas > 4

    async def test_new_pods_without_a_request_do_not_silence_the_old(self) -> None:
        """T07e."""
        fleet = Fleet()
        fleet.deployment(replicas=9)
        for number, pod in enumerate(fleet.pods(9)):
            fleet.pod(pod, ip=f"10.0.0.{number + 1}", ready_at=START - (5000 if number < 4 else 120))
            fleet.scrape(pod, sglang(60.0, 400.0, per_second=20.0, since=LONG_AGO) if number < 4 else sglang(0.0))
        fleet.object(
            engine="sglang", signals=[{"name": "work", "type": "work", "target": "0.9"}], work=WORK, maxReplicas=40
        )
        await fleet.tick(2)
        assert fleet.replicas > 9
        await fleet.close()

    async def test_an_idle_tgi_fleet_exports_nothing_and_goes_to_zero(self, fleet: Fleet) -> None:
        """T07d: that it is scraped is all that there is to see."""
        for pod in fleet.pods():
            fleet.scrape(pod, nothing)
        fleet.object(engine="tgi", signals=None, **TO_ZERO)
        fleet.prometheus.custom["sum(gateway)"] = 0.0
        await fleet.tick(60)
        assert fleet.replicas == 0

    async def test_a_pod_that_is_not_scraped_is_not_idle(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, nothing, target={"down": lambda time: True})
        fleet.object(engine="tgi", signals=None)
        assert await fleet.tick(60) == [4] * 60
        assert (
            "no request yet, or not scraped (tgi exports it with its first request)" in fleet.signal("work")["message"]
        )

    async def test_a_sidecar_that_answers_does_not_speak_for_the_engine(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, exposition({"envoy_requests_total": 5.0}), port=15090)
        fleet.object(engine="tgi", signals=None)
        assert await fleet.tick(60) == [4] * 60

    async def test_a_metric_that_one_pod_has_lost_is_not_idle(self, fleet: Fleet) -> None:
        """The gauges say that requests are inside: the counters were dropped, or renamed."""
        for pod in fleet.pods():
            fleet.scrape(pod, sglang(9.0))
        fleet.object(engine="sglang", signals=[{"name": "work", "type": "work", "target": "0.9"}], work=WORK)
        assert min(await fleet.tick(60)) >= 3  # by the count of requests, 36 of 16 a replica
        assert "no request has ended yet" in fleet.signal()["message"]

    async def test_a_first_request_that_takes_long_raises_by_those_that_wait(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, sglang(30.0, 60.0))
        fleet.object(engine="sglang", signals=None)
        await fleet.tick(2)
        assert fleet.replicas > 4

    @pytest.mark.parametrize("engine", ["tgi", "vllm"])
    async def test_woken_by_a_request_that_was_given_up_it_goes_back(self, engine: str) -> None:
        """The engine never sees a request; vLLM's gauges may even keep it (vllm#22545)."""
        fleet = Fleet()
        fleet.deployment(replicas=0)
        stuck = vllm(lambda time: 1.0, kv_cache=0.01, per_second=0.0)
        fleet.object(engine=engine, signals=None, work=WORK, **TO_ZERO)
        fleet.prometheus.custom["sum(gateway)"] = lambda time: 1.0 if time < START + 30 else 0.0
        made: list[str] = []

        def follow() -> None:
            if fleet.replicas and not made:
                fleet.pod("llm-5d9f-0", ip="10.0.0.1", ready_at=fleet.now)
                fleet.scrape("llm-5d9f-0", nothing if engine == "tgi" else stuck, target={"since": fleet.now})
                made.append("llm-5d9f-0")
            if not fleet.replicas and made:
                fleet.gone(made.pop())
                fleet.prometheus.targets.clear()

        trail = await fleet.tick(80, follow)
        assert (max(trail), trail[-1]) == (1, 0)
        await fleet.close()


class TestStandingStill:
    """T14, vllm#22545, #29928: all requests were aborted at once; the gauges stay."""

    def stuck(self, running: Any = 106.0, waiting: Any = 15.0, until: float = START - 600) -> Exposes:
        return vllm(running, waiting, kv_cache=0.904, per_second=4.0, since=LONG_AGO, until=until)

    async def test_without_a_new_request_it_is_idle_and_goes_down(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, self.stuck())
        fleet.object(signals=None, work=WORK)
        trail = await fleet.tick(120)
        assert trail[:20] == [4] * 20  # five minutes
        assert trail[-1] == 1
        assert "counted as idle: no token and no change" in str(fleet.status())

    async def test_until_then_it_hangs_and_is_held(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, self.stuck())
        fleet.object(signals=[{"name": "work", "type": "work", "target": "0.9"}], work=WORK)
        assert await fleet.tick(16) == [4] * 16
        assert "EngineHung" in fleet.rules()

    async def test_while_requests_come_it_hangs_for_as_long_as_they_do(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, self.stuck(waiting=lambda time: 15.0 + max(time - START, 0) // 100))
        fleet.object(signals=None, work=WORK)
        assert await fleet.tick(120) == [4] * 120
        assert "EngineHung" in fleet.rules()
        assert "no token has been done" in str(fleet.status()["conditions"])

    async def test_one_stuck_pod_does_not_stop_growth_for_the_others(self, fleet: Fleet) -> None:
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(
                pod, vllm(60.0, 30.0, kv_cache=0.8, per_second=9.0, since=LONG_AGO) if number else self.stuck()
            )
        fleet.object(signals=None, work=WORK, maxReplicas=40)
        await fleet.tick(8)
        assert fleet.replicas > 4
        assert "EngineHung" not in fleet.rules()

    async def test_a_long_generation_is_not_idle(self, fleet: Fleet) -> None:
        """SGLang counts tokens when a request ends; its cache fills meanwhile."""

        def serves(time: float) -> Any:
            gauges: dict[str, Value] = {
                "sglang:num_running_reqs": 1.0,
                "sglang:num_queue_reqs": 0.0,
                "sglang:token_usage": 0.1 + (time - START) / 1e5,
            }
            return together(exposition(gauges, tp_rank="0"), sglang(1.0, per_second=0.0))(time)

        for pod in fleet.pods():
            fleet.scrape(pod, serves)
        fleet.object(engine="sglang", signals=[{"name": "running", "type": "running", "target": 1}])
        assert await fleet.tick(60) == [4] * 60

    async def test_requests_that_pass_keep_it_awake(self, fleet: Fleet) -> None:
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(9.0, kv_cache=0.3, per_second=0.01, since=LONG_AGO))
        fleet.object()
        assert await fleet.tick(60) == [4] * 60


class TestUtilisation:
    @pytest.mark.parametrize(
        "shown",
        [{"DCGM_FI_DEV_GPU_UTIL": 0.0}, {"DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.0, "DCGM_FI_DEV_GPU_UTIL": 99.0}],
        ids=[
            "the exporter names the idle card (L22 dcgm-exporter#568)",
            "two metrics disagree (L22b dcgm-exporter#662)",
        ],
    )
    async def test_tokens_that_flow_refute_an_idle_card(self, fleet: Fleet, shown: dict[str, float]) -> None:
        for number, pod in enumerate(fleet.pods()):
            waiting = lambda time: 2.0 if time < START + 90 else 120.0  # noqa: E731
            fleet.scrape(pod, vllm(60.0, waiting, kv_cache=0.5, per_second=4.0, since=LONG_AGO))
            cards(fleet, number, {**shown})
        fleet.object(signals=None, work=WORK)
        await fleet.tick(16)
        assert fleet.replicas > 4
        assert "EngineHung" not in fleet.rules()

    async def test_an_idle_card_with_a_queue_and_no_token_hangs(self, fleet: Fleet) -> None:
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(pod, vllm(60.0, lambda time: 20.0 + time - START, kv_cache=0.5, per_second=0.0))
            cards(fleet, number, {"DCGM_FI_DEV_GPU_UTIL": 0.0})
        fleet.object(signals=[{"name": "queue", "type": "queue", "target": 4}])
        trail = await fleet.tick(16)
        assert trail[-1] == trail[5]
        assert "EngineHung" in fleet.rules()
        assert "requests wait while the GPUs are idle" in str(fleet.status())

    @pytest.mark.parametrize(("active", "busy"), [(0.0, 99.0), (0.03, 60.0), (0.9, 0.0), (0.1, 95.0)])
    async def test_two_metrics_of_a_card_that_contradict_each_other_say_nothing(
        self, fleet: Fleet, active: float, busy: float
    ) -> None:
        """L22b, dcgm-exporter#662."""
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(pod, vllm(5.0))
            cards(fleet, number, {"DCGM_FI_PROF_GR_ENGINE_ACTIVE": active, "DCGM_FI_DEV_GPU_UTIL": busy})
        fleet.object(signals=[{"name": "gpu", "type": "gpuUtilization", "target": "0.7"}])
        assert await fleet.tick(20) == [4] * 20
        assert fleet.wish("gpu").state is Freshness.ERROR
        assert "is not known: DCGM_FI_PROF_GR_ENGINE_ACTIVE says" in fleet.signal("gpu")["message"]

    @pytest.mark.parametrize(("active", "busy", "shown"), [(0.4, 100.0, 0.4), (0.0, 3.0, 0.0), (0.7, 90.0, 0.7)])
    async def test_metrics_that_differ_a_little_do_not(
        self, fleet: Fleet, active: float, busy: float, shown: float
    ) -> None:
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(pod, vllm(5.0))
            cards(fleet, number, {"DCGM_FI_PROF_GR_ENGINE_ACTIVE": active, "DCGM_FI_DEV_GPU_UTIL": busy})
        fleet.object(signals=[{"name": "gpu", "type": "gpuUtilization", "target": "0.7"}])
        await fleet.tick(2)
        assert fleet.wish("gpu").value == pytest.approx(shown)

    @pytest.mark.parametrize(("own", "neighbour"), [(0.9, 0.0), (0.0, 0.9)])
    async def test_a_mig_instance_is_not_its_neighbour(self, own: float, neighbour: float) -> None:
        """L19b, dcgm-exporter#272: both carry the UUID of the card."""
        fleet = Fleet()
        fleet.deployment(replicas=1)
        fleet.pods(1)
        fleet.scrape("llm-5d9f-0", vllm(5.0))
        for instance, (pod, value) in enumerate((("llm-5d9f-0", own), ("idle-0", neighbour)), 1):
            labels = card(0, GPU_I_ID=str(instance), GPU_I_PROFILE="3g.40gb", pod=pod)
            fleet.scrape(
                f"dcgm-{instance}", exposition({"DCGM_FI_PROF_GR_ENGINE_ACTIVE": value}, **labels), job="dcgm-exporter"
            )
        fleet.object(signals=[{"name": "gpu", "type": "gpuUtilization", "target": "0.7"}])
        await fleet.tick(2)
        assert fleet.wish("gpu").value == pytest.approx(own)
        await fleet.close()

    async def test_a_mig_instance_is_not_its_parent(self) -> None:
        fleet = Fleet()
        fleet.deployment(replicas=1)
        fleet.pods(1)
        fleet.scrape("llm-5d9f-0", vllm(5.0))
        whole = exposition({"DCGM_FI_DEV_GPU_UTIL": 99.0}, **card(0))
        part = exposition({"DCGM_FI_PROF_GR_ENGINE_ACTIVE": 0.1}, **card(0, GPU_I_ID="2", GPU_I_PROFILE="3g.40gb"))
        fleet.scrape("dcgm-0", together(whole, part), job="dcgm-exporter", namespace="gpu-operator")
        fleet.object(signals=[{"name": "gpu", "type": "gpuUtilization", "target": "0.7"}])
        await fleet.tick(2)
        assert fleet.wish("gpu").value == pytest.approx(0.1)
        await fleet.close()

    @pytest.mark.parametrize("every", [15.0, 60.0])
    async def test_cards_are_scraped_at_an_interval_of_their_own(self, fleet: Fleet, every: float) -> None:
        for number, pod in enumerate(fleet.pods()):
            fleet.scrape(pod, vllm(5.0))
            exporter = exposition({"DCGM_FI_DEV_GPU_UTIL": 55.0}, **card(number))
            fleet.scrape(
                f"dcgm-{number}", exporter, job="dcgm-exporter", namespace="gpu-operator", target={"every": every}
            )
        fleet.object(signals=[{"name": "gpu", "type": "gpuUtilization", "target": "0.7"}], minReplicas=4)
        await fleet.tick(3)
        for _ in range(12):
            await fleet.tick()
            assert fleet.wish("gpu").value == pytest.approx(0.55)


class TestImpossibleValues:
    async def test_a_share_in_percent_is_no_share(self, fleet: Fleet) -> None:
        """T11."""
        for pod in fleet.pods():
            fleet.scrape(pod, vllm(2.0, kv_cache=12.0))
        fleet.object(signals=[{"name": "kv", "type": "kvCache", "target": "0.9"}])
        assert await fleet.tick(12) == [4] * 12
        assert "vllm:kv_cache_usage_perc is 12, which is no share" in fleet.signal("kv")["message"]

    @pytest.mark.parametrize("value", [-1.0, -9.2e15, 1e12, 1e300])
    async def test_one_pod_of_ten_is_silent_for_it_and_the_others_are_heard(self, value: float) -> None:
        """T12."""
        fleet = Fleet()
        fleet.deployment(replicas=10)
        for number, pod in enumerate(fleet.pods(10)):
            fleet.scrape(pod, vllm(value if number == 3 else 15.0))
        fleet.object()
        await fleet.tick(3)
        assert fleet.replicas == 14
        assert f"llm-5d9f-3 says that vllm:num_requests_running is {value:g}" in fleet.signal()["message"]
        await fleet.close()

    @pytest.mark.parametrize("value", [-5.0, 1e300])
    async def test_counters_too(self, fleet: Fleet, value: float) -> None:
        for number, pod in enumerate(fleet.pods()):
            serves = vllm(9.0, kv_cache=0.3, per_second=5.0, since=LONG_AGO)
            bad = exposition(
                {"vllm:generation_tokens_total": lambda time: value * (1 + time / 1e9)}, engine="1", model_name="m"
            )
            fleet.scrape(pod, serves if number else together(serves, bad))
        fleet.object(signals=None, work=WORK)
        await fleet.tick(8)
        assert fleet.wish("work").state is Freshness.FRESH
        assert fleet.replicas in (3, 4)

    @pytest.mark.parametrize("value", [-9.2e15, -0.5])
    async def test_a_query_below_zero_does_not_lower(self, fleet: Fleet, value: float) -> None:
        """Q05, keda#7475."""
        fleet.pods()
        fleet.object(engine="custom", signals=[{"name": "q", "type": "query", "query": "load", "target": "10"}])
        fleet.prometheus.custom["load"] = value
        assert await fleet.tick(12) == [4] * 12
        assert "below 0, which no load is" in fleet.signal("q")["message"]

    @pytest.mark.parametrize(("value", "target"), [(1e300, "1n"), (1.7e308, "10m"), (1e15, "10")])
    async def test_a_query_beyond_all_bounds_asks_for_the_most(self, fleet: Fleet, value: float, target: str) -> None:
        """Q04, Q04b, C25."""
        fleet.pods()
        fleet.object(
            engine="custom", signals=[{"name": "q", "type": "query", "query": "load", "target": target}], maxReplicas=9
        )
        fleet.prometheus.custom["load"] = value
        await fleet.tick(4)
        assert fleet.replicas == 9
        assert fleet.signal("q")["wish"] == 2**31 - 1


class TestPrefillPool:
    async def test_it_is_not_cut_under_its_queue(self, fleet: Fleet) -> None:
        """T09, llm-d-autoscaling#736: one output token a request, no time between tokens, two requests inside are many."""
        rates = {
            "prompt_tokens_total": 20000, "generation_tokens_total": 5, "e2e_request_latency_seconds_count": 5,
            "iteration_tokens_total_count": 5, "inter_token_latency_seconds_sum": 0, "inter_token_latency_seconds_count": 0,
        }  # fmt: skip
        counters = {f"vllm:{name}": grows(rate, LONG_AGO) for name, rate in rates.items()}
        for pod in fleet.pods():
            waiting = lambda time: 1 + max(0.0, (time - START) / 20)  # noqa: E731
            fleet.scrape(
                pod, together(vllm(2.0, waiting, kv_cache=0.1), exposition(counters, engine="0", model_name="m"))
            )
        fleet.object(signals=None)
        trail = await fleet.tick(30)
        assert (min(trail), trail[-1] > 4) == (4, True)

    async def test_why_a_token_has_no_price_is_said(self, fleet: Fleet) -> None:
        rates = {
            "prompt_tokens_total": 2000, "generation_tokens_total": 5, "inter_token_latency_seconds_count": 0,
            "e2e_request_latency_seconds_count": 5,
        }  # fmt: skip
        counters = {f"vllm:{name}": grows(rate, LONG_AGO) for name, rate in rates.items()}
        for pod in fleet.pods():
            fleet.scrape(pod, together(vllm(2.0, kv_cache=0.1), exposition(counters, engine="0", model_name="m")))
        fleet.object(signals=None)
        await fleet.tick(2)
        assert "vllm:inter_token_latency_seconds_count does not grow" in fleet.signal()["message"]


def test_values_are_numbers_or_functions_of_the_time() -> None:
    assert (at(5.0, START), at(lambda time: time - START, START + 3)) == (5.0, 3)
