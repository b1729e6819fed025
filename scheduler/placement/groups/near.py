"""Places for the pods of a group near each other: in the nearest common domain that holds them all. Pure.

Which labels make domains, `headroom.domain.labels.topology` tells. A domain is tried only if it has room for as many copies of each kind
of pod as there are. Of those the one with the least room comes first, so that large ones stay whole for large groups. Where a domain is
made of nearer ones (a block of racks), those are filled one after another, the largest first: the group is spread over as few as can be.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from headroom.domain.model import GpuRequest, Mode, Placement
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement import filtering
from scheduler.placement.groups.together import Choose, Seat, Unseated, nearest_rows, seat_all
from scheduler.placement.placer import Placer

BoolArray = npt.NDArray[np.bool_]
_MOST_TRIED: Final = (
    16  # domains of a level; more than one fails only where pods of several kinds are in each other's way
)
_NONE: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True)
class Topology:
    """What the nodes are near to, and what a group asks of that. Codes are equal for rows of one domain, -1 without a label."""

    levels: tuple[IntArray, ...] = ()
    """[rows] for each level, the nearest first."""
    required: IntArray | None = None
    """[rows]: all members must be in one of these domains; None where they need not."""
    within: str = ""
    """What such a domain is, in words."""
    placed: IntArray = field(default_factory=lambda: _NONE)
    """Rows of members that have their places already."""


class _Kind(NamedTuple):
    """Members that ask for the same and may be on the same nodes."""

    rows: IntArray
    pods: int
    room: IntArray
    """[rows]: how many of them a node holds at most."""


def seat_near(
    placer: Placer,
    seats: Sequence[Seat],
    topology: Topology,
    take: Callable[[int, Placement], str | None],
    give: Callable[[int], None],
) -> list[Placement] | Unseated:
    """As `seat_all`, in the nearest domain that holds all seats, and never outside one that is required."""
    if not topology.levels and topology.required is None:
        return seat_all(placer, seats, take, give)
    if words := why_nowhere(topology, seats):
        return Unseated(0, within=words)
    within = f" in {topology.within}" if topology.required is not None else ""
    kinds, ranks = _kinds(placer, seats), placer.ranks()
    if any(int(kind.room.sum()) < kind.pods for kind in kinds):
        return Unseated(0, within=within)
    levels = _levels(topology)
    furthest = Unseated(0, within=within)
    for at, codes in enumerate(levels):
        for domain in _candidates(codes, kinds, topology.placed, ranks):
            found = _seat_in(placer, _inside(seats, codes == domain), levels[:at], topology.placed, take, give)
            if not isinstance(found, Unseated):
                return found
            if found.seated >= furthest.seated:
                furthest = replace(found, within=within)
    if topology.required is not None:
        return furthest
    return _seat_in(placer, seats, levels, topology.placed, take, give)


def why_nowhere(topology: Topology, seats: Sequence[Seat]) -> str:
    """Why no domain will do that is required, whatever is free; empty where that depends on what is free."""
    required = topology.required
    if required is None:
        return ""
    codes = required[topology.placed]
    if len(set(codes.tolist())) > 1 or (codes < 0).any():
        return f" in {topology.within}: its other pods are not in one"
    if not any((required[seat.rows] >= 0).any() for seat in seats):
        return f" in {topology.within}: no node that is open to them has such a label"
    return ""


def nearest_rows_near(fleet: Fleet, seats: Sequence[Seat], topology: Topology) -> list[int] | None:
    """As `nearest_rows`; where a domain is required, in the one with the most free memory that could hold all seats."""
    if topology.required is None:
        return nearest_rows(fleet, seats)
    if why_nowhere(topology, seats):
        return None
    codes = topology.required
    rows = np.unique(np.concatenate([seat.rows for seat in seats]))
    rows = rows[codes[rows] >= 0]
    only = codes[topology.placed]
    free = np.bincount(codes[rows], weights=fleet.free_mib[rows].sum(axis=1))
    by_free = sorted(
        set(codes[rows].tolist()) & (set(only.tolist()) or set(codes[rows].tolist())), key=lambda at: -free[at]
    )
    for domain in by_free[:_MOST_TRIED]:
        if (found := nearest_rows(fleet, _inside(seats, codes == domain))) is not None:
            return found
    return None


def _levels(topology: Topology) -> tuple[IntArray, ...]:
    """The levels to try; with a required one no domain reaches beyond one of that, and it is the last."""
    required = topology.required
    if required is None:
        return topology.levels
    width, parts = int(required.max(initial=0)) + 1, []
    for codes in topology.levels:
        both = np.where((codes >= 0) & (required >= 0), codes * width + required, -1)
        found, inverse = np.unique(both, return_inverse=True)
        parts.append(inverse.astype(np.int64) - int(found[0] < 0))
    return *parts, required


def _kinds(placer: Placer, seats: Sequence[Seat]) -> list[_Kind]:
    """The kinds of members, the largest first."""
    counts: dict[tuple[GpuRequest, int, bool], tuple[Seat, int]] = {}
    for seat in seats:
        key = seat.request, id(seat.rows), seat.apart
        counts[key] = seat, counts.get(key, (seat, 0))[1] + 1
    kinds = []
    for seat, count in sorted(counts.values(), key=lambda one: one[0].size, reverse=True):
        rows = placer.fitting(seat.request, seat.rows)
        room = most_of(placer.fleet, seat.request, rows)
        kinds.append(_Kind(rows, count, np.minimum(room, 1) if seat.apart else room))
    return kinds


def most_of(fleet: Fleet, request: GpuRequest, rows: IntArray) -> IntArray:
    """[rows]: a bound for how many pods that ask for this have room on each row, all of which take one now."""
    if request.mode is Mode.SLICE:
        shares = fleet.slices_free[rows].sum(axis=1)
    else:
        need = np.maximum(filtering.need_mib(fleet, request, rows), 1)
        each = np.where(filtering.choice_of(fleet, request, rows).allowed, fleet.free_mib[rows] // need, 0)
        shares = (np.minimum(each, 1) if request.whole_cards else each).sum(axis=1)
    most = shares // max(request.count, 1)
    if request.cpu_milli:
        most = np.minimum(most, fleet.cpu_free_milli[rows] // request.cpu_milli)
    if request.memory_mib:
        most = np.minimum(most, fleet.memory_free_mib[rows] // request.memory_mib)
    bound: IntArray = np.maximum(most, 1)
    return bound


def _candidates(codes: IntArray, kinds: Sequence[_Kind], placed: IntArray, ranks: IntArray) -> list[int]:
    """Domains of a level that may hold all members, the one with the least room first; equals in the order of their nodes' names."""
    size = int(codes.max(initial=-1)) + 1
    may = np.ones(size, np.bool_)
    least = np.zeros(size, np.int64)
    for at, kind in enumerate(kinds):
        room = _by_domain(codes, kind.rows, kind.room, size)
        may &= room >= kind.pods
        if at == 0:
            least = room
    if len(placed):
        common = set(codes[placed].tolist())
        may &= np.isin(np.arange(size), list(common)) if len(common) == 1 else False
    found = np.flatnonzero(may)
    if len(found) > 1:
        first = _first_names(codes, ranks, size)
        found = found[np.lexsort((first[found], least[found]))]
    return found[:_MOST_TRIED].tolist()  # type: ignore[no-any-return]


