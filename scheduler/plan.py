"""The fluid plan behind Headroom's policy: what the free cards could still hold, and what that makes each leftover worth.

Pure. `solve` takes a summary of the fleet and the workload profile and returns a table of prices; it may run in another
thread while the table before it is in use.

The plan is a cutting-stock problem solved by column generation (Gilmore and Gomory 1961): cards with some leftover are the
stock, the pods expected until the fleet is full are the pieces, a pattern is a set of pieces that fits a leftover. It is
solved as a linear programme; the duals of demand are bid prices in the sense of revenue management (Talluri and van Ryzin):
a size that will come in plenty costs its full size and lends no value to a leftover, a size that is short lends all of it.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import csc_array

from headroom.fleet import IntArray

FloatArray = npt.NDArray[np.float64]

UNITS: Final = 1000
_ROUNDS: Final = 60
_IMPROVEMENT: Final = 0.1  # units per card that a new pattern must promise
_TOLERANCE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Piece:
    """Pods of one size: how many are expected, and the units that a share takes on each kind of card (1001: cannot run)."""

    expected: float
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Everything the plan needs, copied from the fleet and the profile.

    `stock` [kinds, 1001]: cards by kind and free units. `weight` [kinds]: worth of a unit on that kind of card, 1 on the
    average card. `pieces`: demand until the fleet is full, by size. `demand` maps a set of kinds (as a tuple) to the
    units, weighted, of demand that can only run there. `cpu_per_unit`: CPU that a unit of GPU demand brings along.
    """

    stock: FloatArray
    weight: FloatArray
    pieces: tuple[Piece, ...]
    bound_demand: tuple[tuple[tuple[int, ...], float], ...]
    cpu_per_unit: float
    warm: frozenset[tuple[int, tuple[int, ...]]] = field(default_factory=frozenset)


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices for scoring. `value` [kinds, 1001]: worth of a card's leftover, in weighted units; `kind_price` [kinds]: 0..1,
    how much of a kind's free cards pods will want that can run nowhere else. `patterns` warm-start the next plan.
    """

    value: FloatArray
    kind_price: FloatArray
    cpu_per_unit: float
    patterns: frozenset[tuple[int, tuple[int, ...]]] = field(default_factory=frozenset)


def leftovers_at_face_value(weight: FloatArray) -> PriceTable:
    """The table before anything is known: a leftover is worth its size, no kind is scarce."""
    value = np.arange(UNITS + 1)[None, :] * weight[:, None]
    return PriceTable(value, np.zeros(len(weight)), 0.0)


def solve(inputs: PlanInputs) -> PriceTable:
    """Solve the plan by column generation and read the prices off its duals."""
    kinds = len(inputs.weight)
    sizes = np.array([piece.units for piece in inputs.pieces], np.int64).reshape(len(inputs.pieces), kinds)
    expected = np.array([piece.expected for piece in inputs.pieces])
    price = kind_prices(inputs)
    if not len(sizes):
        table = leftovers_at_face_value(inputs.weight)
        return PriceTable(table.value, price, inputs.cpu_per_unit)
    places = [(kind, units) for kind, units in zip(*np.nonzero(inputs.stock), strict=True) if kind > 0 and units > 0]
    columns = _Columns(inputs, sizes, places)
    for kind, pattern in inputs.warm:
        if len(pattern) == len(sizes):
            columns.add(kind, pattern)
    duals = np.where(expected > 0, 0.0, 1e9)
    for _ in range(_ROUNDS):
        value, choice = knapsack(sizes, inputs.weight, duals)
        if not columns.grow(value, choice):
            break
        duals = columns.optimise(expected)
    value, _ = knapsack(sizes, inputs.weight, duals)
    return PriceTable(value, price, inputs.cpu_per_unit, columns.used())


def knapsack(sizes: IntArray, weight: FloatArray, duals: FloatArray) -> tuple[FloatArray, IntArray]:
    """Best worth of every leftover [kinds, 1001] filled with pieces of worth weight x size - dual, and the last piece put in.

    Choice -1 means that the last unit stays empty. Pieces may repeat.
    """
    worth = sizes * weight - duals[:, None]
    useful = np.flatnonzero((worth > _TOLERANCE).any(axis=1))
    kinds = len(weight)
    value = np.zeros((kinds, UNITS + 1))
    choice = np.full((kinds, UNITS + 1), -1, np.int64)
    if not len(useful):
        return value, choice
    size = np.clip(sizes[useful], 1, UNITS + 1).T
    gain = np.where(sizes[useful] <= UNITS, worth[useful], -np.inf).T
    padded = np.full((kinds, 2 * UNITS + 2), -np.inf)  # shifted by UNITS + 1, so that a piece too large reads -inf
    padded[:, UNITS + 1] = 0.0
    line = np.arange(kinds)[:, None]
    flat, base = padded.ravel(), line * padded.shape[1] + UNITS + 1 - size
    step = int(np.gcd.reduce(size[size <= UNITS]))
    for units in range(step, UNITS + 1, step):
        offer = flat[base + units] + gain
        best = offer.argmax(axis=1)
        top = offer[line[:, 0], best]
        before = padded[:, UNITS + 1 + units - step]
        better = top > before + _TOLERANCE
        padded[:, UNITS + 1 + units] = np.where(better, top, before)
        choice[:, units] = np.where(better, best, -1)
    reached = np.arange(UNITS + 1) // step * step
    value = padded[:, UNITS + 1 :][:, reached]
    mapped = np.concatenate([useful, [-1]])
    choice = mapped[choice][:, reached]
    return value, choice


class _Columns:
    """The restricted plan: patterns found so far, per place (kind of card, free units)."""

    def __init__(self, inputs: PlanInputs, sizes: IntArray, places: list[tuple[int, int]]) -> None:
        self._inputs, self._sizes = inputs, sizes
        self._places = places
        self._stock = np.array([inputs.stock[place] for place in places])
        self._patterns: dict[tuple[int, tuple[int, ...]], tuple[int, float]] = {}
        self._entries: list[tuple[int, int]] = []  # (place, pattern number)
        self._known: set[tuple[int, int]] = set()
        self._list: list[tuple[int, tuple[int, ...], int, float]] = []
        self._level = np.zeros(0)
        self._place_duals = np.full(len(places), 0.0)

    def add(self, kind: int, pattern: tuple[int, ...]) -> int:
        """Register a pattern for a kind of card; returns its number."""
        known = self._patterns.get((kind, pattern))
        if known is not None:
            return known[0]
        counts = np.array(pattern)
        units = int((counts * np.where(counts > 0, self._sizes[:, kind], 0)).sum())
        number = len(self._list)
        self._patterns[kind, pattern] = (number, units)
        self._list.append((kind, pattern, units, units * float(self._inputs.weight[kind])))
        for place, (at, room) in enumerate(self._places):
            if at == kind and room >= units and (place, number) not in self._known and room - units < 400:
                self._known.add((place, number))
                self._entries.append((place, number))
        return number

    def grow(self, value: FloatArray, choice: IntArray) -> bool:
        """Add the best pattern of each place under the present prices; False when none improves the plan."""
        before = len(self._entries)
        for place, (kind, room) in enumerate(self._places):
            if value[kind, room] > self._place_duals[place] + _IMPROVEMENT:
                pattern = self._read(choice, kind, room)
                if any(pattern):
                    self.add(kind, pattern)
        return len(self._entries) > before

    def _read(self, choice: IntArray, kind: int, room: int) -> tuple[int, ...]:
        pattern = [0] * len(self._sizes)
        while room > 0:
            piece = int(choice[kind, room])
            if piece < 0:
                room -= 1
                continue
            pattern[piece] += 1
            room -= int(self._sizes[piece, kind])
        return tuple(pattern)

    def optimise(self, expected: FloatArray) -> FloatArray:
        """Solve the restricted plan; returns the duals of demand and keeps those of the places."""
        places, pieces = len(self._places), len(expected)
        rows: list[int] = []
        cols: list[int] = []
        data: list[float] = []
        worth = np.empty(len(self._entries))
        for column, (place, number) in enumerate(self._entries):
            _, pattern, _, gain = self._list[number]
            worth[column] = gain
            rows.append(place)
            cols.append(column)
            data.append(1.0)
            for piece, count in enumerate(pattern):
                if count:
                    rows.append(places + piece)
                    cols.append(column)
                    data.append(count)
        matrix = csc_array((data, (rows, cols)), shape=(places + pieces, len(self._entries)))
        result = linprog(-worth, A_ub=matrix, b_ub=np.concatenate([self._stock, expected]), method="highs")
        if result.status != 0:
            return np.zeros(pieces)
        self._level = result.x
        marginals = -result.ineqlin.marginals
        self._place_duals = marginals[:places]
        duals: FloatArray = marginals[places:]
        return duals

    def used(self) -> frozenset[tuple[int, tuple[int, ...]]]:
        """Patterns that the plan uses."""
        return frozenset(
            self._list[number][:2]
            for (_, number), level in zip(self._entries[: len(self._level)], self._level, strict=True)
            if level > _TOLERANCE
        )


def kind_prices(inputs: PlanInputs) -> FloatArray:
    """How much of each kind's free cards is spoken for by pods that can run on few kinds: 0..1, [kinds].

    Demand is poured over the kinds it may use so that their loads level, the most constrained sets first.
    """
    free = (inputs.stock * np.arange(UNITS + 1)).sum(axis=1) * inputs.weight
    load = np.zeros(len(free))
    for kinds, amount in sorted(inputs.bound_demand, key=lambda item: (float(free[list(item[0])].sum()), item[0])):
        _pour(load, free, np.array([kind for kind in kinds if free[kind] > 0], np.int64), amount)
    price: FloatArray = np.minimum(load / np.maximum(free, 1e-9), 1.0)
    return np.where(free > 0, price, 1.0 * (load > 0))


def _pour(load: FloatArray, free: FloatArray, kinds: IntArray, amount: float) -> None:
    """Raise the lowest ratios load/free among `kinds` to one level, at most 1, by `amount` in all."""
    if not len(kinds) or amount <= 0:
        return
    order = kinds[np.argsort(load[kinds] / free[kinds], kind="stable")]
    for upto in range(1, len(order) + 1):
        group = order[:upto]
        level = (load[group].sum() + amount) / free[group].sum()
        following = load[order[upto]] / free[order[upto]] if upto < len(order) else np.inf
        if level <= following:
            load[group] = min(level, 1.0) * free[group]
            return
