"""Keeps a node for each pod that has been refused for too long, so that small pods do not take whatever comes free for ever.

Memory packs well because small pods fill what is left. A pod that needs most of a card then waits while others of its priority, that came
later, take each piece that comes free. After a stated wait the node that is nearest to having room for it closes to pods that come after
it in the queue's order: of lower priority, or equals and younger. What runs there runs to its end; more important and older pods may go
there.

For a group, the nodes close that come nearest to holding all of its pods that wait.
"""

from typing import Final

import numpy as np

from scheduler.cluster.changes import Changes
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.pods.groups import GroupRecord
from scheduler.cluster.room.node_domains import NodeDomains
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.placement.groups.near import nearest_rows_near
from scheduler.placement.shortage import nearest_row

_PART_OF_NODES: Final = 10  # no more than a tenth of the nodes is kept at a time
_CLOSED_AT_ONCE: Final = 4  # in one sweep: each costs a look at all nodes
_GROUPS_AT_ONCE: Final = 2  # in one sweep: each member costs a look at all nodes
_GROUP_AGAIN_SECONDS: Final = 30.0


class KeepingNodes:
    """Call `sweep` every second or so, while this extender decides. With a wait of 0 no node is ever kept."""

    def __init__(self, state: ClusterState, seating: Seating, *, wait_seconds: float) -> None:
        self._state, self._seating, self._wait_seconds = state, seating, wait_seconds
        self._domains = NodeDomains(state)
        self._looked_at: dict[GroupRecord, float] = {}
        """When nodes were last looked for, by group that waits."""

    def sweep(self, now: float) -> Changes:
        """Keep nodes for pods that have waited for too long, those first that come first; look for a nearer one after as long again."""
        changes, pods = Changes(), self._state.pods
        if not self._wait_seconds:
            return changes
        for entry in list(pods.kept.keepers.values()):
            if entry.kept_node not in self._state.fleet.row_of:
                changes += pods.kept.open(entry)
        most = max(len(self._state.fleet.nodes) // _PART_OF_NODES, 1)
        late = self._waiting_too_long(now)
        changes += self._keep_for_group(late, now)
        alone = [entry for entry in late if not self._state.groups.binds(entry.uid)]
        for entry in alone[:_CLOSED_AT_ONCE]:
            if len(pods.kept.keepers) - bool(entry.kept_node) >= most:
                break
            node = self._nearest(entry)
            if node == entry.kept_node:
                entry.kept_since = now
            elif node is not None:
                changes += pods.kept.keep(entry, node)
            else:
                changes += pods.kept.open(entry)
        return changes

    def _waiting_too_long(self, now: float) -> list[PodEntry]:
        before = now - self._wait_seconds
        late = [
            entry
            for entry in self._state.pods.at(Stage.REFUSED)
            if entry.refused_since is not None
            and entry.refused_since <= before
            and entry.claim is None
            and (not entry.kept_node or entry.kept_since <= before)
        ]
        return sorted(late, key=lambda entry: entry.rank)

    def _keep_for_group(self, late: list[PodEntry], now: float) -> Changes:
        """Keep nodes for the first group that has waited for too long: as many as it needs, for fewer would be of no use.

        One group at a time; another follows when that one has its places, or could not have them on an empty cluster either.
        """
        pods, groups, changes = self._state.pods, self._state.groups, Changes()
        if any(
            groups.binds(keeper.uid) and keeper.kept_since > now - self._wait_seconds
            for keeper in pods.kept.keepers.values()
        ):
            return changes
        records: dict[str, GroupRecord] = {}
        for entry in late:
            record = groups.of(entry.uid) if groups.binds(entry.uid) else None
            if record is not None:
                records.setdefault(record.words, record)
        for record in self._due(list(records.values()), now):
            missing = self._seating.missing(record, self._rows_for)
            if not missing:
                continue
            near = self._domains.of_group(record, frozenset(entry.uid for entry, _ in missing))
            rows = nearest_rows_near(self._state.fleet, [seat for _, seat in missing], near)
            if not rows:
                continue
            names = self._state.fleet.names
            for keeper in [one for one in pods.kept.keepers.values() if groups.binds(one.uid)]:
                changes += pods.kept.open(keeper)
            for (entry, _), row in zip(missing, rows, strict=False):
                changes += pods.kept.keep(entry, names[row])
            return changes
        return changes

    def _due(self, records: list[GroupRecord], now: float) -> list[GroupRecord]:
        """The groups to look at now: a few at a time, and none of them again at once. Many that fit nowhere would take all the time."""
        again = min(_GROUP_AGAIN_SECONDS, self._wait_seconds)
        at = self._looked_at = {record: self._looked_at.get(record, float("-inf")) for record in records}
        due = sorted((record for record in records if at[record] <= now - again), key=lambda record: at[record])
        at.update(dict.fromkeys(due[:_GROUPS_AT_ONCE], now))
        return due[:_GROUPS_AT_ONCE]

    def _rows_for(self, entry: PodEntry) -> IntArray:
        """Where a member of a group might be: nodes that kube-scheduler would let it run on, and that are not kept for another pod."""
        fleet, pods, groups = self._state.fleet, self._state.pods, self._state.groups
        if entry.refusal is None:
            return np.zeros(0, np.int64)
        others = {node for node, keeper in pods.kept.keepers.items() if not groups.binds(keeper.uid)}
        others |= pods.nodes_being_freed()
        rows = [row for row in entry.refusal.nodes.rows(fleet).tolist() if fleet.names[row] not in others]
        return np.array(rows, np.int64)

    def _nearest(self, entry: PodEntry) -> str | None:
        """The node that it fits on soonest, of those that kube-scheduler would let it run on and that nobody else has kept or is freed."""
        fleet, pods = self._state.fleet, self._state.pods
        if entry.refusal is None:
            return None
        others = {node for node, keeper in pods.kept.keepers.items() if keeper is not entry} | pods.nodes_being_freed()
        rows = [row for row in entry.refusal.nodes.rows(fleet).tolist() if fleet.names[row] not in others]
        row = nearest_row(fleet, entry.request, np.array(rows, np.int64))
        return None if row is None else fleet.names[row]
