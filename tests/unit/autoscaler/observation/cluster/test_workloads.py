"""Workloads as they are read: what their controllers do, who wrote their replicas, which pods are theirs."""

from typing import Any, ClassVar

import msgspec
import pytest

from autoscaler.law.inputs import PodFacts, Rollout
from autoscaler.observation.cluster import pods, selectors
from autoscaler.observation.cluster.objects import POD_VIEW
from autoscaler.observation.cluster.workloads import Workload, WorkloadDecoder, follow
from autoscaler.observation.cluster.world import World
from headroom.wire import encode


def read(status: dict[str, Any], kind: str = "Deployment", meta: dict[str, Any] | None = None, **spec: Any) -> Workload:
    whole = {"replicas": 4, "template": {"spec": {"containers": [{"name": "server"}]}}, **spec}
    body = {"metadata": {"name": "llm", "namespace": "ns", "generation": 5, **(meta or {})}, "spec": whole}
    return WorkloadDecoder(kind).decode(encode({**body, "status": status}))


SEEN = {"observedGeneration": 5}
TWO_REVISIONS = {**SEEN, "replicas": 4, "readyReplicas": 4, "currentRevision": "a", "updateRevision": "b"}
DEADLINE = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out"}


class TestRollouts:
    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            pytest.param({**SEEN, "replicas": 4, "updatedReplicas": 4}, Rollout.SETTLED, id="one revision"),
            pytest.param({**SEEN, "replicas": 2, "updatedReplicas": 2}, Rollout.SETTLED, id="a count that changes"),
            pytest.param({**SEEN, "replicas": 5, "updatedReplicas": 1}, Rollout.PROGRESSING, id="two revisions"),
            pytest.param({**SEEN, "replicas": 4, "readyReplicas": 4}, Rollout.PROGRESSING, id="C32: not one new pod yet"),
            pytest.param({}, Rollout.SETTLED, id="no status yet"),
            pytest.param(
                {**SEEN, "replicas": 5, "updatedReplicas": 1, "conditions": [DEADLINE]}, Rollout.FAILED,
                id="C13: given up",
            ),
            pytest.param(
                {**SEEN, "replicas": 4, "updatedReplicas": 4, "conditions": [DEADLINE]}, Rollout.SETTLED,
                id="slow, but through",
            ),
        ],
    )  # fmt: skip
    def test_of_a_deployment(self, status: dict[str, Any], expected: Rollout) -> None:
        assert read(status).rollout is expected

    @pytest.mark.parametrize(
        ("strategy", "updated", "ready", "expected"),
        [
            pytest.param({}, 1, 4, Rollout.PROGRESSING, id="rolling"),
            pytest.param({}, 4, 3, Rollout.PROGRESSING, id="the last pod is not ready"),
            pytest.param({}, 4, 4, Rollout.SETTLED, id="through; the revision follows"),
            pytest.param({"type": "OnDelete"}, 4, 4, Rollout.SETTLED, id="C03: kubernetes/kubernetes#106055, #73492"),
            pytest.param({"type": "OnDelete"}, 1, 4, Rollout.SETTLED, id="C03: people delete when they like"),
            pytest.param({"rollingUpdate": {"partition": 3}}, 1, 4, Rollout.SETTLED, id="C04: a canary kept for days"),
            pytest.param(
                {"rollingUpdate": {"partition": 1}}, 2, 4, Rollout.PROGRESSING, id="rolling up to a partition"
            ),
        ],
    )
    def test_of_a_stateful_set(self, strategy: dict[str, Any], updated: int, ready: int, expected: Rollout) -> None:
        status = {**TWO_REVISIONS, "updatedReplicas": updated, "readyReplicas": ready}
        assert read(status, "StatefulSet", updateStrategy=strategy).rollout is expected

    @pytest.mark.parametrize(
        ("partition", "status", "expected"),
        [
            (0, {"replicas": 5, "updatedReplicas": 1}, Rollout.PROGRESSING),  # C19, kubernetes-sigs/lws#98
            (0, {"replicas": 4, "updatedReplicas": 4}, Rollout.SETTLED),
            (3, {"replicas": 4, "updatedReplicas": 1}, Rollout.SETTLED),
        ],
    )
    def test_of_a_leader_worker_set(self, partition: int, status: dict[str, int], expected: Rollout) -> None:
        strategy = {"type": "RollingUpdate", "rollingUpdateConfiguration": {"partition": partition}}
        assert read(status, "LeaderWorkerSet", rolloutStrategy=strategy).rollout is expected

    def test_a_pause(self) -> None:
        assert read({**SEEN, "replicas": 4, "updatedReplicas": 1}, paused=True).rollout is Rollout.PAUSED

    def test_one_that_has_just_begun_is_told_from_a_new_count(self) -> None:
        settled = {"replicas": 4, "updatedReplicas": 4, "observedGeneration": 5}
        before = read(settled)
        new = {"template": {"spec": {"containers": [{"name": "server", "image": "2"}]}}}
        for change, expected in (({"replicas": 6}, Rollout.SETTLED), (new, Rollout.PROGRESSING)):
            now = follow(read(settled, meta={"generation": 6}, **change), before)
            assert now.rollout is expected
            # Another event before the controller has looked changes nothing.
            again = follow(read(settled, meta={"generation": 7}, **change), now)
            assert again.rollout is expected
            done = follow(read({**settled, "observedGeneration": 7}, meta={"generation": 7}, **change), again)
            assert done.rollout is Rollout.SETTLED


