"""Answers to people: the last decision on a pod, and where it could go now, by all that is known here."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from headroom.daemon.slices import PAGE_SLICE_SECONDS, Slices
from headroom.domain.model import CardChoice, GpuRequest, Placement
from headroom.units import format_mib
from scheduler.cluster.decisions import Decisions, live_figures
from scheduler.cluster.host_rules import beyond_judgement, host_refusal, kept_apart
from scheduler.cluster.measured import MeasuredVram
from scheduler.cluster.pod_entry import HOLDING, PodEntry, Stage
from scheduler.cluster.pods.groups import GroupRecord
from scheduler.cluster.room.node_domains import NodeDomains
from scheduler.cluster.state import ClusterState
from scheduler.ledger.fleet import Fleet
from scheduler.placement import refusals

_NODES_SHOWN: Final = 20
KEPT: Final = "kept for a pod that has waited for longer"
_JOBS_NAMED: Final = 5
_RESERVING: Final = ("placed", "scored")
"""Outcomes of a filter call after which cards are reserved."""


async def explanation(state: ClusterState, decisions: Decisions, pod: str, now: float) -> dict[str, Any] | None:
    """Plain values for `/v1/explain`; None for a pod that nothing is known of."""
    decision = decisions.get(pod)
    waiting = state.pods.find(pod)
    problem = state.news.problems.get(pod)
    if decision is None and waiting is None and problem is None:
        return None
    answer: dict[str, Any] = {"pod": pod}
    if problem is not None:
        answer["problem"] = problem
    if decision is not None:
        answer |= {
            "outcome": decision.outcome,
            "seconds_ago": round(now - decision.at, 3),
            "reasons": dict(decision.reasons),
        }
        if decision.placement is not None:
            answer["placement"] = _shown(state.fleet, decision.placement)
        if waiting is not None and decision.outcome in _RESERVING and waiting.stage not in (*HOLDING, Stage.BOUND):
            # What was placed is not held any more: `placement` is where it was to be.
            answer["outcome"] = waiting.ended or "not held"
    if waiting is not None:
        answer["request"] = request_values(waiting.request)
        answer["nodes"], answer["not_offered"] = await _nodes_now(state, waiting)
        answer["not_judged"] = _not_judged(waiting)
        answer["stage"] = waiting.stage.value
        answer["without_effect"] = list(waiting.facts.ignored)
        answer["claimed_node"] = None if waiting.claim is None else waiting.claim.node
        answer["kept_node"] = waiting.kept_node or None
        answer["tried"] = sorted(waiting.tried)
        if (record := state.groups.of(waiting.uid)) is not None:
            answer["group"] = _group_now(state, record, now)
        answer["measured_vram"] = measured_words(state.measured_cards, state.reading)
        if (quota := _quota_now(state, waiting)) is not None:
            answer["quota"] = quota
    return answer


def _group_now(state: ClusterState, record: GroupRecord, now: float) -> dict[str, Any]:
    """How far the placing of a pod's group has come, and near what its places are."""
    number = record.number()
    common = NodeDomains(state).common(record)
    return {
        "name": f"{record.key[0]}/{record.key[2]}",
        "kind": record.key[1].value,
        "members": len(record.present()),
        "takes": number if isinstance(number, int) else None,
        "problem": None if isinstance(number, int) else number,
        "seated": len(record.seated),
        "rests_seconds": round(max(record.not_before - now, 0.0), 1),
        "topology": record.topology or None,
        "domain": None if common is None else "=".join(common),
    }


def _quota_now(state: ClusterState, entry: PodEntry) -> dict[str, Any] | None:
    """The quota of a pod's namespace with what is left of it; None where there is none."""
    budget = state.quotas.budget(entry.namespace, entry.uid)
    if budget is None:
        return None
    quota = budget.quota
    found: dict[str, Any] = {"namespace": entry.namespace, "refuses": budget.refusal_of(entry.request)}
    if quota.vram_mib is not None and budget.vram_mib is not None:
        held = quota.vram_mib - budget.vram_mib
        found["vram"] = f"{format_mib(held)} of {format_mib(quota.vram_mib)} held"
    if quota.cards is not None and budget.cards is not None:
        found["cards"] = f"{quota.cards - budget.cards} of {quota.cards} held"
    return found


