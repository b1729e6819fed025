"""The API server on bad days: what the daemon does when it refuses, forgets or is silent."""

import pytest

from tests.fakes.autoscaler_bench import DEPLOYMENTS, IA, START, Bench, stamp


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
