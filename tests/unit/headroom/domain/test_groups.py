"""What pods say of their groups, row by row, and what the objects that they name say of the number of members."""

from typing import Any

import pytest

from headroom import wire
from headroom.domain.groups import Group, GroupError, GroupKind, group_of, number_in

Object = dict[str, Any]
LWS, JOBSET, KUBEFLOW, RAY = "leaderworkerset.sigs.k8s.io/", "jobset.sigs.k8s.io/", "training.kubeflow.org/", "ray.io/"


def pod(**parts: Any) -> wire.Pod:
    """A pod; `labels`, `annotations`, `owner` (version, kind) and the rest of its spec."""
    meta: Object = {"name": "p", "namespace": parts.pop("namespace", "models")}
    meta["labels"], meta["annotations"] = parts.pop("labels", {}), parts.pop("annotations", {})
    if "owner" in parts:
        version, kind = parts.pop("owner")
        meta["ownerReferences"] = [{"apiVersion": version, "kind": kind, "name": "job", "uid": "u", "controller": True}]
    return wire.POD.decode(wire.encode({"metadata": meta, "spec": parts}))


def read(body: wire.Pod) -> tuple[GroupKind, str, int | None, str]:
    """Kind, name, number of members, and the path of the object that tells it."""
    group = group_of(body)
    assert group is not None
    source = group.source
    return (
        group.kind,
        group.name,
        group.min_count,
        "" if source is None else source.path(source.versions[0], group.namespace),
    )


OWN = {"headroom.dev/group": "g", "headroom.dev/group-size": "4"}
LEADER = {LWS + "name": "llama", LWS + "group-index": "1", LWS + "group-key": "abc"}
SIZED = {LWS + "size": "2"}
IN = "/namespaces/models/"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (pod(annotations=OWN), (GroupKind.PODS, "g", 4, "")),
        (pod(labels=OWN), (GroupKind.PODS, "g", 4, "")),
        (pod(labels={"headroom.dev/group": "g"}, annotations={"headroom.dev/group-size": "2"}), (GroupKind.PODS, "g", 2, "")),
        (
            pod(schedulingGroup={"podGroupName": "pg"}),
            (GroupKind.KUBERNETES, "pg", None, f"/apis/scheduling.k8s.io/v1beta1{IN}podgroups/pg"),
        ),
        (
            pod(workloadRef={"name": "w", "podGroup": "workers", "podGroupReplicaKey": "3"}),
            (GroupKind.WORKLOAD, "w/workers/3", None, f"/apis/scheduling.k8s.io/v1alpha1{IN}workloads/w"),
        ),
        (
            pod(labels={"scheduling.x-k8s.io/pod-group": "pg"}),
            (GroupKind.COSCHEDULING, "pg", None, f"/apis/scheduling.x-k8s.io/v1alpha1{IN}podgroups/pg"),
        ),
        (
            pod(annotations={"scheduling.k8s.io/group-name": "pg"}),
            (GroupKind.VOLCANO, "pg", None, f"/apis/scheduling.volcano.sh/v1beta1{IN}podgroups/pg"),
        ),
        (
            pod(annotations={"scheduling.volcano.sh/group-name": "pg"}),
            (GroupKind.VOLCANO, "pg", None, f"/apis/scheduling.volcano.sh/v1beta1{IN}podgroups/pg"),
        ),
        (
            pod(labels=LEADER, annotations=SIZED),
            (GroupKind.LEADER_WORKER_SET, "llama/1", 2, f"/apis/leaderworkerset.x-k8s.io/v1{IN}leaderworkersets/llama"),
        ),
        (
            pod(labels={JOBSET + "jobset-name": "js", JOBSET + "replicatedjob-name": "workers"}),
            (GroupKind.JOB_SET, "js/workers", None, f"/apis/jobset.x-k8s.io/v1alpha2{IN}jobsets/js"),
        ),
        (
            pod(labels={KUBEFLOW + "job-name": "job"}, owner=("kubeflow.org/v1", "PyTorchJob")),
            (GroupKind.KUBEFLOW, "job", None, f"/apis/kubeflow.org/v1{IN}pytorchjobs/job"),
        ),
        (
            pod(labels={KUBEFLOW + "job-name": "job", KUBEFLOW + "job-role": "worker"}, owner=("kubeflow.org/v2beta1", "MPIJob")),
            (GroupKind.MPI_JOB, "job", None, f"/apis/kubeflow.org/v2beta1{IN}mpijobs/job"),
        ),
        (
            pod(labels={RAY + "cluster": "rc", RAY + "node-type": "worker", RAY + "group": "gpu"}),
            (GroupKind.RAY, "rc/gpu", None, f"/apis/ray.io/v1{IN}rayclusters/rc"),
        ),
    ],
)  # fmt: skip
def test_a_group_in_every_way_to_say_it(body: wire.Pod, expected: tuple[GroupKind, str, int | None, str]) -> None:
    assert read(body) == expected


