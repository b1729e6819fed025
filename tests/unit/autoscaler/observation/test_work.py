"""The work of a target: what its engines' series say of tokens and requests."""

from dataclasses import replace

import aiohttp
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from autoscaler.adapters.fastchat_exporter import FastchatPoller
from autoscaler.api.resource import Target
from autoscaler.law.sizing import prices
from autoscaler.law.sizing.prices import CostSettings
from autoscaler.law.sizing.roles import Role
from autoscaler.observation.cluster import pods
from autoscaler.observation.cluster.objects import POD_VIEW
from autoscaler.observation.lessons import Lessons, engine_costs
from autoscaler.observation.queries import COUNTERS, plan
from autoscaler.observation.scrapes import Outlook
from autoscaler.observation.traffic import Lengths
from headroom.prometheus.client import Series
from headroom.wire import encode
from tests.paths import FIXTURES
from tests.unit.autoscaler.observation.pictures import NOW, counter, gauge, observer, pod, target


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


class TestPrefill:
    """Replicas that compute prompts for others to decode: every request ends with its first token."""

    OF = replace(target(), role=Role.PREFILL)

    @staticmethod
    def made(name: str, prompts: float, waiting: float = 0.0) -> tuple[list[Series], list[Series]]:
        """So many prompts of 1,000 tokens a second, each of which takes 0.1 s in two iterations."""
        counters = {
            "prompt_tokens_total": 1000 * prompts, "generation_tokens_total": prompts, "iteration_tokens_total_count": 2 * prompts,
            "inter_token_latency_seconds_sum": 0.0, "inter_token_latency_seconds_count": 0.0,
            "request_prefill_time_seconds_sum": 0.1 * prompts, "e2e_request_latency_seconds_count": prompts,
            "request_prompt_tokens_sum": 1000 * prompts, "request_generation_tokens_sum": prompts,
        }  # fmt: skip
        gauges = {"num_requests_running": prompts / 10, "num_requests_waiting": waiting, "kv_cache_usage_perc": 0.1}
        return (
            [gauge(f"vllm:{metric}", name, value) for metric, value in gauges.items()],
            [counter(f"vllm:{metric}", name, value) for metric, value in counters.items()],
        )

    def price(self, prompts: float, waiting: float = 0.0, of: Target = OF) -> float | None:
        settings, lessons = CostSettings(), Lessons()
        for _ in range(20):
            gauges, counters = self.made("a", prompts, waiting)
            lessons = observer(of, [pod("a")], gauges, counters).learn(lessons, settings)
        cost = engine_costs(of, lessons, settings)
        return cost.per_prompt_token if cost else None

    def test_a_prompt_token_has_a_price_from_the_first_prompts_on(self) -> None:
        assert self.price(2.0) == pytest.approx(0.0001)
        assert self.price(4.0) == pytest.approx(0.0001)

    def test_while_prompts_wait_the_replica_is_busy_throughout(self) -> None:
        assert self.price(9.0, waiting=3.0) == pytest.approx(1 / 9000)

    def test_prompts_that_may_have_shared_iterations_teach_nothing(self) -> None:
        assert self.price(8.0) is None

    def test_without_the_role_prompts_have_no_price(self) -> None:
        assert self.price(2.0, of=target()) is None

    def test_the_time_of_prefill_is_asked_for_where_there_is_such_a_role(self) -> None:
        name, windows = "vllm:request_prefill_time_seconds_sum", Outlook().windows(60, 60)
        assert name in plan([self.OF], windows).queries[COUNTERS]
        assert name not in plan([target()], windows).queries[COUNTERS]
