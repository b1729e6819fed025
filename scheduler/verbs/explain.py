"""Answers to people: the last decision on a pod with live figures, and a snapshot."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from headroom.domain.model import GpuRequest, Placement
from headroom.units import format_mib
from scheduler.cluster.state import ClusterState
from scheduler.ledger.fleet import Fleet

_DECISIONS_KEPT: Final = 10_000
_NODES_SHOWN: Final = 20


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
    measured = fleet.measured_mib[row, :width] > fleet.held_mib[row, :width]
    text = f"best of {width} cards has {best} free, {total - left} of {total} devices handed out"
    return f"{text}, measured use exceeds what pods declare on {int(measured.sum())}" if measured.any() else text


def explanation(state: ClusterState, decisions: Decisions, pod: str, now: float) -> dict[str, Any] | None:
    """Plain values for `/v1/explain`; None for a pod that nothing is known of."""
    decision = decisions.get(pod)
    waiting = next((known for known in state.waiting.values() if known.key == pod), None)
    if decision is None and waiting is None:
        return None
    answer: dict[str, Any] = {"pod": pod}
    if decision is not None:
        answer |= {
            "outcome": decision.outcome,
            "seconds_ago": round(now - decision.at, 3),
            "reasons": dict(decision.reasons),
        }
        if decision.placement is not None:
            answer["placement"] = _shown(state.fleet, decision.placement)
    if waiting is not None:
        answer["request"] = request_values(waiting.request)
        answer["nodes"] = _nodes_now(state, waiting.request)
        answer["claimed_node"] = state.claimed_node(waiting.uid)
        answer["tried"] = sorted(state.attempt(waiting.uid).tried)
        answer["measured_vram"] = _measured_words(state.measured_cards)
    return answer


def _measured_words(fresh_cards: int | None) -> str:
    if fresh_cards is None:
        return "not read: what pods declare counts"
    return (
        f"fresh for {fresh_cards} card{'s' if fresh_cards > 1 else ''}"
        if fresh_cards
        else "too old: what pods declare counts"
    )


def request_values(request: GpuRequest) -> dict[str, Any]:
    """A request as plain values."""
    return {
        "count": request.count,
        "mode": request.mode.value,
        "vram_mib": request.vram_mib,
        "milli": request.milli,
        "resource": request.resource,
        "models": sorted(request.models),
    }


def _shown(fleet: Fleet, placement: Placement) -> dict[str, Any]:
    node = fleet.nodes.get(placement.node)
    cards = [node.cards[at].id if node and at < len(node.cards) else str(at) for at in placement.cards]
    return {
        "node": placement.node,
        "cards": cards,
        "share_mib": list(placement.share_mib),
        "mode": placement.mode.value,
    }


def _nodes_now(state: ClusterState, request: GpuRequest) -> list[dict[str, Any]]:
    """The nodes nearest to fitting: those with the most free memory on a card."""
    fleet = state.fleet
    rows = np.flatnonzero(fleet.alive)
    rows = rows[np.argsort(-fleet.free_mib[rows].max(axis=1), kind="stable")][:_NODES_SHOWN]
    return [
        {
            "node": fleet.names[row],
            "fits": (reason := state.placer.refusal(request, row)) is None,
            "reason": reason,
            "now": live_figures(fleet, row),
        }
        for row in rows.tolist()
    ]


def snapshot(state: ClusterState, now: float, *, check: bool = False) -> dict[str, Any]:
    """Everything the extender knows, for `/debug/snapshot`; `check` recounts every holding, which takes a while."""
    found = {
        "figures": state.figures(),
        "fleet": state.fleet.dump(),
        "reservations": state.reservations(now),
        "refused": sorted(pod.key for pod in state.refused.values()),
        "waiting": sorted(pod.key for pod in state.waiting.values()),
        "node_problems": dict(sorted(state.node_problems.items())),
        "pod_problems": dict(sorted(state.pod_problems.items())),
        "over_committed": [
            f"{node}: card {card} holds {held} of {usable} MiB"
            for node, card, held, usable in state.ledger.overcommitted()
        ],
    }
    return found | {"breaches": state.breaches()} if check else found
