"""The fluid plan behind Headroom's policy: what the free cards could still hold, and what that makes each leftover worth.

Pure. `solve` takes a summary of the fleet and the workload profile and returns a table of prices; it may run in another
thread while the table before it is in use.

The plan is a cutting-stock problem solved by column generation (Gilmore and Gomory 1961): cards with some leftover are the
stock, the pods expected until the fleet is full are the pieces, a pattern is a set of pieces that fits a leftover. Cards on
like nodes form a pool and share the pool's CPU. It is solved as a linear programme; its duals are bid prices in the sense
of revenue management (Talluri and van Ryzin): a size that comes less often than there is room for it has a dual of its full
size and lends no worth to a leftover, a size that will not find enough room has a dual of 0 and lends all of it; CPU has a
price where it would run out before the cards do.
"""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Final

import numpy as np

from scheduler.ledger.arrays import IntArray
from scheduler.placement.policies.knapsack import (
    HOST_LEVELS,
    TOLERANCE,
    UNITS,
    FloatArray,
    cut,
    knapsack,
    knapsack_by_host,
)
from scheduler.placement.policies.linear_programme import UnsolvedError, maximise

Pattern = tuple[int, tuple[tuple[int, int], ...]]
"""A pool and the pieces cut from one of its cards: (piece's key, how many), sorted."""

_ROUNDS: Final = 60
_IMPROVEMENT: Final = 0.1  # units per card that a new pattern must promise
_SEVERAL_PART: Final = (
    0.05  # worth of a place for a pod on several cards, of its size: the cards are of use to others, too
)
_CPU_LEVEL_MILLI: Final = 1000  # one core: what pods beside a card ask for mostly comes in whole ones
_MEMORY_LEVEL_MIB: Final = 2048
_HOST_POD_WORTH: Final = 0.1  # weighted units per milli-CPU of a pod without GPU: above any use of CPU beside a card


@dataclass(frozen=True, slots=True)
class Piece:
    """Shares of one size: `key` names it from plan to plan, `expected` of them are to come.

    Each brings `cpu_milli` and, in the mean, `memory_mib` of host memory. `units` [pools] is what a share takes of a card of
    each pool; 1001 where it cannot run.
    """

    key: int
    expected: float
    units: tuple[int, ...]
    cpu_milli: float
    memory_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class Bound:
    """Pods that only some pools can run: `expected` shares, each of `units` [pools] (1001: not there) and `cpu_milli`."""

    expected: float
    units: tuple[int, ...]
    cpu_milli: float


@dataclass(frozen=True, slots=True)
class Several:
    """Pods that need `count` cards of one node at once, `units` [pools] of each; as many as `slots` fit now."""

    count: int
    units: tuple[int, ...]
    expected: float
    slots: float


@dataclass(frozen=True, slots=True)
class PlanInputs:
    """Everything the plan needs, copied from the fleet and the profile.

    `stock` [pools, 1001]: cards by pool and free units. `weight` [pools]: worth of a unit there, 1 on the average card.
    `cpu_milli` [pools]: free CPU. `host_cpu_milli`: CPU that pods without a GPU will ask for. `cpu_per_unit`: CPU that a
    weighted unit of GPU demand brings along.
    """

    stock: FloatArray
    weight: FloatArray
    cpu_milli: FloatArray
    pieces: tuple[Piece, ...]
    host_cpu_milli: float
    bound: tuple[Bound, ...]
    several: tuple[Several, ...]
    cpu_per_unit: float
    warm: frozenset[Pattern] = field(default_factory=frozenset)


