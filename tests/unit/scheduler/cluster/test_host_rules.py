"""Which nodes are open to a pod by everything but their cards."""

from typing import Any

import pytest

from headroom import wire
from scheduler.cluster.host_rules import (
    beyond_judgement,
    host_feasible,
    host_refusal,
    keeps_itself_apart,
    selector_text,
    soft_preferences,
    wholly_judged,
)

GPU_TAINT = wire.Taint(key="nvidia.com/gpu", value="present", effect="NoSchedule")


def node(*taints: wire.Taint, cordoned: bool = False, **labels: str) -> wire.Node:
    return wire.Node(
        metadata=wire.Meta(name="n1", labels=labels), spec=wire.NodeSpec(unschedulable=cordoned, taints=tuple(taints))
    )


def tolerating(**fields: str) -> wire.Pod:
    return wire.Pod(spec=wire.PodSpec(tolerations=(wire.Toleration(**fields),)))


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Exists"}, True),
        ({"operator": "Exists"}, True),
        ({"key": "nvidia.com/gpu", "operator": "Equal", "value": "present"}, True),
        ({"key": "nvidia.com/gpu", "value": "present"}, True),
        ({"key": "nvidia.com/gpu", "value": "absent"}, False),
        ({"key": "amd.com/gpu", "operator": "Exists"}, False),
        ({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoExecute"}, False),
        ({"value": "present"}, False),
        ({"key": "nvidia.com/gpu", "operator": "Gt", "value": "1"}, False),
    ],
)
def test_taints(toleration: dict[str, str], tolerated: bool) -> None:
    assert host_feasible(tolerating(**toleration), node(GPU_TAINT)) is tolerated


def test_every_taint_that_repels_must_be_tolerated() -> None:
    pod = tolerating(key="nvidia.com/gpu", operator="Exists")
    assert not host_feasible(pod, node(GPU_TAINT, wire.Taint(key="maintenance", effect="NoExecute")))
    assert host_feasible(pod, node(GPU_TAINT, wire.Taint(key="maintenance", effect="PreferNoSchedule")))


def test_cordon() -> None:
    assert not host_feasible(wire.Pod(), node(cordoned=True))
    assert host_feasible(tolerating(key="node.kubernetes.io/unschedulable", operator="Exists"), node(cordoned=True))


def test_the_words_of_a_refusal_are_kube_schedulers() -> None:
    assert host_refusal(wire.Pod(), node(cordoned=True)) == "unschedulable (cordoned)"
    assert host_refusal(wire.Pod(), node(GPU_TAINT)) == "untolerated taint {nvidia.com/gpu: present}"
    selecting = wire.Pod(spec=wire.PodSpec(node_selector={"pool": "a"}))
    assert host_refusal(selecting, node(pool="b")) == "didn't match Pod's node affinity/selector"
    assert host_refusal(selecting, node(pool="a")) is None


def test_a_pod_bound_elsewhere() -> None:
    assert not host_feasible(wire.Pod(spec=wire.PodSpec(node_name="n2")), node())
    assert host_feasible(wire.Pod(spec=wire.PodSpec(node_name="n1")), node())


def rule(operator: str, *values: str, key: str = "zone") -> dict[str, Any]:
    return {"key": key, "operator": operator, "values": list(values)}


def requiring(*terms: list[dict[str, Any]], fields: bool = False) -> wire.Pod:
    where = "match_fields" if fields else "match_expressions"
    selector = wire.NodeSelector(
        node_selector_terms=tuple(
            wire.NodeSelectorTerm(**{where: tuple(wire.SelectorTerm(**one) for one in term)}) for term in terms
        )
    )
    affinity = wire.Affinity(node_affinity=wire.NodeAffinity(required=selector))
    return wire.Pod(spec=wire.PodSpec(affinity=affinity))


@pytest.mark.parametrize(
    ("terms", "matches"),
    [
        ([[rule("In", "a", "b")]], True),
        ([[rule("In", "c")]], False),
        ([[rule("NotIn", "c")]], True),
        ([[rule("NotIn", "a")]], False),
        ([[rule("NotIn", "a", key="none")]], True),
        ([[rule("Exists")]], True),
        ([[rule("Exists", key="none")]], False),
        ([[rule("DoesNotExist", key="none")]], True),
        ([[rule("DoesNotExist")]], False),
        ([[rule("Gt", "30", key="gib")]], True),
        ([[rule("Gt", "40", key="gib")]], False),
        ([[rule("Lt", "41", key="gib")]], True),
        ([[rule("Gt", "1", key="none")]], False),
        ([[rule("Gt", "1")]], False),
        ([[rule("Gt", key="gib")]], False),
        ([[rule("Near", "a")]], False),
        ([[rule("In", "a"), rule("In", "9", key="gib")]], False),
        ([[rule("In", "c")], [rule("In", "a")]], True),
        ([[]], False),
        ([], False),
    ],
)
def test_required_node_affinity(terms: list[list[dict[str, Any]]], matches: bool) -> None:
    assert host_feasible(requiring(*terms), node(zone="a", gib="40")) is matches


