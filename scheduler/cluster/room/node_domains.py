"""In which rack, block or zone each node is, by its labels; kept up as nodes change."""

from typing import Final

import numpy as np

from headroom.domain.labels.topology import PREFERRED, labels_of, words_of
from scheduler.cluster.pods.groups import GroupRecord
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.placement.groups.near import Topology
from scheduler.placement.row_cache import Columns, RowCaches

Domain = tuple[str, str]
"""A label's key and its value."""
_MOST_BYTES: Final = 2**22
_MOST_KNOWN: Final = 2**18


class NodeDomains:
    """The domain of each row, as a code, by the labels that tell it."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._rows: RowCaches[tuple[str, ...]] = RowCaches(state.fleet, self._read, (np.int64,), most_bytes=_MOST_BYTES)
        self._codes: dict[Domain, int] = {}

    def levels(self) -> tuple[IntArray, ...]:
        """[rows] for each level that any node has a label of, the nearest first."""
        found = (self._of(keys) for keys in PREFERRED)
        return tuple(codes for codes in found if (codes >= 0).any())

    def required(self, topology: str) -> IntArray:
        """[rows]: the domains of what a group says in `headroom.dev/group-topology`; -1 for nodes without such a label."""
        return self._of(labels_of(topology))

    def _of(self, keys: tuple[str, ...]) -> IntArray:
        if len(self._codes) > _MOST_KNOWN:  # domains come and go with their nodes
            self._codes.clear()
            self._rows.clear()
        (codes,) = self._rows.of(keys)
        return codes

    def of_group(self, record: GroupRecord, but: frozenset[str] = frozenset()) -> Topology:
        """What the nodes are near to, and what a group asks of that; `but` are the members that look for places."""
        levels, said = self.levels(), record.topology
        if not levels and not said:
            return Topology()
        placed = np.array(self._rows_held(record, but), np.int64)
        if not said:
            return Topology(levels, placed=placed)
        return Topology(levels, self.required(said), words_of(said), placed)

    def refusal(self, record: GroupRecord, uid: str, node: str) -> str | None:
        """Why a member may not be on a node by what its group requires; None where it may."""
        row, said = self._state.fleet.row_of.get(node), record.topology
        if not said or row is None:
            return None
        keys = labels_of(said)
        own = self._domain(keys, row)
        if own is None:
            return f"its group must be in {words_of(said)}, and the node has no such label"
        for other in self._rows_held(record, frozenset((uid,))):
            if self._domain(keys, other) != own:
                return f"its group must be in {words_of(said)}, and others of its pods are in another"
        return None

    def common(self, record: GroupRecord) -> Domain | None:
        """The nearest domain that has all places of a group; None where there is none."""
        rows = self._rows_held(record)
        for keys in PREFERRED:
            found = {self._domain(keys, row) for row in rows}
            if len(found) == 1 and (domain := found.pop()) is not None:
                return domain
        return None

    def _rows_held(self, record: GroupRecord, but: frozenset[str] = frozenset()) -> list[int]:
        """Rows of members that hold cards, those left out that are leaving."""
        holdings, row_of, leaving = self._state.ledger.holdings, self._state.fleet.row_of, self._state.pods.leaving
        found = []
        for uid in record.members:
            held = holdings.get(uid)
            if held is None or not held.request.count or uid in but or uid in leaving:
                continue
            if (row := row_of.get(held.placement.node)) is not None:
                found.append(row)
        return found

    def _domain(self, keys: tuple[str, ...], row: int) -> Domain | None:
        node = self._state.nodes.get(self._state.fleet.names[row])
        if node is None:
            return None
        return next(((key, value) for key in keys if (value := node.metadata.labels.get(key, ""))), None)

    def _read(self, keys: tuple[str, ...], rows: IntArray) -> Columns:
        codes = np.full(len(rows), -1, np.int64)
        for at, row in enumerate(rows.tolist()):
            if (domain := self._domain(keys, row)) is not None:
                codes[at] = self._codes.setdefault(domain, len(self._codes))
        return (codes,)
