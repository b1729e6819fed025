"""The latest decisions on pods, kept for `/v1/explain`."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from headroom.domain.model import Placement
from headroom.units import format_mib
from scheduler.ledger.fleet import Fleet

_DECISIONS_KEPT: Final = 10_000


@dataclass(frozen=True, slots=True)
class Decision:
    """What was last decided on a pod. `at` is in seconds of the daemon's steady clock."""

    pod: str
    at: float
    outcome: str
    """placed, scored, refused, bound or bind_failed."""
    placement: Placement | None = None
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Reason -> how many nodes gave it."""


class Decisions:
    """The last decision on each pod, for the pods of late."""

    def __init__(self) -> None:
        self._by_pod: OrderedDict[str, Decision] = OrderedDict()

    def add(self, decision: Decision) -> None:
        """Remember a decision in place of the pod's previous one."""
        self._by_pod[decision.pod] = decision
        self._by_pod.move_to_end(decision.pod)
        if len(self._by_pod) > _DECISIONS_KEPT:
            self._by_pod.popitem(last=False)

    def get(self, pod: str) -> Decision | None:
        """The last decision on `namespace/name`."""
        return self._by_pod.get(pod)


def live_figures(fleet: Fleet, row: int) -> str:
    """What a node has left, in figures: for people and Events, never for a pod's condition."""
    node = fleet.nodes[fleet.names[row]]
    width = len(node.cards)
    if not width:
        return "no card"
    best = format_mib(int(fleet.free_mib[row, :width].max()))
    total, left = int(fleet.slices[row, :width].sum()), int(fleet.slices_free[row, :width].sum())
    foreign, excess = fleet.foreign_mib[row, :width], fleet.excess_mib[row, :width]
    measured = (foreign > fleet.idle_mib) | (excess > 0)
    text = f"best of {width} cards has {best} free, {total - left} of {total} devices handed out"
    if not measured.any():
        return text
    text += f", measured use exceeds what pods declare on {int(measured.sum())}"
    parts = {"no pod's": int(foreign[foreign > fleet.idle_mib].sum()), "beyond pods' shares": int(excess.sum())}
    return f"{text} ({', '.join(f'{format_mib(mib)} {words}' for words, mib in parts.items() if mib)})"
