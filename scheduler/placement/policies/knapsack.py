"""Knapsacks over the leftover of a card: the best worth of the pieces that can be cut from it.

Pure. Sizes are thousandths of a card; a size of 1001 says that the piece cannot be cut there.
"""

from collections import Counter
from typing import Final

import numpy as np
import numpy.typing as npt

from scheduler.ledger.arrays import IntArray

FloatArray = npt.NDArray[np.float64]

UNITS: Final = 1000
HOST_LEVELS: Final = 33
"""Steps of a node's free CPU or memory that a leftover's worth tells apart; from the last one on, it is enough for any cut."""
TOLERANCE: Final = 1e-6


def knapsack(sizes: IntArray, gain: FloatArray) -> tuple[FloatArray, IntArray]:
    """Best worth of every leftover [pools, 1001] cut into pieces of given `sizes` and `gain` [pieces, pools], repeats allowed.

    Also the last piece put in, -1 where the last unit stays empty.
    """
    pools = sizes.shape[1]
    useful = np.flatnonzero(((gain > TOLERANCE) & (sizes <= UNITS)).any(axis=1))
    if not len(useful):
        return np.zeros((pools, UNITS + 1)), np.full((pools, UNITS + 1), -1, np.int64)
    size = np.clip(sizes[useful], 1, UNITS + 1).T
    worth = np.where(sizes[useful] <= UNITS, gain[useful], -np.inf).T
    padded = np.full((pools, 2 * UNITS + 2), -np.inf)  # shifted by UNITS + 1, so that a piece too large reads -inf
    padded[:, UNITS + 1] = 0.0
    choice = np.full((pools, UNITS + 1), -1, np.int64)
    pool = np.arange(pools)
    flat, base = padded.ravel(), pool[:, None] * padded.shape[1] + UNITS + 1 - size
    step = int(np.gcd.reduce(size[size <= UNITS]))
    for units in range(step, UNITS + 1, step):
        offer = flat[base + units] + worth
        best = offer.argmax(axis=1)
        top = offer[pool, best]
        before = padded[:, UNITS + 1 + units - step]
        better = top > before + TOLERANCE
        padded[:, UNITS + 1 + units] = np.where(better, top, before)
        choice[:, units] = np.where(better, best, -1)
    reached = np.arange(UNITS + 1) // step * step
    return padded[:, UNITS + 1 :][:, reached], np.append(useful, -1)[choice][:, reached]


def cut(choice: IntArray, sizes: IntArray, room: int) -> Counter[int]:
    """The pieces that `knapsack` cut from a leftover of `room`, and how many: `choice` [1001] and `sizes` [pieces] of one pool."""
    pieces: Counter[int] = Counter()
    while room > 0:
        piece = int(choice[room])
        if piece < 0:
            room -= 1
        else:
            pieces[piece] += 1
            room -= int(sizes[piece])
    return pieces


def knapsack_by_host(sizes: IntArray, gain: FloatArray, need: IntArray, unlimited: FloatArray) -> FloatArray:
    """Best worth of every leftover by what its node has free beside it [pools, 1001, HOST_LEVELS].

    `need` [pieces] is what a piece takes of that, in levels; `unlimited` the worth where nothing is short (see `knapsack`).
    """
    pools = sizes.shape[1]
    worth = np.zeros((pools, UNITS + 1, HOST_LEVELS))
    useful = np.flatnonzero(((gain > TOLERANCE) & (sizes <= UNITS)).any(axis=1) & (need < HOST_LEVELS - 1))
    if len(useful):
        size = np.clip(sizes[useful], 1, UNITS + 1)
        piece_gain = np.where(sizes[useful] <= UNITS, gain[useful], -np.inf)[:, :, None]
        # As in `knapsack`, shifted on both axes: what is too large, or needs too much, reads -inf.
        padded = np.full((pools, 2 * UNITS + 2, 2 * HOST_LEVELS), -np.inf)
        padded[:, UNITS + 1, HOST_LEVELS:] = 0.0
        units_from = np.arange(pools) * padded.shape[1] + UNITS + 1 - size
        levels_from = HOST_LEVELS - need[useful][:, None] + np.arange(HOST_LEVELS)
        flat, base = padded.ravel(), units_from[:, :, None] * padded.shape[2] + levels_from[:, None, :]
        step = int(np.gcd.reduce(size[size <= UNITS]))
        for units in range(step, UNITS + 1, step):
            offer = (flat[base + units * padded.shape[2]] + piece_gain).max(axis=0)
            at = UNITS + 1 + units
            padded[:, at, HOST_LEVELS:] = np.maximum(offer, padded[:, at - step, HOST_LEVELS:])
        reached = np.arange(UNITS + 1) // step * step
        worth = padded[:, UNITS + 1 :, HOST_LEVELS:][:, reached]
    worth[:, :, -1] = unlimited
    return worth
