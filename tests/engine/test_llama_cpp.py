"""llama.cpp's server on a real node: from one replica to three and back under load, with no request lost."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headroom.domain.engines import LLAMA_CPP
from simulations.kwok.running import ClusterError
from simulations.node.cluster import NodeCluster
from simulations.node.llama.load import Load
from simulations.node.llama.pods import PORT, SLOTS, deployment
from tests.image.discovery import Discovery

NAME = "llama"
DEPLOYMENT = f"/apis/apps/v1/namespaces/default/deployments/{NAME}"
OBJECT = f"/apis/headroom.dev/v1alpha1/namespaces/default/inferenceautoscalers/{NAME}"
ROUNDS_SECONDS = 20
MOST_SECONDS = 240


class Served:
    """The Deployment behind its Service, and what is known of it."""

    def __init__(self, node: NodeCluster) -> None:
        self.node = node

    @property
    def replicas(self) -> int:
        return int(self.node.api.get(DEPLOYMENT)["spec"]["replicas"])

    @property
    def ready(self) -> int:
        return int(self.node.api.get(DEPLOYMENT)["status"].get("readyReplicas", 0))

    @property
    def url(self) -> str:
        address = self.node.api.get(f"/api/v1/namespaces/default/services/{NAME}")["spec"]["clusterIP"]
        return f"http://{address}:{PORT}"

    def pods(self) -> list[dict[str, Any]]:
        return self.node.pods("default", labelSelector=f"app={NAME}")

    def metrics(self) -> str:
        return self.node.get(f"{self.url}/metrics")

    def all_at_work(self) -> bool:
        """Whether every pod is answering somebody; one that has no address yet is not."""
        addresses = [pod["status"].get("podIP") for pod in self.pods()]
        if None in addresses:
            return False
        pages = [self.node.get(f"http://{address}:{PORT}/metrics") for address in addresses]
        return all(re.search(r"^llamacpp:requests_processing [1-9]", page, re.MULTILINE) for page in pages)

    def history(self) -> list[str]:
        """What the autoscaler says that it did, the newest first."""
        return [move["message"] for move in self.node.api.get(OBJECT)["status"]["history"]]

    def wait_for(self, count: int) -> None:
        try:
            self.node.wait_for(
                lambda: self.replicas == count == self.ready == len(self.pods()), f"{count}", MOST_SECONDS
            )
        except ClusterError as error:
            raise AssertionError(
                f"{error}: {self.replicas}, {self.ready}, {self.node.api.get(OBJECT)['status']}"
            ) from error


@pytest.fixture
def served(node: NodeCluster, built: Path) -> Iterator[Served]:
    node.apply(deployment(NAME, built, vram="20Gi"))
    served = Served(node)
    node.wait_for(lambda: served.ready == 1, "the first engine", MOST_SECONDS)
    with Discovery(node):
        yield served
    node.kubectl("delete", "inferenceautoscaler", NAME, "--ignore-not-found")
    node.kubectl("delete", "deployment,service", NAME, "--cascade=foreground", "--timeout=150s", timeout_seconds=160)


def test_the_preset_reads_what_the_server_exports(served: Served) -> None:
    """Every name of the preset, from the first scrape on; counters that a request moves."""
    exported = set(re.findall(r"^([a-z]+:\w+)", served.metrics(), re.MULTILINE))
    facts = ("waiting", "running", "prompt_tokens", "output_tokens", "iterations", "token_seconds", "token_count")
    for metric in LLAMA_CPP.metrics(facts):
        assert set(metric.names) <= exported
    with Load(served.url, served.node.network, at_once=2) as load:
        served.node.wait_for(lambda: load.counts.answered >= 4, "answers", 120)
    assert not load.counts.lost
    page = dict(re.findall(r"^([a-z]+:\w+) (\S+)", served.metrics(), re.MULTILINE))
    assert float(page["llamacpp:tokens_predicted_total"]) == load.counts.tokens


def test_from_one_replica_to_three_and_back_without_losing_a_request(served: Served) -> None:
    """Twelve at once are three replicas of four slots; two at once are one. Pods that go finish what they were given."""
    autoscaler = {
        "apiVersion": "headroom.dev/v1alpha1", "kind": "InferenceAutoscaler",
        "metadata": {"name": NAME, "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": NAME}, "engine": "llama.cpp",
            "minReplicas": 1, "maxReplicas": 4,
            # Pods are scraped up to a second apart: what ends on one and begins on another in between counts twice, for a scrape.
            "behavior": {
                "scaleUp": {"stabilizationWindowSeconds": 3},
                "scaleDown": {"stabilizationWindowSeconds": 6, "policies": []},
            },
        },
    }  # fmt: skip
    served.node.apply([autoscaler])
    with Load(served.url, served.node.network, at_once=3 * SLOTS) as load:
        served.wait_for(3)
        served.node.wait_for(served.all_at_work, "every replica to have a request", MOST_SECONDS)
        end, seen = time.monotonic() + ROUNDS_SECONDS, set()
        while time.monotonic() < end:
            seen.add(served.replicas)
            time.sleep(0.5)
        assert seen == {3}, f"it moves without a change of load: {served.history()}"
        at_three = load.counts.answered
        load.at_once = 2
        served.wait_for(1)
        time.sleep(ROUNDS_SECONDS)
        assert served.replicas == 1
    print(
        f"{load.counts.answered} requests answered, {at_three} of them before the way back; {len(load.counts.lost)} lost"
    )
    assert load.counts.answered > at_three
    assert load.counts.lost == []
