"""Engine pods -> Prometheus -> autoscaler -> extender -> kube-scheduler -> kubelet -> more running engines, all as pods."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headroom import names
from simulations.kwok.running import ClusterError
from tests.image.deployed import Deployed
from tests.image.discovery import Discovery

ENGINE = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        waiting, running = open('/load/load').read().split()
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain; version=0.0.4')
        self.end_headers()
        for name, value in (('num_requests_waiting', waiting), ('num_requests_running', running), ('kv_cache_usage_perc', '0.1')):
            self.wfile.write(f'vllm:{name}{{model_name="m"}} {value}\\n'.encode())
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(('', 8000), Handler).serve_forever()
"""
DEPLOYMENT = "/apis/apps/v1/namespaces/default/deployments/engine"
OBJECT = "/apis/headroom.dev/v1alpha1/namespaces/default/inferenceautoscalers/engine"


def engine(load: Path) -> list[dict[str, Any]]:
    """A Deployment of 30 GiB each, and what scales it."""
    container = {
        "name": "engine", "image": "headroom:0.1.0", "imagePullPolicy": "Never",
        "command": ["/opt/headroom/bin/python", "-c", ENGINE],
        "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        "resources": {"limits": {names.RESOURCE_VRAM: "30Gi"}},
        "volumeMounts": [{"name": "load", "mountPath": "/load"}],
    }  # fmt: skip
    notes = {"prometheus.io/scrape": "true", "prometheus.io/port": "8000"}
    spec = {
        "terminationGracePeriodSeconds": 0, "containers": [container],
        "volumes": [{"name": "load", "hostPath": {"path": str(load)}}],
    }  # fmt: skip
    template = {"metadata": {"labels": {"app": "engine"}, "annotations": notes}, "spec": spec}
    deployment = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "engine", "namespace": "default"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "engine"}}, "template": template},
    }  # fmt: skip
    scaler = {
        "apiVersion": "headroom.dev/v1alpha1", "kind": "InferenceAutoscaler",
        "metadata": {"name": "engine", "namespace": "default"},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "engine"}, "engine": "vllm",
            "minReplicas": 1, "maxReplicas": 8, "signals": [{"name": "queue", "type": "queue", "target": "5"}],
        },
    }  # fmt: skip
    return [deployment, scaler]


@pytest.fixture
def load(tmp_path: Path) -> Path:
    """A folder whose file `load` says how many requests wait and run at every engine. Open to the engines' user."""
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o755)
    return tmp_path


@pytest.fixture
def loop(deployed: Deployed, load: Path) -> Iterator[Deployed]:
    """Engines with a queue, and Prometheus that finds them."""
    (load / "load").write_text("20 4")
    with Discovery(deployed.node):
        deployed.node.apply(engine(load))
        yield deployed
    deployed.node.kubectl("delete", "inferenceautoscaler,deployment", "engine")
    deployed.node.cards.say()


def test_a_queue_becomes_running_engines(loop: Deployed) -> None:
    """Two of 30 GiB fit on each of two cards: four run, and the fifth is called unmet instead of being created."""
    node = loop.node
    ready = lambda: node.api.get(DEPLOYMENT)["status"].get("readyReplicas", 0)  # noqa: E731
    try:
        node.wait_for(lambda: ready() == 4, "four engines", 120)
    except ClusterError as error:
        raise AssertionError(f"{error}: {node.api.get(OBJECT).get('status')}") from error
    node.wait_for(lambda: node.api.get(OBJECT)["status"].get("unmetReplicas", 0) > 0, "the rest to be unmet", 30)
    pods = node.pods("default", labelSelector="app=engine")
    assert len(pods) == 4, "nothing is created that could not run"
    cards = [one["metadata"]["annotations"][names.ANNOTATION_ASSIGNED_CARDS] for one in pods]
    assert sorted(cards) == sorted(node.cards.uuids * 2)


def test_measured_memory_comes_back_to_the_ledger(loop: Deployed) -> None:
    """A process of nobody's takes 40 GiB of card 0: NVML -> agent pod -> Prometheus -> extender pod."""
    node = loop.node
    node.cards.say("card 0 process 1 42949672960 10", "card 0 used 42949672960")

    def seen() -> bool:
        (one,) = loop.nodes()
        return bool((one["cards"][0]["used_mib"] or 0) > 40000)

    node.wait_for(seen, "the extender to know what is measured", 60)
