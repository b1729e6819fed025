"""Which cards of a node a pod of several gets where it is known how they are linked; exact for up to 16 cards. Pure.

The set with the fastest slowest pair wins: cards that work on one model wait for the slowest path between them. Then the set with
the most bandwidth in all its pairs. Of equals, the one that leaves the most of the cards that nobody holds: first the best pairs of
them, then all their bandwidth. Then the one that shares most cards with what the placement policy would have taken; then the lowest
indices.
"""

from functools import lru_cache
from typing import Final

import numpy as np

from headroom.domain.links import Matrix
from headroom.domain.model import GpuRequest, Mode, Order
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement.filtering import BoolArray, Fit

MOST_CARDS: Final = 16
"""Beyond it there are too many sets: the policy chooses as if nothing were known of links."""
_FAR: Final = 2**20
"""Above the bandwidth of all pairs together."""


class LinkTables:
    """What every set of a node's cards is worth, by the set's bits: [2^cards]."""

    def __init__(self, matrix: Matrix) -> None:
        cards = len(matrix)
        slowest, total, pairs = (np.zeros(1 << cards, np.int64) for _ in range(3))
        slowest[:] = _FAR
        for card in range(cards):
            before, own = np.arange(1 << card), 1 << card
            nearest, sums = np.full(1, _FAR), np.zeros(1, np.int64)
            for other in range(card):
                nearest = np.concatenate([nearest, np.minimum(nearest, matrix[card][other])])
                sums = np.concatenate([sums, sums + matrix[card][other]])
            slowest[before | own] = np.minimum(slowest[before], nearest)
            total[before | own] = total[before] + sums
            paired = pairs[before].copy()
            for other in range(card):
                there = before[(before >> other) & 1 == 1]
                paired[there] = np.maximum(paired[there], matrix[card][other] + pairs[there ^ (1 << other)])
            pairs[before | own] = paired
        self.worth = slowest * _FAR + total
        """Larger for a better set: its slowest pair, then all its pairs."""
        self.left = pairs * _FAR + total
        """Larger for a set from which better pairs can be had: the best way to pair its cards, then all its pairs."""
        self.slowest, self.total = slowest, total
        bits = np.arange(1 << cards)[:, None] >> np.arange(cards)[None, :]
        self.size: IntArray = (bits & 1).sum(axis=1)

    def of_size(self, size: int, among: int) -> IntArray:
        """The sets of so many cards within the set `among`."""
        every = np.flatnonzero(self.size == size)
        found: IntArray = every[every & ~among == 0]
        return found


@lru_cache(maxsize=64)
def tables_of(matrix: Matrix) -> LinkTables:
    """The tables of a matrix; nodes of one kind share them."""
    return LinkTables(matrix)


@lru_cache(maxsize=8192)
def best_set(matrix: Matrix, count: int, among: int, *, unused: int, liked: int) -> int:
    """The best `count` cards of the set `among`, as bits; 0 where it has not that many.

    `unused` are the cards that nobody holds: of these as much as possible is left. `liked` are those that the policy would take.
    """
    tables = tables_of(matrix)
    sets = tables.of_size(count, among)
    if not len(sets):
        return 0
    left = tables.left[unused & ~sets]
    first = np.lexsort((sets, -tables.size[sets & liked], -left, -tables.worth[sets]))[0]
    return int(sets[first])


def relink(fleet: Fleet, request: GpuRequest, fit: Fit, take: IntArray) -> IntArray:
    """`take` [rows, width], as the policy chose it, with the best linked cards instead on rows where links make a difference.

    A pod that says itself which cards it would like first keeps those.
    """
    if not fleet.links_matter or request.mode is not Mode.PINNED or Order.SPREAD_CARDS in request.order:
        return take
    lines_of: dict[Matrix, list[int]] = {}
    for line, row in enumerate(fit.rows.tolist()):
        if matrix := matrix_of(fleet, row):
            lines_of.setdefault(matrix, []).append(line)
    for matrix, lines in lines_of.items():
        room, need = fit.cards[lines], fit.need[lines]
        sets = [_bits(room), _bits(room & (fleet.held_mib[fit.rows[lines]] == 0)), _bits(take[lines] > 0)]
        # Rows of one kind in one state, of which there may be thousands, are looked at once.
        states, state = np.unique(np.stack(sets), axis=1, return_inverse=True)
        chosen = np.array(
            [
                best_set(matrix, request.count, among, unused=unused, liked=liked)
                for among, unused, liked in states.T.tolist()
            ]
        )[state.reshape(-1)]
        cards = np.zeros(room.shape, np.bool_)
        cards[:, :MOST_CARDS] = (chosen[:, None] >> np.arange(MOST_CARDS))[:, : room.shape[1]] & 1
        found = chosen > 0
        take[np.array(lines)[found]] = np.where(cards, need, 0)[found]
    return take


def card_of_equals(fleet: Fleet, request: GpuRequest, fit: Fit, at: int) -> int:
    """For a pod of one card that the policy would put on card `at` of the one row of `fit`: of the cards that are just like that one,
    the one without which the others can best be used together.
    """
    row = int(fit.rows[0])
    matrix = matrix_of(fleet, row)
    if not matrix or Order.SPREAD_CARDS in request.order:
        return at
    room, free_mib = fit.cards[0], fleet.free_mib[row]
    alike = room & (free_mib == free_mib[at]) & (fleet.usable_mib[row] == fleet.usable_mib[row, at])
    alike &= fleet.card_model[row] == fleet.card_model[row, at]
    among, unused = _bits(np.stack([alike, room & (fleet.held_mib[row] == 0)])).tolist()
    chosen = best_set(matrix, 1, among, unused=unused, liked=1 << at)
    return chosen.bit_length() - 1 if chosen else at


def matrix_of(fleet: Fleet, row: int) -> Matrix:
    """How the cards of a row are linked; empty where it is unknown, makes no difference, or there are too many."""
    node = fleet.nodes.get(fleet.names[row])
    return node.link_gbytes_per_second if node is not None and len(node.cards) <= MOST_CARDS else ()


def _bits(cards: BoolArray) -> IntArray:
    """Sets of cards [rows, width] as bits [rows], for rows whose nodes have at most `MOST_CARDS`."""
    first = cards[:, :MOST_CARDS]
    bits: IntArray = (first * (1 << np.arange(first.shape[1]))).sum(axis=1)
    return bits
