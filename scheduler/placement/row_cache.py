"""A value per row of a fleet, kept up by the fleet's change log.

Keys, ranks and reasons are wanted for every node at every decision, and a decision changes one node. So each is computed once
for all rows, and after that for the rows that changed since it was last asked for. Pure.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet

K = TypeVar("K", bound=Hashable)

Columns: TypeAlias = tuple[npt.NDArray[Any], ...]
"""Arrays with an entry for every row."""

_FEWEST_KEPT: Final = 32


class ChangedRows:
    """A reader of the change log of one fleet: remembers how far it has read."""

    def __init__(self) -> None:
        self._clock = -1

    def since_last(self, fleet: Fleet) -> IntArray:
        """Rows changed since the last call: all of them at the first one, and where the log does not reach back that far."""
        clock, self._clock = self._clock, fleet.clock
        if clock == self._clock:
            return _NONE
        changed = fleet.changed_since(clock) if clock >= 0 else None
        return np.arange(len(fleet.names)) if changed is None else np.array(changed, np.int64)


class RowCache:
    """Columns over the rows of a fleet. `compute(rows)` gives the entries of the rows asked for, one array for each column."""

    def __init__(self, fleet: Fleet, compute: Callable[[IntArray], Columns], dtypes: tuple[npt.DTypeLike, ...]) -> None:
        self._fleet, self._compute = fleet, compute
        self._changes = ChangedRows()
        self._columns: Columns = tuple(np.empty(0, dtype) for dtype in dtypes)

    def current(self) -> Columns:
        """The columns as of now; not to be changed, and true until the fleet changes."""
        rows = self._changes.since_last(self._fleet)
        if len(rows):
            missing = len(self._fleet.names) - len(self._columns[0])
            if missing > 0:
                # New rows are among those that changed: they are filled in at once.
                self._columns = tuple(np.concatenate([each, np.empty(missing, each.dtype)]) for each in self._columns)
            try:
                fresh = self._compute(rows)
            except BaseException:
                self._changes = ChangedRows()  # nothing was filled in: all rows are computed the next time
                raise
            for column, entries in zip(self._columns, fresh, strict=True):
                column[rows] = entries
        return self._columns


class RowCaches(Generic[K]):
    """A RowCache for each key; the keys not asked for longest are dropped once the arrays together pass `most_bytes`."""

    def __init__(
        self,
        fleet: Fleet,
        compute: Callable[[K, IntArray], Columns],
        dtypes: tuple[npt.DTypeLike, ...],
        *,
        most_bytes: int,
    ) -> None:
        self._fleet, self._compute, self._dtypes, self._most_bytes = fleet, compute, dtypes, most_bytes
        self._row_bytes = sum(np.dtype(dtype).itemsize for dtype in dtypes)
        self._caches: OrderedDict[K, RowCache] = OrderedDict()

    def of(self, key: K) -> Columns:
        """The columns of a key, as of now."""
        cache = self._caches.get(key)
        if cache is None:
            cache = self._caches[key] = RowCache(self._fleet, lambda rows: self._compute(key, rows), self._dtypes)
            kept = self._most_bytes // (self._row_bytes * max(len(self._fleet.names), 1))
            while len(self._caches) > max(kept, _FEWEST_KEPT):
                self._caches.popitem(last=False)
        self._caches.move_to_end(key)
        return cache.current()

    def latest(self, count: int) -> list[K]:
        """The keys asked for last, the last one first."""
        return list(itertools.islice(reversed(self._caches), count))

    def clear(self) -> None:
        """Forget everything: what the values follow from besides the rows has changed."""
        self._caches.clear()


_NONE: Final = np.zeros(0, np.int64)
