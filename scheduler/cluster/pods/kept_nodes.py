"""Nodes that are closed to others, for pods that have waited for too long, and the count of what comes free."""

from collections.abc import Callable

import numpy as np

from scheduler.cluster.changes import Changes, Freed
from scheduler.cluster.pod_entry import PodEntry
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet


class FreedRoom:
    """Numbers the facts that room came free, so that a refusal knows which of them it could have used."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self.count = 0
        """How many there were; read only."""
        self._monotonic = monotonic

    def __call__(self, node: str, *, seen_by_scheduler: bool) -> Freed:
        """Number the fact that room came free on a node."""
        self.count += 1
        return Freed(node, self.count, self._monotonic(), seen_by_scheduler)


class KeptNodes:
    """Each node is kept for one pod at most, and each pod keeps one at most."""

    def __init__(self, fleet: Fleet, freed: FreedRoom, monotonic: Callable[[], float]) -> None:
        self.keepers: dict[str, PodEntry] = {}
        """By node: the pod that it is kept for; read only."""
        self._fleet, self._freed, self._monotonic = fleet, freed, monotonic

    def keep(self, entry: PodEntry, node: str) -> Changes:
        """Close a node to all pods that come after this one in the queue's order; the one closed for it before opens."""
        changes = self.open(entry)
        entry.kept_node, entry.kept_since = node, self._monotonic()
        self.keepers[node] = entry
        return changes

    def open(self, entry: PodEntry) -> Changes:
        """Open the node that is kept for a pod, if one is."""
        node, entry.kept_node = entry.kept_node, ""
        if not node:
            return []
        del self.keepers[node]
        return [self._freed(node, seen_by_scheduler=False)]

    def is_closed_to(self, entry: PodEntry, node: str) -> bool:
        """Whether the node is kept for another pod that comes first: of higher priority, or an equal and older.

        What is kept for a member of a group is kept for all of them.
        """
        keeper = self.keepers.get(node)
        if keeper is None or keeper is entry or keeper.rank >= entry.rank:
            return False
        ours, theirs = entry.facts.group, keeper.facts.group
        return ours is None or theirs is None or ours.key != theirs.key

    def rows_closed_to(self, entry: PodEntry) -> list[int]:
        """Rows of the nodes that are closed to a pod."""
        row_of = self._fleet.row_of
        return [row_of[node] for node in self.keepers if node in row_of and self.is_closed_to(entry, node)]

    def rows_open_to(self, entry: PodEntry, rows: IntArray) -> IntArray:
        """Those of the rows that are not closed to a pod."""
        closed = self.rows_closed_to(entry)
        return rows[~np.isin(rows, closed)] if closed else rows
