"""The few fields of Kubernetes objects that Headroom reads, as msgspec structs.

Everything else in an object is skipped while decoding, which is what keeps 40,000 pods cheap. Decode through the
`Decoder`s at the end of this module: they read Go's `null` for an empty list or map as empty, and turn a wrong-typed
field into a WireError that names its place.
"""

import types
import typing
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from headroom.errors import HeadroomError

T = TypeVar("T")

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"
"""Types of watch events: the last ends an object, the others show it as it is now."""

Quantity: TypeAlias = str | int | float
"""The API server sends quantities as text; hand-written JSON and YAML also holds plain numbers."""


class WireError(HeadroomError, ValueError):
    """A message that is not what it should be; the text names the type, the field and what was found there."""


class Wire(msgspec.Struct, rename="camel", gc=False, omit_defaults=True):
    """Base of all structs here: camelCase keys, never part of a reference cycle."""


class OwnerReference(Wire):
    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False


class Meta(Wire):
    """ObjectMeta. Timestamps stay RFC 3339 text: most are never looked at."""

    name: str = ""
    namespace: str = ""
    generate_name: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    owner_references: tuple[OwnerReference, ...] = ()


class Resources(Wire):
    limits: dict[str, Quantity] = {}
    requests: dict[str, Quantity] = {}


class Port(Wire):
    host_port: int = 0


class Container(Wire):
    name: str = ""
    ports: tuple[Port, ...] = ()
    resources: Resources = msgspec.field(default_factory=Resources)
    restart_policy: str = ""
    """`Always` makes an init container a sidecar, which keeps what it asked for."""


class SelectorTerm(Wire):
    """One requirement of a NodeSelectorTerm: operator is In, NotIn, Exists, DoesNotExist, Gt or Lt."""

    key: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()


class NodeSelectorTerm(Wire):
    match_expressions: tuple[SelectorTerm, ...] = ()
    match_fields: tuple[SelectorTerm, ...] = ()


class NodeSelector(Wire):
    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class Term(Wire):
    """A term of which only the presence matters."""


class NodeAffinity(Wire):
    required: NodeSelector | None = msgspec.field(name="requiredDuringSchedulingIgnoredDuringExecution", default=None)
    preferred: tuple[Term, ...] = msgspec.field(name="preferredDuringSchedulingIgnoredDuringExecution", default=())


class LabelSelector(Wire):
    """Empty matches every pod."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[SelectorTerm, ...] = ()


class PodAffinityTerm(Wire):
    """Pods chosen by label (none without a selector), in the pod's own namespace unless others are named."""

    topology_key: str = ""
    label_selector: LabelSelector | None = None
    namespaces: tuple[str, ...] = ()
    namespace_selector: Term | None = None
    match_label_keys: tuple[str, ...] = ()
    mismatch_label_keys: tuple[str, ...] = ()


class PodAffinity(Wire):
    """Inter-pod affinity or anti-affinity."""

    required: tuple[PodAffinityTerm, ...] = msgspec.field(
        name="requiredDuringSchedulingIgnoredDuringExecution", default=()
    )
    preferred: tuple[Term, ...] = msgspec.field(name="preferredDuringSchedulingIgnoredDuringExecution", default=())


class Affinity(Wire):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class Taint(Wire):
    key: str = ""
    value: str = ""
    effect: str = ""


CORDON: Final = Taint(key="node.kubernetes.io/unschedulable", effect="NoSchedule")
"""What a cordoned node amounts to."""


class Toleration(Wire):
    key: str = ""
    operator: str = ""
    """`Equal` when empty."""
    value: str = ""
    effect: str = ""

    def tolerates(self, taint: Taint) -> bool:
        """Whether a pod with this toleration may be on a node with the taint."""
        if self.effect and self.effect != taint.effect:
            return False
        if self.key and self.key != taint.key:
            return False
        match self.operator:
            case "Exists":
                return True
            case "" | "Equal":
                return bool(self.key) and self.value == taint.value
            case _:
                return False


class TopologySpreadConstraint(Wire):
    when_unsatisfiable: str = ""
    """`DoNotSchedule` or `ScheduleAnyway`."""


class Volume(Wire):
    persistent_volume_claim: Term | None = None
    ephemeral: Term | None = None


class PodClaim(Wire):
    """A pod's ResourceClaim: named, or made from a template."""

    name: str = ""
    resource_claim_name: str = ""
    resource_claim_template_name: str = ""


class SchedulingGroup(Wire):
    """Which PodGroup of `scheduling.k8s.io` a pod belongs to (Kubernetes 1.36)."""

    pod_group_name: str = ""


class WorkloadReference(Wire):
    """The same in Kubernetes 1.35: a group of a Workload."""

    name: str = ""
    pod_group: str = ""
    pod_group_replica_key: str = ""


