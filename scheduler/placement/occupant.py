"""A pod that holds cards, as preemption looks at it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headroom.domain.model import Placement


@dataclass(frozen=True, slots=True)
class Occupant:
    """A pod that holds cards of a node."""

    uid: str
    namespace: str
    name: str
    priority: int
    placement: Placement
    leaving: bool = False
    """Being deleted already."""
    excess_mib: Mapping[int, int] = field(default_factory=dict)
    """What it uses beyond its shares, by card position."""

    @property
    def held_mib(self) -> int:
        """Memory that it gives back when it ends."""
        return sum(self.placement.share_mib) + sum(self.excess_mib.values())
