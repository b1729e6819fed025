"""What one pod holds of a node: the ledger's entries, derived from pods alone. Pure."""

import datetime
import sys
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Final

from headroom import wire
from headroom.domain.assignment import Assignment, AssignmentError, assignment_of, is_settled
from headroom.domain.dialects.customs import USUAL, Customs
from headroom.domain.dialects.records import RecordError, record_of
from headroom.domain.model import GpuRequest, Mode, Placement
from headroom.domain.request import RequestError, demand_of, project_of
from headroom.errors import HeadroomError
from scheduler.ledger.agreement import agreed
from scheduler.ledger.fleet import HostUse
from scheduler.ledger.under_way import Devices

FINISHED_PHASES: Final = ("Succeeded", "Failed")
_NOT_STARTED: Final = "~"  # after every timestamp


class LedgerError(HeadroomError):
    """A change that the ledger refuses; nothing was changed."""


class OverCommitError(LedgerError):
    """A reservation for more than a card has left; names the node, the card and both amounts."""


class HoldingState(StrEnum):
    RESERVED = "reserved"  # promised to a pod that is not bound yet; ends by itself at `expires_at`
    BINDING = "binding"  # the API server was asked to bind the pod: held until it is known what became of that
    BOUND = "bound"  # held until the pod ends


@dataclass(frozen=True, slots=True)
class Held:
    """What pods hold."""

    vram_mib: int = 0
    shares: int = 0
    """Cards and slices."""

    def plus(self, other: "Held") -> "Held":
        """Both together."""
        return Held(self.vram_mib + other.vram_mib, self.shares + other.shares)

    def without(self, other: "Held") -> "Held":
        """What is left of it."""
        return Held(self.vram_mib - other.vram_mib, self.shares - other.shares)


NOTHING: Final = Held()


