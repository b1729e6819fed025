"""A workload on the real control plane and its InferenceAutoscaler: asked to scale, and watched."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from simulations.kwok.cluster import Cluster, ClusterError

SETTLE_SECONDS = 12.0
"""Longer than the autoscaler of the tests remembers: its stabilisation window, and its mean of 8 s after that."""


@dataclass
class Autoscaled:
    """Something with a scale subresource, and the InferenceAutoscaler of the same name."""

    cluster: Cluster
    namespace: str
    name: str = "llm"
    kind: str = "Deployment"
    api: str = "apps/v1"

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.name}"

    def autoscale(self, **spec: Any) -> None:
        """Apply the InferenceAutoscaler; None leaves a field out."""
        whole = {
            "scaleTargetRef": {"kind": self.kind, "name": self.name},
            "engine": "vllm",
            "maxReplicas": 8,
            "signals": [{"name": "running", "type": "running", "target": 10}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 6, "policies": []}},
            **spec,
        }
        manifest = {
            "apiVersion": "headroom.dev/v1alpha1",
            "kind": "InferenceAutoscaler",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "spec": {key: value for key, value in whole.items() if value is not None},
        }
        self.cluster.apply([manifest])

    @property
    def replicas(self) -> int:
        path = f"/apis/{self.api}/namespaces/{self.namespace}/{self.kind.lower()}s/{self.name}"
        return int(self.cluster.api.get(path)["spec"]["replicas"])

    @property
    def status(self) -> dict[str, Any]:
        path = f"/apis/headroom.dev/v1alpha1/namespaces/{self.namespace}/inferenceautoscalers/{self.name}"
        return self.cluster.api.get(path).get("status", {})

    def seen(self, seconds: float) -> set[int]:
        """Every replica count over a time."""
        found, end = set(), time.monotonic() + seconds
        while time.monotonic() < end:
            found.add(self.replicas)
            time.sleep(0.2)
        return found

    def settle(self) -> int:
        """Waits until the count has stayed the same for so long that only news can change it."""
        self.wait(lambda: len(self.seen(SETTLE_SECONDS)) == 1, "the count to settle")
        return self.replicas

    def wait_ready(self, count: int) -> None:
        self.wait(lambda: self.status.get("readyReplicas") == count, f"{count} ready replicas")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        """As the cluster's `wait_for`; a failure tells what the autoscaler said and logged."""
        try:
            self.cluster.wait_for(condition, what)
        except ClusterError as error:
            tail = self.cluster.component("autoscaler").tail()
            raise AssertionError(f"{error}; status {self.status}; log {tail}") from None
