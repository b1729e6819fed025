"""Answers to people: the last decision on a pod with live figures, and a snapshot."""

from typing import Any, Final

import numpy as np

from headroom.domain.model import GpuRequest, Placement
from scheduler.cluster.decisions import Decisions, live_figures
from scheduler.cluster.pod_entry import Stage
from scheduler.cluster.state import ClusterState
from scheduler.ledger.fleet import Fleet

_NODES_SHOWN: Final = 20


def explanation(state: ClusterState, decisions: Decisions, pod: str, now: float) -> dict[str, Any] | None:
    """Plain values for `/v1/explain`; None for a pod that nothing is known of."""
    decision = decisions.get(pod)
    waiting = state.pods.find(pod)
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
        answer["stage"] = waiting.stage.value
        answer["claimed_node"] = None if waiting.claim is None else waiting.claim.node
        answer["tried"] = sorted(waiting.tried)
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
        "refused": sorted(entry.key for entry in state.pods.at(Stage.REFUSED)),
        "waiting": sorted(entry.key for entry in state.pods.entries.values() if entry.stage is not Stage.BOUND),
        "node_problems": dict(sorted(state.node_problems.items())),
        "pod_problems": dict(sorted(state.news.problems.items())),
        "over_committed": [
            f"{node}: card {card} holds {held} of {usable} MiB"
            for node, card, held, usable in state.ledger.overcommitted()
        ],
    }
    return found | {"breaches": state.breaches()} if check else found
