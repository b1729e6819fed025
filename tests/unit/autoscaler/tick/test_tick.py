"""What a tick reads and writes, and what Prometheus does to it on bad days: the daemon between scripted servers."""

import json
import math
from collections.abc import Callable

import pytest
from aiohttp import web

from tests.fakes.autoscaler_bench import IA, PODS, Bench
from tests.fakes.prometheus import FakePrometheus
from tests.unit.autoscaler.tick.fitting import idle


class TestActing:
    async def test_a_load_is_followed_in_one_tick(self, bench: Bench) -> None:
        bench.workload(replicas=2)
        bench.loads = dict.fromkeys(bench.loads, 20.0)
        bench.object()
        await bench.start()
        await bench.tick()
        assert bench.replicas() == 4
        status = bench.api.get(IA, "llm")["status"]
        assert (status["history"][0]["from"], status["history"][0]["to"]) == (2, 4)
        events = [r.body["reason"] for r in bench.writes("/events")]
        assert events == ["SuccessfulRescale"]

    async def test_nothing_is_written_while_nothing_changes(self, busy: Bench) -> None:
        busy.api.requests.clear()
        await busy.tick(20)
        assert busy.writes(".") == []

    async def test_a_reading_that_trembles_is_no_news(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 8.6)
        await busy.tick(6)
        busy.api.requests.clear()
        for round_ in range(20):
            busy.loads = dict.fromkeys(busy.loads, 8.65 if round_ % 2 else 8.6)  # in all 34.6 and 34.4
            await busy.tick()
        assert busy.writes(".") == []
        busy.loads = dict.fromkeys(busy.loads, 9.2)
        await busy.tick(6)
        assert len(busy.writes("/status$")) == 1

    async def test_a_thousandth_object_costs_no_further_query(self, bench: Bench) -> None:
        for number in range(30):
            bench.workload(f"llm-{number}", replicas=1)
            bench.object(f"llm-{number}")
        await bench.start()
        bench.prometheus.queries.clear()
        await bench.tick()
        assert len(bench.prometheus.queries) <= 10

    async def test_the_least_loaded_pods_are_marked_before_the_cut(self, busy: Bench) -> None:
        busy.loads = {f"llm-5d9f-{number}": load for number, load in enumerate((4.0, 1.0, 6.0, 5.0))}
        busy.api.requests.clear()
        await busy.tick(6)
        assert busy.replicas() == 3
        scale = next(at for at, r in enumerate(busy.api.requests) if r.method == "PATCH" and r.path.endswith("/scale"))
        marks = [(at, r) for at, r in enumerate(busy.api.requests) if r.method == "PATCH" and "/pods/" in r.path]
        assert [r.path.rsplit("/", 1)[1] for _, r in marks] == ["llm-5d9f-1"]
        assert marks[0][0] < scale
        assert marks[0][1].body["metadata"]["annotations"] == {"controller.kubernetes.io/pod-deletion-cost": "-1000"}

    async def test_what_others_say_of_the_cost_of_a_pod_stays(self, busy: Bench) -> None:
        cost = "controller.kubernetes.io/pod-deletion-cost"
        for number, value in enumerate(("100", "-998", "-5", "soon")):
            busy.pod(f"llm-5d9f-{number}", load=10.0, metadata={"annotations": {cost: value}})
        busy.loads = {f"llm-5d9f-{number}": load for number, load in enumerate((4.0, 6.0, 1.0, 5.0))}
        await busy.tick(6)
        assert busy.replicas() == 3
        left = {p["metadata"]["name"][-1]: p["metadata"]["annotations"].get(cost) for p in busy.api.all(PODS)}
        assert left == {"0": "100", "1": None, "2": "-1000", "3": "soon"}

    async def test_advisory_writes_its_status_and_nothing_else(self, bench: Bench) -> None:
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 90.0)
        bench.object(mode="Advisory")
        await bench.start()
        await bench.tick(4)
        assert bench.replicas() == 1
        assert bench.api.get(IA, "llm")["status"]["desiredReplicas"] == 9
        assert bench.writes("/(scale|pods)") == []

    async def test_dry_run_writes_nothing_at_all(self, bench: Bench) -> None:
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 90.0)
        bench.object()
        await bench.start(dry_run=True)
        await bench.tick(3)
        assert bench.writes(".") == []

    async def test_a_budget_is_shared_by_the_objects_of_a_project(self, bench: Bench) -> None:
        for name in ("a", "b"):
            bench.workload(name, replicas=1)
            bench.object(name, project="search")
        bench.loads = dict.fromkeys(bench.loads, 80.0)
        await bench.start(project_budgets=("search=6",))
        await bench.tick(4)
        assert bench.replicas("a") + bench.replicas("b") == 6
        assert {bench.replicas("a"), bench.replicas("b")} == {3}
        assert bench.condition("CapacityLimited", "a")["reason"] == "ProjectBudget"

    async def test_an_object_that_only_advises_takes_nothing_of_a_budget(self, bench: Bench) -> None:
        for name, mode in (("a", "Auto"), ("b", "Advisory")):
            bench.workload(name, replicas=1)
            bench.object(name, project="search", mode=mode)
        bench.loads = dict.fromkeys(bench.loads, 80.0)
        await bench.start(project_budgets=("search=6",))
        await bench.tick(4)
        assert (bench.replicas("a"), bench.replicas("b")) == (5, 1)


