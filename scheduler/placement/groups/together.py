"""Places for several pods at once, or for none of them; and the nodes that come nearest to having them. Pure.

The pods are seated one after another, the largest first, each on the best node that is left. Where one finds no place, nothing stays
held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np

from headroom.domain.model import GpuRequest, Mode, Placement
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement import filtering
from scheduler.placement.placer import Placer
from scheduler.placement.shortage import nearest_row

_WHOLE: Final = 1 + 1e-9


@dataclass(frozen=True, slots=True)
class Seat:
    """What one member asks for, and where it may be."""

    request: GpuRequest
    rows: IntArray
    """Rows of the nodes that are open to it."""
    apart: bool = False
    """No other member may be on its node."""

    @property
    def size(self) -> tuple[int, bool, int, int]:
        """What it asks for, to be compared."""
        return self.request.count, self.request.whole_cards, self.request.vram_mib, self.request.milli


@dataclass(frozen=True, slots=True)
class Unseated:
    """Not all have a place: so many would have had one, and why the next has none, where that is not for lack of room."""

    seated: int
    words: str = ""
    within: str = ""
    """Within what there is no room, in words that may follow; empty where there is none anywhere."""


Choose: TypeAlias = Callable[[Seat, IntArray], int | None]
"""Gives the row for a seat, of those that it may be on; None where none has room."""


def seat_all(
    placer: Placer,
    seats: Sequence[Seat],
    take: Callable[[int, Placement], str | None],
    give: Callable[[int], None],
    choose: Choose | None = None,
) -> list[Placement] | Unseated:
    """A placement for each seat, in their order, all held by `take`; or nothing is held.

    `take(at, placement)` holds the place of a seat, or says why it may not be had: then it holds nothing. `give(at)` undoes it.
    Without `choose` each seat gets the row that the policy likes best.
    """
    if not _enough(placer.fleet, [seat.request for seat in seats]):
        return Unseated(0)
    order = sorted(range(len(seats)), key=lambda at: seats[at].size, reverse=True)
    placements: dict[int, Placement] = {}
    used: set[int] = set()
    for at in order:
        seat = seats[at]
        rows = seat.rows
        if used and seat.apart:
            rows = rows[~np.isin(rows, list(used))]
        row = None
        if len(rows):
            row = placer.best_among(seat.request, rows) if choose is None else choose(seat, rows)
        words: str | None = ""
        if row is not None:
            placement = placer.placement_at(seat.request, row)
            words = take(at, placement)
        if row is None or words is not None:
            for done in reversed(placements):
                give(done)
            return Unseated(len(placements), words or "")
        placements[at] = placement
        used.add(row)
    return [placements[at] for at in range(len(seats))]


def _enough(fleet: Fleet, requests: Sequence[GpuRequest]) -> bool:
    """False where all free memory together, or all cards with any, are less than is asked for: most groups that wait, at little cost."""
    pinned = [request for request in requests if request.mode is Mode.PINNED]
    if sum(request.count * request.vram_mib for request in pinned) > int(fleet.free_mib.sum()):
        return False
    return sum(request.count for request in pinned if request.whole_cards) <= int((fleet.free_mib > 0).sum())


def nearest_rows(fleet: Fleet, seats: Sequence[Seat]) -> list[int] | None:
    """Rows that would hold all seats once what runs there has ended, those first on which the least must end; few rather than many.

    None where the seats would not all fit even then.
    """
    chosen: list[int] = []
    used: dict[int, float] = {}
    for at in sorted(range(len(seats)), key=lambda at: seats[at].size, reverse=True):
        seat = seats[at]
        open_to_it = set() if seat.apart else set(seat.rows.tolist())
        row = next((row for row in chosen if row in open_to_it and _part(fleet, seat, row) <= _WHOLE - used[row]), None)
        if row is None:
            others = seat.rows[~np.isin(seat.rows, chosen)] if chosen else seat.rows
            row = nearest_row(fleet, seat.request, others)
            while row is not None and not _most(fleet, seat.request, row):
                others = others[others != row]
                row = nearest_row(fleet, seat.request, others)
            if row is None:
                return None
            chosen.append(row)
            used[row] = 0.0
        used[row] += _part(fleet, seat, row)
    return chosen


def _part(fleet: Fleet, seat: Seat, row: int) -> float:
    """How much of an empty node the seat takes, roughly: by how many like it there would be room for."""
    most = _most(fleet, seat.request, row)
    return 1 / most if most else 2.0


def _most(fleet: Fleet, request: GpuRequest, row: int) -> int:
    """How many pods like this one a node holds if nobody else is on it."""
    rows = np.array([row], np.int64)
    need = filtering.need_mib(fleet, request, rows)[0]
    room = (fleet.usable_mib[rows] - fleet.taken_by_others(rows))[0]
    may = filtering.may_hold(fleet, request, rows)[0]
    each = np.where(may & (need > 0), room // np.maximum(need, 1), 0)
    if request.mode is Mode.SLICE:
        each = np.minimum(each, fleet.slices[row])
    elif request.whole_cards:
        each = np.minimum(each, 1)
    count = max(request.count, 1)
    most = int(each.sum()) // count
    if request.cpu_milli:
        most = min(most, int(fleet.cpu_milli[row]) // request.cpu_milli)
    if request.memory_mib:
        most = min(most, int(fleet.memory_mib[row]) // request.memory_mib)
    return most
