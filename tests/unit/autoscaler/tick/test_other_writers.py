"""Others that write the replicas of a target, and objects that only say what they would do."""

from tests.fakes.autoscaler_bench import DEPLOYMENTS, HPAS, IA, Bench
from tests.unit.autoscaler.tick.targets import messages, set_replicas, warnings


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
