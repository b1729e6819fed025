"""Two pairs of kube-scheduler and extender, as a Deployment with two replicas runs them: the one that leads goes in the
middle of a burst, the other goes on, and no card is given twice."""

import ssl
import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from simulations.kwok.cluster import Cluster, scheduler_config
from simulations.kwok.nodes import uniform_nodes
from simulations.kwok.process import Component, free_port
from tests.fakes.extender_cluster import CARD_MIB, PODS, pod_asking

SIZES = ("10Gi", "18Gi", "30Gi", "38Gi", "76Gi")
BURST = 500
ELECTION = {
    "leaderElect": True, "resourceNamespace": "default", "resourceName": "headroom-scheduler",
    "leaseDuration": "6s", "renewDeadline": "4s", "retryPeriod": "1s",
}  # fmt: skip


class Pair:
    """A kube-scheduler and the extender beside it."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        port = free_port()
        self.extender = cluster.daemon(
            "scheduler", "--port", str(port), "--lease-namespace", "default", "--lease-seconds", "6",
            "--bind-timeout-seconds", "2", "--naming-ahead-backlog", "4",
            name=f"extender-{number}", ready_url=f"http://127.0.0.1:{port}/readyz",
        )  # fmt: skip
        config = scheduler_config(
            extender_url=f"http://127.0.0.1:{port}",
            scheduler_names=("headroom",),
            managed_resources=("headroom.dev/vram",),
            verbs=("filter", "prioritize", "bind", "preempt"),
        )
        self.kube_scheduler = cluster.add_scheduler(
            f"headroom-kube-scheduler-{number}", config | {"leaderElection": ELECTION}, kubeconfig=cluster.kubeconfig
        )
        flag = next(flag for flag in self.kube_scheduler.command if flag.startswith("--secure-port="))
        self.pages = (f"https://127.0.0.1:{flag.split('=')[1]}", f"http://127.0.0.1:{port}")

    def is_ready(self) -> bool:
        """Whether kubelet would call the pod ready."""
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        for page in self.pages:
            with urllib.request.urlopen(f"{page}/readyz", timeout=10, context=unchecked) as answer:
                if answer.status != 200:
                    return False
        return True


def both_die(pair: Pair) -> None:
    pair.kube_scheduler.kill()
    pair.extender.kill()


def kube_scheduler_dies(pair: Pair) -> None:
    """Its extender lives on, and gives way to the one that is asked now."""
    pair.kube_scheduler.kill()


def pod_is_deleted(pair: Pair) -> None:
    """Both are asked to end at once: kube-scheduler gives its lease up while bindings may be under way."""
    ended: list[Component] = [pair.kube_scheduler, pair.extender]
    threads = [threading.Thread(target=one.stop) for one in ended]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("end", [both_die, kube_scheduler_dies, pod_is_deleted])
def test_the_second_pair_takes_over_in_the_middle_of_a_burst(
    start_cluster: Callable[..., Cluster], end: Callable[[Pair], None]
) -> None:
    cluster = start_cluster(nodes=uniform_nodes(60, cards=2, vram_mib=CARD_MIB))
    first = Pair(cluster, 0)
    lease = "/apis/coordination.k8s.io/v1/namespaces/default/leases/headroom-scheduler"
    cluster.wait_for(lambda: cluster.exists(lease), "the first kube-scheduler to lead")
    second = Pair(cluster, 1)
    # A Deployment would wait for ever for a pod that is ready only while it leads.
    cluster.wait_for(first.is_ready, "the first pair to be ready")
    cluster.wait_for(second.is_ready, "the second pair to be ready while the first one leads")
    pods = [pod_asking(f"burst-{at:03d}", SIZES[at % len(SIZES)]) for at in range(BURST)]
    creator = threading.Thread(target=cluster.api.create_all, args=([(PODS, pod) for pod in pods[: BURST // 2]],))
    creator.start()

    def bound() -> int:
        return sum(bool(pod["spec"].get("nodeName")) for pod in cluster.pods("default"))

    cluster.wait_for(lambda: bound() > 20, "the burst to be under way")
    end(first)
    creator.join()
    cluster.api.create_all([(PODS, pod) for pod in pods[BURST // 2 :]])

    def decided() -> bool:
        """Every pod is bound, or was told why not."""
        left = [pod for pod in cluster.pods("default") if not pod["spec"].get("nodeName")]
        return len(cluster.pods("default")) == BURST and all("no card with" in message(pod) for pod in left)

    cluster.wait_for(decided, "every pod to be bound or refused with a reason", 180)
    held: dict[str, int] = {}
    for pod in cluster.pods("default"):
        if pod["spec"].get("nodeName"):
            annotations = pod["metadata"]["annotations"]
            card = annotations["headroom.dev/assigned-cards"]
            held[card] = held.get(card, 0) + int(annotations["headroom.dev/assigned-vram-mib"])
    assert max(held.values()) <= CARD_MIB


def message(pod: dict[str, Any]) -> str:
    """What the pod's PodScheduled condition says."""
    found = pod["status"].get("conditions", [])
    return next((item.get("message", "") for item in found if item["type"] == "PodScheduled"), "")
