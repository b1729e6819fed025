"""What is kept of objects, pods and statuses, and that the schema of the API server agrees with what is read."""

import ast
import json
from typing import Any, get_args

import msgspec
import pytest
import yaml

from autoscaler.api.engines import exports
from autoscaler.api.resource import DECODER, SpecWire, Target, read
from autoscaler.law.constants import LawConstants
from autoscaler.law.inputs import SignalKind
from autoscaler.law.memory.learned import Learned
from autoscaler.law.sizing import prices
from autoscaler.observation.cluster import pods
from autoscaler.observation.cluster.objects import PodView
from autoscaler.observation.cluster.workloads import WorkloadDecoder
from autoscaler.observation.lessons import Lessons
from autoscaler.observation.traffic import Lengths
from autoscaler.settings import AutoscalerSettings
from autoscaler.tick.memory import Memory, gpus_of, recall, samples_of
from headroom.domain.engines import ENGINES
from headroom.wire import Wire, encode
from tests.paths import CRD

NOW = 1_800_000_000.0


def target(**spec: Any) -> Target:
    reference = {"kind": "Deployment", "name": "llm"}
    whole = {
        "metadata": {"name": "llm", "namespace": "ns"},
        "spec": {"scaleTargetRef": reference, "maxReplicas": 9, **spec},
    }
    return read(DECODER.decode(encode(whole)))


def pod(name: str, *, ready_for: float = 1000.0, **more: Any) -> PodView:
    values: dict[str, Any] = {
        "namespace": "ns", "name": name, "owner": "Deployment/ns/llm", "node": "n", "ip": "", "phase": "Running",
        "created_at": NOW - ready_for - 100, "scheduled_at": NOW - ready_for - 90, "ready_at": NOW - ready_for,
        "deleted_at": 0.0, "failing": False, "cards": (), "share": 0.0, "deletion_cost": "", **more,
    }  # fmt: skip
    return PodView(**values)


class TestPods:
    def test_a_pod_that_is_ready_again_has_not_just_started(self) -> None:
        first = pod("a", ready_for=20, scheduled_at=NOW - 80, created_at=NOW - 90)
        known = pods.started([first], {})
        assert pods.facts([first], NOW, {}).started_seconds == (60.0,)
        assert pods.facts([first], NOW, known).started_seconds == ()
        away = pod("a", ready_at=0.0, scheduled_at=NOW - 80, created_at=NOW - 90)
        known = pods.started([away], known)
        again = pod("a", ready_for=-400, scheduled_at=NOW - 80, created_at=NOW - 90)
        assert pods.facts([again], NOW + 500, known).started_seconds == ()
        successor = pod("a", ready_for=0, scheduled_at=NOW - 30, created_at=NOW - 40)
        assert pods.facts([successor], NOW, known).started_seconds == (30.0,), "a StatefulSet uses names again"


GROUP = WorkloadDecoder("LeaderWorkerSet")


class TestGroups:
    @pytest.mark.parametrize(
        ("group", "per_replica", "container"),
        [
            ({"size": 4, "workerTemplate": {"spec": {"containers": [{"name": "worker"}]}}}, 4, b"worker"),
            (
                {"size": 1, "leaderTemplate": {"spec": {"containers": [{"name": "leader"}]}}, "workerTemplate": {}},
                1, b"leader",
            ),
            ({"workerTemplate": {"spec": {"containers": [{"name": "worker"}]}}}, 1, b"worker"),
        ],
    )  # fmt: skip
    def test_a_replica_of_a_leader_worker_set_is_a_group(
        self, group: dict[str, Any], per_replica: int, container: bytes
    ) -> None:
        seen = GROUP.decode(encode({"metadata": {"name": "g"}, "spec": {"leaderWorkerTemplate": group}}))
        assert seen.pods_per_replica == per_replica
        assert container in seen.template

    def test_gpus_of_a_group_are_those_of_all_its_pods(self) -> None:
        limits = {"nvidia.com/gpu": "2"}
        template = {"spec": {"containers": [{"name": "worker", "resources": {"limits": limits}}]}}
        spec = {"leaderWorkerTemplate": {"size": 3, "workerTemplate": template}}
        workload = GROUP.decode(encode({"metadata": {"name": "g"}, "spec": spec}))
        assert gpus_of(target(), Memory(), workload, []) == 6.0
        placed = pod("g-0", cards=("c1", "c2"), share=0.5)
        assert gpus_of(target(), Memory(), workload, [placed]) == 3.0


