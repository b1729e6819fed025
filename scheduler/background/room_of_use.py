"""Whether room that came free is of use to a pod that was refused: thousands of each, looked at in slices.

Pods are grouped by what they ask of cards alone; in a group the smallest comes first, because where it does not fit no larger one
does. So the work grows with the kinds of pods, not with their number.
"""

import dataclasses
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable
from typing import Final

import numpy as np

from headroom.daemon.slices import Slices
from headroom.domain.model import GpuRequest
from scheduler.cluster.changes import Freed
from scheduler.cluster.pod_entry import PodEntry, Refusal, Stage, of_cards_alone
from scheduler.cluster.pods.groups import GroupRecord
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.placement import filtering

_ROWS_AT_ONCE: Final = 512

# kube-scheduler wakes refused pods by itself when a pod ends. It may then ask about them before our own watch has shown us
# the end; a refusal no older than this at the time we learn of it needs our wake-up, an older one does not.
_WATCH_LAG_SECONDS: Final = 2.0


def concerns(refusal: Refusal, change: Freed) -> bool:
    """Whether the room came free after the refusal, and kube-scheduler does not try the pod again by itself."""
    return refusal.change < change.number and not (
        change.seen_by_scheduler and refusal.at < change.at - _WATCH_LAG_SECONDS
    )


async def node_of_use(state: ClusterState, seating: Seating, freed: dict[str, Freed]) -> str | None:
    """A node among those freed whose new room is of use to a pod refused before; None when nobody would gain.

    Room for one member is of no use to a group that does not fit as a whole.
    """
    slices = Slices()
    # What a preemption freed is reserved already, and its pod must hear of it.
    for entry in state.pods.at(Stage.NAMED):
        holding = state.holding(entry.uid)
        change = freed.get(holding.placement.node) if holding is not None else None
        if entry.refusal is not None and change is not None and concerns(entry.refusal, change):
            return change.node
    for record in list(state.groups.records.values()):
        if freed and await _fits_now(state, seating, record, freed):
            return next(iter(freed))
        await slices.pause()
    wanting, by_quota = await _free_to_run(state, slices)
    for entry in by_quota:
        # Something of its namespace ended, or the quota was raised: any node that takes it will do.
        row = state.placer.best_row(entry.request) if _concerned(entry, freed) else None
        if row is not None:
            return state.fleet.names[row]
        await slices.pause()
    for kinds in await _by_kind(wanting, slices):
        for request, entries in kinds:
            fits_somewhere = False
            async for node in _fitting(state, request, freed, slices):
                fits_somewhere = True
                if any(_wants(state, entry, node, freed[node]) for entry in entries):
                    return node
            if not fits_somewhere:
                break  # no larger one of these fits either
    return None


async def _fits_now(state: ClusterState, seating: Seating, record: GroupRecord, freed: dict[str, Freed]) -> bool:
    """Whether a group that was refused has its places now, and its pods must hear of it."""
    for uid in list(record.members):
        entry = state.pods.entries.get(uid)
        if entry is None or entry.stage is not Stage.REFUSED or entry.refusal is None or not _concerned(entry, freed):
            continue
        rows = entry.refusal.nodes.rows(state.fleet)
        return seating.would_fit(record, rows if len(rows) else np.flatnonzero(state.fleet.alive))
    return False


def _wants(state: ClusterState, entry: PodEntry, node: str, change: Freed) -> bool:
    return (
        entry.refusal is not None and concerns(entry.refusal, change) and not state.pods.kept.is_closed_to(entry, node)
    )


async def _free_to_run(state: ClusterState, slices: Slices) -> tuple[list[PodEntry], list[PodEntry]]:
    """Refused pods whose quota lets them run: those that wait for room, and those that waited for the quota."""
    wanting: list[PodEntry] = []
    by_quota: list[PodEntry] = []
    for entry in list(state.pods.at(Stage.REFUSED)):
        if state.groups.binds(entry.uid):
            continue
        if state.quotas.refusal(entry.namespace, entry.uid, entry.request) is None:
            waited = entry.refusal is not None and entry.refusal.by_quota
            (by_quota if waited else wanting).append(entry)
        await slices.pause()
    return wanting, by_quota


def _concerned(entry: PodEntry, freed: dict[str, Freed]) -> bool:
    return entry.refusal is not None and any(concerns(entry.refusal, change) for change in freed.values())


async def _by_kind(entries: Iterable[PodEntry], slices: Slices) -> list[list[tuple[GpuRequest, list[PodEntry]]]]:
    """Pods by what they ask of cards; requests that differ in size alone together, the smallest first."""
    by_request: dict[GpuRequest, list[PodEntry]] = defaultdict(list)
    for entry in list(entries):
        by_request[of_cards_alone(entry.request)].append(entry)
        await slices.pause()
    kinds: dict[GpuRequest, list[tuple[GpuRequest, list[PodEntry]]]] = defaultdict(list)
    for request in sorted(by_request, key=lambda request: (request.vram_mib, request.milli)):
        like = request
        if not request.whole_cards:
            like = dataclasses.replace(request, vram_mib=min(request.vram_mib, 1), milli=min(request.milli, 1))
        kinds[like].append((request, by_request[request]))
    return list(kinds.values())


async def _fitting(
    state: ClusterState, request: GpuRequest, freed: dict[str, Freed], slices: Slices
) -> AsyncIterator[str]:
    """The freed nodes on which the request fits now."""
    names = list(freed)
    for start in range(0, len(names), _ROWS_AT_ONCE):
        row_of = state.fleet.row_of
        there = [name for name in names[start : start + _ROWS_AT_ONCE] if name in row_of]
        rows: IntArray = np.array([row_of[name] for name in there], np.int64)
        for at in np.flatnonzero(filtering.fit(state.fleet, request, rows).fits).tolist():
            yield there[at]
        await slices.pause()
