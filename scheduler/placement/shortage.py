"""How much must end on a node before a pod fits there. Pure."""

from typing import Final

import numpy as np

from headroom.domain.model import GpuRequest, Mode
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement import filtering

_NEVER: Final = np.int64(2**50)  # more than all cards have; many of them can be added up


def nearest_row(fleet: Fleet, request: GpuRequest, rows: IntArray) -> int | None:
    """The row on which the least memory must be given back before the request fits; of equals the first by name.

    None where it would not even fit on an empty one. What is in use and no pod's is not waited for.
    """
    if not len(rows):
        return None
    missing = _missing_mib(fleet, request, rows)
    shares = np.sort(missing, axis=1)[:, : max(request.count, 1)].sum(axis=1)
    if request.mode is Mode.SLICE:
        # The device plugin could pick a card that a pinned pod is on: those must all be gone.
        shares = shares + np.where(fleet.pinned[rows] > 0, fleet.held_mib[rows], 0).sum(axis=1)
    least = shares.min()
    if least >= _NEVER:
        return None
    nearest: list[int] = rows[shares == least].tolist()
    return min(nearest, key=lambda row: fleet.names[row])


def _missing_mib(fleet: Fleet, request: GpuRequest, rows: IntArray) -> IntArray:
    """MiB that must come free for one share on each card [rows, width]; at least 1 where only a device is wanting."""
    need = filtering.need_mib(fleet, request, rows)
    missing = np.maximum(need - fleet.free_mib[rows], 0)
    if request.mode is Mode.SLICE:
        missing = np.maximum(missing, (fleet.slices_free[rows] <= 0).astype(np.int64))
    possible = filtering.may_hold(fleet, request, rows) & (need <= fleet.usable_mib[rows] - fleet.taken_by_others(rows))
    found: IntArray = np.where(possible, missing, _NEVER)
    return found
