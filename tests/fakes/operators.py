"""What the controllers of LeaderWorkerSet and MPIJob make of their objects, as their sources (0.7.0 of both) have it.

For tests without those controllers; `make test-operators` compares it with what they make themselves.
"""

import copy
from typing import Any

Object = dict[str, Any]
LWS = "leaderworkerset.sigs.k8s.io/"
TRAINING = "training.kubeflow.org/"
GROUP_KEY = "0123456789abcdef0123456789abcdef01234567"


def definition(kind: str, plural: str, group: str, version: str) -> Object:
    """A CustomResourceDefinition that takes anything: the real ones are long, and are installed by `make test-operators`."""
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    served = {"name": version, "served": True, "storage": True, "schema": schema}
    return {
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": f"{plural}.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [served]},
    }  # fmt: skip


LEADER_WORKER_SETS = definition("LeaderWorkerSet", "leaderworkersets", "leaderworkerset.x-k8s.io", "v1")
MPI_JOBS = definition("MPIJob", "mpijobs", "kubeflow.org", "v2beta1")


def stateful_sets(found: Object) -> list[Object]:
    """Of a LeaderWorkerSet with one replica: the set of its leader and the set of its workers, as the webhook would number their pods."""
    name, template = found["metadata"]["name"], found["spec"]["leaderWorkerTemplate"]
    size = str(template["size"])
    common = {LWS + "name": name, LWS + "group-index": "0", LWS + "group-key": GROUP_KEY}
    leader = _template(
        template["leaderTemplate"], {**common, LWS + "worker-index": "0"}, {LWS + "size": size}, name, size, "0"
    )
    annotations = {LWS + "size": size, LWS + "leader-name": f"{name}-0"}
    worker = _template(template["workerTemplate"], {**common, LWS + "worker-index": "1"}, annotations, name, size, "1")
    return [
        _stateful_set(name, name, 1, leader, {}),
        _stateful_set(f"{name}-0", name, template["size"] - 1, worker, {"ordinals": {"start": 1}}),
    ]


def _template(
    template: Object, labels: dict[str, str], annotations: dict[str, str], name: str, size: str, index: str
) -> Object:
    made = copy.deepcopy(template)
    meta = made.setdefault("metadata", {})
    meta["labels"] = meta.get("labels", {}) | labels
    meta["annotations"] = meta.get("annotations", {}) | annotations
    values = {"LWS_LEADER_ADDRESS": f"{name}-0.{name}", "LWS_GROUP_SIZE": size, "LWS_WORKER_INDEX": index}
    for container in made["spec"]["containers"]:
        container["env"] = [{"name": each, "value": value} for each, value in values.items()] + container.get("env", [])
    return made


def _stateful_set(name: str, service: str, replicas: int, template: Object, more: Object) -> Object:
    selected = {key: value for key, value in template["metadata"]["labels"].items() if key.startswith(LWS)}
    spec = {
        "serviceName": service, "replicas": replicas, "podManagementPolicy": "Parallel", "template": template,
        "selector": {"matchLabels": selected}, **more,
    }  # fmt: skip
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": spec}


def pods_of_mpi_job(found: Object) -> list[Object]:
    """Of an MPIJob that the API server has: its launcher, which is the pod of a Job, and its workers."""
    meta, spec = found["metadata"], found["spec"]
    owner = {
        "apiVersion": "kubeflow.org/v2beta1", "kind": "MPIJob", "name": meta["name"], "uid": meta["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    replicas = spec["mpiReplicaSpecs"]
    workers = [
        _mpi_pod(replicas["Worker"]["template"], f"{meta['name']}-worker-{at}", "worker", owner, {TRAINING + "replica-index": str(at)})
        for at in range(replicas["Worker"]["replicas"])
    ]  # fmt: skip
    launcher = _mpi_pod(replicas["Launcher"]["template"], f"{meta['name']}-launcher", "launcher", owner, {})
    return [launcher, *workers]


def _mpi_pod(template: Object, name: str, role: str, owner: Object, labels: dict[str, str]) -> Object:
    made = copy.deepcopy(template)
    meta = made.get("metadata", {})
    said = {
        TRAINING + "operator-name": "mpi-operator",
        TRAINING + "job-name": owner["name"],
        TRAINING + "job-role": role,
    }
    pod_meta: Object = {
        "name": name,
        "labels": meta.get("labels", {}) | said | labels,
        "annotations": meta.get("annotations", {}),
    }
    if role == "worker":  # the launcher's owner is its Job
        pod_meta["ownerReferences"] = [owner]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": pod_meta,
        "spec": {**made["spec"], "hostname": name, "subdomain": owner["name"], "restartPolicy": "Never"},
    }  # fmt: skip
