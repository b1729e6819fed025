"""One record for each pod that is not known to be bound: what it asks for now, and how far its placing has come. Pure.

`TRANSITIONS` is the only place that says which step leads where. In the stages of `HOLDING` the ledger has a reservation for
the pod, in the others it has none.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

from headroom import wire
from headroom.domain.dialects.customs import USUAL, Customs
from headroom.domain.groups import Group, group_of, topology_alone
from headroom.domain.model import GpuRequest
from headroom.domain.request import demand_of, ignored_words, project_of
from headroom.errors import HeadroomError
from scheduler.cluster.host_rules import soft_preferences, wholly_judged
from scheduler.cluster.row_set import RowSet


class Stage(StrEnum):
    """How far the placing of a pod has come."""

    GATED = "gated"  # it has scheduling gates: kube-scheduler does not ask about it yet
    WAITING = "waiting"  # nobody has decided on it, or what was decided is void
    NAMED = "named"  # cards are reserved, and kube-scheduler was not given the node yet
    OFFERED = "offered"  # cards are reserved, and kube-scheduler was given the node
    BINDING = "binding"  # the API server was asked to bind it: the cards are the binder's until the outcome is known
    REFUSED = "refused"  # it fitted nowhere when it was last asked about
    BOUND = "bound"  # the API server said that it is bound; the record goes when the watch says so, too
    GONE = "gone"  # deleted, finished, being deleted, or replaced by another pod of its name


class Step(StrEnum):
    """What can happen to a pod."""

    GATE = "gate"  # its scheduling gates are there (again)
    OPEN = "open"  # its last scheduling gate went
    NAME = "name"  # cards were reserved before kube-scheduler asked
    OFFER = "offer"  # kube-scheduler was given its node
    REFUSE = "refuse"  # it fits nowhere
    VOID = (
        "void"  # what was decided does not hold any more: time, the node's end, a more important pod, another extender
    )
    BIND = "bind"  # a binding is about to be asked for
    FAIL = "fail"  # it is certain that the binding did not happen and will not
    BOUND = "bound"  # the API server's answer or the watch says that it is bound
    END = "end"  # it is gone


_KINDS_KNOWN: Final = 2048
HOLDING: Final = frozenset((Stage.NAMED, Stage.OFFERED, Stage.BINDING))
"""Stages in which cards are reserved for the pod."""

TRANSITIONS: Final[Mapping[tuple[Stage, Step], Stage]] = {
    (Stage.WAITING, Step.GATE): Stage.GATED,
    (Stage.REFUSED, Step.GATE): Stage.GATED,
    (Stage.GATED, Step.OPEN): Stage.WAITING,
    (Stage.WAITING, Step.NAME): Stage.NAMED,
    (Stage.REFUSED, Step.NAME): Stage.NAMED,
    # kube-scheduler may know of a lifted gate before the watch tells.
    (Stage.GATED, Step.OFFER): Stage.OFFERED,
    (Stage.WAITING, Step.OFFER): Stage.OFFERED,
    (Stage.NAMED, Step.OFFER): Stage.OFFERED,
    (Stage.OFFERED, Step.OFFER): Stage.OFFERED,
    (Stage.REFUSED, Step.OFFER): Stage.OFFERED,
    (Stage.GATED, Step.REFUSE): Stage.REFUSED,
    (Stage.WAITING, Step.REFUSE): Stage.REFUSED,
    (Stage.REFUSED, Step.REFUSE): Stage.REFUSED,
    (Stage.NAMED, Step.VOID): Stage.WAITING,
    (Stage.OFFERED, Step.VOID): Stage.WAITING,
    (Stage.REFUSED, Step.VOID): Stage.WAITING,
    # A binding may be asked for at any time: the filter call may have been another extender's, or of before a restart.
    (Stage.GATED, Step.BIND): Stage.BINDING,
    (Stage.WAITING, Step.BIND): Stage.BINDING,
    (Stage.NAMED, Step.BIND): Stage.BINDING,
    (Stage.OFFERED, Step.BIND): Stage.BINDING,
    (Stage.REFUSED, Step.BIND): Stage.BINDING,
    (Stage.BINDING, Step.BIND): Stage.BINDING,
    (Stage.BINDING, Step.FAIL): Stage.WAITING,
    **{(stage, Step.BOUND): Stage.BOUND for stage in Stage if stage is not Stage.GONE},
    **{(stage, Step.END): Stage.GONE for stage in Stage if stage is not Stage.GONE},
}


class TransitionError(HeadroomError):
    """A step that cannot follow on the pod's stage; names both. Nothing was changed."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What follows from a pod object alone; read anew from every version of it."""

    request: GpuRequest
    project: str
    priority: int
    created_at: str
    gated: bool
    may_preempt: bool
    can_be_named: bool
    """Whether a node may be named ahead of kube-scheduler: nothing limits the pod's nodes that only that can judge."""
    nominated: str
    wholly_judged: bool = True
    """Whether Headroom can judge all that limits the pod's nodes."""
    group: Group | None = None
    """The group that a pod with a GPU belongs to."""
    ignored: tuple[str, ...] = ()
    """What is written on it without effect, in words."""


def facts_of(pod: wire.Pod, scheduler_names: frozenset[str], customs: Customs = USUAL) -> PodFacts:
    """Read a pod; those of other schedulers are accounted for, and neither named nor preempted for. Raises RequestError."""
    spec = pod.spec
    ours = spec.scheduler_name in scheduler_names
    request = demand_of(pod, customs)
    return PodFacts(
        request=request,
        project=project_of(pod),
        priority=spec.priority,
        created_at=pod.metadata.creation_timestamp or "",
        gated=bool(spec.scheduling_gates),
        may_preempt=ours and spec.preemption_policy != "Never",
        wholly_judged=(judged := wholly_judged(pod)),
        can_be_named=ours and judged and not soft_preferences(pod),
        nominated=pod.status.nominated_node_name,
        ignored=ignored_words(pod, request) if ours else (),
    )


