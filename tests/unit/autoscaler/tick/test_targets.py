"""Targets that roll out or cannot have their pods, and zeros by hand: the daemon between scripted servers."""

from typing import Any

import pytest

from autoscaler.law import decide as law_module
from tests.fakes.autoscaler_bench import DEPLOYMENTS, IA, START, Bench, stamp
from tests.unit.autoscaler.tick.targets import FOUR_MINUTES, messages, set_replicas, warnings

STATEFUL_SETS = "/apis/apps/v1/statefulsets"
EVENTS = "/api/v1/events"


def stateful_set(bench: Bench, replicas: int, status: dict[str, Any], **spec: Any) -> None:
    template = {"spec": {"containers": [{"name": "server"}]}}
    body = {
        "metadata": {"name": "llm", "generation": 2},
        "spec": {"replicas": replicas, "template": template, **spec},
        "status": {"observedGeneration": 2, "replicas": replicas, "readyReplicas": replicas, **status},
    }
    bench.api.put(STATEFUL_SETS, body)
    for number in range(replicas):
        owner = [{"kind": "StatefulSet", "name": "llm", "controller": True}]
        bench.pod(f"llm-{number}", load=1.0, metadata={"ownerReferences": owner, "labels": {}})
    bench.object(scaleTargetRef={"kind": "StatefulSet", "name": "llm"})


