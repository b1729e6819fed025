"""Looks for the places of a group's members: where each may be, near what, and whether all have room at once."""

from collections.abc import Sequence

import numpy as np

from headroom.domain.model import Placement
from scheduler.cluster.host_rules import keeps_itself_apart
from scheduler.cluster.pod_entry import PodEntry
from scheduler.cluster.pods.groups import GroupRecord
from scheduler.cluster.room.node_domains import NodeDomains
from scheduler.cluster.room.open_rows import OpenRows
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.holding import LedgerError
from scheduler.placement.groups.near import seat_near
from scheduler.placement.groups.together import Seat, Unseated
from scheduler.placement.placer import Placer

Places = list[Placement] | Unseated


class GroupPlaces:
    """Places for several pods at once on the cluster as it is now."""

    def __init__(self, state: ClusterState) -> None:
        self._state, self._pods, self._ledger = state, state.pods, state.ledger
        # kube-scheduler has checked CPU and host memory for the pod that it asks about, but not for the others.
        self._placer = Placer(state.fleet, state.placer.policy, check_host=True, profile=state.placer.profile)
        self._open_rows = OpenRows(state)
        self.domains = NodeDomains(state)

    def hold(self, one: PodEntry, placement: Placement, expires_at: float) -> None:
        """Reserve a place. Raises LedgerError."""
        self._ledger.reserve(
            one.uid, one.key, one.request, placement,
            expires_at=expires_at, project=one.facts.project, priority=one.facts.priority,
        )  # fmt: skip

    def find(
        self,
        record: GroupRecord,
        chosen: Sequence[PodEntry],
        entry: PodEntry,
        rows: IntArray,
        *,
        expires_at: float = float("inf"),
        anew: bool = False,
    ) -> Places:
        """Places for all that are chosen, held in the ledger; or nothing is held.

        `rows` are offered to `entry`, one of them. `anew`: also where a member was not bound in time.
        """

        def take(at: int, placement: Placement) -> str | None:
            one = chosen[at]
            if (words := self._state.quotas.beyond(one.namespace, one.uid, placement)) is not None:
                return words
            try:
                self.hold(one, placement, expires_at)
            except LedgerError:
                return ""
            return None

        def give(at: int) -> None:
            self._ledger.release(chosen[at].uid)

        topology = self.domains.of_group(record, frozenset(one.uid for one in chosen))
        return seat_near(self._placer, self._seats(chosen, entry, rows, anew), topology, take, give)

    def look(
        self, record: GroupRecord, chosen: Sequence[PodEntry], entry: PodEntry, rows: IntArray, *, anew: bool = False
    ) -> Places:
        """The places that `find` finds; nothing is held."""
        found = self.find(record, chosen, entry, rows, anew=anew)
        if not isinstance(found, Unseated):
            for one in chosen:
                self._ledger.release(one.uid)
        return found

    def _seats(self, chosen: Sequence[PodEntry], entry: PodEntry, rows: IntArray, anew: bool) -> list[Seat]:
        """What each may take. Pods that say the same of nodes as the one that is asked about are offered the same."""
        kind, by_kind = OpenRows.kind_of(entry.pod), dict[bytes, IntArray]()
        apart = any(keeps_itself_apart(one.pod) for one in chosen)
        by_kind[kind] = rows
        same: dict[bytes, IntArray] = {}
        seats = []
        for one in chosen:
            own = kind if one is entry else OpenRows.kind_of(one.pod)
            if own not in by_kind:
                by_kind[own] = self._open_rows.of(one.pod)
            its = self._pods.kept.rows_open_to(one, by_kind[own])
            if one.tried and not anew:
                row_of = self._state.fleet.row_of
                its = its[~np.isin(its, [row_of[name] for name in one.tried if name in row_of])]
            if (within := self._state.quotas.rows(one.namespace, one.uid, one.request)) is not None:
                its = its[within[its]]
            if its is not by_kind[own]:
                its = same.setdefault(its.tobytes(), its)  # seats of one kind have one array
            seats.append(Seat(one.request, its, apart))
        return seats