def _by_domain(codes: IntArray, rows: IntArray, amounts: IntArray, size: int) -> IntArray:
    """[size]: what the rows of each domain amount to."""
    there = codes[rows]
    known = there >= 0
    return np.bincount(there[known], weights=amounts[known], minlength=size).astype(np.int64)


def _first_names(codes: IntArray, ranks: IntArray, size: int) -> IntArray:
    """[size]: of each domain the place of its first node in the order of names."""
    first = np.full(size, len(codes), np.int64)
    known = codes >= 0
    np.minimum.at(first, codes[known], ranks[: len(codes)][known])
    return first


def _inside(seats: Sequence[Seat], inside: BoolArray) -> list[Seat]:
    """The seats within these rows; what was one array of rows stays one."""
    rows = {id(seat.rows): seat.rows[inside[seat.rows]] for seat in seats}
    return [replace(seat, rows=rows[id(seat.rows)]) for seat in seats]


def _seat_in(
    placer: Placer,
    seats: Sequence[Seat],
    inner: Sequence[IntArray],
    placed: IntArray,
    take: Callable[[int, Placement], str | None],
    give: Callable[[int], None],
) -> list[Placement] | Unseated:
    """Seat all within their rows, in few of the domains of the inner levels."""
    if inner and (choose := _filling(placer, seats, inner, placed)) is not None:
        found = seat_all(placer, seats, take, give, choose)
        if not isinstance(found, Unseated):
            return found
    return seat_all(placer, seats, take, give)


def _filling(placer: Placer, seats: Sequence[Seat], inner: Sequence[IntArray], placed: IntArray) -> Choose | None:
    """A choice that fills one domain of the inner levels after another; None where there is only one."""
    kinds, ranks = _kinds(placer, seats), placer.ranks()
    largest = kinds[0]
    rows = np.unique(np.concatenate([kind.rows for kind in kinds]))
    keys: list[IntArray] = []
    for codes in inner:
        size = int(codes.max(initial=-1)) + 1
        room = np.append(_by_domain(codes, largest.rows, largest.room, size), 0)[
            codes[rows]
        ]  # the last one is of no domain
        near = np.isin(codes[rows], codes[placed][codes[placed] >= 0])
        name = np.append(_first_names(codes, ranks, size), len(codes))[codes[rows]]
        keys += [codes[rows], name, -room, (~near).astype(np.int64)]
    order = np.lexsort(keys)
    rows, path = rows[order], np.stack([codes[rows[order]] for codes in inner])
    starts = np.append(True, (path[:, 1:] != path[:, :-1]).any(axis=0))
    if starts.sum() <= 1:
        return None
    return _Filling(placer, np.split(rows, np.flatnonzero(starts)[1:])).choose


class _Filling:
    """Gives each seat the best row of the first block that has one for it."""

    def __init__(self, placer: Placer, blocks: Iterable[IntArray]) -> None:
        self._placer, self._blocks = placer, list(blocks)
        self._full: dict[tuple[GpuRequest, int], int] = {}
        """By kind of seat, how many blocks have no place for it any more."""
        self._parts: dict[tuple[int, int], IntArray] = {}

    def choose(self, seat: Seat, rows: IntArray) -> int | None:
        """The row for a seat that may be on `rows`."""
        kind = seat.request, id(seat.rows)
        at = self._full.get(kind, 0)
        row = None
        while at < len(self._blocks) and row is None:
            row = self._placer.best_among(seat.request, self._part(seat, rows, at))
            at += row is None
        self._full[kind] = at
        return row

    def _part(self, seat: Seat, rows: IntArray, at: int) -> IntArray:
        """Those of the rows that are in a block; remembered for all seats that may be on all of the same rows."""
        if rows is not seat.rows:
            return np.intersect1d(self._blocks[at], rows, assume_unique=True)
        key = id(rows), at
        if key not in self._parts:
            self._parts[key] = np.intersect1d(self._blocks[at], rows, assume_unique=True)
        return self._parts[key]
