"""The demo on a real node: kubelet and containerd run the containers, beside two cards of a stub driver. Real time, under a minute.

Two models land on one card, and each container sees that card and its own share of it; a third goes to the other card; a fourth
waits, with the reason, until there is room. Nothing is compared here, so there is no report.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from headroom import names
from simulations.kwok.running import ClusterError
from simulations.node.cluster import NODE_NAME, NodeCluster
from simulations.node.images.basic import BUSYBOX
from simulations.node.installation import install

LABEL: Final = "demo"
_SEES: Final = ("NVIDIA_VISIBLE_DEVICES", "HEADROOM_VRAM_MIB", "HEADROOM_VRAM_SHARE")
"""What deploy/base/admission-policy.yaml gives to containers."""
_PODS: Final = "/api/v1/namespaces/default/pods"
_REFUSED_SECONDS: Final = 30.0


def run(say: Callable[[str], None]) -> None:
    """A node of its own for the demo. Raises ClusterError, ComponentError, BuildError."""
    say(
        "Starting a real node: etcd, kube-apiserver, kube-scheduler, containerd, kubelet; Headroom's daemons; two cards of a stub driver"
    )
    began = time.monotonic()
    with NodeCluster.start() as node:
        install(node)
        say(f"  {NODE_NAME} is Ready after {time.monotonic() - began:.0f} s")
        show(node, say)


def show(node: NodeCluster, say: Callable[[str], None]) -> None:
    """The story, on a node with Headroom's daemons; its pods are gone at the end."""
    try:
        say("1. Two models ask for memory, and share a card")
        for name, gib in (("chat", 30), ("embeddings", 22)):
            _serve(node, name, gib)
            _wait_running(node, name, say)
        _say_cards(node, say)
        say("2. A third needs more than is left there")
        _serve(node, "translation", 40)
        _wait_running(node, "translation", say)
        _say_cards(node, say)
        say("3. A fourth waits: there is room enough in all, but on no card")
        _serve(node, "summaries", 45)
        node.wait_for(lambda: node.refusal("default", "summaries"), "the fourth to be refused", _REFUSED_SECONDS)
        say(f"  summaries is Pending: {node.refusal('default', 'summaries')}")
        say("4. The first is deleted; the fourth starts in its place")
        node.kubectl("delete", "pod", "chat", "--now", "--wait=false")
        _wait_running(node, "summaries", say)
        _say_cards(node, say)
    finally:
        node.kubectl("delete", "pods", "-l", f"{LABEL}=node", "--now")


def _serve(node: NodeCluster, name: str, gib: int) -> None:
    container: dict[str, Any] = {
        "name": "server", "image": BUSYBOX,
        "command": ["sh", "-c", "env; mkdir -p /tmp/www; echo ok > /tmp/www/health; httpd -f -p 8000 -h /tmp/www"],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        "resources": {"limits": {names.RESOURCE_VRAM: f"{gib}Gi"}},
    }  # fmt: skip
    metadata = {"name": name, "namespace": "default", "labels": {LABEL: "node"}}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 0}
    node.api.request("POST", _PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


def _wait_running(node: NodeCluster, name: str, say: Callable[[str], None]) -> None:
    """Until the pod is Ready; then what its container was told. Raises ClusterError with the scheduler's reason."""
    began = time.monotonic()

    def ready() -> bool:
        conditions = node.pod(name)["status"].get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    try:
        node.wait_for(ready, f"{name} to be ready")
    except ClusterError as error:
        raise ClusterError(f"{error}: {node.refusal('default', name)}") from error
    seconds = time.monotonic() - began
    told = node.environment(name)
    say(
        f"  {name} is ready after {seconds:.1f} s; its container sees "
        + " ".join(f"{one}={told[one]}" for one in _SEES)
    )


def _say_cards(node: NodeCluster, say: Callable[[str], None]) -> None:
    """Which pods were put on which card, as their annotations say."""
    held: dict[str, list[str]] = {card: [] for card in node.cards.uuids}
    for pod in node.pods("default", labelSelector=f"{LABEL}=node"):
        cards = pod["metadata"].get("annotations", {}).get(names.ANNOTATION_ASSIGNED_CARDS)
        if cards:
            memory = pod["spec"]["containers"][0]["resources"]["limits"][names.RESOURCE_VRAM]
            held[cards].append(f"{pod['metadata']['name']} {memory}")
    for card, pods in held.items():
        say(f"  card {card[-1]}: {', '.join(pods) or 'free'}")