class TestOthersKinds:
    def test_a_rollout_of_argo(self) -> None:
        """C16: its generation is text, its fields are its maker's affair."""
        status = {"observedGeneration": "4", "replicas": 5, "updatedReplicas": 1, "pauseConditions": [{"reason": "x"}]}
        seen = read(status, "Rollout.argoproj.io")
        assert (seen.rollout, seen.unobserved, seen.selector, seen.key) == (
            Rollout.PROGRESSING, True, "", "Rollout.argoproj.io/ns/llm",
        )  # fmt: skip
        assert b"server" in seen.template

    @pytest.mark.parametrize(
        "status", [{}, {"replicas": "4", "updatedReplicas": None, "conditions": "none"}, {"conditions": [7]}]
    )
    def test_odd_fields_say_nothing(self, status: dict[str, Any]) -> None:
        seen = read(status, "Odd.example.com", template={"ref": "elsewhere"}, replicas="many")
        assert (seen.rollout, seen.template, seen.refusal) == (Rollout.SETTLED, b"{}", "")

    def test_its_scale_holds_until_it_is_read_again(self) -> None:
        known = read({}, "Rollout.argoproj.io")
        before = follow(known, None)
        assert before.selector == ""
        scaled = msgspec.structs.replace(before, replicas=7, selector="app=llm")
        assert follow(known, scaled).replicas == 7


class TestWriters:
    @staticmethod
    def managed(*entries: tuple[str, str, str]) -> dict[str, Any]:
        fields: dict[str, Any] = {"f:spec": {"f:replicas": {}}}
        return {
            "managedFields": [
                {"manager": who, "time": at, "subresource": part, "fieldsV1": fields} for who, at, part in entries
            ]
        }

    def test_the_newest_writer_of_the_spec(self) -> None:
        """C06: who resets the count is named by the API server's own record; a status has a field of that name too."""
        meta = self.managed(
            ("kubectl-create", "2026-01-01T00:00:00Z", ""), ("argocd-controller", "2026-01-02T00:00:00Z", ""),
            ("headroom-autoscaler", "2026-01-01T12:00:00Z", "scale"), ("controller", "2026-01-03T00:00:00Z", "status"),
        )  # fmt: skip
        assert read({}, meta=meta).writer == "argocd-controller"

    def test_the_owner(self) -> None:
        """C15: an LLMInferenceService controls its Deployment."""
        owners = [{"kind": "Other", "name": "x"}, {"kind": "LLMInferenceService", "name": "llm", "controller": True}]
        assert read({}, meta={"ownerReferences": owners}).owner == "LLMInferenceService llm"


class TestMissingPods:
    REFUSED = 'pods "llm-5d9f-" is forbidden: exceeded quota: gpu'

    def test_a_refusal_is_told_in_the_controllers_words(self) -> None:
        """C05: a ResourceQuota."""
        condition = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": self.REFUSED}
        assert read({"conditions": [condition]}).refusal == self.REFUSED
        assert read({"conditions": [{**condition, "status": "False"}]}).refusal == ""

    @pytest.mark.parametrize(
        ("facts", "refusal", "seconds", "missing", "awaited"),
        [
            (PodFacts(ready=3), REFUSED, None, 3, 0),
            (PodFacts(ready=3, starting=(5.0,)), REFUSED, None, 2, 0),
            (PodFacts(ready=6), REFUSED, None, 0, 0),
            (PodFacts(ready=3), "", None, 0, 0),
            (PodFacts(ready=3), "", 15.0, 0, 3),
            (PodFacts(ready=3), "", 30.0, 3, 0),
        ],
    )
    def test_by_word_at_once_and_by_silence_after_a_while(
        self, facts: PodFacts, refusal: str, seconds: float | None, missing: int, awaited: int
    ) -> None:
        found = pods.with_missing(facts, 6, refusal, seconds)
        assert (found.not_created, found.awaited) == (missing, awaited)
        assert found.why_not_created == (refusal if missing else "")

    @pytest.mark.parametrize(
        "facts",
        [
            PodFacts(ready=3, starting=(5.0,)), PodFacts(ready=3, unschedulable=(5.0,)),
            PodFacts(ready=3, terminating=(5.0,)), PodFacts(ready=3, crash_looping=1), PodFacts(ready=6),
        ],
    )  # fmt: skip
    def test_pods_made_one_after_the_other_are_waited_for(self, facts: PodFacts) -> None:
        assert not pods.is_short(facts, 6)
        assert pods.is_short(PodFacts(ready=3), 6)


