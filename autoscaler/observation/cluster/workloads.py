"""What is scaled, as few fields as the autoscaler reads: how many replicas, of what, and what its controller says. Pure.

A workload is reduced to a `Workload` while it is decoded, so that neither managed fields nor a page of 2,000 objects stay in
memory for the sake of one template.
"""

from typing import Any, Final

import msgspec

from autoscaler.law.inputs import Rollout
from autoscaler.observation.cluster.objects import seconds
from headroom.wire import Condition, Decoder, Meta, Wire

FIELD_MANAGER: Final = "headroom-autoscaler"
"""Under this name the API server records what the autoscaler writes."""

DEPLOYMENT: Final = "Deployment"
STATEFUL_SET: Final = "StatefulSet"
LEADER_WORKER_SET: Final = "LeaderWorkerSet"
BUILT_IN: Final = (DEPLOYMENT, STATEFUL_SET)
"""Kinds that every API server has: followed from the start."""


class GroupWire(Wire):
    """`leaderWorkerTemplate` of a LeaderWorkerSet."""

    size: int = 1
    leader_template: msgspec.Raw = msgspec.Raw(b"")
    worker_template: msgspec.Raw = msgspec.Raw(b"{}")


class RollingUpdate(Wire):
    """Of a StatefulSet's or a LeaderWorkerSet's strategy."""

    partition: int = 0


class Strategy(Wire):
    type: str = ""
    rolling_update: RollingUpdate | None = None
    rolling_update_configuration: RollingUpdate | None = None

    @property
    def partition(self) -> int:
        """Replicas from this ordinal on get the new revision; the others keep theirs on purpose."""
        rolling = self.rolling_update or self.rolling_update_configuration
        return rolling.partition if rolling else 0


class SpecWire(Wire):
    replicas: int = 1
    paused: bool = False
    template: msgspec.Raw = msgspec.Raw(b"{}")
    leader_worker_template: GroupWire | None = None
    update_strategy: Strategy = msgspec.field(default_factory=Strategy)
    """Of a StatefulSet."""
    rollout_strategy: Strategy = msgspec.field(default_factory=Strategy)
    """Of a LeaderWorkerSet."""


class StatusWire(Wire):
    observed_generation: int = 0
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    update_revision: str = ""
    current_revision: str = ""
    conditions: list[Condition] = msgspec.field(default_factory=list)


class ManagedFields(Wire):
    """Who wrote which fields last."""

    manager: str = ""
    subresource: str = ""
    time: str | None = None
    fields_v1: msgspec.Raw = msgspec.Raw(b"")


class MetaWire(Meta):
    generation: int = 0
    managed_fields: list[ManagedFields] = msgspec.field(default_factory=list)


class WorkloadWire(Wire):
    """A Deployment, StatefulSet or LeaderWorkerSet."""

    metadata: MetaWire = msgspec.field(default_factory=MetaWire)
    spec: SpecWire = msgspec.field(default_factory=SpecWire)
    status: StatusWire = msgspec.field(default_factory=StatusWire)


class OtherWire(Wire):
    """Any other kind. What its spec and status hold is its maker's affair."""

    metadata: MetaWire = msgspec.field(default_factory=MetaWire)
    spec: Any = None
    status: Any = None