class TestMemory:
    def test_what_was_learned_is_kept_to_six_digits_and_read_back(self) -> None:
        lessons = Lessons(
            prices.CostState(xx=(1 / 3,) * 9, found=(0.02, 1e-9 / 7, 0.00015)), Lengths(7.123456789, 5.0, 3.0)
        )
        learned = Learned((61.25, 1 / 3))
        samples = samples_of(learned, lessons)
        status = {"learned": {"samples": samples}, "history": [{"to": 3}], "lastScaleTime": "then"}
        stored = json.dumps({"metadata": {"name": "llm", "uid": "u1"}, "status": status})
        memory = recall(DECODER.decode(stored.encode()))
        assert (memory.uid, memory.history, memory.last_scale) == ("u1", [{"to": 3}], "then")
        assert memory.state.learned.start_seconds == (61.25, 0.333333)
        assert list(memory.lessons.cost.found or ()) == pytest.approx([0.02, 1e-9 / 7, 0.00015], rel=1e-5)
        assert memory.lessons.lengths.requests == 7.12346
        assert "0.3333333" not in stored

    @pytest.mark.parametrize("samples", ["text", {"learned": 5}, {"lessons": {}}, [], {}])
    def test_what_cannot_be_read_is_learned_again(self, samples: Any) -> None:
        stored = {"metadata": {"name": "llm"}, "status": {"learned": {"samples": samples}}}
        memory = recall(DECODER.decode(encode(stored)))
        assert (memory.state.learned, memory.lessons) == (Learned(), Lessons())


def schema_names(schema: dict[str, Any]) -> dict[str, Any]:
    """Field names by nesting; lists as what they hold."""
    inner = schema.get("items", schema)
    return {name: schema_names(entry) for name, entry in inner.get("properties", {}).items()}


def undescribed(schema: dict[str, Any], path: str) -> list[str]:
    found = [] if schema.get("description") else [path]
    for name, entry in schema.get("properties", {}).items():
        found += undescribed(entry, f"{path}.{name}")
    return found + (undescribed(schema["items"], f"{path}[]") if "items" in schema else [])


def wire_names(kind: Any) -> dict[str, Any]:
    structs = [part for part in (kind, *_parts(kind)) if isinstance(part, type) and issubclass(part, Wire)]
    return {f.encode_name: wire_names(f.type) for f in msgspec.structs.fields(structs[0])} if structs else {}


def _parts(kind: Any) -> list[Any]:
    return [part for argument in get_args(kind) for part in (argument, *_parts(argument))]


class TestSchema:
    def test_the_schema_has_the_fields_that_are_read_and_no_others(self) -> None:
        (version,) = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"]
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
        assert schema_names(spec) == wire_names(SpecWire)

    def test_the_schema_knows_what_each_engine_exports(self) -> None:
        (version,) = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"]
        rules = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["x-kubernetes-validations"]
        text = next(rule["rule"] for rule in rules if "'vllm':" in rule["rule"])
        stated = ast.literal_eval(text[text.index("{") : text.rindex("}") + 1])
        anywhere = {SignalKind.QUERY, SignalKind.GPU_UTILIZATION}
        known = {
            name: [kind.value for kind in SignalKind if kind not in anywhere and exports(engine, kind)]
            for name, engine in ENGINES.items()
        }
        assert stated == known

    def test_every_field_is_described(self) -> None:
        (version,) = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"]
        assert undescribed(version["schema"]["openAPIV3Schema"], "") == []

    def test_the_daemon_runs_the_law_with_its_own_defaults(self) -> None:
        settings, law = AutoscalerSettings(), LawConstants()
        assert settings.short_mean_seconds == law.short_mean_seconds
        assert settings.long_mean_seconds == law.long_mean_seconds
