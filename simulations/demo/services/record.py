"""What the second chapter keeps of a run: plain values, the same for the simulated cluster and for the real control plane."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headroom.domain.model import GpuNode
from simulations.embedded.store import CardRef


@dataclass(slots=True)
class Share:
    """A replica's hold on one card, for the fleet map. Seconds from the start of the run; None while it has not happened."""

    service: int
    pod: str
    card: CardRef
    mib: int
    start: float
    ready: float | None = None
    end: float | None = None


@dataclass(slots=True)
class Track:
    """State of one service over time, an entry per tick."""

    demand: list[float] = field(default_factory=list)
    """Requests per second in the tick."""
    replicas: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    queue: list[int] = field(default_factory=list)
    ttft: list[float | None] = field(default_factory=list)
    """95th percentile of the last minute's first tokens, seconds; None when there were none."""


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """One service on one side."""

    name: str
    model: str
    what: str
    """Model, engine and memory in words."""
    promise: str
    """The objective in words."""
    ttft_seconds: float
    """Objective of the time to first token, for the chart."""
    track: Track
    met: int
    requests: int
    starts: int
    """Replicas started after the beginning."""

    @property
    def attainment(self) -> float:
        """Share of requests that met the objective."""
        return self.met / self.requests if self.requests else 1.0


@dataclass(frozen=True, slots=True)
class SideRecord:
    """One side of the comparison."""

    title: str
    nodes: Sequence[GpuNode]
    tick_seconds: float
    end: float
    times: Sequence[float]
    shares: Sequence[Share]
    held: Mapping[CardRef, Sequence[bool]]
    """By card: held in each tick."""
    busy: Mapping[CardRef, Sequence[float]]
    """By card: share of each tick that it ran kernels."""
    services: Sequence[ServiceRecord]

    @property
    def requests(self) -> int:
        """Of all services."""
        return sum(service.requests for service in self.services)
