"""The loop against a scripted API server and a scripted Prometheus, over real HTTP: what it does on bad days."""

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from autoscaler.adapters.fit_client import FitClient
from autoscaler.law.inputs import Capacity
from tests.fakes.autoscaler_bench import DEPLOYMENTS, HPAS, IA, PODS, START, Bench, stamp
from tests.fakes.prometheus import FakePrometheus
from tests.waiting import turns


def idle(bench: Bench) -> None:
    for pod in bench.loads:
        bench.loads[pod] = 0.0


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


class TestObjects:
    async def test_a_bad_object_hurts_only_itself(self, bench: Bench) -> None:
        bench.workload("good", replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object("good")
        bench.object("bad", signals=[{"name": "x", "type": "queue", "target": "many"}])
        bench.api.put(IA, {"metadata": {"name": "broken"}, "spec": {"maxReplicas": "ten"}})
        await bench.start()
        await bench.tick()
        assert bench.replicas("good") == 4
        ready = bench.condition("Ready", "bad")
        assert ready["reason"] == "InvalidSpec"
        assert "default/bad: spec.signals[0].target: 'many' is not a number" in ready["message"]

    async def test_a_query_cannot_answer_in_the_name_of_another_object(self, bench: Bench) -> None:
        query = 'x, "headroom_query", "0", "", "") or label_replace(y'
        bench.workload("sly", replicas=1)
        bench.object("sly", engine="custom", signals=[{"name": "q", "type": "query", "target": 1, "query": query}])
        await bench.start()
        await bench.tick()
        assert bench.condition("Ready", "sly")["reason"] == "InvalidSpec"

    async def test_an_hpa_on_the_same_target_stops_it(self, busy: Bench) -> None:
        hpa = {"metadata": {"name": "old"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}}}
        busy.api.put(HPAS, hpa)
        busy.loads = dict.fromkeys(busy.loads, 30.0)
        await busy.tick(3)
        assert busy.replicas() == 4
        conflict = busy.condition("Conflict")
        assert conflict["status"] == "True"
        assert "HorizontalPodAutoscaler default/old" in conflict["message"]
        busy.api.remove(HPAS, "old")
        await busy.tick()
        assert busy.replicas() > 4
        assert busy.condition("Conflict")["status"] == "False"

    async def test_a_scaledobject_on_the_same_target_stops_it(self, busy: Bench) -> None:
        scaled = {"metadata": {"name": "keda"}, "spec": {"scaleTargetRef": {"name": "llm"}}}
        busy.api.put("/apis/keda.sh/v1alpha1/scaledobjects", scaled)
        await busy.daemon._list_scaled_objects()
        await busy.tick()
        assert "ScaledObject default/keda" in busy.condition("Conflict")["message"]

    async def test_of_two_objects_on_one_target_the_older_acts(self, bench: Bench) -> None:
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object("first", target="llm")
        bench.object("second", target="llm", maxReplicas=2)
        bench.api.get(IA, "second")["metadata"]["creationTimestamp"] = "2026-06-01T00:00:00Z"
        await bench.start()
        await bench.tick()
        assert bench.replicas() == 4
        assert "InferenceAutoscaler default/first" in bench.condition("Conflict", "second")["message"]

    async def test_foreign_pods_that_the_selector_catches_are_not_counted(self, bench: Bench) -> None:
        bench.workload(replicas=2)
        bench.pod("job-1", owner="batch", load=500.0)
        bench.pod("bare", load=500.0, metadata={"ownerReferences": []})
        bench.object()
        await bench.start()
        await bench.tick()
        assert bench.replicas() == 2
        assert bench.api.get(IA, "llm")["status"]["readyReplicas"] == 2

    async def test_a_missing_target_is_said(self, bench: Bench) -> None:
        bench.object("orphan")
        await bench.start()
        await bench.tick()
        assert bench.condition("Ready", "orphan")["reason"] == "TargetNotFound"

    async def test_a_crash_looping_rollout_does_not_grow(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 30.0)
        waiting = {"waiting": {"reason": "CrashLoopBackOff"}}
        for number in (0, 1):
            container = {"name": "server", "restartCount": 4, "state": waiting}
            busy.pod(f"llm-5d9f-{number}", ready=False, load=None, containerStatuses=[container])
        await busy.tick(3)
        assert busy.replicas() == 4
        assert busy.condition("AbleToScale")["reason"] == "CrashLooping"

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda d: d["spec"].update(paused=True), "TargetPaused"),
            (lambda d: d["status"].update(updatedReplicas=1), "RolloutInProgress"),
        ],
        ids=["paused", "mid-rollout"],
    )
    async def test_a_paused_or_rolling_target_is_not_cut(
        self, busy: Bench, change: Callable[[dict[str, Any]], None], reason: str
    ) -> None:
        deployment = busy.api.get(DEPLOYMENTS, "llm")
        change(deployment)
        busy.api.put(DEPLOYMENTS, deployment)
        idle(busy)
        await busy.tick(10)
        assert busy.replicas() == 4
        assert busy.condition("AbleToScale")["reason"] == reason

    async def test_an_object_edited_meanwhile_is_decided_anew(self, busy: Bench) -> None:
        async def edit_meanwhile(_: web.Request) -> web.Response:
            busy.object(generation=2, maxReplicas=5)
            await busy.settle()
            assert busy.daemon.world.resources["default/llm"].metadata.generation == 2
            return web.json_response({"fits": 100, "nodes": {}, "reasons": {}})

        async with serving_fit(edit_meanwhile) as url:
            await busy.restart(extender_url=url)
            await busy.tick(6)
            busy.loads = dict.fromkeys(busy.loads, 30.0)
            await busy.tick()
            assert busy.replicas() == 4
            await busy.tick()
            assert busy.replicas() == 5

    @pytest.mark.parametrize("change", ["edited", "deleted", "created", "an HPA", "its target deleted"])
    async def test_what_changes_while_prometheus_is_asked_waits_for_the_next_tick(
        self, busy: Bench, change: str
    ) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.settle()
        busy.script()

        async def change_meanwhile() -> None:
            if change == "edited":
                busy.object(generation=2, maxReplicas=5)
            elif change == "deleted":
                busy.api.remove(IA, "llm")
            elif change == "created":
                busy.object("other")
            elif change == "an HPA":
                reference = {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}}
                busy.api.put(HPAS, {"metadata": {"name": "llm"}, "spec": reference})
            else:
                busy.api.remove(DEPLOYMENTS, "llm")
            await busy.settle()

        busy.prometheus.meanwhile(change_meanwhile)
        await busy.loop.tick()
        assert busy.daemon.metrics.tick_failures.labels("object")._value.get() == 0
        if change == "created":
            assert busy.replicas() == 8
        elif change != "its target deleted":
            assert busy.replicas() == 4

    async def test_a_deleted_object_is_forgotten(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.tick()
        assert 'headroom_autoscaler_moves_total{direction="up",name="llm"' in (await metrics_text(busy))
        busy.api.remove(IA, "llm")
        busy.loads = dict.fromkeys(busy.loads, 30.0)
        await busy.tick(2)
        assert busy.replicas() == 8
        assert 'name="llm"' not in (await metrics_text(busy))

    async def test_another_object_of_the_same_name_is_a_new_one(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.tick()
        assert len(busy.api.get(IA, "llm")["status"]["history"]) == 1
        busy.api.remove(IA, "llm")
        busy.object()  # before the next tick
        busy.loads = {f"llm-5d9f-{number}": 10.0 for number in range(8)}
        for number in range(8):
            busy.pod(f"llm-5d9f-{number}", load=10.0)
        await busy.tick()
        status = busy.api.get(IA, "llm")["status"]
        assert (status["currentReplicas"], status["history"]) == (8, [])

    async def test_an_object_that_is_not_acted_on_shows_no_old_numbers(self, busy: Bench) -> None:
        assert 'headroom_autoscaler_signal_fresh{name="llm"' in (await metrics_text(busy))
        spec = {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}}
        busy.api.put(HPAS, {"metadata": {"name": "llm"}, "spec": spec})
        await busy.tick()
        assert 'name="llm"' not in (await metrics_text(busy))
        assert busy.condition("Conflict")["status"] == "True"

    async def test_a_signal_that_is_gone_has_no_series(self, busy: Bench) -> None:
        busy.object(generation=2, signals=[{"name": "waiting", "type": "queue", "target": 10}])
        await busy.tick()
        text = await metrics_text(busy)
        assert 'headroom_autoscaler_signal{name="llm",namespace="default",signal="waiting"} 0.0' in text
        assert 'signal="running"' not in text


async def metrics_text(bench: Bench) -> str:
    from prometheus_client.exposition import generate_latest

    return generate_latest(bench.daemon.health.registry).decode()


class TestApiServer:
    async def test_a_conflict_is_settled_by_looking_again(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        busy.api.fail("PATCH", "/scale$", status=409, message="the object has been modified", times=1)
        await busy.tick()
        assert busy.replicas() == 8

    async def test_a_count_that_somebody_else_changed_is_not_overwritten(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.settle()
        busy.script()
        busy.api.get(DEPLOYMENTS, "llm")["spec"]["replicas"] = 6  # written, but not yet seen by the watch
        await busy.loop.tick()
        assert busy.replicas() == 6

    @pytest.mark.parametrize("status", [500, 503, 429, 403])
    async def test_a_refused_write_is_said_and_tried_again(self, busy: Bench, status: int) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        busy.api.fail("PATCH", "/scale$", status=status, message="not now", times=1)
        await busy.tick()
        assert busy.replicas() == 4
        able = busy.condition("AbleToScale")
        assert (able["status"], able["reason"]) == ("False", "FailedUpdateScale")
        assert "not now" in able["message"]
        await busy.tick()
        assert busy.replicas() == 8
        assert busy.condition("AbleToScale")["status"] == "True"

    async def test_a_status_that_cannot_be_written_stops_nothing(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        busy.api.fail("PATCH", "/status$", status=500, times=100)
        await busy.tick()
        assert busy.replicas() == 8

    async def test_without_the_lease_nothing_is_written(self, busy: Bench) -> None:
        busy.daemon.alone = False
        busy.loads = dict.fromkeys(busy.loads, 30.0)
        busy.api.requests.clear()
        await busy.tick(5)
        assert busy.writes(".") == []

    async def test_a_lease_lost_in_the_middle_of_a_tick_stops_the_write(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 30.0)
        await busy.lose_the_lease_during("GET", "/scale$")
        assert busy.replicas() == 4

    async def test_a_lease_lost_after_the_write_costs_the_event_alone(self, busy: Bench) -> None:
        busy.workload("other", replicas=1)
        busy.object("other")
        await busy.tick(2)
        failures = busy.daemon.metrics.tick_failures.labels("object")
        busy.loads = {pod: 30.0 if pod.startswith("llm") else 5.0 for pod in busy.loads}
        await busy.lose_the_lease_during("PATCH", "/scale$")
        assert busy.replicas() == 8
        assert failures._value.get() == 0
        assert busy.loop._memories["default/llm"].history[0]["to"] == 8

    async def test_a_scale_that_cannot_be_read_hurts_only_its_object(self, busy: Bench) -> None:
        busy.workload("other", replicas=1)
        busy.object("other")
        await busy.tick()
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.settle()
        busy.script()
        busy.api.get(DEPLOYMENTS, "llm")["spec"]["replicas"] = "many"  # not seen by the watch
        await busy.loop.tick()
        assert busy.replicas("other") == 2
        assert "broken scale" in busy.condition("AbleToScale")["message"]

    async def test_who_leads_again_goes_on_from_what_the_other_wrote(self, busy: Bench) -> None:
        busy.daemon.alone = False
        await busy.tick()
        object_ = busy.api.get(IA, "llm")
        entry = {"time": stamp(busy.now), "from": 3, "to": 4, "reason": "Raised", "message": "by the other"}
        conditions = [c | {"reason": "ByTheOther"} for c in object_["status"]["conditions"]]
        status = object_["status"] | {"history": [entry], "lastScaleTime": stamp(busy.now), "conditions": conditions}
        busy.api.put(IA, object_ | {"status": status})
        await busy.tick()
        busy.daemon.alone = True
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.tick()
        status = busy.api.get(IA, "llm")["status"]
        assert [h["message"] for h in status["history"]][1:] == ["by the other"]
        assert busy.replicas() == 8

    async def test_what_the_other_wrote_last_is_set_right(self, busy: Bench) -> None:
        busy.daemon.alone = False
        await busy.tick()
        object_ = busy.api.get(IA, "llm")
        busy.api.put(IA, object_ | {"status": object_["status"] | {"currentReplicas": 3}})
        await busy.tick()
        busy.daemon.alone = True
        await busy.tick()
        assert busy.api.get(IA, "llm")["status"]["currentReplicas"] == 4

    async def test_a_new_leader_takes_over_what_was_learned(self, busy: Bench) -> None:
        busy.pod("llm-5d9f-9", load=None, metadata={"creationTimestamp": stamp(START - 200)}, conditions=[
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": stamp(START - 190)},
            {"type": "Ready", "status": "True", "lastTransitionTime": stamp(START - 20)},
        ])  # fmt: skip
        await busy.tick(3)
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.tick()
        learned = busy.api.get(IA, "llm")["status"]["learned"]
        assert learned["startUpSeconds"] == "170"
        await busy.stop()
        await busy.start()
        await busy.tick(2)
        assert busy.api.get(IA, "llm")["status"]["learned"]["startUpSeconds"] == "170"


@contextlib.asynccontextmanager
async def serving_fit(handler: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/fit", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


class TestCapacity:
    async def extender(self, answer: Callable[[dict[str, Any]], web.Response]) -> tuple[web.AppRunner, str]:
        app = web.Application()

        async def fit(request: web.Request) -> web.Response:
            return answer(await request.json())

        app.router.add_post("/v1/fit", fit)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def test_the_pod_itself_is_asked_about(self, bench: Bench) -> None:
        asked: list[dict[str, Any]] = []

        def answer(question: dict[str, Any]) -> web.Response:
            asked.append(question)
            return web.json_response({"fits": 1, "nodes": {"n": 1}, "reasons": {"no free time slice": 3}})

        runner, url = await self.extender(answer)
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object()
        await bench.start(extender_url=url)
        await bench.tick()
        assert bench.replicas() == 2
        assert asked[0]["limit"] == 3
        assert asked[0]["pod"]["spec"]["containers"][0]["name"] == "server"
        assert bench.api.get(IA, "llm")["status"]["unmetReplicas"] == 2
        assert "no free time slice on 3 nodes" in bench.condition("CapacityLimited")["message"]
        await runner.cleanup()

    async def test_a_replica_that_is_a_group_needs_room_for_all_its_pods(self) -> None:
        asked: list[dict[str, Any]] = []

        def answer(question: dict[str, Any]) -> web.Response:
            asked.append(question)
            return web.json_response({"fits": 11, "nodes": {"n": 11}, "reasons": {"no free card": 3}})

        runner, url = await self.extender(answer)
        client = FitClient(url, 1.0)
        template = b'{"metadata": null, "spec": {"containers": [{"name": "worker"}]}}'
        capacity, complaint = await client.ask(template, "ns", 3, 4)
        assert (asked[0]["limit"], asked[0]["pod"]["metadata"]) == (12, {"namespace": "ns"})
        assert (capacity, complaint) == (Capacity(2, "no free card on 3 nodes"), "")
        await client.close()
        await runner.cleanup()

    async def test_a_crowd_of_questions_is_asked_a_few_at_a_time(self) -> None:
        under_way, most = 0, 0

        async def fit(_: web.Request) -> web.Response:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await turns()
            under_way -= 1
            return web.json_response({"fits": 1})

        async with serving_fit(fit) as url:
            client = FitClient(url, 5.0)
            answers = await asyncio.gather(*(client.ask(b"{}", "ns", 1) for _ in range(100)))
            await client.close()
        assert {capacity.fits if capacity else None for capacity, _ in answers} == {1}
        assert most <= 8

    async def test_a_scheduler_that_hangs_costs_its_time_once(self) -> None:
        asked = 0

        async def fit(_: web.Request) -> web.Response:
            nonlocal asked
            asked += 1
            await asyncio.Event().wait()
            return web.json_response({"fits": 1})

        async with serving_fit(fit) as url:
            client = FitClient(url, 1.0)
            answers = await asyncio.gather(*(client.ask(b"{}", "ns", 1) for _ in range(100)))
            await client.close()
        assert set(answers) == {(None, "the scheduler does not answer in time")}
        assert asked < 50

    @pytest.mark.parametrize("status", [400, 503])
    async def test_an_extender_that_does_not_know_limits_nothing(self, bench: Bench, status: int) -> None:
        runner, url = await self.extender(lambda _: web.Response(status=status, text="not ready"))
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object()
        await bench.start(extender_url=url)
        await bench.tick()
        assert bench.replicas() == 4
        assert str(status) in bench.condition("CapacityLimited")["message"]
        await runner.cleanup()

    async def test_an_extender_that_is_gone_limits_nothing(self, bench: Bench) -> None:
        bench.workload(replicas=1)
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object()
        await bench.start(extender_url="http://127.0.0.1:1")
        await bench.tick()
        assert bench.replicas() == 4
