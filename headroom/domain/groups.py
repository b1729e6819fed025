"""Which pods must be placed together or not at all: what a pod says of its group, in the words of whoever made it. Pure.

A pod names its group by labels, annotations or fields. How many members there must be at least stands on the pod itself for some
kinds; for the others it stands in an object that the pod names (`Source`), whose content comes as an argument (`number_in`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from headroom import names, wire
from headroom.domain.labels.topology import is_topology, levels_words
from headroom.domain.request import RequestError

MOST_MEMBERS: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z0-9]([-._A-Za-z0-9]{0,251}[A-Za-z0-9])?")  # it becomes part of a path
_COSCHEDULING: Final = ("scheduling.x-k8s.io/pod-group", "pod-group.scheduling.sigs.k8s.io")
_VOLCANO: Final = ("scheduling.k8s.io/group-name", "scheduling.volcano.sh/group-name")
_LWS: Final = "leaderworkerset.sigs.k8s.io/"
_JOBSET: Final = "jobset.sigs.k8s.io/"
_KUBEFLOW: Final = "training.kubeflow.org/"
_KUBEFLOW_JOBS: Final = {
    "PyTorchJob": "pytorchjobs", "TFJob": "tfjobs", "MPIJob": "mpijobs", "XGBoostJob": "xgboostjobs",
    "PaddleJob": "paddlejobs", "JAXJob": "jaxjobs",
}  # fmt: skip
_KUBEFLOW_API: Final = re.compile(r"kubeflow\.org/v[a-z0-9]{1,15}")
_SCHEDULING: Final = ("scheduling.k8s.io/v1beta1", "scheduling.k8s.io/v1alpha3", "scheduling.k8s.io/v1alpha2")
_RAY: Final = "ray.io/"


class GroupKind(StrEnum):
    """Who made the group."""

    PODS = "headroom.dev/group"
    KUBERNETES = "PodGroup (scheduling.k8s.io)"
    WORKLOAD = "Workload (scheduling.k8s.io)"
    COSCHEDULING = "PodGroup (scheduling.x-k8s.io)"
    VOLCANO = "PodGroup (scheduling.volcano.sh)"
    LEADER_WORKER_SET = "LeaderWorkerSet"
    JOB_SET = "JobSet"
    KUBEFLOW = "Kubeflow job"
    MPI_JOB = "MPIJob"
    RAY = "RayCluster"


@dataclass(frozen=True, slots=True)
class Source:
    """The object in which the number of members is written."""

    versions: tuple[str, ...]
    """Group and version of its API, the newest first: the first that the cluster serves is read."""
    plural: str
    name: str
    part: str = ""
    """Which of the object's groups it is, where it has several."""

    def path(self, version: str, namespace: str) -> str:
        """Path of the object at the API server."""
        return f"/apis/{version}/namespaces/{namespace}/{self.plural}/{self.name}"


@dataclass(frozen=True, slots=True)
class Group:
    """What one pod says of its group."""

    namespace: str
    name: str
    kind: GroupKind
    min_count: int | None = None
    """So many members must be placed together; None where only the object tells."""
    source: Source | None = None
    """The object that tells, or that may say otherwise than the pod."""
    topology: str = ""
    """Within what all members must be: a level or the key of a label, see `headroom.domain.labels.topology`. Empty: wherever they fit."""

    @property
    def key(self) -> tuple[str, GroupKind, str]:
        """Pods with equal keys are members of one group."""
        return self.namespace, self.kind, self.name

    @property
    def words(self) -> str:
        """The group as people name it."""
        return f"group {self.namespace}/{self.name}"


class GroupError(RequestError):
    """A group that cannot be understood; names the pod or the object, the field and the value."""


