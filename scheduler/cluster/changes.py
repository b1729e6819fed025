"""What a change of the state changed: values that it returns, for `scheduler.cluster.effects` to hand on afterwards."""

from dataclasses import dataclass

from headroom.domain.model import Placement
from scheduler.cluster.pod_entry import PodEntry


@dataclass(frozen=True, slots=True)
class Freed:
    """Room came free on a node. `number` counts such changes; `at` is in seconds of the steady clock."""

    node: str
    number: int
    at: float
    seen_by_scheduler: bool
    """Whether the cause is a cluster event on which kube-scheduler tries refused pods again by itself."""


@dataclass(frozen=True, slots=True)
class PodWaits:
    """A pod waits to be decided on."""

    entry: PodEntry


@dataclass(frozen=True, slots=True)
class PodBound:
    """A pod was bound; told once, by whoever hears of it first."""

    entry: PodEntry


@dataclass(frozen=True, slots=True)
class PodGone:
    """A pod that was not known to be bound is gone."""

    entry: PodEntry


@dataclass(frozen=True, slots=True)
class PodRefused:
    """A pod fits on none of the nodes that kube-scheduler offered."""

    entry: PodEntry


@dataclass(frozen=True, slots=True)
class SeatLost:
    """What was reserved for a pod of a group is not any more, and the pod is not bound. `end` is how, as in the metric."""

    entry: PodEntry
    placement: Placement
    end: str


@dataclass(frozen=True, slots=True)
class PodDisagrees:
    """What is written on a bound pod cannot be read, or is not what the pod asks for; told when that changes."""

    key: str
    """`namespace/name`."""
    uid: str
    problem: str


@dataclass(frozen=True, slots=True)
class CardClaimed:
    """kube-scheduler has given a card that a pinned pod holds to a resource claim, too."""

    key: str
    """`namespace/name` of the pod."""
    uid: str
    card: str
    node: str
    claim: str


@dataclass(frozen=True, slots=True)
class CardsOverfilled:
    """A pod that another scheduler placed came onto a card that has not that much left."""

    key: str
    """`namespace/name` of the pod."""
    uid: str
    card: str
    node: str
    held_mib: int
    usable_mib: int


Change = Freed | PodWaits | PodBound | PodGone | PodRefused | SeatLost | PodDisagrees | CardClaimed | CardsOverfilled
Changes = list[Change]


def seat_lost(entry: PodEntry, placement: Placement, end: str) -> Changes:
    """That a reservation ended without a binding, where that matters to others: to the pod's group, or the one that it has left."""
    return [SeatLost(entry, placement, end)] if entry.facts.group is not None or entry.left_group else []