@dataclass(slots=True, eq=False)
class Holding:
    """One pod's entry. The ledger alone changes it; others read.

    `placement` gives card positions on the node as it is described now; it has no cards while the node is unknown.
    """

    uid: str
    pod: str
    """`namespace/name`."""
    request: GpuRequest
    placement: Placement
    state: HoldingState
    expires_at: float = float("inf")
    """End of a reservation, in the caller's clock."""
    project: str = ""
    priority: int = 0
    assigned: Assignment | None = None
    """Cards by id, as reserved or as annotated; None where a device plugin chose and Headroom can only predict."""
    resource_claims: tuple[str, ...] = ()
    """Its claims (DRA) by `namespace/name`; empty names stand for those that are not made yet."""
    promised: int = 0
    """Devices that it has, or will get, by claims of which nothing is known yet."""
    started: str = ""
    """When kubelet took the pod in (RFC 3339), which is when its devices were handed out; empty before."""
    foreign: bool = False
    """`assigned` is another scheduler's record: the pod holds no less than it asks for."""
    predicted: bool = False
    """Whether `placement` is a guess: nothing valid is written on the pod, or the card it names is not there."""
    gone: tuple[str, ...] = ()
    """Cards, by id, that it was given and that the node has no longer: `placement` is without them, and nothing takes their place."""
    fault: str = ""
    """What is wrong with the pod itself: annotations or resources that cannot be read, or that disagree."""
    as_written: bool = False
    """Whether its annotations alone say what it holds, since its demand cannot be read."""
    told: bool = False
    """Whether kubelet's word on its cards is written on the pod."""
    settled: bool = False
    """Whether that word is in, or not waited for; until then a pod in slice mode is under way."""
    leaving: bool = False
    """Whether the pod is being deleted, so that its devices may come back at any moment."""
    devices: Devices | None = None
    """Its devices, as the fleet counts them while the pod is under way or leaving."""
    counted: bool = False
    """Whether the fleet's arrays include it; not so while the node is unknown."""
    weighed: Held = NOTHING
    """What its namespace is counted to hold by it."""
    bound_at: float = float("inf")
    """When the binding was learned of (Unix seconds)."""
    excess_mib: dict[int, int] = field(default_factory=dict)
    """What the pod was measured to use beyond its shares, by card position."""

    @property
    def begun(self) -> float:
        """From when on the pod can have used its cards (Unix seconds): kubelet's word, else when its binding was learned of."""
        return (_unix(self.started) if self.started else None) or self.bound_at

    @property
    def claim(self) -> tuple[object, ...]:
        """All that decides what is held and how it is reported; two entries with equal claims are interchangeable."""
        return (
            self.pod, self.placement.node, self.request, self.assigned, self.started, self.project, self.priority, self.fault,
            self.settled, self.leaving, self.resource_claims,
        )  # fmt: skip

    @property
    def under_way(self) -> bool:
        """Whether kubelet may still give the pod other cards than those that it is counted on."""
        placement = self.placement
        return placement.mode is Mode.SLICE and not placement.devices and not self.settled and self.request.count > 0

    @property
    def in_all(self) -> Held:
        """What counts for its namespace's quota; while its node is away or cannot be read, by what is written or asked for."""
        if self.counted and self.placement.shares and not self.gone:
            return Held(self.placement.held_mib, self.placement.shares)
        if self.assigned is not None:
            return Held(sum(self.assigned.share_mib), len(self.assigned.cards))
        return Held(self.request.count * self.request.vram_mib, self.request.count)

    @property
    def namespace(self) -> str:
        """Of the pod."""
        return self.pod.partition("/")[0]

    @property
    def per_card(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Card positions and the MiB on each, as `Fleet.take` wants them."""
        return self.placement.cards, self.placement.share_mib

    @property
    def per_node(self) -> dict[str, Any]:
        """The rest of what `Fleet.take` wants."""
        return {
            "plugin": self.placement.mode is Mode.SLICE,
            "host": HostUse(self.request.cpu_milli, self.request.memory_mib),
            "devices": self.devices,
            "promised": self.promised,
        }


class ChangeKind(StrEnum):
    NONE = "none"
    HELD = "held"  # a pod holds something that it did not hold before, or elsewhere, or otherwise
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class Change:
    """What an event did to the ledger; `freed` names nodes on which something came free."""

    kind: ChangeKind = ChangeKind.NONE
    holding: Holding | None = None
    freed: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    """Nodes on which a pod is no longer under way: room that was kept for what might have happened is free."""
    problem: str = ""
    """What was wrong with the pod's annotations or resources; it is accounted all the same."""


NO_CHANGE = Change()


def handed_out(holding: Holding) -> tuple[str, bool, str]:
    """Sorts holdings by when kubelet handed out their devices; reservations and unstarted pods of our own come last."""
    return holding.started or _NOT_STARTED, not holding.predicted, holding.uid


def is_finished(pod: wire.Pod) -> bool:
    """Whether the pod has ended and its devices are free."""
    return pod.status.phase in FINISHED_PHASES


@lru_cache(maxsize=4096)
def _unix(stamp: str) -> float | None:
    """Unix seconds of an RFC 3339 time; None where it cannot be read."""
    try:
        at = datetime.datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()


@lru_cache(maxsize=4096)
def _shared(request: GpuRequest) -> GpuRequest:
    """One object for all equal requests: tens of thousands of pods make a few hundred different ones."""
    return request


def holding_of(pod: wire.Pod, customs: Customs = USUAL) -> Holding:
    """The entry of a pod that is bound to a node, not resolved to card positions yet.

    A pod whose annotations cannot be read counts as one of another scheduler; a pod whose demand cannot be read, or that
    asks for devices by a name unknown here, counts by its annotations, else the former as one device of the default size
    and the latter as none. Of others the annotations are believed as far as they agree with the demand.
    """
    problems: list[str] = []
    assigned: Assignment | None = None
    as_written = False
    try:
        assigned = assignment_of(pod.metadata.annotations)
    except AssignmentError as error:
        problems.append(str(error))
    try:
        request = demand_of(pod, customs)
    except RequestError as error:
        problems.append(str(error))
        as_written = True
        request = GpuRequest(count=len(assigned.cards) if assigned else 1, mode=Mode.SLICE)
    family = customs.records.get(pod.spec.scheduler_name)
    foreign = False
    if assigned is None and family is not None and request.count > 0:
        try:
            assigned = record_of(pod, family, request.mode, customs.gpushare_unit_mib)
            foreign = assigned is not None
        except RecordError as error:
            problems.append(str(error))
    if assigned is not None and request.count == 0:
        if assigned.mode is Mode.SLICE and _asks_a_device_plugin(pod):
            # The agent wrote down what kubelet handed out under a name that Headroom cannot read.
            as_written = True
            request = replace(request, count=len(assigned.cards), mode=Mode.SLICE)
        else:
            problems.append("cards are written on a pod that asks for none")
            assigned = None
    if assigned is not None and not as_written:
        assigned, disagreements = agreed(request, assigned)
        problems += [] if foreign else disagreements  # another scheduler counts otherwise; the larger is held
    mode = assigned.mode if assigned else request.mode
    told = assigned is not None and is_settled(pod.metadata.annotations, assigned)
    return Holding(
        uid=pod.metadata.uid,
        pod=pod.key,
        request=_shared(request),
        placement=Placement(pod.spec.node_name, (), (), mode),
        state=HoldingState.BOUND,
        project=sys.intern(project_of(pod)),
        priority=pod.spec.priority,
        assigned=assigned,
        foreign=foreign,
        resource_claims=claims_of(pod),
        started=sys.intern(pod.status.start_time or ""),
        fault="; ".join(problems),
        as_written=as_written,
        told=told,
        settled=told,
        leaving=pod.metadata.deletion_timestamp is not None,
    )


def claims_of(pod: wire.Pod) -> tuple[str, ...]:
    """The claims of a pod by `namespace/name`; an empty name for one that is made from a template and not known yet."""
    if not pod.spec.resource_claims and pod.status.extended_resource_claim_status is None:
        return ()
    made = {each.name: each.resource_claim_name for each in pod.status.resource_claim_statuses}
    found = []
    for each in pod.spec.resource_claims:
        name = each.resource_claim_name or made.get(each.name, "")
        if name is not None:  # none is needed
            found.append(f"{pod.metadata.namespace}/{name}" if name else "")
    extended = pod.status.extended_resource_claim_status
    if extended is not None:
        found.append(f"{pod.metadata.namespace}/{extended.resource_claim_name}")
    return tuple(found)


def _asks_a_device_plugin(pod: wire.Pod) -> bool:
    """Whether any container asks for an extended resource, which only a device plugin (or an administrator) can offer.

    Annotations alone prove nothing: anybody may write them on a pod of theirs.
    """
    return any(
        "/" in name and not name.split("/", 1)[0].endswith("kubernetes.io") and str(amount) != "0"
        for container in (*pod.spec.containers, *pod.spec.init_containers)
        for name, amount in {**container.resources.requests, **container.resources.limits}.items()
    )