def of_cards_alone(request: GpuRequest) -> GpuRequest:
    """The request without what it takes of the host."""
    return dataclasses.replace(request, cpu_milli=0, memory_mib=0)


class FactsReader:
    """`facts_of` with the last kinds of pods remembered: the pods of one template differ in little, and there are thousands."""

    def __init__(self, scheduler_names: Iterable[str], customs: Customs = USUAL) -> None:
        self._scheduler_names = frozenset(scheduler_names)
        self._customs = customs
        self._known: OrderedDict[bytes, PodFacts] = OrderedDict()

    @property
    def customs(self) -> Customs:
        """What the meaning of a pod depends on besides the pod."""
        return self._customs

    @customs.setter
    def customs(self, customs: Customs) -> None:
        self._customs = customs
        self._known.clear()

    def of(self, pod: wire.Pod) -> PodFacts:
        """The facts of a pod. Raises RequestError."""
        meta = pod.metadata
        key = msgspec.json.encode((pod.spec, meta.annotations, project_of(pod)))
        alike = self._known.get(key)
        if alike is None:
            alike = self._known[key] = facts_of(pod, self._scheduler_names, self._customs)
            if len(self._known) > _KINDS_KNOWN:
                self._known.popitem(last=False)
        created_at, nominated = meta.creation_timestamp or "", pod.status.nominated_node_name
        group = group_of(pod) if alike.request.count else None
        ignored = alike.ignored
        if group is None and alike.request.count and pod.spec.scheduler_name in self._scheduler_names:
            ignored += topology_alone(pod)
        if (alike.created_at, alike.nominated, alike.group, alike.ignored) == (created_at, nominated, group, ignored):
            return alike
        return dataclasses.replace(alike, created_at=created_at, nominated=nominated, group=group, ignored=ignored)


def version_of(pod: wire.Pod) -> int:
    """The resource version as a number, by which news and old news are told apart (Kubernetes 1.35 made that official); 0 if unknown."""
    text = pod.metadata.resource_version
    return int(text) if text.isdecimal() else 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """When a pod was told that it fits nowhere. `change` is the number of the last freed room that it could have used."""

    at: float
    change: int
    nodes: RowSet
    """Those that kube-scheduler would have let it run on, and that could serve it if they had room."""
    by_quota: bool = False
    """Its namespace may not hold more; room on a node is of no use to it."""


@dataclass(slots=True)
class Claim:
    """A node that is being freed for a pod."""

    node: str
    deadline: float
    secured: bool = False
    """The room is there and reserved."""


@dataclass(slots=True, eq=False)
class PodEntry:
    """The record of one pod. `Pods` alone changes it; others read."""

    uid: str
    key: str
    """`namespace/name`."""
    pod: wire.Pod = field(repr=False)
    facts: PodFacts
    arrival: int
    """Counts the pods in the order in which they were first seen."""
    noted_at: float
    """When it was first seen, in seconds of the steady clock."""
    stage: Stage = Stage.WAITING
    version: int = 0
    seen: bool = False
    """The watch or a list has shown it; until then only a call of kube-scheduler's speaks for it."""
    tried: set[str] = field(default_factory=set)
    """Nodes given to the pod on which it was not bound in the end."""
    decisive: bool = False
    """The node of the last answer was the only one."""
    scores: dict[str, int] = field(default_factory=dict)
    """Scores of the last answer, where it gave kube-scheduler a choice."""
    ended: str = ""
    """How its last reservation ended without a binding (as in the metric), until there is another."""
    left_group: bool = False
    """It was in another group before, which may have a seat for it still."""
    refusal: Refusal | None = None
    """The last refusal, until a node is offered: while it stands, kube-scheduler lets the pod rest."""
    refused_since: float | None = None
    """When it was first told that no node has room for it, unless it was offered one since."""
    kept_node: str = ""
    """The node that is closed to pods that come after it, once it has waited for too long."""
    kept_since: float = 0.0
    may_be_named: bool = True
    """False once nobody came for the node that it had been given: it must not hold memory again and again."""
    name_landed: bool = False
    """The name of its node is written on it."""
    wants_room: bool = False
    """Pods of lower priority shall be looked for that could make room for it."""
    claim: Claim | None = None
    """The node that is being freed for it."""
    awaited: bool = False
    """The API server's answer to a binding is awaited."""
    unsure_since: float | None = None
    """When a binding was last left without an answer: it may have been written, or may be written yet."""
    reported_at: float | None = None
    """When its last Event was written."""

    @property
    def request(self) -> GpuRequest:
        """What it asks for, as of its last version."""
        return self.facts.request

    @property
    def namespace(self) -> str:
        """The pod's namespace."""
        return self.key.partition("/")[0]

    @property
    def rank(self) -> tuple[int, str, int]:
        """Sorts pods as kube-scheduler's queue does: by priority, then by age."""
        return -self.facts.priority, self.facts.created_at, self.arrival

    def after(self, step: Step) -> Stage:
        """The stage that a step leads to. Raises TransitionError."""
        stage = TRANSITIONS.get((self.stage, step))
        if stage is None:
            raise TransitionError(f"pod {self.key} is {self.stage.value}: it cannot {step.value}")
        return stage
