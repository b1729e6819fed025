"""Headroom deployed on a real node by its own manifests."""

import contextlib
import datetime
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml

from simulations.kwok.api import ApiError
from simulations.node.cluster import NodeCluster
from simulations.node.images.basic import BUSYBOX
from simulations.node.objects import PROMETHEUS_PORT
from tests.paths import DEPLOY

SYSTEM: Final = "headroom-system"
PROMETHEUS_URL: Final = f"http://prometheus-operated.monitoring:{PROMETHEUS_PORT}"


class Deployed:
    """What `kubectl apply -k` of a folder made; taken away at the end."""

    def __init__(self, node: NodeCluster, folder: Path) -> None:
        self.node, self.folder = node, folder
        self.ready_seconds = 0.0
        """From the start of `kubectl apply` until everything that was waited for was ready."""
        self._start = 0.0

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        self.node.kubectl("apply", "--server-side", "-k", str(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            print(self.trouble())
        self.node.kubectl("delete", "-k", str(self.folder), "--timeout=90s", timeout_seconds=120)

    def wait_ready(self, *workloads: str) -> None:
        """Until every pod of these is ready; what is wrong with them if not."""
        for workload in workloads:
            try:
                self.node.kubectl("-n", SYSTEM, "rollout", "status", workload, "--timeout=90s", timeout_seconds=100)
            except Exception as error:
                raise AssertionError(f"{workload} is not ready: {error}\n{self.trouble()}") from error
        self.ready_seconds = self.ready_seconds or time.monotonic() - self._start

    def trouble(self) -> str:
        """The pods of the system, and the ends of the logs of those that are not ready."""
        text = self.node.kubectl("get", "pods", "-A", "-o", "wide")
        for one in self.node.pods(SYSTEM):
            statuses = one["status"].get("containerStatuses", [{}])
            if not all(status.get("ready") for status in statuses):
                name = one["metadata"]["name"]
                text += self.node.kubectl("-n", SYSTEM, "describe", "pod", name)[-2500:]
                text += self.node.kubectl("-n", SYSTEM, "logs", name, "--all-containers", "--tail=15")
        return text

    @contextmanager
    def last_words(self, name: str) -> Iterator[dict[str, int]]:
        """Container -> exit code of a pod that ends meanwhile, as kubelet reports them before the pod goes."""
        codes: dict[str, int] = {}
        over = threading.Event()

        def watch() -> None:
            while not over.wait(0.02):
                with contextlib.suppress(ApiError, OSError):
                    for status in self.node.pod(name, SYSTEM)["status"].get("containerStatuses", []):
                        if ended := status["state"].get("terminated"):
                            codes[status["name"]] = ended["exitCode"]

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield codes
        finally:
            over.set()
            thread.join()

    def pods(self, component: str) -> list[dict[str, Any]]:
        """Pods of one of scheduler, autoscaler, agent."""
        return self.node.pods(SYSTEM, labelSelector=f"app.kubernetes.io/component={component}")

    def page(self, component: str, path: str) -> str:
        """A page of a daemon's first pod."""
        port = {"scheduler": 8901, "autoscaler": 8902, "agent": 8903}[component]
        return self.node.get(f"http://{self.pods(component)[0]['status']['podIP']}:{port}{path}")

    def nodes(self) -> list[dict[str, Any]]:
        """Nodes and their cards as the ledger has them: the page that everybody may read, as the Service answers."""
        address = self.node.api.get(f"/api/v1/namespaces/{SYSTEM}/services/headroom-scheduler")["spec"]["clusterIP"]
        page: list[dict[str, Any]] = json.loads(self.node.get(f"http://{address}:8901/v1/cards"))["nodes"]
        return page

    def seconds_to_ready(self, component: str, container: str) -> float:
        """From the start of a container to its pod's readiness, as kubelet wrote them down (whole seconds)."""
        (one, *_) = self.pods(component)
        (status,) = [item for item in one["status"]["containerStatuses"] if item["name"] == container]
        ready = next(item for item in one["status"]["conditions"] if item["type"] == "ContainersReady")
        return _seconds(ready["lastTransitionTime"]) - _seconds(status["state"]["running"]["startedAt"])


def _seconds(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


@contextmanager
def two_models(node: NodeCluster) -> Iterator[list[dict[str, Any]]]:
    """The pods of deploy/examples/vllm-two-on-one-card.yaml, which are ready, with busybox for vLLM, which prints its arguments."""
    objects = list(yaml.safe_load_all((DEPLOY / "examples" / "vllm-two-on-one-card.yaml").read_text()))
    spec = objects[0]["spec"]["template"]["spec"]
    # A shell as the first process ignores SIGTERM, and would hold its card on.
    spec["terminationGracePeriodSeconds"] = 0
    (container,) = spec["containers"]
    serve = 'echo "args: $@"; mkdir -p /www; echo ok > /www/health; httpd -f -p 8000 -h /www'
    container |= {"image": BUSYBOX, "command": ["sh", "-c", serve, "vllm"]}
    container["resources"]["requests"] = {"cpu": "50m", "memory": "32Mi"}
    node.apply(objects, "default")
    try:
        node.kubectl("rollout", "status", "deployment/vllm-qwen", "--timeout=60s", timeout_seconds=70)
        yield node.pods("default", labelSelector="app=vllm-qwen")
    finally:
        node.kubectl("delete", "deployment,service", "vllm-qwen")
