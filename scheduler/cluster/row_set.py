"""A set of nodes in one bit per row. It stays right when nodes come and go, because it knows when it was made. Pure."""

from dataclasses import dataclass

import numpy as np

from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows of a fleet as of `clock`. A node that came into a row later is not in the set."""

    bits: bytes = b""
    clock: int = 0

    @classmethod
    def of(cls, fleet: Fleet, rows: IntArray) -> "RowSet":
        """The nodes that have these rows now."""
        chosen = np.zeros(fleet.capacity, np.bool_)
        chosen[rows] = True
        return cls(np.packbits(chosen).tobytes(), fleet.clock)

    def rows(self, fleet: Fleet) -> IntArray:
        """Rows of those that are still there."""
        chosen = np.flatnonzero(np.unpackbits(np.frombuffer(self.bits, np.uint8)))
        return chosen[fleet.alive[chosen] & (fleet.born[chosen] <= self.clock)]
