"""What Cluster Autoscaler does in one loop, in small: pods that kube-scheduler calls unschedulable are tried on the nodes that are
there, and what fits on none of them on new nodes made from a template.

It counts what nodes advertise and knows selectors, taints and required anti-affinity, as the real one does by running
kube-scheduler's own filters. Of extenders it knows nothing, as the real one.
"""

import copy
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Final

from headroom.units import parse_quantity

Object = dict[str, Any]
LOWEST_PRIORITY: Final = -10
"""Cluster Autoscaler's --expendable-pods-priority-cutoff: pods below it are of no concern."""


def unschedulable(pods: Iterable[Object]) -> list[Object]:
    """Pods that wait although kube-scheduler has looked at them."""
    return [
        pod
        for pod in pods
        if not pod["spec"].get("nodeName")
        and pod["spec"].get("priority", 0) >= LOWEST_PRIORITY
        and any(
            (found["type"], found["status"], found.get("reason")) == ("PodScheduled", "False", "Unschedulable")
            for found in pod.get("status", {}).get("conditions", [])
        )
    ]


def nodes_to_add(nodes: Iterable[Object], pods: Iterable[Object], template: Object, most: int = 10) -> int:
    """How many nodes like the template the pods need that fit on none of those that are there."""
    all_pods = list(pods)
    there = [
        _Room(node, [pod for pod in all_pods if pod["spec"].get("nodeName") == node["metadata"]["name"]])
        for node in nodes
    ]
    added: list[_Room] = []
    for pod in unschedulable(all_pods):
        room = next((room for room in (*there, *added) if room.takes(pod)), None)
        if room is None and len(added) < most and (new := _Room(copy.deepcopy(template), [])).takes(pod):
            added.append(new)
            room = new
        if room is not None:
            room.pods.append(pod)
    return len(added)


class _Room:
    """A node, and the pods that are on it or would be."""

    def __init__(self, node: Object, pods: list[Object]) -> None:
        self.node, self.pods = node, pods

    def takes(self, pod: Object) -> bool:
        labels, spec = self.node["metadata"].get("labels", {}), pod["spec"]
        return (
            all(labels.get(key) == value for key, value in spec.get("nodeSelector", {}).items())
            and self._has_resources(pod)
            and all(_tolerates(spec, taint) for taint in self.node["spec"].get("taints", []))
            and not any(_repels(term, other) for term in _apart(spec) for other in self.pods)
        )

    def _has_resources(self, pod: Object) -> bool:
        allocatable = self.node["status"]["allocatable"]
        return all(
            name in allocatable
            and amount + sum((_requests(other).get(name, Fraction(0)) for other in self.pods), Fraction(0))
            <= parse_quantity(str(allocatable[name]))
            for name, amount in _requests(pod).items()
            if amount
        )


def _requests(pod: Object) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {}
    for container in pod["spec"]["containers"]:
        for name, amount in container.get("resources", {}).get("requests", {}).items():
            total[name] = total.get(name, Fraction(0)) + parse_quantity(str(amount))
    return total


def _tolerates(spec: Object, taint: Object) -> bool:
    if taint["effect"] == "PreferNoSchedule":
        return True
    return any(
        found.get("key") == taint["key"] and found.get("operator", "Equal") == "Exists"
        for found in spec.get("tolerations", [])
    )


def _apart(spec: Object) -> list[Object]:
    terms: list[Object] = (
        spec.get("affinity", {}).get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    )
    return terms


def _repels(term: Object, other: Object) -> bool:
    """Of a term for all namespaces, with labels that must match."""
    assert term["namespaceSelector"] == {}
    labels = other["metadata"].get("labels", {})
    return all(labels.get(key) == value for key, value in term["labelSelector"]["matchLabels"].items())