def group_of(pod: wire.Pod) -> Group | None:
    """The group that a pod belongs to, None for one that stands alone. Raises GroupError.

    If a pod says it in several ways, the most explicit one counts: its own annotation first, what a controller wrote last.
    """
    group = _named(pod)
    if group is None:
        return None
    topology = _topology(pod)
    if not topology:
        return group
    if not is_topology(topology):
        raise GroupError(
            pod.key, "", names.GROUP_TOPOLOGY, topology[:63],
            f"is neither a level ({levels_words()}) nor the key of a node label",
        )  # fmt: skip
    return replace(group, topology=topology)


def topology_alone(pod: wire.Pod) -> tuple[str, ...]:
    """What a pod that is in no group says of its group's topology, in words: it has no effect."""
    topology = _topology(pod)
    return (f"annotation {names.GROUP_TOPOLOGY}: {topology}: the pod is in no group",) if topology else ()


def _topology(pod: wire.Pod) -> str:
    return pod.metadata.annotations.get(names.GROUP_TOPOLOGY, pod.metadata.labels.get(names.GROUP_TOPOLOGY, ""))


def _named(pod: wire.Pod) -> Group | None:
    """The group without its topology."""
    meta, spec = pod.metadata, pod.spec
    labels, annotations = meta.labels, meta.annotations
    own = annotations.get(names.GROUP, labels.get(names.GROUP))
    if own is not None:
        return _of_pods(pod, own) if own else None
    namespace = meta.namespace or "default"
    if spec.scheduling_group is not None and (name := spec.scheduling_group.pod_group_name):
        _check_name(pod, "spec.schedulingGroup.podGroupName", name)
        return Group(namespace, name, GroupKind.KUBERNETES, source=Source(_SCHEDULING, "podgroups", name))
    if spec.workload_ref is not None and (name := spec.workload_ref.name):
        ref = spec.workload_ref
        source = _source(pod, "spec.workloadRef.name", "scheduling.k8s.io/v1alpha1", "workloads", name, ref.pod_group)
        whole = "/".join(part for part in (name, ref.pod_group, ref.pod_group_replica_key) if part)
        return Group(namespace, whole, GroupKind.WORKLOAD, source=source)
    if not labels and not annotations:
        return None
    for key in _COSCHEDULING:
        if name := labels.get(key, ""):
            source = _source(pod, key, "scheduling.x-k8s.io/v1alpha1", "podgroups", name)
            return Group(namespace, name, GroupKind.COSCHEDULING, source=source)
    for key in _VOLCANO:
        if name := annotations.get(key, ""):
            source = _source(pod, key, "scheduling.volcano.sh/v1beta1", "podgroups", name)
            return Group(namespace, name, GroupKind.VOLCANO, source=source)
    return _of_controller(pod, namespace) if labels else None


def _source(pod: wire.Pod, field: str, version: str, plural: str, name: str, part: str = "") -> Source:
    _check_name(pod, field, name)
    return Source((version,), plural, name, part)


