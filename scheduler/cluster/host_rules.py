"""Whether a node would take a pod by everything that is not its cards: taints, selectors, affinity, cordon. Pure.

kube-scheduler judges all this itself whenever it asks the extender. It is judged here only where Headroom looks for a
node on its own: how many more pods fit, and naming a node ahead of the scheduler. Both would rather miss a node than
name a wrong one, so whatever is not understood counts as a refusal.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headroom import names, wire
from headroom.domain.accelerators import BY_RESOURCE

HOSTNAME: Final = "kubernetes.io/hostname"
_NOT_MATCHED: Final = "didn't match Pod's node affinity/selector"
_REPELLING: Final = ("NoSchedule", "NoExecute")
_COUNTED_RESOURCES: Final = frozenset(
    (
        "cpu", "memory", *BY_RESOURCE, names.RESOURCE_GPU, names.RESOURCE_VRAM, names.RESOURCE_GPU_MILLI,
        names.RESOURCE_HAMI_MEMORY, names.RESOURCE_HAMI_MEMORY_PERCENT, names.RESOURCE_GPUSHARE_MEMORY,
    )
)  # fmt: skip


def host_feasible(pod: wire.Pod, node: wire.Node) -> bool:
    """Whether the node is open to the pod by cordon, taints, node selector and required node affinity."""
    return host_refusal(pod, node) is None


def host_refusal(pod: wire.Pod, node: wire.Node) -> str | None:
    """Why kube-scheduler does not offer the node to the pod, in its words; None where it is open by all that is judged here."""
    spec = pod.spec
    if spec.node_name and spec.node_name != node.metadata.name:
        return "didn't match the requested node name"
    if node.spec.unschedulable and not _tolerates(spec.tolerations, wire.CORDON):
        return "unschedulable (cordoned)"
    for taint in node.spec.taints:
        if taint.effect in _REPELLING and not _tolerates(spec.tolerations, taint):
            return f"untolerated taint {{{taint.key}: {taint.value}}}"
    labels = node.metadata.labels
    if any(labels.get(key) != value for key, value in spec.node_selector.items()):
        return _NOT_MATCHED
    affinity = spec.affinity.node_affinity if spec.affinity else None
    if affinity is None or affinity.required is None:
        return None
    terms = affinity.required.node_selector_terms
    return None if any(_term_matches(term, labels, node.metadata.name) for term in terms) else _NOT_MATCHED


def _tolerates(tolerations: Iterable[wire.Toleration], taint: wire.Taint) -> bool:
    return any(toleration.tolerates(taint) for toleration in tolerations)


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

    For others only kube-scheduler can say which node will do.
    """
    return not beyond_judgement(pod) and not anti_affinity(pod)


def beyond_judgement(pod: wire.Pod) -> list[str]:
    """What limits the pod's nodes besides its cards, CPU, memory, `host_feasible` and `kept_apart`, in words."""
    spec = pod.spec
    containers = (*spec.containers, *spec.init_containers)
    found = {
        "scheduling gates": bool(spec.scheduling_gates),
        "resource claims": bool(spec.resource_claims),
        "pod affinity": bool(spec.affinity and spec.affinity.pod_affinity and spec.affinity.pod_affinity.required),
        "pod anti-affinity other than by host and label": len(kept_apart(pod)) < len(anti_affinity(pod)),
        "topology spread": any(
            rule.when_unsatisfiable != "ScheduleAnyway" for rule in spec.topology_spread_constraints
        ),
        "volumes": any(volume.persistent_volume_claim or volume.ephemeral for volume in spec.volumes),
        "host ports": any(port.host_port for container in containers for port in container.ports),
        "further resources": not all(_only_counted(container) for container in containers),
    }
    return [words for words, there in found.items() if there]


def anti_affinity(pod: wire.Pod) -> Sequence[wire.PodAffinityTerm]:
    """The terms of the pod's required anti-affinity."""
    affinity = pod.spec.affinity
    return affinity.pod_anti_affinity.required if affinity and affinity.pod_anti_affinity else ()


def kept_apart(pod: wire.Pod) -> list[wire.PodAffinityTerm]:
    """The terms of the pod's required anti-affinity that say, by label and in named namespaces: not on one host."""
    return [
        term
        for term in anti_affinity(pod)
        if term.topology_key == HOSTNAME
        and term.namespace_selector is None
        and not term.match_label_keys
        and not term.mismatch_label_keys
    ]


def keeps_itself_apart(pod: wire.Pod) -> bool:
    """Whether two pods like this one must not share a host."""
    labels, own = pod.metadata.labels, pod.metadata.namespace or "default"
    return any(
        term.label_selector is not None and own in (term.namespaces or (own,)) and matches(term.label_selector, labels)
        for term in kept_apart(pod)
    )


def matches(selector: wire.LabelSelector, labels: Mapping[str, str]) -> bool:
    """Whether a pod with these labels is chosen; an empty selector chooses all."""
    wanted = selector.match_labels.items()
    return all(labels.get(key) == value for key, value in wanted) and _all_hold(selector.match_expressions, labels)


def selector_text(selector: wire.LabelSelector) -> str:
    """A label selector as the API server takes it in a query."""
    parts = [f"{key}={value}" for key, value in selector.match_labels.items()]
    for rule in selector.match_expressions:
        match rule.operator:
            case "Exists":
                parts.append(rule.key)
            case "DoesNotExist":
                parts.append(f"!{rule.key}")
            case _:
                parts.append(f"{rule.key} {rule.operator.lower()} ({','.join(rule.values)})")
    return ",".join(parts)


def _only_counted(container: wire.Container) -> bool:
    named = (*container.resources.limits, *container.resources.requests)
    return all(name in _COUNTED_RESOURCES for name in named)


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
