"""Whether a node would take a pod by everything that is not its cards: taints, selectors, affinity, cordon. Pure.

kube-scheduler judges all this itself whenever it asks the extender. It is judged here only where Headroom looks for a
node on its own: how many more pods fit, and naming a node ahead of the scheduler. Both would rather miss a node than
name a wrong one, so whatever is not understood counts as a refusal.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from headroom import names, wire
from headroom.accelerators import BY_RESOURCE

_REPELLING: Final = ("NoSchedule", "NoExecute")
_CORDON: Final = wire.Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
_COUNTED_RESOURCES: Final = frozenset(
    (
        "cpu", "memory", *BY_RESOURCE, names.RESOURCE_GPU, names.RESOURCE_VRAM, names.RESOURCE_GPU_MILLI,
        names.RESOURCE_HAMI_MEMORY, names.RESOURCE_HAMI_MEMORY_PERCENT, names.RESOURCE_GPUSHARE_MEMORY,
    )
)  # fmt: skip


def host_feasible(pod: wire.Pod, node: wire.Node) -> bool:
    """Whether the node is open to the pod by cordon, taints, node selector and required node affinity."""
    spec = pod.spec
    if spec.node_name and spec.node_name != node.metadata.name:
        return False
    taints = [taint for taint in node.spec.taints if taint.effect in _REPELLING]
    if node.spec.unschedulable:
        taints.append(_CORDON)
    if not all(any(_tolerates(toleration, taint) for toleration in spec.tolerations) for taint in taints):
        return False
    labels = node.metadata.labels
    if any(labels.get(key) != value for key, value in spec.node_selector.items()):
        return False
    affinity = spec.affinity.node_affinity if spec.affinity else None
    if affinity is None or affinity.required is None:
        return True
    return any(_term_matches(term, labels, node.metadata.name) for term in affinity.required.node_selector_terms)


def soft_preferences(pod: wire.Pod) -> bool:
    """Whether kube-scheduler's own scores matter to the pod: preferred affinities or spread constraints that may give."""
    affinity = pod.spec.affinity
    if affinity is not None and any(
        kind is not None and kind.preferred
        for kind in (affinity.node_affinity, affinity.pod_affinity, affinity.pod_anti_affinity)
    ):
        return True
    return any(rule.when_unsatisfiable == "ScheduleAnyway" for rule in pod.spec.topology_spread_constraints)


def wholly_judged(pod: wire.Pod) -> bool:
    """Whether `host_feasible`, CPU and memory are all that limits the pod's nodes besides its cards.

    False for inter-pod affinity, hard spread constraints, claimed volumes and devices, host ports, scheduling gates and
    further extended resources: for such pods only kube-scheduler can say which node will do.
    """
    spec = pod.spec
    if spec.scheduling_gates or spec.resource_claims:
        return False
    affinity = spec.affinity
    if affinity and any(
        kind is not None and kind.required for kind in (affinity.pod_affinity, affinity.pod_anti_affinity)
    ):
        return False
    if any(rule.when_unsatisfiable != "ScheduleAnyway" for rule in spec.topology_spread_constraints):
        return False
    if any(volume.persistent_volume_claim or volume.ephemeral for volume in spec.volumes):
        return False
    return all(_only_counted(container) for container in (*spec.containers, *spec.init_containers))


def _only_counted(container: wire.Container) -> bool:
    named = (*container.resources.limits, *container.resources.requests)
    return all(name in _COUNTED_RESOURCES for name in named) and not any(port.host_port for port in container.ports)


def _tolerates(toleration: wire.Toleration, taint: wire.Taint) -> bool:
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    match toleration.operator:
        case "Exists":
            return True
        case "" | "Equal":
            return bool(toleration.key) and toleration.value == taint.value
        case _:
            return False


def _term_matches(term: wire.NodeSelectorTerm, labels: Mapping[str, str], name: str) -> bool:
    if not term.match_expressions and not term.match_fields:
        return False
    return _all_hold(term.match_expressions, labels) and _all_hold(term.match_fields, {"metadata.name": name})


def _all_hold(rules: Iterable[wire.SelectorTerm], labels: Mapping[str, str]) -> bool:
    return all(_holds(rule, labels.get(rule.key)) for rule in rules)


def _holds(rule: wire.SelectorTerm, value: str | None) -> bool:
    match rule.operator:
        case "In":
            return value in rule.values
        case "NotIn":
            return value not in rule.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" if value is not None and len(rule.values) == 1:
            return _compares(rule.operator, value, rule.values[0])
        case _:
            return False


def _compares(operator: str, value: str, bound: str) -> bool:
    try:
        return int(value) > int(bound) if operator == "Gt" else int(value) < int(bound)
    except ValueError:
        return False
