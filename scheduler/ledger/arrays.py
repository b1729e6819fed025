"""The arrays of a fleet: rows are nodes, columns are card positions (padded with cards of size 0). Pure.

Every change of a row is appended to a change log: a consumer that keeps a score per row (see `scheduler.placement.placer`) recomputes
only the rows that changed since it last looked. A row index stays with its node for the node's life; the row of a removed node is
reused.
"""

from typing import Final, Self

import numpy as np
import numpy.typing as npt

from headroom.domain.model import IDLE_MIB, GpuNode
from scheduler.ledger.under_way import UnderWay

IntArray = npt.NDArray[np.int64]

_GROWTH: Final = 1.5


class FleetArrays:
    """Arrays over nodes and cards, with a change log over their rows.

    Arrays of shape [rows, width]: `usable_mib`, `held_mib`, `excess_mib`, `foreign_mib`, `caution_mib`, `free_mib`, `measured_mib`
    (in use by anybody, for people to see), `slices`, `slices_free`, `pinned` and `plugin` (shares held in each mode), `claimed`
    (allocations by resource claims), `claimable` and `by_allocator` (see `headroom.domain.model.Card`), `card_model` and
    `card_resource` (codes; -1 where there is no card), `card_kind` (see `CARD_KINDS`), `pinnable` and `pin_bar` (why not, a code
    of PIN_BARS), `model_matched`, `sized` (its memory is known), `limit_mib` (the most that one share may hold). Foreign memory up
    to `idle_mib` takes nothing from `free_mib`; beyond it all of it does.
    Arrays of shape [rows]: `born` (the `clock` when the row's node came), `alive`, `schedulable`, `untold`, `sharing`,
    `allocation`, `one_device_each`, `card_count`, `cpu_milli`, `cpu_free_milli`, `memory_mib`, `memory_free_mib`, `promised` (devices that
    kube-scheduler allocates or has allocated to pods, of which nothing tells yet on which cards they are).
    """

    def __init__(self, *, rows: int = 16, width: int = 8, idle_mib: int = IDLE_MIB) -> None:
        self.idle_mib = idle_mib
        self.names: list[str] = []
        """Node name by row, empty for a free row."""
        self.row_of: dict[str, int] = {}
        self.nodes: dict[str, GpuNode] = {}
        self.models: list[str] = []
        """Card model by code."""
        self.model_code: dict[str, int] = {}
        self.claims_matter = False
        """Whether any node ever had to do with resource claims: as long as not, nothing need be asked about them."""
        self.untold_nodes = frozenset[str]()
        """Nodes with a pod of which the ledger may not know what it holds; `untold` has it by row."""
        self.links_matter = False
        """Whether any node ever had cards of which some are better linked than others."""
        self.resource_code: dict[str, int] = {"": 0}
        """By the extended resource under which cards are handed out; 0 for cards that no device plugin hands out."""
        self.changes: list[int] = []
        """Rows in the order of their changes."""
        self.changes_dropped = 0
        """Entries ever dropped from the front of `changes`."""
        self.free_rows: list[int] = []
        """Rows whose nodes are gone."""
        self.under_way = UnderWay()
        """Devices of the plugin that it may still take from other cards than foretold, or get back."""
        self._allocate(max(rows, 1), max(width, 1))

    def _allocate(self, rows: int, width: int) -> None:
        cards, nodes = (rows, width), (rows,)
        self.usable_mib = np.zeros(cards, np.int64)
        self.held_mib = np.zeros(cards, np.int64)
        self.excess_mib = np.zeros(cards, np.int64)
        self.foreign_mib = np.zeros(cards, np.int64)
        self.measured_mib = np.zeros(cards, np.int64)
        self.caution_mib = np.zeros(cards, np.int64)
        self.free_mib = np.zeros(cards, np.int64)
        self.slices = np.zeros(cards, np.int64)
        self.slices_free = np.zeros(cards, np.int64)
        self.pinned = np.zeros(cards, np.int64)
        self.plugin = np.zeros(cards, np.int64)
        self.claimed = np.zeros(cards, np.int64)
        self.claimable = np.zeros(cards, np.bool_)
        self.by_allocator = np.zeros(cards, np.bool_)
        self.card_model = np.full(cards, -1, np.int64)
        self.card_kind = np.zeros(cards, np.int64)
        self.card_resource = np.full(cards, -1, np.int64)
        self.pin_bar = np.zeros(cards, np.int8)
        self.pinnable = np.zeros(cards, np.bool_)
        self.model_matched = np.zeros(cards, np.bool_)
        self.sized = np.zeros(cards, np.bool_)
        self.limit_mib = np.zeros(cards, np.int64)
        self.born = np.zeros(nodes, np.int64)
        self.alive = np.zeros(nodes, np.bool_)
        self.schedulable = np.zeros(nodes, np.bool_)
        self.untold = np.zeros(nodes, np.bool_)
        self.sharing = np.zeros(nodes, np.int64)
        self.allocation = np.zeros(nodes, np.int64)
        self.one_device_each = np.zeros(nodes, np.bool_)
        self.card_count = np.zeros(nodes, np.int64)
        self.promised = np.zeros(nodes, np.int64)
        self.cpu_milli = np.zeros(nodes, np.int64)
        self.cpu_free_milli = np.zeros(nodes, np.int64)
        self.memory_mib = np.zeros(nodes, np.int64)
        self.memory_free_mib = np.zeros(nodes, np.int64)

    @property
    def capacity(self) -> int:
        """Rows allocated; the arrays' first dimension."""
        return len(self.alive)

    @property
    def width(self) -> int:
        """Card positions per row; the arrays' second dimension."""
        return int(self.usable_mib.shape[1])

    def grow(self, rows: int, width: int) -> None:
        """Make room for so many rows and card positions; never for fewer than there are."""
        old = {name: array for name, array in vars(self).items() if isinstance(array, np.ndarray)}
        old_rows, old_width = self.capacity, self.width
        self._allocate(max(rows, old_rows), max(width, old_width))
        for name, array in old.items():
            target = getattr(self, name)
            if array.ndim == 2:
                target[:old_rows, :old_width] = array
            else:
                target[:old_rows] = array

    def copy(self) -> Self:
        """An independent copy with the same rows, for questions of the kind "what if"."""
        other = type(self)(rows=self.capacity, width=self.width)
        for name, value in vars(self).items():
            setattr(other, name, value if isinstance(value, int) else value.copy())
        return other

    def code_of(self, model: str) -> int:
        """The number that stands for a card model in `card_model`; new models get the next one."""
        code = self.model_code.get(model)
        if code is None:
            code = self.model_code[model] = len(self.models)
            self.models.append(model)
        return code

    def touch(self, row: int) -> None:
        """Record that a row changed."""
        self.changes.append(row)
        if len(self.changes) > 4 * self.capacity + 1024:
            drop = len(self.changes) - self.capacity
            del self.changes[:drop]
            self.changes_dropped += drop

    @property
    def clock(self) -> int:
        """Number of changes so far: a consumer remembers it and later asks `changed_since`."""
        return self.changes_dropped + len(self.changes)

    def changed_since(self, clock: int) -> list[int] | None:
        """Rows changed after `clock`, each once; None when the log no longer reaches back that far."""
        start = clock - self.changes_dropped
        if start < 0:
            return None
        return list(dict.fromkeys(self.changes[start:]))

    def new_row(self, name: str) -> int:
        """Give a node a row of its own, grown where all are taken."""
        if self.free_rows:
            row = self.free_rows.pop()
            self.names[row] = name
        else:
            row = len(self.names)
            if row >= self.capacity:
                self.grow(int(self.capacity * _GROWTH) + 1, self.width)
            self.names.append(name)
        self.row_of[name] = row
        self.born[row] = self.clock + 1
        return row