def test_affinity_to_a_node_by_name() -> None:
    assert host_feasible(requiring([rule("In", "n1", key="metadata.name")], fields=True), node())
    assert not host_feasible(requiring([rule("In", "n2", key="metadata.name")], fields=True), node())


def test_node_selector() -> None:
    pod = wire.Pod(spec=wire.PodSpec(node_selector={"zone": "a"}))
    assert host_feasible(pod, node(zone="a"))
    assert not host_feasible(pod, node(zone="b"))
    assert not host_feasible(pod, node())


PREFERRED, REQUIRED = (f"{kind}DuringSchedulingIgnoredDuringExecution" for kind in ("preferred", "required"))


@pytest.mark.parametrize(
    ("spec", "soft", "judged"),
    [
        ({}, False, True),
        ({"affinity": {"nodeAffinity": {PREFERRED: [{"weight": 1}]}}}, True, True),
        ({"affinity": {"podAffinity": {PREFERRED: [{"weight": 1}]}}}, True, True),
        ({"affinity": {"podAntiAffinity": {PREFERRED: [{"weight": 1}]}}}, True, True),
        ({"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": "host"}]}}}, False, False),
        ({"affinity": {"podAffinity": {REQUIRED: [{"topologyKey": "host"}]}}}, False, False),
        ({"topologySpreadConstraints": [{"whenUnsatisfiable": "ScheduleAnyway"}]}, True, True),
        ({"topologySpreadConstraints": [{"whenUnsatisfiable": "DoNotSchedule"}]}, False, False),
        ({"volumes": [{"name": "a", "emptyDir": {}}]}, False, True),
        ({"volumes": [{"name": "a", "persistentVolumeClaim": {"claimName": "b"}}]}, False, False),
        ({"volumes": [{"name": "a", "ephemeral": {"volumeClaimTemplate": {}}}]}, False, False),
        ({"resourceClaims": [{"name": "a"}]}, False, False),
        ({"schedulingGates": [{"name": "a"}]}, False, False),
        ({"containers": [{"ports": [{"containerPort": 8000}]}]}, False, True),
        ({"containers": [{"ports": [{"containerPort": 8000, "hostPort": 8000}]}]}, False, False),
        ({"containers": [{"resources": {"limits": {"nvidia.com/gpu": "1", "cpu": "1"}}}]}, False, True),
        ({"containers": [{"resources": {"limits": {"rdma/hca": "1"}}}]}, False, False),
        ({"initContainers": [{"resources": {"requests": {"ephemeral-storage": "1Gi"}}}]}, False, False),
    ],
)
def test_who_has_a_say(spec: dict[str, Any], soft: bool, judged: bool) -> None:
    pod = wire.POD.decode(wire.encode({"spec": spec}))
    assert (soft_preferences(pod), wholly_judged(pod)) == (soft, judged)


HOST = "kubernetes.io/hostname"


def apart(**term: Any) -> wire.Pod:
    spec = {"affinity": {"podAntiAffinity": {REQUIRED: [{"topologyKey": HOST, **term}]}}}
    return wire.POD.decode(wire.encode({"metadata": {"labels": {"app": "llm"}, "namespace": "ns"}, "spec": spec}))


@pytest.mark.parametrize(
    ("term", "itself", "beyond"),
    [
        ({"labelSelector": {"matchLabels": {"app": "llm"}}}, True, False),
        ({"labelSelector": {"matchLabels": {"app": "db"}}}, False, False),
        ({"labelSelector": {}}, True, False),
        ({}, False, False),
        ({"labelSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["llm"]}]}}, True, False),
        ({"labelSelector": {"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}}, False, False),
        ({"labelSelector": {}, "namespaces": ["ns", "other"]}, True, False),
        ({"labelSelector": {}, "namespaces": ["other"]}, False, False),
        ({"labelSelector": {}, "namespaceSelector": {}}, False, True),
        ({"labelSelector": {}, "matchLabelKeys": ["pod-template-hash"]}, False, True),
        ({"labelSelector": {}, "topologyKey": "zone"}, False, True),
    ],
)
def test_pods_that_keep_their_own_kind_off_the_host(term: dict[str, Any], itself: bool, beyond: bool) -> None:
    pod = apart(**term)
    assert keeps_itself_apart(pod) is itself
    assert bool(beyond_judgement(pod)) is beyond
    assert not wholly_judged(pod)  # naming ahead lists no pods


def test_a_label_selector_in_a_query() -> None:
    rules = [("a", "In", ["x", "y"]), ("b", "NotIn", ["z"]), ("c", "Exists", []), ("d", "DoesNotExist", [])]
    terms = tuple(
        wire.SelectorTerm(key=key, operator=operator, values=tuple(values)) for key, operator, values in rules
    )
    assert selector_text(wire.LabelSelector({"app": "llm"}, terms)) == "app=llm,a in (x,y),b notin (z),c,!d"
    assert selector_text(wire.LabelSelector()) == ""