class TestRollouts:
    async def test_a_surge_is_no_supply_to_step_from(self, bench: Bench) -> None:
        """C01, kubernetes/kubernetes#72775: maxSurge 100 %, a full queue on four wanted and eight ready pods."""
        bench.workload(replicas=4)
        body = bench.api.get(DEPLOYMENTS, "llm")
        bench.api.put(DEPLOYMENTS, {**body, "status": {"replicas": 8, "updatedReplicas": 4}})
        for number in range(4):
            labels = {"labels": {"pod-template-hash": "77aa"}}
            owner = [{"kind": "ReplicaSet", "name": "llm-77aa", "controller": True}]
            bench.pod(f"llm-77aa-{number}", load=90.0, metadata={**labels, "ownerReferences": owner})
        bench.loads = dict.fromkeys(bench.loads, 90.0)
        bench.object(maxReplicas=100, signals=[{"name": "queue", "type": "queue", "target": 4}])
        bench.extra = [
            ({"__name__": "vllm:num_requests_waiting", "namespace": "default", "pod": pod}, [(bench.now - 2, 50.0)])
            for pod in bench.loads
        ]
        bench.loads.clear()
        await bench.start()
        await bench.tick()
        assert bench.replicas() == 8

    @pytest.mark.parametrize(
        ("status", "spec"),
        [
            pytest.param(
                {"updatedReplicas": 4, "currentRevision": "a", "updateRevision": "b"},
                {"updateStrategy": {"type": "OnDelete"}}, id="C03: OnDelete, all pods replaced",
            ),
            pytest.param(
                {"updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b"},
                {"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 3}}},
                id="C04: a partition kept as canary",
            ),
        ],
    )  # fmt: skip
    async def test_a_stateful_set_that_is_where_it_should_be_is_lowered(
        self, bench: Bench, status: dict[str, Any], spec: dict[str, Any]
    ) -> None:
        stateful_set(bench, 4, status, **spec)
        await bench.start()
        await bench.tick(FOUR_MINUTES)
        assert bench.api.get(STATEFUL_SETS, "llm")["spec"]["replicas"] == 1

    async def test_one_that_has_failed_is_lowered_and_said(self, bench: Bench) -> None:
        """C13: ProgressDeadlineExceeded for days, without load."""
        bench.workload(replicas=4)
        body = bench.api.get(DEPLOYMENTS, "llm")
        failed = {
            "type": "Progressing",
            "status": "False",
            "reason": "ProgressDeadlineExceeded",
            "message": "timed out",
        }
        bench.api.put(DEPLOYMENTS, {**body, "status": {"replicas": 5, "updatedReplicas": 1, "conditions": [failed]}})
        bench.pod("llm-77aa-0", ready=False, load=None)
        bench.loads = dict.fromkeys(bench.loads, 0.0)
        bench.object()
        await bench.start()
        await bench.tick(FOUR_MINUTES)
        assert bench.replicas() == 1
        assert "RolloutFailed" in messages(bench)

    async def test_one_without_a_single_new_pod_is_not_cut(self, bench: Bench) -> None:
        """C32: the API server leaves out a count of 0."""
        bench.workload(replicas=4)
        body = bench.api.get(DEPLOYMENTS, "llm")
        body["metadata"]["generation"] = 5
        body["status"] = {"observedGeneration": 5, "replicas": 4, "readyReplicas": 4, "unavailableReplicas": 1}
        bench.api.put(DEPLOYMENTS, body)
        bench.loads = dict.fromkeys(bench.loads, 1.0)
        bench.object()
        await bench.start()
        await bench.tick(FOUR_MINUTES)
        assert bench.replicas() == 4
        assert bench.condition("AbleToScale")["reason"] == "RolloutInProgress"
        assert "0 of 4 pods are of the new revision" in messages(bench)


class TestPodsThatAreNotMade:
    QUOTA = 'pods "llm-5d9f-" is forbidden: exceeded quota: gpu, requested: 1, used: 3, limited: 3'

    async def quota(self, bench: Bench, name: str = "llm", **spec: Any) -> None:
        bench.workload(name, replicas=3)
        body = bench.api.get(DEPLOYMENTS, name)
        refusal = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": self.QUOTA}
        body["status"]["conditions"] = [refusal]
        bench.api.put(DEPLOYMENTS, body)
        bench.object(name, maxReplicas=60, **spec)

    async def test_a_quota_stops_growth_and_is_named(self, bench: Bench) -> None:
        """C05, C31, veryfront/veryfront-code#188: 3 to 60 replicas with 3 pods, unmet 0 and Ready before."""
        await self.quota(bench)
        bench.loads = dict.fromkeys(bench.loads, 200.0)
        await bench.start()
        await bench.tick(3 * FOUR_MINUTES)
        assert bench.replicas() == 7  # one raise, before anybody could know
        status = bench.api.get(IA, "llm")["status"]
        assert (status["desiredReplicas"], status["unmetReplicas"]) == (60, 57)
        limited = bench.condition("CapacityLimited")
        assert (limited["status"], limited["reason"]) == ("True", "PodsNotCreated")
        assert "4 of 7 replicas have no pod" in limited["message"]
        assert "exceeded quota: gpu" in limited["message"]
        assert warnings(bench) == ["PodsNotCreated"]

    async def test_they_hold_nothing_of_a_budget(self, bench: Bench) -> None:
        """C22: the other object of the project gets what is left of real GPUs."""
        await self.quota(bench, "a", project="p")
        bench.workload("b", replicas=1)
        bench.object("b", project="p", maxReplicas=60)
        bench.loads = dict.fromkeys(bench.loads, 200.0)
        await bench.start(project_budgets=("p=12",))
        await bench.tick(8)
        assert bench.replicas("b") == 9

    @pytest.mark.parametrize("event", [True, False])
    async def test_a_stateful_set_says_it_by_an_event(self, bench: Bench, event: bool) -> None:
        stateful_set(bench, 3, {"updatedReplicas": 3, "currentRevision": "a", "updateRevision": "a"})
        bench.loads = dict.fromkeys(bench.loads, 200.0)
        if event:
            for name, words in (("llm", self.QUOTA), ("other", "another's words")):
                about = {"kind": "StatefulSet", "name": name}
                event_ = {
                    "reason": "FailedCreate",
                    "message": words,
                    "involvedObject": about,
                    "lastTimestamp": stamp(START),
                }
                bench.api.put(EVENTS, {"metadata": {"name": f"{name}.1"}, **event_})
        await bench.start()
        await bench.tick(8)
        assert bench.api.get(STATEFUL_SETS, "llm")["spec"]["replicas"] == 7
        words_of = bench.condition("CapacityLimited")["message"]
        assert ("exceeded quota: gpu" if event else "its controller does not say why") in words_of

    async def test_a_controller_that_does_not_act_is_named(self, bench: Bench) -> None:
        bench.workload(replicas=3)
        bench.loads = dict.fromkeys(bench.loads, 200.0)
        bench.object()
        await bench.start()
        await bench.tick()
        body = bench.api.get(DEPLOYMENTS, "llm")
        body["metadata"]["generation"], body["status"]["observedGeneration"] = 2, 1
        bench.api.put(DEPLOYMENTS, body)
        await bench.tick(6)
        assert "its controller has not acted on the newest spec yet" in bench.condition("CapacityLimited")["message"]


class TestSickPods:
    @pytest.mark.parametrize(
        ("name", "state"),
        [
            ("llm-5d9f-2", {"restartCount": 6, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}),
            ("llm-5d9f-2", {"restartCount": 6, "state": {"running": {}}}),
        ],
        ids=["in back-off", "between two crashes"],
    )
    async def test_one_of_three_does_not_stop_the_healthy(self, bench: Bench, name: str, state: Any) -> None:
        """C09: one bad card, and the load triples."""
        bench.workload(replicas=3)
        bench.pod(name, ready=False, load=None, containerStatuses=[{"name": "server", **state}])
        del bench.loads[name]
        bench.loads = dict.fromkeys(bench.loads, 40.0)
        bench.object(maxReplicas=20)
        await bench.start()
        await bench.tick(2)
        assert bench.replicas() == 9  # eight healthy ones, and the sick one beside them

    async def test_a_bad_image_in_a_rollout_does_not_stop_the_old_pods(self, bench: Bench) -> None:
        """C08, kubernetes/kubernetes#87199 mirrored."""
        bench.workload(replicas=3)
        body = bench.api.get(DEPLOYMENTS, "llm")
        bench.api.put(DEPLOYMENTS, {**body, "status": {"replicas": 4, "updatedReplicas": 1}})
        waiting = {"waiting": {"reason": "ImagePullBackOff"}}
        bench.pod("llm-5d9f-new", ready=False, load=None, containerStatuses=[{"name": "server", "state": waiting}])
        bench.loads = dict.fromkeys(bench.loads, 30.0)
        bench.object()
        await bench.start()
        await bench.tick(2)
        assert bench.replicas() >= 9


class TestBounds:
    async def test_a_lowered_maximum_and_a_raised_minimum_hold_at_once(self, busy: Bench) -> None:
        """C07: 10 -> 7, 7, 5, 5, 3 before."""
        busy.object(generation=2, maxReplicas=2)
        await busy.tick()
        assert busy.replicas() == 2
        busy.object(generation=3, minReplicas=12, maxReplicas=20)
        await busy.tick()
        assert busy.replicas() == 12

    async def test_in_an_outage_and_with_scaling_disabled_too(self, busy: Bench) -> None:
        busy.prometheus.fail(503)
        off = {"selectPolicy": "Disabled"}
        busy.object(generation=2, maxReplicas=2, behavior={"scaleDown": off, "scaleUp": off})
        await busy.tick()
        assert busy.replicas() == 2


class TestZeroByHand:
    async def test_it_switches_scaling_off(self, busy: Bench) -> None:
        """C29, kedacore/keda#3052."""
        set_replicas(busy, 0)
        await busy.tick(4)
        assert busy.replicas() == 0
        active = busy.condition("ScalingActive")
        assert (active["status"], active["reason"]) == ("False", "ScalingDisabled")
        assert warnings(busy) == []
        set_replicas(busy, 1)
        await busy.tick()
        assert busy.replicas() > 1

    async def test_an_own_zero_is_woken_by_a_raised_minimum_even_by_another_leader(self, bench: Bench) -> None:
        bench.workload(replicas=0)
        history = [{"time": stamp(START), "from": 1, "to": 0, "reason": "Lowered", "message": "idle"}]
        zero = {"activationQuery": "queue", "idleAfter": "10m"}
        bench.object(minReplicas=0, scaleToZero=zero)
        bench.api.put(IA, {**bench.api.get(IA, "llm"), "status": {"history": history}})
        await bench.start()
        await bench.tick(2)
        assert bench.replicas() == 0
        bench.object(generation=2, minReplicas=2)
        await bench.tick()
        assert bench.replicas() == 2


async def test_after_an_unforeseen_error_the_old_ready_does_not_stay(
    busy: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Q04: the status was never written, and Ready stayed True."""
    assert busy.condition("Ready")["status"] == "True"

    def broken(*_: Any) -> Any:
        raise OverflowError("cannot convert float infinity to integer")

    monkeypatch.setattr(law_module, "begin", broken)
    await busy.tick(2)
    ready = busy.condition("Ready")
    assert (ready["status"], ready["reason"]) == ("False", "InternalError")
    monkeypatch.undo()
    await busy.tick(2)
    assert busy.condition("Ready")["status"] == "True"