@dataclass(frozen=True)
class PriceTable:
    """Prices for scoring, in weighted units; `weight` is that of the inputs.

    `by_cpu`, `by_memory` [pools, 1001, HOST_LEVELS]: worth of a card's leftover to pods that could run anywhere, by CPU and by
    memory free on its node. `reserve` [pools, 1001]: what it is worth on top to those that can run on few pools. `cpu_price`
    [pools]: worth of a milli-CPU. `several`: pods on several cards of a node, with the worth of a place for one. `patterns`
    warm-start the next plan.
    """

    weight: FloatArray
    by_cpu: FloatArray
    by_memory: FloatArray
    reserve: FloatArray
    cpu_price: FloatArray
    several: tuple[tuple[Several, float], ...]
    cpu_per_unit: float
    patterns: frozenset[Pattern] = field(default_factory=frozenset)

    @property
    def value(self) -> FloatArray:
        """Worth of a leftover on a node with CPU and memory to spare [pools, 1001]."""
        return self.by_cpu[:, :, -1]

    @cached_property
    def has_reserve(self) -> bool:
        """Whether any leftover is worth more to pods that can run on few pools."""
        return bool(self.reserve.any())

    @cached_property
    def _flat_by_cpu(self) -> FloatArray:
        return np.ascontiguousarray(self.by_cpu).ravel()

    @cached_property
    def _flat_by_memory(self) -> FloatArray:
        return np.ascontiguousarray(self.by_memory).ravel()

    def place(self, pools: IntArray, units: IntArray) -> IntArray:
        """Where a leftover stands in the tables, for `worth`."""
        place: IntArray = (pools * (UNITS + 1) + units) * HOST_LEVELS
        return place

    def worth(self, place: IntArray, cpu_level: IntArray, memory_level: IntArray) -> FloatArray:
        """Worth of the leftovers at `place` on nodes of these levels (see `host_levels`), of a shape that broadcasts with it.

        Each leftover for itself: where two of them would need the same CPU or memory, both count.
        """
        return np.minimum(self._flat_by_cpu.take(place + cpu_level), self._flat_by_memory.take(place + memory_level))

    def card_worth(self, pools: IntArray, units: IntArray, cpu_milli: IntArray, memory_mib: IntArray) -> FloatArray:
        """Worth of the leftovers `units` [rows, width] of cards of `pools` [rows, width] on nodes with so much free [rows]."""
        cpu, memory = host_levels(cpu_milli, memory_mib)
        return self.worth(self.place(pools, units), cpu[:, None], memory[:, None])