class Workload(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a workload."""

    kind: str
    namespace: str
    name: str
    uid: str = ""
    version: str = ""
    """Its resourceVersion."""
    replicas: int = 1
    """What its scale asks for."""
    selector: str | None = None
    """Of its pods, from its scale; None for kinds whose pods are known by their owner."""
    template: bytes = b"{}"
    """Of a pod; of a group's workers, which are most of it, where a replica is a group. `{}`: not known."""
    pods_per_replica: int = 1
    rollout: Rollout = Rollout.SETTLED
    rollout_detail: str = ""
    unobserved: bool = False
    """Its controller has not yet seen the newest spec."""
    refusal: str = ""
    """Why pods could not be made, in its controller's words."""
    writer: str = ""
    """Who wrote `spec.replicas` last, by the API server's record."""
    owner: str = ""
    """Kind and name of the object that controls it, if any."""

    @property
    def key(self) -> str:
        """`Kind/namespace/name`."""
        return f"{self.kind}/{self.namespace}/{self.name}"


class WorkloadDecoder:
    """Decodes objects of one kind straight into what is kept of them. `kind` is the one of `Target.scaled`."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def decode(self, data: bytes | msgspec.Raw, /) -> Workload:
        """One object from its JSON. Raises WireError."""
        if self._kind in (*BUILT_IN, LEADER_WORKER_SET):
            return _known(self._kind, _WIRE.decode(data))
        return _other(self._kind, _OTHER.decode(data))


_WIRE: Final = Decoder(WorkloadWire)
_OTHER: Final = Decoder(OtherWire)


def follow(workload: Workload, before: Workload | None) -> Workload:
    """The workload in the light of what was known of it.

    A rollout has begun once the template differs from the one that the controller has seen; a new count of replicas alone is no
    rollout, though it is a new generation, too.
    """
    if workload.selector is not None and before is not None:
        # Its scale is read apart; until it is read again the last one holds.
        workload = msgspec.structs.replace(workload, replicas=before.replicas, selector=before.selector)
    begun = workload.unobserved and before is not None and before.template != workload.template
    goes_on = workload.unobserved and before is not None and before.unobserved and before.rollout is Rollout.PROGRESSING
    if workload.rollout is Rollout.SETTLED and (begun or goes_on):
        detail = "its controller has not yet begun with the new template"
        return msgspec.structs.replace(workload, rollout=Rollout.PROGRESSING, rollout_detail=detail)
    return workload


def _known(kind: str, wire: WorkloadWire) -> Workload:
    spec, group = wire.spec, wire.spec.leader_worker_template
    template, per_replica = spec.template, 1
    if group is not None:
        per_replica = max(group.size, 1)
        template = group.leader_template if group.size < 2 and group.leader_template else group.worker_template
    rollout, detail = _rollout(kind, spec, wire.status)
    return _workload(
        kind, wire.metadata, wire.status.observed_generation, wire.status.conditions, rollout, detail,
        replicas=spec.replicas, template=bytes(template), pods_per_replica=per_replica,
    )  # fmt: skip


def _workload(
    kind: str, meta: MetaWire, observed: int, conditions: list[Condition], rollout: Rollout, detail: str, **more: Any
) -> Workload:
    owner = next((f"{owner.kind} {owner.name}" for owner in meta.owner_references if owner.controller), "")
    return Workload(
        kind=kind,
        namespace=meta.namespace,
        name=meta.name,
        uid=meta.uid,
        version=meta.resource_version,
        rollout=rollout,
        rollout_detail=detail,
        unobserved=0 < observed < meta.generation,
        refusal=_refusal(conditions),
        writer=_writer(meta.managed_fields),
        owner=owner,
        **more,
    )


def _rollout(kind: str, spec: SpecWire, status: StatusWire) -> tuple[Rollout, str]:
    if spec.paused:
        return Rollout.PAUSED, ""
    if kind == STATEFUL_SET:
        return _rollout_of_stateful_set(spec, status)
    expected = max(status.replicas - spec.rollout_strategy.partition, 0)
    return _by_counts(status.updated_replicas, expected, status.conditions)


def _rollout_of_stateful_set(spec: SpecWire, status: StatusWire) -> tuple[Rollout, str]:
    """`OnDelete` waits for people to delete pods, and up to Kubernetes 1.35 its revision never follows; a partition is meant to stay."""
    if not status.update_revision or status.update_revision == status.current_revision:
        return Rollout.SETTLED, ""
    if spec.update_strategy.type == "OnDelete":
        return Rollout.SETTLED, ""
    expected = max(spec.replicas - spec.update_strategy.partition, 0)
    if status.updated_replicas < expected:
        return Rollout.PROGRESSING, f"{status.updated_replicas} of {expected} pods are of the new revision"
    if status.ready_replicas < status.replicas:
        return Rollout.PROGRESSING, f"{status.ready_replicas} of {status.replicas} pods are ready"
    return Rollout.SETTLED, ""


def _by_counts(updated: int, expected: int, conditions: list[Condition]) -> tuple[Rollout, str]:
    """By how many pods are of the new revision. The API server leaves a count of 0 out."""
    if updated >= expected:
        return Rollout.SETTLED, ""
    failed = next((c for c in conditions if c.type == "Progressing" and c.status == "False"), None)
    if failed is not None and failed.reason == "ProgressDeadlineExceeded":
        return Rollout.FAILED, failed.message or failed.reason
    return Rollout.PROGRESSING, f"{updated} of {expected} pods are of the new revision"


def _refusal(conditions: list[Condition]) -> str:
    """A Deployment repeats what its ReplicaSet was told by the API server: an exceeded quota, a webhook that says no."""
    for condition in conditions:
        if condition.type == "ReplicaFailure" and condition.status == "True":
            return condition.message or condition.reason
    return ""


def _writer(managed: list[ManagedFields]) -> str:
    """Who wrote `spec.replicas` last. Status has a field of that name, too, which says nothing of it."""
    found = ("", 0.0)
    for entry in managed:
        if entry.subresource != "status" and b'"f:replicas"' in bytes(entry.fields_v1):
            at = seconds(entry.time)
            found = (entry.manager, at) if at >= found[1] else found
    return found[0]


def _other(kind: str, wire: OtherWire) -> Workload:
    """A kind that is known by its scale alone. Fields that most such kinds share are used where they are what they should be."""
    spec = wire.spec if isinstance(wire.spec, dict) else {}
    status = wire.status if isinstance(wire.status, dict) else {}
    conditions = _conditions(status.get("conditions"))
    rollout, detail = Rollout.SETTLED, ""
    replicas, updated = status.get("replicas"), status.get("updatedReplicas")
    if spec.get("paused") is True:
        rollout = Rollout.PAUSED
    elif isinstance(replicas, int) and isinstance(updated, int):
        rollout, detail = _by_counts(updated, replicas, conditions)
    template = spec.get("template")
    is_pod = isinstance(template, dict) and isinstance((template.get("spec") or {}).get("containers"), list)
    return _workload(
        kind, wire.metadata, _whole_number(status.get("observedGeneration")), conditions, rollout, detail,
        replicas=spec["replicas"] if isinstance(spec.get("replicas"), int) else 0, selector="",
        template=msgspec.json.encode(template) if is_pod else b"{}",
    )  # fmt: skip


def _conditions(found: Any) -> list[Condition]:
    try:
        return msgspec.convert(found or [], list[Condition])
    except msgspec.ValidationError:
        return []


def _whole_number(value: Any) -> int:
    """Argo Rollouts write the generation as text."""
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else 0