class TestPrometheus:
    @pytest.mark.parametrize(
        ("fault", "words"),
        [
            (lambda p: p.fail(503, "maintenance", "unavailable"), "503"),
            (lambda p: p.talk_nonsense("<html>"), "not JSON"),
            (lambda p: p.stall(), "did not answer within"),
        ],
        ids=["down", "nonsense", "slow"],
    )
    async def test_an_outage_freezes_and_is_said(
        self, busy: Bench, fault: Callable[[FakePrometheus], None], words: str
    ) -> None:
        idle(busy)
        fault(busy.prometheus)
        await busy.tick(4)
        assert busy.replicas() == 4
        active = busy.condition("ScalingActive")
        assert (active["status"], active["reason"]) == ("False", "Outage")
        assert words in json.dumps(busy.api.get(IA, "llm")["status"]["signals"])
        warnings = [r.body["reason"] for r in busy.writes("/events") if r.body["type"] == "Warning"]
        assert warnings == ["Outage"]

    async def test_after_an_outage_a_whole_window_is_seen_before_a_cut(self, busy: Bench) -> None:
        busy.prometheus.fail(503)
        await busy.tick(6)
        busy.prometheus.recover()
        idle(busy)
        await busy.tick(4)
        assert busy.replicas() == 4
        await busy.tick(3)
        assert busy.replicas() < 4

    async def test_an_empty_answer_is_not_a_zero(self, busy: Bench) -> None:
        busy.loads.clear()
        await busy.tick(10)
        assert busy.replicas() == 4
        assert busy.condition("ScalingActive")["status"] == "False"

    async def test_a_metric_renamed_by_an_update_is_named_in_the_status(self, busy: Bench) -> None:
        busy.metric = "vllm:num_requests_executing"
        await busy.tick(10)
        assert busy.replicas() == 4
        signal = busy.api.get(IA, "llm")["status"]["signals"][0]
        assert (signal["state"], signal["message"]) == ("empty", "no pod exports vllm:num_requests_running")

    async def test_values_that_are_no_numbers_are_no_reading(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, math.nan)
        await busy.tick(10)
        assert busy.replicas() == 4
        assert busy.condition("ScalingActive")["status"] == "False"

    async def test_old_samples_are_stale(self, busy: Bench) -> None:
        idle(busy)
        busy.age = 65.0
        await busy.tick(10)
        assert busy.replicas() == 4
        assert busy.api.get(IA, "llm")["status"]["signals"][0]["state"] == "stale"

    async def test_samples_from_the_future_come_from_a_wrong_clock(self, busy: Bench) -> None:
        idle(busy)
        busy.age = -30.0
        await busy.tick(10)
        assert busy.replicas() == 4
        assert "in the future" in busy.api.get(IA, "llm")["status"]["signals"][0]["message"]

    async def test_the_autoscalers_own_clock_does_not_matter(self, busy: Bench) -> None:
        busy.ahead = -86_400.0
        await busy.tick(3)
        assert busy.condition("ScalingActive")["status"] == "True"

    async def test_a_pod_scraped_twice_counts_once(self, busy: Bench) -> None:
        for pod, load in busy.loads.items():
            labels = {"__name__": busy.metric, "namespace": "default", "pod": pod, "job": "again", "instance": "x:1"}
            busy.extra.append((labels, [(busy.now - 1, load)]))
        await busy.tick(2)
        assert busy.replicas() == 4

    @pytest.mark.parametrize("value", [500.0, -9.5])
    async def test_nobody_speaks_for_anothers_pods(self, busy: Bench, value: float) -> None:
        for pod in list(busy.loads):
            for metric, claimed in ((busy.metric, value), ("vllm:num_requests_waiting", 0.0)):
                labels = {
                    "__name__": metric, "namespace": "evil", "pod": "attacker", "job": "podmon/evil",
                    "exported_namespace": "default", "exported_pod": pod,
                }  # fmt: skip
                busy.extra.append((labels, [(busy.now + 1000, claimed)]))
        await busy.tick(10)
        assert busy.replicas() == 4

    async def test_one_pod_in_ten_without_metrics_is_not_idle(self, bench: Bench) -> None:
        bench.workload(replicas=10)
        bench.loads = dict.fromkeys(bench.loads, 9.5)
        del bench.loads["llm-5d9f-3"]
        bench.object(maxReplicas=20)
        await bench.start()
        await bench.tick(12)
        assert bench.replicas() == 10

    async def test_most_pods_without_metrics_are_no_basis(self, bench: Bench) -> None:
        bench.workload(replicas=10)
        for number in range(7):
            del bench.loads[f"llm-5d9f-{number}"]
        bench.object()
        await bench.start()
        await bench.tick(12)
        assert bench.replicas() == 10
        assert "only 3 of 10 pods report" in bench.api.get(IA, "llm")["status"]["signals"][0]["message"]

    async def test_a_query_that_prometheus_refuses_hurts_only_its_object(self, bench: Bench) -> None:
        for name in ("good", "bad", "fine"):
            bench.workload(name, replicas=1)
            query = [{"name": "rps", "type": "query", "target": 10, "query": f"sum({name})"}]
            bench.object(name, engine="custom", signals=query)

        async def answer(request: web.Request) -> web.Response:
            promql = str({**request.query, **(await request.post())}["query"])
            if "sum(bad)" in promql:
                return web.json_response(
                    {"status": "error", "errorType": "bad_data", "error": "parse error"}, status=400
                )
            result = [{"metric": {}, "value": [bench.now, str(bench.now)]}]
            if "headroom_query" in promql:
                tags = [part.split('"')[3] for part in promql.split("label_replace(")[1:]]
                result = [{"metric": {"headroom_query": tag}, "value": [bench.now, "40"]} for tag in tags]
            return web.json_response({"status": "success", "data": {"resultType": "vector", "result": result}})

        runner = web.AppRunner(web.Application())
        runner.app.router.add_route("*", "/api/v1/query", answer)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        bench.prometheus.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        await bench.start()
        await bench.tick()
        await runner.cleanup()
        assert (bench.replicas("good"), bench.replicas("fine"), bench.replicas("bad")) == (4, 4, 1)
        assert "parse error" in bench.api.get(IA, "bad")["status"]["signals"][0]["message"]
