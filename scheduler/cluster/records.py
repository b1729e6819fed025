"""What the extender remembers of pods besides what they hold, and of room that came free."""

from dataclasses import dataclass, field

from headroom import wire
from headroom.domain.model import GpuRequest


@dataclass(slots=True)
class WaitingPod:
    """An unbound pod with a GPU demand."""

    uid: str
    namespace: str
    name: str
    request: GpuRequest
    project: str
    priority: int
    created_at: str
    may_preempt: bool
    can_be_named: bool
    nominated: str
    pod: wire.Pod = field(repr=False)
    arrival: int
    noted_at: float

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class RefusedPod:
    """A pod that fitted nowhere. `refused_at_change` is the number of the last freed memory it could have used."""

    uid: str
    key: str
    request: GpuRequest
    refused_at: float
    refused_at_change: int


@dataclass(frozen=True, slots=True)
class Freed:
    """Room that came free on a node. `number` counts such changes; `at` is in seconds of the steady clock."""

    node: str
    number: int
    at: float
    seen_by_scheduler: bool
    """Whether the cause is a cluster event on which kube-scheduler tries refused pods again by itself."""


@dataclass(slots=True)
class Attempt:
    """What was answered to kube-scheduler about a pod so far."""

    tried: set[str] = field(default_factory=set)
    """Nodes given to the pod on which it was not bound in the end."""
    offered: bool = False
    """The reserved node has been named to kube-scheduler."""
    decisive: bool = False
    scores: dict[str, int] = field(default_factory=dict)