class TestCrashLoops:
    @staticmethod
    def failing(status: dict[str, Any], **more: Any) -> bool:
        body = {
            "metadata": {"name": "p", "namespace": "ns"},
            "status": {"containerStatuses": [{"name": "s", **status}], **more},
        }
        return POD_VIEW.decode(encode(body)).failing

    @staticmethod
    def ran(seconds: int) -> dict[str, Any]:
        ended = f"2026-01-01T{seconds // 3600:02}:{seconds % 3600 // 60:02}:{seconds % 60:02}Z"
        return {"terminated": {"reason": "Error", "startedAt": "2026-01-01T00:00:00Z", "finishedAt": ended}}

    def test_back_off_and_restarts_count_also_between_two_crashes(self) -> None:
        """C09: between back-offs the container runs for a while, and is no pod on its way."""
        assert self.failing({"restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}})
        assert self.failing({"restartCount": 3, "state": {"running": {}}, "lastState": self.ran(40)})
        assert self.failing({"restartCount": 3, "state": self.ran(40)})
        assert self.failing({"restartCount": 9})

    def test_a_container_that_ran_for_long_or_is_ready_or_is_done_does_not(self) -> None:
        assert not self.failing({"restartCount": 2, "lastState": self.ran(40)})
        assert not self.failing({"restartCount": 7, "lastState": self.ran(7200)})
        assert not self.failing({"restartCount": 7, "ready": True, "lastState": self.ran(40)})
        assert not self.failing({"restartCount": 7, "state": {"terminated": {"reason": "Completed"}}})


class TestSelectors:
    LABELS: ClassVar = {"app": "llm", "role": "leader"}

    @pytest.mark.parametrize(
        ("text", "matches"),
        [
            ("app=llm", True), ("app==llm,role=leader", True), ("app=other", False), ("app!=other", True),
            ("role in (leader, solo)", True), ("role notin (leader)", False), ("app,!canary", True), ("canary", False),
            ("!app", False), ("x.y/z-1 in (a)", False), ("", False), (" app = llm , role in(leader) ", True),
            ("app=", False),
        ],
    )  # fmt: skip
    def test_the_text_of_a_scale(self, text: str, matches: bool) -> None:
        assert selectors.parse(text).matches(self.LABELS) is matches

    @pytest.mark.parametrize("text", ["=", "app=llm role=x", "app in llm", "!app=llm", "app in (a", ",", "a,,b"])
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(selectors.SelectorError, match="no label selector"):
            selectors.parse(text)


class TestPodsBySelector:
    LABELS: ClassVar = {
        "llm-0": {"app": "llm", "role": "leader"},
        "llm-1": {"app": "llm", "role": "worker"},
        "bare": {"role": "worker"},
        "other": {"app": "other"},
    }

    @staticmethod
    def change(world: World, name: str, labels: dict[str, str], kind: str = "MODIFIED", namespace: str = "ns") -> None:
        pod = POD_VIEW.decode(encode({"metadata": {"name": name, "namespace": namespace, "labels": labels}}))
        world.on_pod(kind, f"{namespace}/{name}", pod)

    @pytest.mark.parametrize(
        ("selector", "chosen"),
        [
            ("app=llm", {"llm-0", "llm-1"}), ("role=worker", {"llm-1", "bare"}), ("role in (worker),app=llm", {"llm-1"}),
            ("role in (leader,worker)", {"llm-0", "llm-1", "bare"}), ("app!=llm", {"bare", "other"}),
            ("app=none", set()), ("app=", set()), ("!app", {"bare"}),
        ],
    )  # fmt: skip
    def test_they_follow_the_pods(self, selector: str, chosen: set[str]) -> None:
        world = World()
        rollout = Workload("Rollout.argoproj.io", "ns", "llm", selector="")
        world.on_workload("ADDED", "ns/llm", rollout)
        world.set_scale(rollout.key, 2, selector)
        for name, labels in self.LABELS.items():
            self.change(world, name, labels)
            self.change(world, name, labels, namespace="elsewhere")
        assert {pod.name for pod in world.pods_of(rollout.key)} == chosen
        self.change(world, "llm-0", {"app": "other"})
        self.change(world, "llm-1", self.LABELS["llm-1"], "DELETED")
        self.change(world, "late", {"app": "llm", "role": "worker"})
        left = {"bare": self.LABELS["bare"], "llm-0": {"app": "other"}, "late": {"app": "llm", "role": "worker"}}
        left["other"] = self.LABELS["other"]
        wanted = {name for name, labels in left.items() if selectors.parse(selector).matches(labels)}
        assert {pod.name for pod in world.pods_of(rollout.key)} == wanted