def _check_name(pod: wire.Pod, field: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise GroupError(pod.key, "", field, name[:63], "is not a name")


def _of_pods(pod: wire.Pod, name: str) -> Group:
    meta = pod.metadata
    _check_name(pod, names.GROUP, name)
    size = meta.annotations.get(names.GROUP_SIZE, meta.labels.get(names.GROUP_SIZE))
    if size is None:
        raise GroupError(pod.key, "", names.GROUP, name, f"how many pods it takes is missing: {names.GROUP_SIZE}")
    return Group(meta.namespace or "default", name, GroupKind.PODS, _number(size, pod.key, names.GROUP_SIZE))


def _of_controller(pod: wire.Pod, namespace: str) -> Group | None:
    labels = pod.metadata.labels
    if name := labels.get(_LWS + "name", ""):
        return _of_leader_worker_set(pod, namespace, name)
    if name := labels.get(_JOBSET + "jobset-name", ""):
        part = labels.get(_JOBSET + "replicatedjob-name", "")
        source = _source(pod, _JOBSET + "jobset-name", "jobset.x-k8s.io/v1alpha2", "jobsets", name, part)
        return Group(namespace, f"{name}/{part}", GroupKind.JOB_SET, source=source)
    if name := labels.get(_KUBEFLOW + "job-name", ""):
        return _of_kubeflow(pod, namespace, name)
    if (name := labels.get(_RAY + "cluster", "")) and labels.get(_RAY + "node-type") == "worker":
        part = labels.get(_RAY + "group", "")
        source = _source(pod, _RAY + "cluster", "ray.io/v1", "rayclusters", name, part)
        return Group(namespace, f"{name}/{part}", GroupKind.RAY, source=source)
    return None


def _of_leader_worker_set(pod: wire.Pod, namespace: str, name: str) -> Group | None:
    """A replica: a leader and its workers. Those of an exclusive one are made after the leader has its node: it goes first."""
    labels, annotations = pod.metadata.labels, pod.metadata.annotations
    if annotations.get(_LWS + "exclusive-topology") or annotations.get(_LWS + "subgroup-exclusive-topology"):
        return None
    size = annotations.get(_LWS + "size", labels.get(_LWS + "size"))
    index = labels.get(_LWS + "group-index") or labels.get(_LWS + "group-key")
    if size is None or index is None:
        return None
    source = _source(pod, _LWS + "name", "leaderworkerset.x-k8s.io/v1", "leaderworkersets", name)
    count = _number(size, pod.key, _LWS + "size")
    return Group(namespace, f"{name}/{index}", GroupKind.LEADER_WORKER_SET, count, source)


def _of_kubeflow(pod: wire.Pod, namespace: str, name: str) -> Group | None:
    """A job of the training operator, or of the MPI operator, whose launcher comes once its workers run: it is no member."""
    for owner in pod.metadata.owner_references:
        plural = _KUBEFLOW_JOBS.get(owner.kind)
        if plural is None or not _KUBEFLOW_API.fullmatch(owner.api_version):
            continue
        mpi = owner.kind == "MPIJob"
        if mpi and pod.metadata.labels.get(_KUBEFLOW + "job-role", "worker") != "worker":
            return None
        kind = GroupKind.MPI_JOB if mpi else GroupKind.KUBEFLOW
        source = _source(pod, "metadata.ownerReferences.name", owner.api_version, plural, owner.name or name)
        return Group(namespace, name, kind, source=source)
    return None


def number_in(group: Group, found: Mapping[str, Any]) -> int:
    """How many members must be placed together by the object that the group names; 1 where each pod stands alone.

    Raises GroupError for an object that does not say it, or says it wrongly.
    """
    source = group.source
    assert source is not None
    where = f"{source.plural}/{source.name}"
    spec = _map(found.get("spec"))
    match group.kind:
        case GroupKind.KUBERNETES:
            policy = _map(spec.get("schedulingPolicy"))
            return _of_policy(policy, where, "spec.schedulingPolicy.gang.minCount")
        case GroupKind.WORKLOAD:
            for each in _maps(spec.get("podGroups")):
                if each.get("name") == source.part:
                    return _of_policy(
                        _map(each.get("policy")), where, f"spec.podGroups[{source.part}].policy.gang.minCount"
                    )
            raise GroupError(where, "", "spec.podGroups", source.part, "there is no group of this name")
        case GroupKind.COSCHEDULING | GroupKind.VOLCANO:
            return _number(spec.get("minMember", 1), where, "spec.minMember")
        case GroupKind.LEADER_WORKER_SET:
            if spec.get("startupPolicy") == "LeaderReady":
                return 1  # workers are made once the leader runs
            size = _map(spec.get("leaderWorkerTemplate")).get("size", 1)
            return _number(size, where, "spec.leaderWorkerTemplate.size")
        case GroupKind.JOB_SET:
            return _of_job_set(spec, source, where)
        case GroupKind.KUBEFLOW | GroupKind.MPI_JOB:
            return _of_job(group.kind, spec, where)
        case _:
            return _of_ray(_map(_map(found.get("metadata")).get("labels")), spec, source, where)


def _of_policy(policy: Mapping[str, Any], where: str, field: str) -> int:
    """A policy of Kubernetes' own: without a gang, each pod stands alone."""
    gang = policy.get("gang")
    return 1 if gang is None else _number(_map(gang).get("minCount", 0), where, field)


def _of_job_set(spec: Mapping[str, Any], source: Source, where: str) -> int:
    """The pods of one replicated job: others may have to wait for it (`dependsOn`, `startupPolicy`)."""
    for each in _maps(spec.get("replicatedJobs")):
        if each.get("name") == source.part:
            job = _map(_map(each.get("template")).get("spec"))
            field = f"spec.replicatedJobs[{source.part}]"
            at_once = _number(job.get("parallelism", 1), where, f"{field}.template.spec.parallelism")
            if job.get("completions") is not None:
                at_once = min(at_once, _number(job["completions"], where, f"{field}.template.spec.completions"))
            return at_once * _number(each.get("replicas", 1), where, f"{field}.replicas")
    raise GroupError(where, "", "spec.replicatedJobs", source.part, "there is no job of this name")


def _of_job(kind: GroupKind, spec: Mapping[str, Any], where: str) -> int:
    """The replicas of a Kubeflow job, or the fewest that it is content with; of an MPIJob the workers alone."""
    replicas: dict[str, int] = {}
    for field, specs in spec.items():
        if field.endswith("ReplicaSpecs"):
            for role, each in _map(specs).items():
                replicas[role] = _number(_map(each).get("replicas", 1), where, f"spec.{field}.{role}.replicas")
    if kind is GroupKind.MPI_JOB:
        replicas.pop("Launcher", None)
    total = sum(replicas.values())
    if not total:
        raise GroupError(where, "", "spec", "ReplicaSpecs", "there are none")
    policy = _map(_map(spec.get("runPolicy")).get("schedulingPolicy"))
    if policy.get("minAvailable") is not None:
        return min(_number(policy["minAvailable"], where, "spec.runPolicy.schedulingPolicy.minAvailable"), total)
    elastic = _map(spec.get("elasticPolicy"))
    if elastic.get("minReplicas") is not None:
        fewest = _number(elastic["minReplicas"], where, "spec.elasticPolicy.minReplicas")
        return min(fewest + total - replicas.get("Worker", 0), total)
    return total


def _of_ray(labels: Mapping[str, Any], spec: Mapping[str, Any], source: Source, where: str) -> int:
    """The workers of one group of a RayCluster that asks for gangs; Ray itself is content with fewer."""
    if str(labels.get(_RAY + "gang-scheduling-enabled", "")).lower() != "true":
        return 1
    for each in _maps(spec.get("workerGroupSpecs")):
        if each.get("groupName") == source.part:
            field = "minReplicas" if spec.get("enableInTreeAutoscaling") else "replicas"
            hosts = _number(each.get("numOfHosts", 1), where, f"spec.workerGroupSpecs[{source.part}].numOfHosts")
            count = each.get(field, each.get("minReplicas", 1))
            if count == 0:
                return 1  # a group that may be empty asks for nothing together
            return hosts * _number(count, where, f"spec.workerGroupSpecs[{source.part}].{field}")
    raise GroupError(where, "", "spec.workerGroupSpecs", source.part, "there is no group of this name")


def _number(value: Any, where: str, field: str) -> int:
    text = str(value).strip()
    is_number = (
        text.isascii() and text.isdecimal() and len(text) < 20
    )  # Python refuses to read a number of thousands of digits
    if isinstance(value, bool) or not is_number or not 1 <= int(text) <= MOST_MEMBERS:
        raise GroupError(where, "", field, text[:63], f"is not a number of pods from 1 to {MOST_MEMBERS}")
    return int(text)


def _map(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _maps(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