@pytest.mark.parametrize(
    "body",
    [
        pod(),
        pod(labels={"app": "llama"}),
        pod(labels=LEADER),  # without its size it is none of LeaderWorkerSet's own pods
        pod(labels=LEADER, annotations={**SIZED, LWS + "exclusive-topology": "rack"}),  # workers come after the leader has a node
        pod(labels={KUBEFLOW + "job-name": "job", KUBEFLOW + "job-role": "launcher"}, owner=("kubeflow.org/v2beta1", "MPIJob")),
        pod(labels={KUBEFLOW + "job-name": "job"}),
        pod(labels={KUBEFLOW + "job-name": "job"}, owner=("example.com/v1", "PyTorchJob")),
        pod(labels={RAY + "cluster": "rc", RAY + "node-type": "head"}),
        pod(labels={**LEADER, "headroom.dev/group": ""}, annotations=SIZED),  # its author says so
    ],
)  # fmt: skip
def test_a_pod_that_stands_alone(body: wire.Pod) -> None:
    assert group_of(body) is None


def test_what_the_author_says_counts_before_what_a_controller_wrote() -> None:
    assert read(pod(annotations=OWN, labels={**LEADER, "scheduling.x-k8s.io/pod-group": "pg"}))[:2] == (
        GroupKind.PODS,
        "g",
    )


def test_one_name_in_two_namespaces_stands_for_two_groups() -> None:
    ours, theirs = group_of(pod(annotations=OWN)), group_of(pod(annotations=OWN, namespace="other"))
    assert ours is not None
    assert theirs is not None
    assert ours.key != theirs.key