def host_levels(cpu_milli: IntArray, memory_mib: IntArray) -> tuple[IntArray, IntArray]:
    """Steps of CPU and of memory free on nodes, by which `PriceTable` tells them apart."""
    top = HOST_LEVELS - 1
    cpu: IntArray = np.minimum(np.maximum(cpu_milli // _CPU_LEVEL_MILLI, 0), top)
    memory: IntArray = np.minimum(np.maximum(memory_mib // _MEMORY_LEVEL_MIB, 0), top)
    return cpu, memory


def face_value(weight: FloatArray) -> PriceTable:
    """The table before anything is known: a leftover is worth its size, nothing is scarce."""
    value = np.arange(UNITS + 1) * weight[:, None]
    by_host = np.repeat(value[:, :, None], HOST_LEVELS, axis=2)
    return PriceTable(weight, by_host, by_host, np.zeros_like(value), np.zeros(len(weight)), (), 0.0)


def extended(table: PriceTable, weight: FloatArray) -> PriceTable:
    """The table with further pools, given the weights of all: nodes of a new kind have come since it was made."""
    known = len(table.weight)
    fresh = face_value(weight[known:])
    several = tuple(
        (replace(pods, units=pods.units + (UNITS + 1,) * (len(weight) - known)), price) for pods, price in table.several
    )
    return replace(
        table,
        weight=np.concatenate([table.weight, fresh.weight]),
        by_cpu=np.concatenate([table.by_cpu, fresh.by_cpu]),
        by_memory=np.concatenate([table.by_memory, fresh.by_memory]),
        reserve=np.concatenate([table.reserve, fresh.reserve]),
        cpu_price=np.concatenate([table.cpu_price, fresh.cpu_price]),
        several=several,
    )


def solve_for_chance(inputs: PlanInputs) -> PriceTable:
    """Mean prices of plans for the pods expected and for draws around them.

    The number of pods of a kind that will come scatters by its square root. One plan takes it for certain: a size that is
    short by a single pod has its full worth, one that is not has none. The draws are a standard deviation up for every
    second kind and down for the others, and the other way round.
    """
    expected = solve(inputs)
    tables = [expected]
    for sign in (1.0, -1.0):
        pieces = tuple(
            replace(piece, expected=max(piece.expected + sign * (-1) ** at * math.sqrt(piece.expected), 0.0))
            for at, piece in enumerate(inputs.pieces)
        )
        tables.append(solve(replace(inputs, pieces=pieces, warm=expected.patterns)))
    return replace(
        expected,
        by_cpu=np.mean([table.by_cpu for table in tables], axis=0),
        by_memory=np.mean([table.by_memory for table in tables], axis=0),
        cpu_price=np.mean([table.cpu_price for table in tables], axis=0),
    )


def solve(inputs: PlanInputs) -> PriceTable:
    """Solve the plan by column generation and read the prices off its duals."""
    if not inputs.pieces:
        return face_value(inputs.weight)
    sizes = np.array([piece.units for piece in inputs.pieces], np.int64)
    programme = _Programme(inputs, sizes)
    for _ in range(_ROUNDS):
        gain = (
            sizes * inputs.weight - programme.piece_dual[:, None] - programme.cpu_needed[:, None] * programme.cpu_dual
        )
        value, choice = knapsack(sizes, gain)
        if not programme.grow(value, choice):
            break
        programme.optimise()
    memory_needed = np.array([piece.memory_mib for piece in inputs.pieces])
    return PriceTable(
        weight=inputs.weight,
        by_cpu=knapsack_by_host(sizes, gain, _levels(programme.cpu_needed, _CPU_LEVEL_MILLI), value),
        by_memory=knapsack_by_host(sizes, gain, _levels(memory_needed, _MEMORY_LEVEL_MIB), value),
        reserve=reserves(inputs),
        cpu_price=programme.cpu_dual,
        several=tuple((pods, price) for pods in inputs.several if (price := place_price(pods, inputs.weight)) > 0),
        cpu_per_unit=inputs.cpu_per_unit,
        patterns=programme.used(),
    )


def _levels(need: FloatArray, step: int) -> IntArray:
    return np.ceil(need / step).astype(np.int64)


class _Programme:
    """The restricted linear programme: the patterns found so far.

    Rows: cards of each place (pool, free units), pieces expected, CPU of each pool, CPU of pods without a GPU. A card may
    also serve as one of the same pool with less free, so each pattern is a column once, at the smallest place it fits.
    """

    def __init__(self, inputs: PlanInputs, sizes: IntArray) -> None:
        self._inputs, self._sizes = inputs, sizes
        pools, units = np.nonzero(inputs.stock[:, 1:])
        self._places = [(int(pool), int(free) + 1) for pool, free in zip(pools, units, strict=True) if pool > 0]
        self._expected = np.array([piece.expected for piece in inputs.pieces])
        self.cpu_needed = np.array([piece.cpu_milli for piece in inputs.pieces])
        self.piece_dual = np.zeros(len(inputs.pieces))
        self.cpu_dual = np.zeros(len(inputs.weight))
        self._place_dual = np.zeros(len(self._places))
        self._columns: dict[Pattern, tuple[int, float, float]] = {}  # place, worth, CPU
        self._level = np.zeros(0)
        self._number = {piece.key: at for at, piece in enumerate(inputs.pieces)}
        self._room: dict[int, tuple[list[int], list[int]]] = {}
        for place, (pool, free) in enumerate(self._places):
            rooms, places = self._room.setdefault(pool, ([], []))
            rooms.append(free)
            places.append(place)
        for pattern in sorted(inputs.warm):
            self._add(pattern)
        if self._columns:
            self.optimise()

    def _add(self, pattern: Pattern) -> None:
        pool, cuts = pattern
        if pattern in self._columns or pool not in self._room or any(key not in self._number for key, _ in cuts):
            return
        numbers = [(self._number[key], count) for key, count in cuts]
        units = sum(int(self._sizes[piece, pool]) * count for piece, count in numbers)
        rooms, places = self._room[pool]
        smallest = int(np.searchsorted(rooms, units))
        if smallest < len(places):
            cpu = sum(self.cpu_needed[piece] * count for piece, count in numbers)
            self._columns[pattern] = (places[smallest], units * float(self._inputs.weight[pool]), cpu)

    def grow(self, value: FloatArray, choice: IntArray) -> bool:
        """Add the best pattern of each place under the present prices; False when none improves the plan."""
        before = len(self._columns)
        for place, (pool, room) in enumerate(self._places):
            if value[pool, room] > self._place_dual[place] + _IMPROVEMENT:
                self._add((pool, self._cuts(choice, pool, room)))
        return len(self._columns) > before

    def _cuts(self, choice: IntArray, pool: int, room: int) -> tuple[tuple[int, int], ...]:
        pieces = cut(choice[pool], self._sizes[:, pool], room)
        return tuple(sorted((self._inputs.pieces[piece].key, times) for piece, times in pieces.items()))

    def optimise(self) -> None:
        """Solve the programme over the present columns and keep its duals."""
        inputs, places, pieces, pools = self._inputs, len(self._places), len(self._expected), len(self.cpu_dual)
        entries: list[tuple[int, int, float]] = []
        worth: list[float] = []
        for (_, cuts), (place, gain, cpu) in self._columns.items():
            column = len(worth)
            worth.append(gain)
            entries.append((place, column, 1.0))
            entries += [(places + self._number[key], column, float(count)) for key, count in cuts]
            entries.append((places + pieces + self._places[place][0], column, cpu))
        for rooms_places in (places_ for _, places_ in self._room.values()):
            for smaller, larger in pairwise(rooms_places):
                entries += [(larger, len(worth), 1.0), (smaller, len(worth), -1.0)]
                worth.append(0.0)
        if inputs.host_cpu_milli > 0:
            for pool in self._room:
                entries += [(places + pieces + pool, len(worth), 1.0), (places + pieces + pools, len(worth), 1.0)]
                worth.append(_HOST_POD_WORTH)
        stock = [float(inputs.stock[place]) for place in self._places]
        limit = np.concatenate([stock, self._expected, inputs.cpu_milli, [inputs.host_cpu_milli]])
        try:
            best = maximise(np.array(worth), entries, limit)
        except UnsolvedError:
            return
        dual = best.price
        self._level = best.level[: len(self._columns)]
        self._place_dual = dual[:places]
        self.piece_dual = dual[places : places + pieces]
        self.cpu_dual = dual[places + pieces : places + pieces + pools]

    def used(self) -> frozenset[Pattern]:
        """Patterns that the plan uses."""
        return frozenset(
            pattern for pattern, level in zip(self._columns, self._level, strict=False) if level > TOLERANCE
        )


def place_price(pods: Several, weight: FloatArray) -> float:
    """Worth of a place for a pod on several cards: a part of its size, by how many of the places will be asked for."""
    if pods.slots <= 0 or pods.expected <= 0:
        return 0.0
    size = np.array(pods.units)
    where = size <= UNITS
    units = pods.count * float(np.mean(size[where] * weight[where]))
    return _SEVERAL_PART * min(pods.expected / pods.slots, 1.0) * units


def reserves(inputs: PlanInputs) -> FloatArray:
    """What leftovers are worth to pods that can run on few pools [pools, 1001].

    Such demand is poured over the pools it may use so that their loads level, the most constrained first. Half of the
    price is on places: one for a share of its size is worth that size times the part of such places that will be asked
    for, which protects whole cards. The other half is on units, by the part of the pool's free units that will be asked for:
    it also keeps small pods away from the last of a scarce model. Each alone did worse on some lists.
    """
    units = np.arange(UNITS + 1)
    free = (inputs.stock * units).sum(axis=1) * inputs.weight
    load = np.zeros(len(free))
    worth = np.zeros_like(inputs.stock)
    classes = []
    for bound in inputs.bound:
        size = np.array(bound.units)
        pools = np.flatnonzero((size <= UNITS) & (free > 0))
        if len(pools) and bound.expected > 0:
            classes.append((float(free[pools].sum()), tuple(pools.tolist()), bound, size))
    for _, where, bound, size in sorted(classes, key=lambda item: item[:2]):
        pools = np.array(where)
        weighted = size[pools] * inputs.weight[pools]
        before = load[pools].copy()
        _pour(load, free, pools, bound.expected * float(weighted.mean()))
        places = units // size[pools][:, None]
        supply = (inputs.stock[pools] * places).sum(axis=1)
        if bound.cpu_milli > 0:
            supply = np.minimum(supply, inputs.cpu_milli[pools] / bound.cpu_milli)
        asked = (load[pools] - before) / weighted
        places_asked = np.minimum(asked / np.maximum(supply, 1e-9), 1.0)
        units_asked = np.minimum((load[pools] - before) / free[pools], 1.0)
        worth[pools] += 0.5 * (places_asked * weighted)[:, None] * places
        worth[pools] += 0.5 * (units_asked * inputs.weight[pools])[:, None] * units
    return worth


def _pour(load: FloatArray, free: FloatArray, pools: IntArray, amount: float) -> None:
    """Raise the lowest ratios load/free among `pools` to one level, at most 1, by `amount` in all."""
    if not len(pools) or amount <= 0:
        return
    order = pools[np.argsort(load[pools] / free[pools], kind="stable")]
    for upto in range(1, len(order) + 1):
        group = order[:upto]
        level = (load[group].sum() + amount) / free[group].sum()
        following = load[order[upto]] / free[order[upto]] if upto < len(order) else np.inf
        if level <= following:
            load[group] = min(level, 1.0) * free[group]
            return
