"""`headroom top`, `fit` and `explain` through a real API server's proxy, with the rights of ClusterRole headroom-ask and without."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from headroom.cli import cli
from headroom.domain.model import Card, GpuNode
from simulations.kwok.api import ApiError
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import node_manifest
from tests.paths import DEPLOY, DOCS

SYSTEM = "headroom-system"
PODS = f"/api/v1/namespaces/{SYSTEM}/pods"


def own_address() -> str:
    """An address of this machine that the API server's proxy takes: it refuses loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])


@dataclass
class Asking:
    """Whoever may ask, and how to."""

    cluster: Cluster
    namespace: str
    allowed: str
    """Path of a kubeconfig."""
    stranger: str

    def run(self, *arguments: str, kubeconfig: str = "", text: str | None = None) -> tuple[int, str]:
        """Exit status and output of a command; 1 and the words of an error."""
        arguments = (*arguments, "--kubeconfig", kubeconfig or self.allowed)
        result = CliRunner().invoke(cli, arguments, input=text)
        return result.exit_code, result.output + (str(result.exception) if result.exit_code else "")


@pytest.fixture
def asking(cluster: Cluster, namespace: str, gpu_nodes: Callable[..., None], extender_port: int) -> Iterator[Asking]:
    """An extender that holds the lease, and the Pod object that the API server's proxy finds it by."""
    card = Card("GPU-a", 0, "NVIDIA-A100-SXM4-80GB", vram_mib=81920)
    gpu_nodes([node_manifest(GpuNode("a100-1", cards=(card,), cpu_milli=64000, memory_mib=262144))])
    cluster.apply(DEPLOY / "base" / "namespace.yaml")
    cluster.apply(DEPLOY / "base" / "ask-rbac.yaml")
    for name in ("asker", "stranger"):
        cluster.api.request("POST", f"/api/v1/namespaces/{SYSTEM}/serviceaccounts", {"metadata": {"name": name}})
    cluster.kubectl(
        "-n", SYSTEM, "create", "rolebinding", "ask", "--clusterrole=headroom-ask", f"--serviceaccount={SYSTEM}:asker"
    )
    extender = cluster.daemon(
        "scheduler", f"--port={extender_port}", f"--lease-namespace={SYSTEM}", "--preemption=false",
        ready_url=f"http://127.0.0.1:{extender_port}/readyz",
    )  # fmt: skip
    name = socket.gethostname()
    container = {"name": "extender", "image": "headroom"}
    cluster.api.request(
        "POST", PODS, {"metadata": {"name": name}, "spec": {"containers": [container], "schedulerName": "nobody"}}
    )
    status = {"status": {"phase": "Running", "podIP": own_address(), "podIPs": [{"ip": own_address()}]}}
    cluster.kubectl(
        "-n", SYSTEM, "patch", "pod", name, "--subresource=status", "--type=merge", f"--patch={json.dumps(status)}"
    )
    yield Asking(
        cluster, namespace,
        *(str(cluster.service_account_kubeconfig(SYSTEM, account)) for account in ("asker", "stranger")),
    )  # fmt: skip
    extender.stop()
    cluster.kubectl("delete", "namespace", SYSTEM, "--wait=false")
    cluster.kubectl("delete", "-f", str(DEPLOY / "base" / "ask-rbac.yaml"))
    cluster.wait_for(lambda: not cluster.exists(f"/api/v1/namespaces/{SYSTEM}"), "the namespace to go")


def pod(name: str, vram: str) -> dict[str, Any]:
    container = {"name": "main", "image": "server", "resources": {"limits": {"headroom.dev/vram": vram}}}
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"schedulerName": "headroom", "containers": [container]},
    }  # fmt: skip


def shown(command: str) -> str:
    """What docs/ask.md shows of a command."""
    found = re.search(
        rf"```console\n\$ headroom {re.escape(command)}\n(.*?)```", (DOCS / "ask.md").read_text(), re.DOTALL
    )
    assert found is not None, command
    return found.group(1).strip()


def test_whoever_has_the_role_asks_and_nobody_else(asking: Asking) -> None:
    for one in (pod("llama", "30Gi"), pod("huge", "200Gi")):
        asking.cluster.api.request("POST", f"/api/v1/namespaces/{asking.namespace}/pods", one)
    where = f"{asking.namespace}/llama"
    asking.cluster.wait_for(
        lambda: json.loads(asking.run("top", "-o", "json")[1])["nodes"][0]["cards"][0]["pods"],
        "the pod to hold its card",
    )
    status, text = asking.run("top")
    assert status == 0
    assert "a100-1" in text
    assert f"{where} 30.0" in text
    asking.cluster.wait_for(lambda: "huge fits nowhere" in asking.run("top")[1], "the other pod to be refused")
    status, text = asking.run("fit", "-f", "-", text=yaml.safe_dump(pod("more", "20Gi")))
    assert (status, text.splitlines()[0]) == (0, "2 more pods like this fit")
    assert text.strip() == shown("fit -f more.yaml")
    for name, outcome in (("llama", "bound on node a100-1"), ("huge", "refused")):
        status, text = asking.run("explain", f"pod/{name}", "-n", asking.namespace)
        assert status == 0
        assert outcome in text
        text = text.replace(f"{asking.namespace}/", "models/")
        assert re.sub(r"\d+ s ago", "2 s ago", text).strip() == shown(f"explain pod/{name}")

    for command in (("top",), ("explain", "pod/llama")):
        status, text = asking.run(*command, kubeconfig=asking.stranger)
        assert status == 1
        assert "headroom-extender" in text, "the right that is missing is named"
        assert "forbidden" in text


def test_the_proxy_reaches_no_verb_and_no_inside_view(asking: Asking, extender_port: int) -> None:
    """The API server's calls come from no loopback address."""
    proxy = f"{PODS}/{socket.gethostname()}:{extender_port}/proxy"
    for verb in ("filter", "prioritize", "bind", "preempt"):
        with pytest.raises(ApiError, match="only kube-scheduler on this machine"):
            asking.cluster.api.request("POST", f"{proxy}/{verb}", {})
    with pytest.raises(ApiError, match="callers on the same machine"):
        asking.cluster.api.get(f"{proxy}/debug/snapshot")
