"""Targets that roll out, that others write, that cannot have their pods, of any kind: the daemon between scripted servers."""

import json
from typing import Any

import pytest

from autoscaler.law import decide as law_module
from tests.fakes.autoscaler_bench import DEPLOYMENTS, HPAS, IA, START, Bench, stamp

STATEFUL_SETS = "/apis/apps/v1/statefulsets"
EVENTS = "/api/v1/events"
FOUR_MINUTES = 16


def set_replicas(bench: Bench, count: int, name: str = "llm", writer: str = "") -> None:
    """Somebody else changes the count."""
    body = bench.api.get(DEPLOYMENTS, name)
    body["spec"]["replicas"] = count
    body["metadata"]["generation"] += 1
    if writer:
        fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        body["metadata"]["managedFields"] = [{"manager": writer, "time": stamp(bench.now), "fieldsV1": fields}]
    bench.api.put(DEPLOYMENTS, body)


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


def messages(bench: Bench, name: str = "llm") -> str:
    return json.dumps(bench.api.get(IA, name).get("status", {}))


def warnings(bench: Bench) -> list[str]:
    return [r.body["reason"] for r in bench.writes("/events") if r.body["type"] == "Warning"]


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


class TestOtherWriters:
    async def test_gitops_that_resets_the_count_is_named_and_not_followed(self, busy: Bench) -> None:
        """C06, argoproj/argo-cd#5105, kedacore/keda#5572: reset every three minutes, raised again each time."""
        trail = []
        for _ in range(3):
            await busy.tick(12)
            set_replicas(busy, 1, writer="argocd-controller")
            await busy.tick(2)
            trail.append(busy.replicas())
        assert trail == [4, 4, 4]
        conflict = busy.condition("Conflict")
        assert (conflict["status"], conflict["reason"]) == ("True", "OtherWriter")
        assert "argocd-controller changed the replicas, 3 times within the last hour" in conflict["message"]
        assert busy.condition("Ready")["status"] == "True"
        assert warnings(busy) == ["OtherWriter"]
        changes = [
            entry for entry in busy.api.get(IA, "llm")["status"]["history"] if entry["reason"] == "ChangedByAnother"
        ]
        assert len(changes) == 3

    async def test_a_single_change_by_hand_is_a_persons_right(self, busy: Bench) -> None:
        """C24."""
        set_replicas(busy, 2, writer="kubectl-scale")
        await busy.tick(8)
        assert busy.replicas() == 4
        assert busy.condition("Conflict")["status"] == "False"
        assert "kubectl-scale changed the replicas from 4 to 2" in messages(busy)

    async def test_an_owner_that_undoes_each_change_is_left_alone(self, bench: Bench) -> None:
        """C15: raise and revert each tick, ten events in ten ticks before."""
        bench.workload(replicas=4)
        body = bench.api.get(DEPLOYMENTS, "llm")
        body["metadata"]["ownerReferences"] = [{"kind": "LLMInferenceService", "name": "llm", "controller": True}]
        bench.api.put(DEPLOYMENTS, body)
        bench.loads = dict.fromkeys(bench.loads, 20.0)
        bench.object()
        await bench.start()
        for _ in range(20):
            await bench.tick()
            if bench.replicas() != 4:
                set_replicas(bench, 4, writer="manager")
        assert len(bench.writes("/scale$")) == 2
        conflict = bench.condition("Conflict")
        assert (conflict["status"], conflict["reason"]) == ("True", "AmbiguousOwner")
        assert "manager" in conflict["message"]
        assert "LLMInferenceService llm controls Deployment llm" in conflict["message"]
        assert bench.condition("Ready")["status"] == "False"
        assert bench.api.get(IA, "llm")["status"]["desiredReplicas"] == 8
        await bench.tick(40)  # ten minutes later it is tried again
        assert len(bench.writes("/scale$")) == 3

    async def test_an_owner_that_lets_it_be_is_named_only(self, busy: Bench) -> None:
        body = busy.api.get(DEPLOYMENTS, "llm")
        body["metadata"]["ownerReferences"] = [{"kind": "InferenceService", "name": "llm", "controller": True}]
        busy.api.put(DEPLOYMENTS, body)
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.tick(3)
        assert busy.replicas() == 8
        assert busy.condition("Conflict")["status"] == "False"
        assert busy.condition("Conflict")["reason"] == "ControlledByOwner"

    async def test_a_watch_that_lags_is_nobodys_change(self, busy: Bench) -> None:
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        flowing = busy.api.hold_watches()
        await busy.tick(3)
        flowing.set()
        await busy.tick(3)
        assert busy.condition("Conflict")["status"] == "False"
        assert "ChangedByAnother" not in messages(busy)


