"""The commands for people that read a cluster, or make manifests for one, on a real API server."""

import json
from collections.abc import Callable
from typing import Any

import yaml
from click.testing import CliRunner

from headroom.cli import cli
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import Description, uniform_nodes
from tests.paths import DEPLOY

BASE = DEPLOY / "base"


def run(cluster: Cluster, *arguments: str) -> tuple[int, str]:
    """Exit status and output; the words of an error, where it is one."""
    result = CliRunner().invoke(cli, [*arguments, "--kubeconfig", str(cluster.kubeconfig)])
    failed = result.exception is not None and not isinstance(result.exception, SystemExit)
    return result.exit_code, result.output + (str(result.exception) if failed else "")


def whole_card_pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "server", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {"metadata": {"name": name}, "spec": {"containers": [container]}}


def test_advise_reads_a_cluster_and_says_what_it_holds(
    cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None]
) -> None:
    """Nothing of Headroom is installed: nodes as feature discovery labels them, pods of the default scheduler."""
    gpu_nodes(uniform_nodes(2, prefix="advised-", cards=4, vram_mib=46068), Description.LABELS)
    pods = f"/api/v1/namespaces/{namespace}/pods"
    for at in range(5):
        cluster.api.request("POST", pods, whole_card_pod(f"whole-{at}"))
    cluster.wait_for(lambda: all(pod["spec"].get("nodeName") for pod in cluster.pods(namespace)), "pods to be placed")
    before = len(cluster.audit_events())
    status, text = run(cluster, "advise", "-o", "json")
    assert status == 0, text
    answer = json.loads(text)
    assert answer["cards"]["held"] == 5
    status, text = run(cluster, "advise")
    assert status == 0, text
    asked = [event for event in cluster.audit_events()[before:] if event.get("userAgent") == "headroom"]
    assert asked
    assert {event["verb"] for event in asked} <= {"get", "list"}, "it reads only"


def test_doctor_tells_a_cluster_without_headroom_from_one_with_it(cluster: Cluster) -> None:
    status, text = run(cluster, "doctor")
    assert status == 1
    assert "not installed" in text
    cluster.apply(BASE)
    try:
        status, text = run(cluster, "doctor", "-o", "json")
        findings = json.loads(text)
        broken = [one["what"] for one in findings if one["level"] == "broken"]
        assert broken
        assert all("ready" in what for what in broken), "nobody runs pods here; nothing else is wrong"
        assert not any("MutatingAdmissionPolicy" in one["what"] for one in findings)
        assert all(one["why"] and one["mend"] for one in findings)
    finally:
        cluster.kubectl("delete", "-k", str(BASE), "--ignore-not-found", "--wait=false")
        cluster.wait_for(lambda: not cluster.exists("/api/v1/namespaces/headroom-system"), "the namespace to go")


def test_what_convert_prints_is_taken_by_the_api_server(cluster: Cluster, namespace: str) -> None:
    hami = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "llama"},
        "spec": {"containers": [{"name": "main", "image": "vllm", "resources": {"limits": {
            "nvidia.com/gpu": "1", "nvidia.com/gpumem": "8000"}}}]},
    }  # fmt: skip
    result = CliRunner().invoke(cli, ["convert", "-f", "-"], input=yaml.safe_dump(hami))
    assert result.exit_code == 0, result.output
    objects = [one for one in yaml.safe_load_all(result.stdout) if one]
    assert [one["kind"] for one in objects] == ["Pod"]
    cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(objects)
    )


def test_what_estimate_prints_is_a_pod_that_the_api_server_takes(cluster: Cluster, namespace: str) -> None:
    result = CliRunner().invoke(cli, ["estimate", "qwen2.5-7b", "--card", "L40S"])
    assert result.exit_code == 0, result.output
    block = result.output[result.output.index("resources:") :].split("\n\n")[0]
    container = {"name": "vllm", "image": "vllm", **yaml.safe_load(block)}
    assert container["args"]
    one = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "estimated"}, "spec": {"containers": [container]}}
    cluster.kubectl(
        "apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(one)
    )


def test_clean_nodes_takes_off_what_a_daemon_wrote_and_leaves_what_kubectl_wrote(
    cluster: Cluster, gpu_nodes: Callable[..., None]
) -> None:
    """The API server's own record of who wrote which field tells the two apart."""
    gpu_nodes(uniform_nodes(2, prefix="cleaned-", cards=1, vram_mib=46068), Description.LABELS)
    cards = '[{"id": "GPU-a", "model": "NVIDIA-L40S", "vram_mib": 46068}]'
    patch = {"metadata": {"annotations": {"headroom.dev/cards": cards, "headroom.dev/agent-tells": "kubelet-cards"}}}
    cluster.api.request("PATCH", "/api/v1/nodes/cleaned-0000", patch, content_type="application/merge-patch+json")
    cluster.kubectl("annotate", "node", "cleaned-0001", f"headroom.dev/cards={cards}")
    status, text = run(cluster, "clean-nodes", "--yes", "--settle", "0")
    assert status == 0, text
    left = {
        name: set(cluster.api.get(f"/api/v1/nodes/{name}")["metadata"].get("annotations", {}))
        for name in ("cleaned-0000", "cleaned-0001")
    }
    assert not [name for name in left["cleaned-0000"] if name.startswith("headroom.dev/")]
    assert "headroom.dev/cards" in left["cleaned-0001"]
