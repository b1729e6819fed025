"""What doctor looks at: one cluster at one moment. Pure values."""

from dataclasses import dataclass, field
from typing import Any, Final

from headroom import wire

Object = dict[str, Any]

LISTS: Final = {
    "deployments": "/apis/apps/v1/namespaces/{system}/deployments",
    "daemonsets": "/apis/apps/v1/namespaces/{system}/daemonsets",
    "system_pods": "/api/v1/namespaces/{system}/pods",
    "leases": "/apis/coordination.k8s.io/v1/namespaces/{system}/leases",
    "mutating_policies": "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicies",
    "mutating_bindings": "/apis/admissionregistration.k8s.io/v1/mutatingadmissionpolicybindings",
    "validating_policies": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
    "validating_bindings": "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
    "runtime_classes": "/apis/node.k8s.io/v1/runtimeclasses",
    "cluster_policies": "/apis/nvidia.com/v1/clusterpolicies",
    "resource_slices": "/apis/resource.k8s.io/v1/resourceslices",
    "autoscalers": "/apis/headroom.dev/v1alpha1/inferenceautoscalers",
    "crds": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
}
"""Lists that are read as they are; one that is not served counts as empty and is noted in `absent`."""


@dataclass(slots=True)
class Metrics:
    """What Prometheus has of Headroom's world."""

    reachable: bool = True
    trouble: str = ""
    jobs_down: dict[str, int] = field(default_factory=dict)
    """Scrape jobs with targets that do not answer, and how many."""
    agents: int = 0
    dcgm: int = 0
    engines: dict[str, int] = field(default_factory=dict)
    """Engine -> pods whose metrics are there."""


@dataclass(slots=True)
class Facts:
    """One look at a cluster. `now` is in Unix seconds."""

    system: str
    now: float
    version: str = ""
    lists: dict[str, list[Object]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    forbidden: list[str] = field(default_factory=list)
    """What this account may not read, so that nothing is said of it."""
    unread: dict[str, str] = field(default_factory=dict)
    """What the API server did not answer for, and its words; nothing is said of it either."""
    nodes: list[wire.Node] = field(default_factory=list)
    pods: list[wire.Pod] = field(default_factory=list)
    metrics: Metrics | None = None

    def named(self, kind: str, name: str) -> Object | None:
        """An object of a list by name."""
        return next((one for one in self.lists.get(kind, ()) if (one.get("metadata") or {}).get("name") == name), None)