class TestShadowing:
    async def test_an_advisory_object_beside_an_hpa_computes_and_explains(self, bench: Bench) -> None:
        """A target that somebody else scales was dropped before anything was computed."""
        bench.workload(replicas=2)
        bench.loads = dict.fromkeys(bench.loads, 30.0)
        bench.object(mode="Advisory")
        bench.api.put(
            HPAS, {"metadata": {"name": "hpa"}, "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "llm"}}}
        )
        await bench.start()
        await bench.tick(3)
        status = bench.api.get(IA, "llm")["status"]
        assert (bench.replicas(), status["desiredReplicas"], status["signals"][0]["state"]) == (2, 6, "fresh")
        conflict = bench.condition("Conflict")
        assert (conflict["status"], conflict["reason"]) == ("True", "AnotherScaler")
        assert "HorizontalPodAutoscaler default/hpa scales Deployment llm" in conflict["message"]
        assert bench.condition("Ready")["status"] == "True"
        assert warnings(bench) == []
        assert bench.writes("/(scale|pods)") == []

    async def test_an_older_object_that_only_advises_blocks_nobody(self, busy: Bench) -> None:
        """C14."""
        old = busy.api.get(IA, "llm")
        old["spec"]["mode"], old["metadata"]["creationTimestamp"] = "Advisory", "2020-01-01T00:00:00Z"
        busy.api.put(IA, old)
        busy.object("new", target="llm")
        busy.loads = dict.fromkeys(busy.loads, 20.0)
        await busy.tick(2)
        assert busy.replicas() == 8
        assert busy.condition("Conflict", "new")["status"] == "False"
        assert "InferenceAutoscaler default/new scales Deployment llm" in busy.condition("Conflict", "llm")["message"]

    async def test_two_that_act_are_told_apart_by_age(self, busy: Bench) -> None:
        busy.object("new", target="llm")
        await busy.tick(2)
        assert busy.condition("Conflict", "new")["reason"] == "AmbiguousOwner"
        assert busy.condition("Conflict", "llm")["status"] == "False"


ARGO = "argoproj.io/v1alpha1"
REFERENCE = {"apiVersion": ARGO, "kind": "Rollout", "name": "llm"}


class TestAnyKind:
    """C16."""

    def rollout(self, bench: Bench, replicas: int, **status: Any) -> str:
        path = bench.api.serve_kind(ARGO, "Rollout", "rollouts")
        body = {
            "metadata": {"name": "llm", "generation": 1},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "server"}]}}},
            "status": {"replicas": replicas, "updatedReplicas": replicas, "selector": "app=llm,!canary", **status},
        }
        bench.api.put(path, body)
        for number in range(replicas):
            owner = [{"kind": "ReplicaSet", "name": "llm-9c", "controller": True}]
            meta = {"labels": {"app": "llm", "rollouts-pod-template-hash": "9c"}, "ownerReferences": owner}
            bench.pod(f"llm-9c-{number}", load=20.0, metadata=meta)
        bench.pod("other", load=500.0, metadata={"labels": {"app": "llm", "canary": "1"}, "ownerReferences": []})
        return path

    async def test_a_rollout_of_argo_is_scaled_by_its_scale_and_its_selector(self, bench: Bench) -> None:
        path = self.rollout(bench, 2)
        bench.object(scaleTargetRef=REFERENCE)
        await bench.start()
        await bench.tick(2)
        assert bench.api.get(path, "llm")["spec"]["replicas"] == 4
        assert bench.condition("Ready")["status"] == "True"
        bench.loads = dict.fromkeys(bench.loads, 1.0)
        body = bench.api.get(path, "llm")
        for number in (2, 3):
            owner = [{"kind": "ReplicaSet", "name": "llm-9c", "controller": True}]
            bench.pod(f"llm-9c-{number}", load=1.0, metadata={"labels": {"app": "llm"}, "ownerReferences": owner})
        bench.api.put(path, body)
        await bench.tick(FOUR_MINUTES)
        assert bench.api.get(path, "llm")["spec"]["replicas"] == 1
        marked = [r.path.rsplit("/", 1)[1] for r in bench.api.asked("PATCH", "/pods/")]
        assert marked, "its ReplicaSets heed the cost of a pod's deletion"
        scales = len(bench.api.asked("GET", "/rollouts/llm/scale"))
        await bench.tick(10)
        assert len(bench.api.asked("GET", "/rollouts/llm/scale")) == scales, "a scale that stays is not read again"

    async def test_it_is_not_cut_while_it_rolls(self, bench: Bench) -> None:
        path = self.rollout(bench, 3, updatedReplicas=1)
        bench.object(scaleTargetRef=REFERENCE)
        bench.loads = dict.fromkeys(bench.loads, 1.0)
        await bench.start()
        await bench.tick(FOUR_MINUTES)
        assert bench.api.get(path, "llm")["spec"]["replicas"] == 3
        assert bench.condition("AbleToScale")["reason"] == "RolloutInProgress"

    async def test_a_kind_without_a_scale_is_refused_with_the_deployment_behind_it(self, bench: Bench) -> None:
        bench.api.serve_kind("serving.kserve.io/v1beta1", "InferenceService", "inferenceservices", scale=False)
        bench.workload("llm-predictor", replicas=2)
        body = bench.api.get(DEPLOYMENTS, "llm-predictor")
        body["metadata"]["ownerReferences"] = [{"kind": "InferenceService", "name": "llm", "controller": True}]
        bench.api.put(DEPLOYMENTS, body)
        reference = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "name": "llm"}
        bench.object(scaleTargetRef=reference)
        await bench.start()
        await bench.tick()
        ready = bench.condition("Ready")
        assert (ready["status"], ready["reason"]) == ("False", "TargetNotScalable")
        assert "InferenceService has no scale subresource" in ready["message"]
        assert "Deployment llm-predictor, which it controls, can be scaled in its place" in ready["message"]

    @pytest.mark.parametrize(
        ("reference", "words"),
        [
            ({"apiVersion": "x.io/v1", "kind": "Thing"}, "the API server does not serve x.io/v1"),
            ({"apiVersion": ARGO, "kind": "Thing"}, f"{ARGO} has no kind Thing"),
        ],
    )
    async def test_a_kind_that_is_not_there_is_said_and_found_later(
        self, bench: Bench, reference: dict[str, str], words: str
    ) -> None:
        bench.api.serve_kind(ARGO, "Rollout", "rollouts")
        bench.object(scaleTargetRef={**reference, "name": "llm"})
        await bench.start()
        await bench.tick()
        assert words in bench.condition("Ready")["message"]

    async def test_a_missing_right_names_the_role_to_extend(self, bench: Bench) -> None:
        self.rollout(bench, 2)
        bench.api.fail("GET", "/rollouts$", status=403, message="rollouts is forbidden", times=9)
        bench.object(scaleTargetRef=REFERENCE)
        await bench.start()
        await bench.tick()
        assert "headroom.dev/aggregate-to-autoscaler" in bench.condition("Ready")["message"]

    async def test_a_scale_without_a_selector_is_refused(self, bench: Bench) -> None:
        self.rollout(bench, 2, selector="")
        bench.object(scaleTargetRef=REFERENCE)
        await bench.start()
        await bench.tick(2)
        assert "no selector in its status" in bench.condition("Ready")["message"]


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