class PodSpec(Wire):
    node_name: str = ""
    scheduler_name: str = ""
    runtime_class_name: str = ""
    priority: int = 0
    preemption_policy: str = ""
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    resources: Resources | None = None
    """Pod-level resources; where they name CPU or memory they replace the containers' sum."""
    overhead: dict[str, Quantity] = {}
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    volumes: tuple[Volume, ...] = ()
    resource_claims: tuple[PodClaim, ...] = ()
    scheduling_gates: tuple[Term, ...] = ()
    scheduling_group: SchedulingGroup | None = None
    workload_ref: WorkloadReference | None = None


class Condition(Wire):
    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None


class WaitingState(Wire):
    reason: str = ""


class TerminatedState(Wire):
    reason: str = ""
    started_at: str | None = None
    finished_at: str | None = None


class ContainerState(Wire):
    waiting: WaitingState | None = None
    terminated: TerminatedState | None = None


class ContainerStatus(Wire):
    name: str = ""
    ready: bool = False
    restart_count: int = 0
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class PodClaimStatus(Wire):
    """The claim that was made from a template; null where none is needed."""

    name: str = ""
    resource_claim_name: str | None = ""


class ExtendedClaimStatus(Wire):
    """The claim that kube-scheduler made for the pod's extended resources."""

    resource_claim_name: str = ""


class PodStatus(Wire):
    phase: str = ""
    reason: str = ""
    conditions: tuple[Condition, ...] = ()
    nominated_node_name: str = ""
    start_time: str | None = None
    container_statuses: tuple[ContainerStatus, ...] = ()
    resource_claim_statuses: tuple[PodClaimStatus, ...] = ()
    extended_resource_claim_status: ExtendedClaimStatus | None = None


class Pod(Wire):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)

    @property
    def key(self) -> str:
        """`namespace/name`, as people and logs name a pod."""
        return f"{self.metadata.namespace or 'default'}/{self.metadata.name or self.metadata.generate_name}"


class NodeSpec(Wire):
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeStatus(Wire):
    allocatable: dict[str, Quantity] = {}
    capacity: dict[str, Quantity] = {}
    conditions: tuple[Condition, ...] = ()


class Node(Wire):
    metadata: Meta = msgspec.field(default_factory=Meta)
    spec: NodeSpec = msgspec.field(default_factory=NodeSpec)
    status: NodeStatus = msgspec.field(default_factory=NodeStatus)


class Namespace(Wire):
    metadata: Meta = msgspec.field(default_factory=Meta)


class ListMeta(Wire):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class PodList(Wire):
    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: tuple[Pod, ...] = ()


class Decoder(Generic[T]):
    """Decodes one type from JSON bytes. Raises WireError naming the type, the field's path and the fault.

    A null where a list, map or object belongs is read as absent. That costs nothing while there is none: only a
    message that was refused is decoded a second time, with its nulls left out.
    """

    def __init__(self, kind: type[T]) -> None:
        self._kind = kind
        self._decoder = msgspec.json.Decoder(kind)

    def decode(self, data: bytes | bytearray | msgspec.Raw) -> T:
        """One value of the type; see the class for null and errors."""
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError as error:
            if "got `null`" not in str(error):
                raise self._error(error) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._error(error) from error
        try:
            return self._decoder.decode(_without_nulls(self._kind, data))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> WireError:
        return WireError(f"{self._kind.__name__}: {error}")


def _without_nulls(kind: Any, data: Any) -> Any:
    """The JSON of a value of this type without nulls in fields, lists and maps that the type has.

    Everything else is dropped unread: a long message costs no more memory than its known fields.
    """
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    try:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            found = _MEMBERS.decode(data)
            kinds = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
            members = {name: _without_nulls(kinds[name], value) for name, value in found.items() if name in kinds}
            return msgspec.Raw(msgspec.json.encode({name: value for name, value in members.items() if value != _NULL}))
        if origin is dict:
            members = {name: _without_nulls(inner[1], value) for name, value in _MEMBERS.decode(data).items()}
            return msgspec.Raw(msgspec.json.encode({name: value for name, value in members.items() if value != _NULL}))
        if isinstance(origin, type) and issubclass(origin, Sequence):
            items = [_without_nulls(inner[0], item) for item in _ITEMS.decode(data) if item != _NULL]
            return msgspec.Raw(msgspec.json.encode(items))
    except msgspec.ValidationError:
        pass  # something else stands there: whoever decodes it says what
    return data


_NULL: Final = msgspec.Raw(b"null")
_MEMBERS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS: Final = msgspec.json.Decoder(list[msgspec.Raw])


POD: Final = Decoder(Pod)
POD_LIST: Final = Decoder(PodList)
NODE: Final = Decoder(Node)
NAMESPACE: Final = Decoder(Namespace)

encode: Final = msgspec.json.encode
"""Any struct above to JSON bytes; fields at their default are left out."""