def measured_words(fresh_cards: int | None, reading: MeasuredVram) -> str:
    """For how many cards measured use counts, and what of the reading does not."""
    if fresh_cards is None:
        return "not read: what pods declare counts"
    words = [f"fresh for {fresh_cards} card{'s' if fresh_cards > 1 else ''}"]
    if not fresh_cards:
        words = [f"{'too old' if reading.stale else 'none'}: what pods declare counts"]
    if reading.unmatched:
        words.append(f"{reading.unmatched} series match no card, such as {', '.join(reading.examples)}")
    if reading.doubted:
        jobs = ", ".join(sorted(reading.doubted_jobs)[:_JOBS_NAMED])
        words.append(f"{reading.doubted} series of jobs that are not among device_jobs left out: {jobs}")
    return "; ".join(words)


def request_values(request: GpuRequest) -> dict[str, Any]:
    """A request as plain values."""
    return {
        "count": request.count,
        "mode": request.mode.value,
        "vram_mib": request.vram_mib,
        "milli": request.milli,
        "resource": request.resource,
        "models": sorted(request.models),
        **({} if request.choice is None else {"choice": choice_values(request.choice)}),
    }


def choice_values(choice: CardChoice) -> dict[str, Any]:
    """The limits that a pod states on its cards, those that it does state."""
    values: dict[str, Any] = {
        "models": sorted(choice.models), "not_models": sorted(choice.not_models), "ids": sorted(choice.ids),
        "not_ids": sorted(choice.not_ids), "modes": sorted(mode.value for mode in choice.modes), "idle": choice.idle,
    }  # fmt: skip
    return {name: value for name, value in values.items() if value}


def _shown(fleet: Fleet, placement: Placement) -> dict[str, Any]:
    node = fleet.nodes.get(placement.node)
    cards = [node.cards[at].id if node and at < len(node.cards) else str(at) for at in placement.cards]
    devices = {"devices": placement.devices} if placement.devices else {}
    return {
        "node": placement.node,
        "cards": cards,
        **devices,
        "share_mib": list(placement.share_mib),
        "mode": placement.mode.value,
    }


def _not_judged(entry: PodEntry) -> list[str]:
    """What else may keep the pod off a node, that kube-scheduler alone can say."""
    return beyond_judgement(entry.pod) + (["pod anti-affinity"] if kept_apart(entry.pod) else [])


async def _nodes_now(state: ClusterState, entry: PodEntry) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The nodes nearest to fitting: those that are open to the pod first, and of them those with the most free memory on a card.

    Also for how many nodes kube-scheduler has which reason not to offer them.
    """
    fleet, slices = state.fleet, Slices(PAGE_SLICE_SECONDS)
    closed: dict[str, str] = {}
    for name in list(fleet.row_of):
        node = state.nodes.get(name)
        if node is not None and (words := host_refusal(entry.pod, node)) is not None:
            closed[name] = words
        await slices.pause()
    rows = np.flatnonzero(fleet.alive)
    shut = np.array([fleet.names[row] in closed for row in rows.tolist()], np.bool_)
    rows = rows[np.lexsort((-fleet.free_mib[rows].max(axis=1), shut))][:_NODES_SHOWN]
    by_quota = _refusals_by_quota(state, entry)
    shown = [
        {
            "node": (name := fleet.names[row]),
            "fits": (reason := closed.get(name) or _refusal_now(state, entry, row) or by_quota(row)) is None,
            "reason": reason,
            "now": live_figures(fleet, row),
        }
        for row in rows.tolist()
    ]
    return shown, dict(Counter(closed.values()))


def _refusal_now(state: ClusterState, entry: PodEntry, row: int) -> str | None:
    """Why a node that is open to the pod would be refused now; CPU and memory of the host, which kube-scheduler judges, included."""
    if (words := refusals.refusal(state.fleet, entry.request, row, check_host=True)) is not None:
        return words
    record = state.groups.of(entry.uid)
    if (
        record is not None
        and (words := NodeDomains(state).refusal(record, entry.uid, state.fleet.names[row])) is not None
    ):
        return words
    return KEPT if state.pods.kept.is_closed_to(entry, state.fleet.names[row]) else None


def _refusals_by_quota(state: ClusterState, entry: PodEntry) -> Callable[[int], str | None]:
    """Why the quota would refuse a row now, where nothing else does; looked at for all rows at once."""
    budget = state.quotas.budget(entry.namespace, entry.uid)
    if budget is None:
        return lambda _: None
    everywhere, beyond, within = (
        budget.refusal_of(entry.request),
        budget.vram_words,
        budget.rows(state.fleet, entry.request),
    )
    return lambda row: everywhere or (beyond if within is not None and not within[row] else None)
