"""`headroom doctor`: each fault is found, told with its remedy, and a healthy cluster has none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from headroom import wire
from headroom.commands.doctor.checks import Finding, Level, examine
from headroom.commands.doctor.cli import as_json, as_text, main
from headroom.commands.doctor.facts import Facts, Metrics
from headroom.commands.doctor.looking import look
from headroom.kube.aio import connect
from headroom.prometheus.client import PrometheusSource
from tests.fakes.apiserver import ApiServer
from tests.fakes.prometheus import FakePrometheus

NOW = 1_800_000_000.0
STAMP = "2027-01-15T08:00:00.000000Z"


def named(name: str, **more: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, **more}


def workload(name: str, wanted: int, ready: int, *images: str) -> dict[str, Any]:
    template = {"spec": {"containers": [{"name": "c", "image": image} for image in images]}}
    return named(
        name, spec={"replicas": wanted, "template": template}, status={"replicas": wanted, "readyReplicas": ready}
    )


def policy_binding(name: str) -> dict[str, Any]:
    return named(name, spec={"policyName": name})


def node(name: str = "n", **labels: str) -> wire.Node:
    found = {
        "nvidia.com/gpu.product": "NVIDIA-L40S",
        "nvidia.com/gpu.memory": "46068",
        "nvidia.com/gpu.count": "4",
        **labels,
    }
    value = {
        "metadata": {"name": name, "labels": {key: text for key, text in found.items() if text}},
        "status": {"allocatable": {"nvidia.com/gpu": "4"}},
    }
    return wire.NODE.decode(msgspec.json.encode(value))


def pod(name: str, limits: dict[str, str], *, assigned: bool = False, **spec: Any) -> wire.Pod:
    notes = {
        "headroom.dev/assigned-cards": "GPU-a",
        "headroom.dev/assigned-vram-mib": "18432",
        "headroom.dev/assigned-mode": "pinned",
    }
    value = {
        "metadata": {"name": name, "namespace": "ai", "annotations": notes if assigned else {}},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": limits}}], **spec},
        "status": {"phase": "Running"},
    }
    return wire.POD.decode(msgspec.json.encode(value))


def healthy() -> Facts:
    return Facts(
        "headroom-system", NOW, "v1.36.3",
        lists={
            "deployments": [
                workload("headroom-scheduler", 2, 2, "registry.k8s.io/kube-scheduler:v1.36.3", "headroom:0.1.0"),
                workload("headroom-autoscaler", 2, 2),
            ],
            "daemonsets": [named("headroom-agent", status={"desiredNumberScheduled": 3, "numberReady": 3})],
            "system_pods": [],
            "leases": [
                named("headroom-extender", spec={"holderIdentity": "a_8901_x", "renewTime": STAMP}),
                named("headroom-autoscaler", spec={"holderIdentity": "b", "renewTime": STAMP}),
            ],
            "mutating_policies": [named("headroom-pods")], "mutating_bindings": [policy_binding("headroom-pods")],
            "validating_policies": [named("headroom-agent-own-node")],
            "validating_bindings": [policy_binding("headroom-agent-own-node")],
            "runtime_classes": [named("nvidia")],
            "cluster_policies": [named("cluster-policy", spec={"cdi": {"enabled": True}, "toolkit": {"env": []}})],
            "resource_slices": [], "autoscalers": [{"spec": {"engine": "vllm"}}],
            "crds": [named("inferenceautoscalers.headroom.dev")],
        },
        nodes=[node()],
        pods=[pod("llm", {"headroom.dev/vram": "18Gi"}, assigned=True, runtimeClassName="nvidia", schedulerName="headroom")],
        metrics=Metrics(agents=4, engines={"vllm": 1}),
    )  # fmt: skip


def test_a_healthy_cluster_has_no_findings() -> None:
    assert examine(healthy()) == []


def change(kind: str, *objects: dict[str, Any]) -> Callable[[Facts], None]:
    return lambda facts: facts.lists.update({kind: list(objects)})


def with_cdi(**spec: Any) -> Callable[[Facts], None]:
    return change("cluster_policies", named("cluster-policy", spec=spec))


def metrics(**changes: Any) -> Callable[[Facts], None]:
    def apply(facts: Facts) -> None:
        facts.metrics = Metrics(**{"agents": 4, "engines": {"vllm": 1}, **changes})

    return apply


def pods(*found: wire.Pod) -> Callable[[Facts], None]:
    return lambda facts: facts.pods.extend(found)


def nodes(*found: wire.Node) -> Callable[[Facts], None]:
    return lambda facts: facts.nodes.extend(found)


WHOLE = {"nvidia.com/gpu": "1"}
FAULTS: dict[str, tuple[Callable[[Facts], None], Level, str, str]] = {
    "nothing installed": (change("deployments"), Level.BROKEN, "is not installed in namespace headroom-system", "kubectl apply"),
    "no pod ready": (
        change("deployments", workload("headroom-scheduler", 2, 0), workload("headroom-autoscaler", 1, 1)),
        Level.BROKEN, "headroom-scheduler: 0 of 2 ready", "describe pod",
    ),
    "one pod ready": (
        change("daemonsets", named("headroom-agent", status={"desiredNumberScheduled": 3, "numberReady": 2})),
        Level.RISK, "headroom-agent: 2 of 3 ready", "component=agent",
    ),
    "an old API server": (lambda facts: setattr(facts, "version", "v1.25.1"), Level.BROKEN, "the API server is v1.25.1", "upgrade"),
    "another kube-scheduler": (
        change("deployments", workload("headroom-scheduler", 1, 1, "registry.k8s.io/kube-scheduler:v1.33.0"),
               workload("headroom-autoscaler", 1, 1)),
        Level.RISK, "kube-scheduler is v1.33.0, the API server v1.36.3", "set image",
    ),
    "what EKS adds to its version": (
        lambda facts: setattr(facts, "version", "v1.40.5-eks-3025e55"),
        Level.RISK, "kube-scheduler is v1.36.3", "kube-scheduler:v1.40.5",
    ),
    "an API server of 1.29": (lambda facts: setattr(facts, "version", "v1.29.1"), Level.BROKEN, "the API server is v1.29.1", "upgrade"),
    "policies not served": (
        lambda facts: facts.absent.add("mutating_policies"),
        Level.RISK, "has no MutatingAdmissionPolicy v1", "fieldRef",
    ),
    "policy missing": (change("mutating_policies"), Level.BROKEN, "MutatingAdmissionPolicy headroom-pods is missing", "kubectl apply"),
    "policy unbound": (change("validating_bindings"), Level.BROKEN, "policy headroom-agent-own-node has no binding", "kubectl apply"),
    "CRD missing": (change("crds"), Level.BROKEN, "the InferenceAutoscaler resource is not defined", "crd-inferenceautoscalers"),
    "nobody holds the lease": (
        change("leases", named("headroom-extender", spec={"holderIdentity": "", "renewTime": STAMP})),
        Level.BROKEN, "no extender decides", "logs",
    ),
    "a silent holder": (
        change("leases", named("headroom-autoscaler", spec={"holderIdentity": "b", "renewTime": "2027-01-15T07:55:00Z"})),
        Level.BROKEN, "the autoscaler that decides (b) has been silent for 300 s", "logs",
    ),
    "a clock that is behind": (
        change("leases", named("headroom-extender", spec={"holderIdentity": "a", "renewTime": "2027-01-15T08:01:00Z"})),
        Level.NOTE, "the clock of this machine is 60 s behind", "clock",
    ),
    "a node not understood": (
        nodes(node("m", **{"nvidia.com/gpu.count": "many"})),
        Level.BROKEN, "node m takes no pods", "docs/inventory.md",
    ),
    "memory not known": (
        nodes(node("m", **{"nvidia.com/gpu.memory": "", "nvidia.com/gpu.product": "NVIDIA-Odd"})),
        Level.RISK, "node m: the memory of its cards is not known", "headroom.dev/card-vram",
    ),
    "NRI": (with_cdi(cdi={"nriPluginEnabled": True}), Level.BROKEN, "runs with NRI", "nriPluginEnabled"),
    "no RuntimeClass": (change("runtime_classes"), Level.RISK, "there is no RuntimeClass nvidia", "clusterpolicy"),
    "pinned without a RuntimeClass": (
        pods(pod("bare", {"headroom.dev/vram": "8Gi"}, assigned=True, schedulerName="headroom")),
        Level.RISK, "1 pinned pods have no runtimeClassName: ai/bare", "runtimeClassName: nvidia",
    ),
    "the toolkit ignores the variable": (
        with_cdi(toolkit={"env": [{"name": "ACCEPT_NVIDIA_VISIBLE_DEVICES_ENVVAR_WHEN_UNPRIVILEGED", "value": "false"}]}),
        Level.BROKEN, "the toolkit ignores NVIDIA_VISIBLE_DEVICES", "ACCEPT_NVIDIA",
    ),
    "two schedulers on one node": (
        pods(pod("other", WHOLE, schedulerName="default-scheduler")),
        Level.RISK, "node n: 1 pods with nvidia.com/gpu came from the default scheduler", "schedulerName: headroom",
    ),
    "Prometheus not looked at": (
        lambda facts: setattr(facts, "metrics", None),
        Level.NOTE, "Prometheus was not looked at", "--prometheus-url",
    ),
    "Prometheus away": (
        metrics(reachable=False, trouble="refused"),
        Level.BROKEN, "Prometheus cannot be asked: refused", "docs/prometheus.md",
    ),
    "no card's memory": (metrics(agents=0), Level.RISK, "Prometheus has no card's memory", "scrape"),
    "engine not scraped": (
        metrics(engines={}),
        Level.BROKEN, "1 InferenceAutoscalers have engine vllm, and no pod exports", "docs/signals.md",
    ),
    "targets down": (metrics(jobs_down={"headroom-agent": 2, "blog": 1}), Level.RISK, "scrape job headroom-agent: 2 targets", "/targets"),
    "DRA": (change("resource_slices", {"spec": {"driver": "gpu.nvidia.com"}}), Level.NOTE, "NVIDIA's DRA driver is here", "docs/dra.md"),
    "rights": (lambda facts: facts.forbidden.append("/api/v1/nodes"), Level.NOTE, "not looked at: /api/v1/nodes", "auth can-i list nodes"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_told_with_its_remedy(fault: str) -> None:
    apply, level, what, mend = FAULTS[fault]
    facts = healthy()
    apply(facts)
    found = [finding for finding in examine(facts) if what in finding.what]
    assert [finding.level for finding in found] == [level], examine(facts)
    assert mend in found[0].mend
    assert found[0].why


def test_an_assignment_that_cannot_be_read_ends_no_look() -> None:
    facts = healthy()
    broken = pod(
        "broken", {"headroom.dev/vram": "8Gi"}, assigned=True, schedulerName="headroom", runtimeClassName="nvidia"
    )
    broken.metadata.annotations["headroom.dev/assigned-mode"] = "half"
    facts.pods.append(broken)
    pods(pod("other", WHOLE, schedulerName="default-scheduler"))(facts)
    assert any("node n: 1 pods with nvidia.com/gpu" in finding.what for finding in examine(facts))


def test_the_reason_of_a_pod_that_waits_is_told() -> None:
    facts = healthy()
    change("deployments", workload("headroom-scheduler", 1, 0), workload("headroom-autoscaler", 1, 1))(facts)
    waiting = {"name": "extender", "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    change("system_pods", named("headroom-scheduler-abc", status={"containerStatuses": [waiting]}))(facts)
    assert "container extender: ImagePullBackOff no such image" in examine(facts)[0].why


def test_the_worst_comes_first_and_both_outputs_say_the_same() -> None:
    found = [Finding(Level.BROKEN, "a", "b", "c"), Finding(Level.NOTE, "d", "e", "f")]
    assert as_text(found).endswith("1 broken, 1 note")
    assert [one["level"] for one in json.loads(as_json(found))] == ["broken", "note"]
    assert as_text([]) == "Nothing is wrong."


async def test_a_cluster_is_read_and_what_may_not_be_is_noted(tmp_path: Path) -> None:
    prometheus = FakePrometheus()
    prometheus.answer("headroom_card_memory_total_bytes", ({}, [(1.0, 8.0)]))
    prometheus.answer("vllm:num_requests_running", ({}, [(1.0, 3.0)]))
    async with ApiServer() as api, prometheus.serve():
        api.put("/api/v1/nodes", msgspec.json.decode(wire.encode(node())))
        api.fail("GET", "/pods$", status=403, times=9)
        api.write_kubeconfig(tmp_path / "kubeconfig")
        kube, source = await connect(str(tmp_path / "kubeconfig")), PrometheusSource(prometheus.url)
        facts = await look(kube, "headroom-system", source, NOW)
        await kube.close()
        await source.close()
    assert [one.metadata.name for one in facts.nodes] == ["n"]
    assert "/api/v1/pods" in facts.forbidden
    assert facts.metrics is not None
    assert (facts.metrics.agents, facts.metrics.engines) == (8, {"vllm": 3})


async def test_an_api_server_that_does_not_answer_is_told_from_one_that_refuses(tmp_path: Path) -> None:
    """Found on a real one: the kind of a CRD that was applied a moment ago."""
    async with ApiServer() as api:
        api.fail("GET", "/inferenceautoscalers$", status=429, message="storage is (re)initializing", times=9)
        kube = await connect(str(api.write_kubeconfig(tmp_path / "kubeconfig")))
        facts = await look(kube, "headroom-system", None, NOW)
        await kube.close()
    assert not facts.forbidden
    (finding,) = [one for one in examine(facts) if "inferenceautoscalers" in one.what]
    assert "storage is (re)initializing" in finding.why
    assert finding.mend.startswith("kubectl get --raw /apis/headroom.dev/")


def test_a_cluster_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--kubeconfig", str(tmp_path / "none")])
    assert "no such file" in str(result.exception)


def test_what_helm_installed_is_mended_with_helm() -> None:
    facts = healthy()
    for one in facts.lists["deployments"]:
        one["metadata"]["labels"] = {"app.kubernetes.io/managed-by": "Helm"}
        one["metadata"]["annotations"] = {"meta.helm.sh/release-namespace": "gpu"}
    facts.lists["mutating_policies"] = []
    assert [one.mend for one in examine(facts)] == ["helm upgrade headroom deploy/chart -n gpu --reuse-values"]


def test_a_daemonset_of_the_extender_counts_as_installed() -> None:
    facts = healthy()
    facts.lists["deployments"] = []
    facts.lists["daemonsets"].append(
        named("headroom-scheduler", status={"desiredNumberScheduled": 3, "numberReady": 3})
    )
    assert examine(facts) == []