@pytest.mark.parametrize(
    ("annotations", "field", "value"),
    [
        ({"headroom.dev/group": "g"}, "headroom.dev/group", "g"),
        *(({"headroom.dev/group": "g", "headroom.dev/group-size": text}, "headroom.dev/group-size", text.strip()[:63])
          for text in ("0", "-2", "4.5", "four", "", "99999999999", "9" * 5000, "٤")),
        ({"headroom.dev/group": "../secrets", "headroom.dev/group-size": "2"}, "headroom.dev/group", "../secrets"),
        ({"scheduling.k8s.io/group-name": "a/../../nodes"}, "scheduling.k8s.io/group-name", "a/../../nodes"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_named(annotations: dict[str, str], field: str, value: str) -> None:
    with pytest.raises(GroupError) as caught:
        group_of(pod(annotations=annotations))
    assert (caught.value.pod, caught.value.resource, caught.value.value) == ("models/p", field, value)


def of(body: wire.Pod) -> Group:
    group = group_of(body)
    assert group is not None
    return group


NATIVE = of(pod(schedulingGroup={"podGroupName": "pg"}))
WORKLOAD = of(pod(workloadRef={"name": "w", "podGroup": "workers"}))
COSCHEDULING = of(pod(labels={"scheduling.x-k8s.io/pod-group": "pg"}))
SET = of(pod(labels=LEADER, annotations=SIZED))
JOBS = of(pod(labels={JOBSET + "jobset-name": "js", JOBSET + "replicatedjob-name": "workers"}))
TORCH = of(pod(labels={KUBEFLOW + "job-name": "job"}, owner=("kubeflow.org/v1", "PyTorchJob")))
MPI = of(pod(labels={KUBEFLOW + "job-name": "job"}, owner=("kubeflow.org/v2beta1", "MPIJob")))
RAYS = of(pod(labels={RAY + "cluster": "rc", RAY + "node-type": "worker", RAY + "group": "gpu"}))


def spec(**fields: Any) -> Object:
    return {"spec": fields}


def job_set(replicas: int = 2, **job: Any) -> Object:
    workers = {"name": "workers", "replicas": replicas, "template": {"spec": job}}
    return spec(replicatedJobs=[{"name": "driver", "template": {"spec": {}}}, workers])


def torch(**more: Any) -> Object:
    return spec(pytorchReplicaSpecs={"Master": {"replicas": 1}, "Worker": {"replicas": 7}}, **more)


def rays(gang: bool = True, **more: Any) -> Object:
    group = {"groupName": "gpu", "replicas": 4, "minReplicas": 2, "numOfHosts": 2}
    labels = {"ray.io/gang-scheduling-enabled": "true"} if gang else {}
    return {"metadata": {"labels": labels}} | spec(workerGroupSpecs=[group], **more)


@pytest.mark.parametrize(
    ("group", "found", "number"),
    [
        (NATIVE, spec(schedulingPolicy={"gang": {"minCount": 8}}), 8),
        (NATIVE, spec(schedulingPolicy={"basic": {}}), 1),
        (WORKLOAD, spec(podGroups=[{"name": "workers", "policy": {"gang": {"minCount": 3}}}]), 3),
        (COSCHEDULING, spec(minMember=5), 5),
        (SET, spec(leaderWorkerTemplate={"size": 2}), 2),
        (SET, spec(startupPolicy="LeaderReady", leaderWorkerTemplate={"size": 2}), 1),
        (JOBS, job_set(parallelism=4, completions=4), 8),
        (JOBS, job_set(parallelism=4, completions=2), 4),
        (JOBS, job_set(), 2),
        (TORCH, torch(), 8),
        (TORCH, torch(elasticPolicy={"minReplicas": 3}), 4),
        (TORCH, torch(runPolicy={"schedulingPolicy": {"minAvailable": 6}}), 6),
        (MPI, spec(mpiReplicaSpecs={"Launcher": {}, "Worker": {"replicas": 4}}), 4),
        (MPI, spec(mpiReplicaSpecs={"Worker": {"replicas": 4}}, runPolicy={"schedulingPolicy": {"minAvailable": 5}}), 4),
        (RAYS, rays(), 8),
        (RAYS, rays(enableInTreeAutoscaling=True), 4),
        (RAYS, rays(gang=False), 1),
    ],
)  # fmt: skip
def test_the_number_that_an_object_tells(group: Group, found: Object, number: int) -> None:
    assert number_in(group, found) == number


@pytest.mark.parametrize(
    ("group", "found", "field"),
    [
        (NATIVE, spec(schedulingPolicy={"gang": {"minCount": 0}}), "spec.schedulingPolicy.gang.minCount"),
        (NATIVE, spec(schedulingPolicy={"gang": {"minCount": True}}), "spec.schedulingPolicy.gang.minCount"),
        (WORKLOAD, spec(podGroups=[{"name": "others"}]), "spec.podGroups"),
        (COSCHEDULING, spec(minMember="many"), "spec.minMember"),
        (JOBS, spec(replicatedJobs="none"), "spec.replicatedJobs"),
        (TORCH, spec(), "spec"),
        (RAYS, rays() | spec(), "spec.workerGroupSpecs"),
    ],
)  # fmt: skip
def test_an_object_that_does_not_tell_it_is_named_with_the_field(group: Group, found: Object, field: str) -> None:
    with pytest.raises(GroupError) as caught:
        number_in(group, found)
    assert caught.value.resource == field
