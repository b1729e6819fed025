"""`headroom convert`: what others' manifests become, what is said of the rest, and that nothing is asked for twice or lost."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from click.testing import CliRunner, Result

from autoscaler.api.resource import DECODER, read
from headroom import wire
from headroom.commands.convert.cli import main
from headroom.commands.convert.notes import ConvertError
from headroom.domain.request import request_of


def run(tmp_path: Path, *objects: dict[str, Any], flags: tuple[str, ...] = ()) -> Result:
    path = tmp_path / "in.yaml"
    path.write_text(yaml.safe_dump_all(objects))
    return CliRunner().invoke(main, ["-f", str(path), *flags])


def pod(limits: dict[str, Any], **container: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "server", "resources": {"limits": limits}, **container}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default"}, "spec": spec}


def limits_of(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.exception
    found: dict[str, Any] = yaml.safe_load(result.stdout)["spec"]["containers"][0]["resources"]["limits"]
    return found


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, {"headroom.dev/vram": "3000Mi"}),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem": "20k"}, {"headroom.dev/vram": "20000Mi"}),
        (
            {"nvidia.com/gpu": 2, "nvidia.com/gpumem": 3000, "nvidia.com/gpucores": 30},
            {"headroom.dev/gpu": "2", "headroom.dev/vram": "3000Mi"},
        ),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 25}, {"headroom.dev/gpu-milli": "250"}),
        ({"nvidia.com/gpu": 1, "nvidia.com/gpucores": 50}, {"headroom.dev/gpu": "1"}),
        ({"aliyun.com/gpu-mem": 8}, {"headroom.dev/vram": "8Gi"}),
        ({"aliyun.com/gpu-mem": 5, "aliyun.com/gpu-count": 2}, {"headroom.dev/gpu": "2", "headroom.dev/vram": "5Gi"}),
    ],
    ids=str,
)
def test_sizes_of_other_dialects_become_headrooms(
    tmp_path: Path, limits: dict[str, Any], wanted: dict[str, Any]
) -> None:
    assert limits_of(run(tmp_path, pod(limits))) == wanted


@pytest.mark.parametrize(
    "limits",
    [
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000},
        {"nvidia.com/gpu": 3, "nvidia.com/gpumem": 10_240},
        {"nvidia.com/gpu": 1, "nvidia.com/gpumem-percentage": 40},
        {"aliyun.com/gpu-mem": 8},
    ],
    ids=str,
)
def test_the_scheduler_reads_the_same_demand_before_and_after(tmp_path: Path, limits: dict[str, Any]) -> None:
    before = pod({name: str(amount) for name, amount in limits.items()})
    after = yaml.safe_load(run(tmp_path, before).stdout)
    old, new = (request_of(wire.POD.decode(msgspec.json.encode(one))) for one in (before, after))
    assert old is not None
    assert new is not None
    assert (new.count, new.vram_mib, new.milli) == (old.count, old.vram_mib, old.milli)


def test_cpu_memory_and_own_resources_stay(tmp_path: Path) -> None:
    limits = {"cpu": "4", "memory": "16Gi", "nvidia.com/gpumem": 3000, "nvidia.com/gpu": 1}
    assert limits_of(run(tmp_path, pod(limits))) == {"cpu": "4", "memory": "16Gi", "headroom.dev/vram": "3000Mi"}
    own = pod({"headroom.dev/vram": "18Gi", "cpu": "1"})
    result = run(tmp_path, own)
    assert yaml.safe_load(result.stdout) == own
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("args", "wanted"),
    [
        (
            ["--gpu-memory-utilization=0.4", "--port=8000"],
            ["--gpu-memory-utilization=$(HEADROOM_VRAM_SHARE)", "--port=8000"],
        ),
        (["--gpu-memory-utilization", "0.4"], ["--gpu-memory-utilization", "$(HEADROOM_VRAM_SHARE)"]),
        (["--cuda-memory-fraction=0.4"], ["--cuda-memory-fraction=$(HEADROOM_VRAM_SHARE)"]),
    ],
    ids=str,
)
def test_the_engine_takes_the_share_it_was_given(tmp_path: Path, args: list[str], wanted: list[str]) -> None:
    result = run(tmp_path, pod({"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}, args=args))
    assert yaml.safe_load(result.stdout)["spec"]["containers"][0]["args"] == wanted


def deployment(image: str = "vllm/vllm-openai:v0.11.0", **pod_spec: Any) -> dict[str, Any]:
    container = {
        "name": "vllm",
        "image": image,
        "resources": {"limits": {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 9000}},
    }
    template = {"spec": {"containers": [container], **pod_spec}}
    return {"kind": "Deployment", "metadata": {"name": "llm", "namespace": "ai"}, "spec": {"template": template}}


def test_templates_are_converted_and_go_to_headrooms_scheduler(tmp_path: Path) -> None:
    after = yaml.safe_load(run(tmp_path, deployment(schedulerName="hami-scheduler")).stdout)
    spec = after["spec"]["template"]["spec"]
    assert spec["schedulerName"] == "headroom"
    assert spec["containers"][0]["resources"] == {"limits": {"headroom.dev/vram": "9000Mi"}}


def hpa(*metrics: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "llm", "namespace": "ai"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llm"}, "minReplicas": 2,
                 "maxReplicas": 9, "metrics": list(metrics), **spec},
    }  # fmt: skip


def scaled_object(*triggers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "keda.sh/v1alpha1", "kind": "ScaledObject", "metadata": {"name": "llm", "namespace": "ai"},
        "spec": {"scaleTargetRef": {"name": "llm"}, "triggers": list(triggers), **spec},
    }  # fmt: skip


CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
WAITING = {
    "type": "Pods",
    "pods": {"metric": {"name": "vllm_num_requests_waiting"}, "target": {"type": "AverageValue", "averageValue": "5"}},
}
PROMETHEUS = {
    "type": "prometheus",
    "metadata": {"serverAddress": "http://p:9090", "query": "sum(vllm:num_requests_running)", "threshold": "16"},
}


def autoscaler(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.exception
    (found,) = [one for one in yaml.safe_load_all(result.stdout) if one["kind"] == "InferenceAutoscaler"]
    read(DECODER.decode(msgspec.json.encode(found)))  # the autoscaler itself takes it
    wanted: dict[str, Any] = found["spec"]
    return wanted


def test_an_hpa_on_a_queue_becomes_a_queue_signal(tmp_path: Path) -> None:
    behaviour = {"scaleDown": {"stabilizationWindowSeconds": 600}}
    result = run(tmp_path, hpa(CPU, WAITING, behavior=behaviour))
    spec = autoscaler(result)
    assert (spec["engine"], spec["mode"], spec["minReplicas"], spec["maxReplicas"]) == ("vllm", "Advisory", 2, 9)
    assert spec["signals"] == [{"type": "queue", "target": "5"}]
    assert spec["behavior"] == behaviour
    assert "left out:     Resource metric cpu: cpu says nothing about a GPU" in result.stderr
    assert "kubectl delete hpa llm" in result.stderr


@pytest.mark.parametrize(
    ("image", "engine"),
    [
        ("lmsysorg/sglang:v0.5", "sglang"),
        ("nvcr.io/nim/meta/llama-3.1-8b-instruct:1.8.0", "nim"),
        ("openmmlab/lmdeploy:v0.18.0", "lmdeploy"),
        ("nvcr.io/nvidia/tensorrt-llm/release:1.2.1", "trtllm"),
    ],
)
def test_the_engine_is_told_by_the_image_of_the_workload_beside_it(tmp_path: Path, image: str, engine: str) -> None:
    spec = autoscaler(run(tmp_path, deployment(image), hpa(CPU)))
    assert spec["engine"] == engine
    assert "signals" not in spec


def test_an_hpa_on_cpu_alone_asks_for_the_engine(tmp_path: Path) -> None:
    result = run(tmp_path, hpa(CPU))
    assert isinstance(result.exception, ConvertError)
    assert "HorizontalPodAutoscaler/llm in ai: no engine known and no metric to carry over" in str(result.exception)
    assert autoscaler(run(tmp_path, hpa(CPU), flags=("--engine", "tgi")))["engine"] == "tgi"


@pytest.mark.parametrize(
    ("metric", "signal"),
    [
        (
            {"type": "Pods", "pods": {"metric": {"name": "my_queue"}, "target": {"averageValue": "3"}}},
            {"type": "query", "name": "my-queue", "query": 'sum(my_queue{namespace="ai",pod=~"llm-.*"})', "target": "3"},
        ),
        (
            {"type": "External", "external": {"metric": {"name": "depth", "selector": {"matchLabels": {"q": "a"}}},
                                              "target": {"type": "Value", "value": "30"}}},
            {"type": "query", "name": "depth", "query": 'sum(depth{q="a"})', "target": "30", "metricType": "Value"},
        ),
    ],
    ids=["pods", "external"],
)  # fmt: skip
def test_other_metrics_become_queries_to_look_at(
    tmp_path: Path, metric: dict[str, Any], signal: dict[str, Any]
) -> None:
    result = run(tmp_path, hpa(metric))
    assert autoscaler(result)["signals"] == [signal]
    assert "check the query" in result.stderr


def test_a_scaled_object_keeps_query_bounds_and_zero(tmp_path: Path) -> None:
    result = run(
        tmp_path, scaled_object(PROMETHEUS, {"type": "cron", "metadata": {}}, cooldownPeriod=120, maxReplicaCount=6)
    )
    spec = autoscaler(result)
    assert spec["signals"] == [{"type": "query", "query": "sum(vllm:num_requests_running)", "target": "16"}]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (0, 6)
    assert spec["scaleToZero"] == {
        "idleAfter": "120s", "activationQuery": "sum(vllm:num_requests_running)", "activationThreshold": "0",
    }  # fmt: skip
    assert "trigger cron" in result.stderr
    assert "an empty answer counted as 0; here it never lowers" in result.stderr


def test_what_cannot_be_followed_is_named(tmp_path: Path) -> None:
    triggers = [{"type": "cpu", "metadata": {}}, {"type": "kafka", "metadata": {}}, PROMETHEUS]
    result = run(tmp_path, scaled_object(*triggers, minReplicaCount=1, fallback={"replicas": 4}))
    assert autoscaler(result)["minReplicas"] == 1
    for said in ("trigger cpu", "trigger kafka: only what Prometheus has", "fallback: none is needed"):
        assert said in result.stderr


def test_zero_that_nothing_could_wake_becomes_one(tmp_path: Path) -> None:
    result = run(tmp_path, scaled_object({"type": "cpu", "metadata": {}}), flags=("--engine", "vllm"))
    assert autoscaler(result)["minReplicas"] == 1
    assert "nothing could wake it" in result.stderr


def test_lists_are_taken_apart_and_other_kinds_pass(tmp_path: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": []}}
    result = run(tmp_path, {"apiVersion": "v1", "kind": "List", "items": [service, hpa(WAITING)]}, flags=("-o", "json"))
    kinds = [one["kind"] for one in json.loads(result.stdout)["items"]]
    assert kinds == ["Service", "InferenceAutoscaler"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "is not YAML"),
        ("just words", "document 1: not a Kubernetes object"),
        ("", "holds no object"),
        (
            "kind: HorizontalPodAutoscaler\nmetadata: {name: x}\nspec: {}",
            "HorizontalPodAutoscaler/x: spec.scaleTargetRef is missing",
        ),
        (
            "kind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, resources: {limits: {nvidia.com/gpumem: much}}}]}",
            "Pod/p, container c: nvidia.com/gpumem: 'much' is not a quantity",
        ),
    ],
)
def test_mistakes_name_the_object_and_the_field(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    result = CliRunner().invoke(main, ["-f", str(path)])
    assert isinstance(result.exception, ConvertError)
    assert said in str(result.exception)


@pytest.mark.parametrize("name", ["volcano", "kai-scheduler"])
def test_pods_that_another_scheduler_goes_on_placing_are_noted(tmp_path: Path, name: str) -> None:
    one = pod({"volcano.sh/vgpu-number": 1})
    one["spec"]["schedulerName"] = name
    result = run(tmp_path, one)
    assert f"look at:      schedulerName {name}: " in result.stderr
    assert yaml.safe_load(result.stdout) == one


def cron(start: str = "0 8 * * 1-5", end: str = "0 18 * * 1-5", replicas: str = "4", **more: Any) -> dict[str, Any]:
    metadata = {"timezone": "Europe/Berlin", "start": start, "end": end, "desiredReplicas": replicas}
    return {"type": "cron", "metadata": {**metadata, **more}}


def waits(query: str, **more: Any) -> dict[str, Any]:
    return {"type": "prometheus", "metadata": {"query": query, "threshold": "4", **more}}


def test_cron_triggers_become_a_schedule(tmp_path: Path) -> None:
    twice = {**cron("0 9 * * 6", "0 12 * * 6", "2"), "name": "2nd shop hours"}
    result = run(tmp_path, scaled_object(PROMETHEUS, cron(), twice, minReplicaCount=1, maxReplicaCount=6))
    assert autoscaler(result)["schedule"] == [
        {"name": "window-1", "start": "0 8 * * 1-5", "end": "0 18 * * 1-5", "timeZone": "Europe/Berlin", "minReplicas": 4},
        {"name": "nd-shop-hours", "start": "0 9 * * 6", "end": "0 12 * * 6", "timeZone": "Europe/Berlin", "minReplicas": 2},
    ]  # fmt: skip
    assert "trigger cron -> schedule window-1: at least 4 replicas" in result.stderr


def test_a_schedule_alone_wakes_a_target_from_zero(tmp_path: Path) -> None:
    result = run(tmp_path, scaled_object(cron(replicas="40"), maxReplicaCount=6), flags=("--engine", "vllm"))
    spec = autoscaler(result)
    assert (spec["minReplicas"], spec["scaleToZero"]) == (0, {"idleAfter": "300s"})
    assert spec["schedule"][0]["minReplicas"] == 6
    assert "desiredReplicas 40 is above maxReplicaCount 6" in result.stderr
    assert "at zero only the schedule brings it back" in result.stderr


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "trigger cron window-1: start, end, timezone, desiredReplicas missing"),
        (cron(replicas="many")["metadata"], "desiredReplicas 'many' is no count"),
        (cron(replicas="0")["metadata"], "desiredReplicas 0 asks for nothing"),
    ],
)
def test_a_cron_trigger_that_says_too_little_is_left_out(tmp_path: Path, metadata: dict[str, Any], said: str) -> None:
    result = run(tmp_path, scaled_object(PROMETHEUS, {"type": "cron", "metadata": metadata}))
    assert "schedule" not in autoscaler(result)
    assert said in result.stderr


@pytest.mark.parametrize(
    ("query", "gateway"),
    [
        ('sum(llm_d_epp_flow_control_queue_size{inference_pool="chat"})', {"type": "llm-d", "pool": "chat"}),
        (
            'sum(inference_extension_flow_control_queue_size{namespace="gw",inference_pool="chat"}) or vector(0)',
            {"type": "llm-d", "pool": "chat", "namespace": "gw"},
        ),
        (
            # As in llm-d's guide to KEDA: the picker's service and the model are named, not the pool.
            'sum(llm_d_epp_flow_control_queue_size{namespace="ai",service="chat-epp",model_name="Qwen/Qwen3-32B"})\nor vector(0)',
            {"type": "llm-d", "pool": "chat"},
        ),
        ('llm_d_router_epp_flow_control_queue_size{ inference_pool = "chat" }', {"type": "llm-d", "pool": "chat"}),
    ],
)  # fmt: skip
def test_a_trigger_on_the_pickers_queue_becomes_a_gateway(tmp_path: Path, query: str, gateway: dict[str, str]) -> None:
    result = run(tmp_path, scaled_object(waits(query), maxReplicaCount=6), flags=("--engine", "vllm"))
    spec = autoscaler(result)
    assert spec["gateway"] == gateway
    assert "signals" not in spec
    assert (spec["minReplicas"], spec["scaleToZero"]) == (0, {"idleAfter": "300s"})
    assert "the trigger's threshold is not used" in result.stderr


def test_dynamos_queue_cannot_wake_from_zero_and_stays_the_activation(tmp_path: Path) -> None:
    query = 'sum(dynamo_frontend_queued_requests{model="org/chat"})'
    spec = autoscaler(run(tmp_path, scaled_object(waits(query)), flags=("--engine", "vllm")))
    assert spec["gateway"] == {"type": "dynamo", "model": "org/chat"}
    assert spec["scaleToZero"]["activationQuery"] == query


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("sum(llm_d_epp_flow_control_queue_size)", "stays a query, for it names no inference_pool"),
        ('sum(llm_d_epp_flow_control_queue_size{inference_pool=~"a|b"})', "stays a query, for it is more than that queue"),
        (
            'sum(llm_d_epp_flow_control_queue_size{inference_pool="a"}) + sum(llm_d_epp_request_running{name="a"})',
            "stays a query, for it is more than that queue",
        ),
    ],
)  # fmt: skip
def test_what_is_more_than_a_queue_stays_a_query(tmp_path: Path, query: str, said: str) -> None:
    result = run(tmp_path, scaled_object(waits(query)))
    spec = autoscaler(result)
    assert "gateway" not in spec
    assert spec["signals"][0]["query"] == query
    assert said in result.stderr
