"""A cluster of the real control plane whose only kube-scheduler asks an extender of its own."""

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from simulations.kwok.cluster import Cluster, ClusterError, scheduler_config
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import free_port

PODS = "/api/v1/namespaces/default/pods"
CARD_MIB = 80 * 1024


def pod_asking(name: str, vram: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "server", "resources": {"limits": {"headroom.dev/vram": vram}}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"schedulerName": "headroom", "terminationGracePeriodSeconds": 0, "containers": [container], **spec},
    }


class Setup:
    """A cluster whose only kube-scheduler asks an extender of its own."""

    def __init__(
        self, start_cluster: Callable[..., Cluster], nodes: int, cards: int, *settings: str, cpu_milli: int = 128_000
    ) -> None:
        self.port = free_port()
        config = scheduler_config(
            extender_url=f"http://127.0.0.1:{self.port}",
            scheduler_names=("headroom",),
            managed_resources=("headroom.dev/vram",),
            verbs=("filter", "prioritize", "bind", "preempt"),
        )
        self.cluster = start_cluster(
            nodes=[replace(node, cpu_milli=cpu_milli) for node in uniform_nodes(nodes, cards=cards, vram_mib=CARD_MIB)],
            scheduler_config=config,
        )
        self.extender = self.cluster.daemon(
            "scheduler", "--port", str(self.port), *settings, ready_url=f"http://127.0.0.1:{self.port}/readyz"
        )

    def page(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, *labels: str) -> float:
        """The sum of a metric's samples that carry the labels, written `verb="filter"`."""
        lines = [line for line in self.page("/metrics").splitlines() if line.startswith((name + "{", name + " "))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if all(label in line for label in labels))

    def filter_calls(self) -> float:
        return self.metric("headroom_extender_requests_total", 'verb="filter"')

    def create(self, *pods: dict[str, Any]) -> None:
        self.cluster.api.create_all((PODS, pod) for pod in pods)

    def wait_bound(self, count: int, timeout_seconds: float = 60.0) -> None:
        def bound() -> int:
            return sum(bool(pod["spec"].get("nodeName")) for pod in self.cluster.pods("default"))

        try:
            self.cluster.wait_for(lambda: bound() == count, f"{count} pods to be bound", timeout_seconds)
        except ClusterError as error:
            raise AssertionError(f"{error}; {bound()} are; {self.extender.tail(5)}") from None

    def wait_calm(self) -> None:
        """Until every pod runs and none changes: kube-scheduler tries refused pods again on each change of a bound one."""

        def calm() -> bool:
            before = self.cluster.pods("default")
            time.sleep(2)
            return all(pod["status"]["phase"] == "Running" for pod in before) and before == self.cluster.pods("default")

        self.cluster.wait_for(calm, "every pod to run")

    def message(self, name: str) -> str:
        """What the pod's PodScheduled condition says."""
        return self.cluster.refusal("default", name)

    def wait_refused(self, *names: str) -> None:
        self.cluster.wait_for(lambda: all("MiB free" in self.message(name) for name in names), "a reason on each pod")

    def snapshot(self) -> dict[str, Any]:
        return dict(json.loads(self.page("/debug/snapshot?check")))

    def assert_sound(self) -> None:
        """No reservation is left behind, the ledger agrees with itself, and the API shows no card over-committed."""
        self.cluster.wait_for(lambda: self.metric("headroom_reservations") == 0, "reservations to end", 60)
        assert self.snapshot()["breaches"] == []
        held: dict[str, int] = {}
        for pod in self.cluster.pods("default"):
            if pod["spec"].get("nodeName"):
                annotations = pod["metadata"]["annotations"]
                card = annotations["headroom.dev/assigned-cards"]
                held[card] = held.get(card, 0) + int(annotations["headroom.dev/assigned-vram-mib"])
        assert max(held.values()) <= CARD_MIB
