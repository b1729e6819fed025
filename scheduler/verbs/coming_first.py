"""The pods that wait already come before one that is only asked about: they are given their places first, on a copy of the fleet."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from headroom import wire
from headroom.daemon.slices import PAGE_SLICE_SECONDS, Slices
from headroom.domain.model import GpuRequest, Placement
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.pods.groups import GroupRecord
from scheduler.cluster.room.open_rows import OpenRows
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.placement.quota import Budget
from scheduler.placement.trial import Trial

_MOST_SEATED: Final = 1000
_MOST_KINDS: Final = 64  # each is looked for on every node once


@dataclass(slots=True)
class Seated:
    """How many waiting pods were given a place, and what of the others could not be judged, in words."""

    pods: int = 0
    by_rules: int = 0
    """Of these, those of which only kube-scheduler can say where they may run."""
    left_out: int = 0
    """Those that were not looked at: there are too many of them."""

    @property
    def not_judged(self) -> list[str]:
        """What may make the count wrong, in words."""
        found = {
            f"rules of {self.by_rules} waiting pods that only kube-scheduler can judge": self.by_rules,
            f"{self.left_out} more waiting pods": self.left_out,
        }
        return [words for words, there in found.items() if there]


def those_before(state: ClusterState, pod: wire.Pod, request: GpuRequest, *, own_too: bool) -> list[PodEntry]:
    """Waiting pods without a place that kube-scheduler takes up before this one, in its order.

    Without `own_too`, pods of the same template are left out: those of its namespace that have its labels and ask for the same.
    """
    meta, namespace = pod.metadata, pod.metadata.namespace or "default"

    def is_own(entry: PodEntry) -> bool:
        theirs = entry.pod.metadata.labels
        alike = entry.namespace == namespace and entry.request == request
        return alike and bool(meta.labels) and meta.labels.items() <= theirs.items()

    found = [
        entry
        for stage in (Stage.WAITING, Stage.REFUSED)
        for entry in state.pods.at(stage)
        if entry.facts.priority >= pod.spec.priority and (not meta.uid or entry.uid != meta.uid)
    ]
    return sorted((entry for entry in found if own_too or not is_own(entry)), key=lambda entry: entry.rank)


async def seat(
    state: ClusterState, open_rows: OpenRows, trial: Trial, entries: Iterable[PodEntry], budgets: dict[str, Budget | None]
) -> Seated:  # fmt: skip
    """Give each waiting pod its place on the trial's fleet, as far as there is one. `budgets` is what is left to each namespace.

    A group has all of its places, or none. Of pods that ask for the same and may run on the same nodes, the first that finds no place
    is the last that is looked at.
    """
    seated, slices = Seated(), Slices(PAGE_SLICE_SECONDS)
    rows_of: dict[tuple[GpuRequest, bytes], IntArray | None] = {}
    groups = _Groups(state, trial, seated)
    for entry in entries:
        if groups.passes_over(entry):
            continue
        kind = entry.request, open_rows.kind_of(entry.pod)
        if kind in rows_of:
            rows = rows_of[kind]
        elif len(rows_of) >= _MOST_KINDS or seated.pods >= _MOST_SEATED:
            seated.left_out += 1
            continue
        else:
            rows = rows_of[kind] = _rows(state, open_rows, trial, entry.pod)
        budget = _budget(state, budgets, entry)
        if rows is None or (budget is not None and budget.refusal_of(entry.request)):
            groups.fails(entry)
            continue
        if seated.pods >= _MOST_SEATED:
            seated.left_out += 1
            continue
        rows = state.pods.kept.rows_open_to(entry, rows)
        within = None if budget is None else budget.rows(trial.fleet, entry.request)
        placement = trial.seat(entry.request, rows if within is None else rows[within[rows]])
        if placement is None:
            if not groups.fails(entry):
                rows_of[kind] = None
        else:
            groups.gets(entry, placement)
            seated.pods += 1
            seated.by_rules += not entry.facts.wholly_judged
            if budget is not None:
                budget.take(placement.shares, placement.held_mib)
        await slices.pause()
    return seated


class _Groups:
    """The groups among the waiting pods: what each was given so far, and those that get nothing."""

    def __init__(self, state: ClusterState, trial: Trial, seated: Seated) -> None:
        self._state, self._trial, self._seated = state, trial, seated
        self._given: dict[GroupRecord, list[tuple[PodEntry, Placement]]] = {}
        self._out: set[GroupRecord] = set()

    def _of(self, entry: PodEntry) -> GroupRecord | None:
        return self._state.groups.of(entry.uid) if self._state.groups.binds(entry.uid) else None

    def passes_over(self, entry: PodEntry) -> bool:
        """Whether the pod's group gets nothing: one is without a place, or members are missing."""
        record = self._of(entry)
        if record is None:
            return False
        number = record.number()
        return record in self._out or isinstance(number, str) or len(record.present()) < number

    def gets(self, entry: PodEntry, placement: Placement) -> None:
        """Note a member's place."""
        if (record := self._of(entry)) is not None:
            self._given.setdefault(record, []).append((entry, placement))

    def fails(self, entry: PodEntry) -> bool:
        """Take back what a pod's group was given: this one finds no place. False for a pod without a group."""
        record = self._of(entry)
        if record is None:
            return False
        self._out.add(record)
        for other, placement in self._given.pop(record, []):
            self._trial.unseat(other.request, placement)
            self._seated.pods -= 1
            self._seated.by_rules -= not other.facts.wholly_judged
        return True


def _budget(state: ClusterState, budgets: dict[str, Budget | None], entry: PodEntry) -> Budget | None:
    if entry.namespace not in budgets:
        budgets[entry.namespace] = state.quotas.budget(entry.namespace)
    return budgets[entry.namespace]


def _rows(state: ClusterState, open_rows: OpenRows, trial: Trial, pod: wire.Pod) -> IntArray:
    """Rows of the trial's fleet that are open to a pod; nodes that came since are not among them."""
    names, theirs = state.fleet.names, trial.fleet.names
    rows = [row for row in open_rows.of(pod).tolist() if row < len(theirs) and theirs[row] == names[row]]
    return np.array(rows, np.int64)
