"""Targets of any kind that has a scale."""

from typing import Any

import pytest

from tests.fakes.autoscaler_bench import DEPLOYMENTS, Bench
from tests.unit.autoscaler.tick.targets import FOUR_MINUTES

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
