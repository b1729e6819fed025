"""Objects that people write, change and take away: the daemon between scripted servers."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from tests.fakes.autoscaler_bench import DEPLOYMENTS, HPAS, IA, Bench
from tests.unit.autoscaler.tick.fitting import idle, serving_fit


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
