"""Headroom's own policy: bid prices from a fluid plan of what the free cards can still hold.

The cost of a placement is what it takes from the future: the drop in the worth of the node's leftovers (see
`scheduler.placement.policies.plan`) beyond the GPU that the pod itself fills, the CPU it takes where CPU is short, and
the use of cards that other pods cannot do without. Lowest cost wins; equal costs go to the node with the least left over.
"""

import dataclasses
from collections import defaultdict
from typing import Final

import numpy as np

from headroom.domain.model import GpuRequest
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement.filtering import BoolArray, Fit
from scheduler.placement.policies.knapsack import UNITS, FloatArray
from scheduler.placement.policies.plan import (
    Bound,
    Piece,
    PlanInputs,
    PriceTable,
    Several,
    extended,
    face_value,
    host_levels,
    solve_for_chance,
)
from scheduler.placement.profile import Profile, size_of
from scheduler.placement.scoring import CardKinds, Policy, card_units, compose, packing_tie, shares_on_first

_STEP: Final = 20.0
"""Thousandths of a card: costs that round to the same step are ties, and ties pack. Exact costs open some 2 % more cards while
the fleet is half empty (`headroom demo`, five seeds), for 0.02 points of allocation when it is full."""
_TOP_COST: Final = 2**24
_CPU_IN_REACH: Final = 0.8  # of a pool's free CPU; the rest is thought to be left in bits too small for any pod
_CPU_USED: Final = 0.95  # most of the fleet's CPU that the pods to come are thought to take
_SIZES_PLANNED: Final = 128  # the published traces have 68 to 78
_HORIZON_MARGIN: Final = 1.05  # look a little past the moment at which the mean says the fleet is full

_Size = tuple[int, int, bool, int]
"""What one share takes, as `size_of` tells it."""


@dataclasses.dataclass(slots=True)
class _Shares:
    """Shares of one size that are to come: their number, their size on each pool, their host memory in all."""

    expected: float = 0.0
    units: tuple[int, ...] = ()
    memory_mib: float = 0.0


class Headroom(Policy):
    """Bid-price placement."""

    name = "headroom"

    def __init__(self) -> None:
        super().__init__()
        self._pools = CardKinds(by_cpu=True)
        self._table = face_value(np.ones(1))
        self._keys_of_pieces: dict[_Size, int] = {}

    def inputs(self, fleet: Fleet, profile: Profile) -> PlanInputs:
        profile = profile.coarsened(_SIZES_PLANNED)
        rows = np.flatnonzero(fleet.alive & fleet.schedulable)
        pool = self._pools.at(fleet, rows)
        count = len(self._pools)
        weight = self._weights(fleet)
        units = card_units(fleet, rows)
        stock = np.zeros((count, UNITS + 1))
        np.add.at(stock, (pool, units), pool > 0)
        cards = np.maximum((pool > 0).sum(axis=1), 1)
        cpu = np.zeros(count)
        np.add.at(cpu, pool, (pool > 0) * (np.maximum(fleet.cpu_free_milli[rows], 0) / cards)[:, None])
        return self._demand(fleet, profile, stock, weight, cpu, pool, units)

    def _demand(
        self,
        fleet: Fleet,
        profile: Profile,
        stock: FloatArray,
        weight: FloatArray,
        cpu: FloatArray,
        pool: IntArray,
        free_units: IntArray,
    ) -> PlanInputs:
        sizes = [self._pools.share_units(request) for request in profile.kinds]
        runs = [tuple(np.flatnonzero(size <= UNITS).tolist()) for size in sizes]
        free = float((stock * np.arange(UNITS + 1)).sum(axis=1) @ weight)
        gpu_demand = _gpu_demand(profile, sizes, runs, weight)
        cpu_demand = np.array([request.cpu_milli for request in profile.kinds], np.float64)
        share = np.array(profile.shares)
        mean = float(share @ gpu_demand)
        mean_cpu = float(share @ cpu_demand)
        if mean <= 0:
            return PlanInputs(stock, weight, cpu, (), 0.0, (), (), 0.0)
        horizon = _HORIZON_MARGIN * free / mean
        # Were all CPU short, no card would be worth anything and no packing worth doing: only pools may be short of CPU.
        cpu = cpu * max(_CPU_IN_REACH, horizon * mean_cpu / max(_CPU_USED * float(cpu.sum()), 1.0))
        pieces, bound, several = self._grouped(profile, sizes, runs, gpu_demand > 0, share * horizon)
        gpu_pods = gpu_demand > 0
        return PlanInputs(
            stock,
            weight,
            cpu,
            tuple(
                Piece(self._piece_key(name), each.expected, each.units, name[3], each.memory_mib / each.expected)
                for name, each in pieces.items()
                if each.expected > 0
            ),
            float(share[~gpu_pods] @ cpu_demand[~gpu_pods]) * horizon,
            tuple(Bound(shares, units, cpus / shares) for units, (shares, cpus) in sorted(bound.items()) if shares > 0),
            tuple(
                Several(number, units, pods, float((fitting(np.array(units), pool, free_units) // number).sum()))
                for (number, units), pods in sorted(several.items())
            ),
            float(share[gpu_pods] @ cpu_demand[gpu_pods]) / mean,
            self._table.patterns,
        )

    def _grouped(
        self,
        profile: Profile,
        sizes: list[IntArray],
        runs: list[tuple[int, ...]],
        served: BoolArray,
        amounts: FloatArray,
    ) -> tuple[dict[_Size, _Shares], dict[tuple[int, ...], list[float]], dict[tuple[int, tuple[int, ...]], float]]:
        """The kinds that the cards can serve, `served` [kinds], by what they mean for the plan; `amounts` [kinds] pods are expected.

        By size of a share; by the pools that alone can serve them, with their shares and CPU; and by how many cards they take at once.
        """
        pieces: dict[_Size, _Shares] = defaultdict(_Shares)
        bound: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
        several: dict[tuple[int, tuple[int, ...]], float] = defaultdict(float)
        for at, request in enumerate(profile.kinds):
            if not served[at]:
                continue
            amount = amounts[at]
            open_to_all = dataclasses.replace(request, models=frozenset()) if request.models else request
            shares = pieces[size_of(request)]
            shares.units = tuple(self._pools.share_units(open_to_all).tolist())
            shares.expected += amount * request.count
            shares.memory_mib += amount * profile.memory_mib[at]
            own = tuple(sizes[at].tolist())
            if len(runs[at]) < len(self._pools) - 1:
                bound[own][0] += amount * request.count
                bound[own][1] += amount * request.cpu_milli
            if request.count > 1:
                several[request.count, own] += amount
        return pieces, bound, several

    def _piece_key(self, name: _Size) -> int:
        return self._keys_of_pieces.setdefault(name, len(self._keys_of_pieces))

    def _weights(self, fleet: Fleet) -> FloatArray:
        usable = np.array(self._pools.usable_mib, np.float64)
        present = fleet.usable_mib[fleet.usable_mib > 0]
        return usable / present.mean() if present.size else np.ones(len(usable))

    @staticmethod
    def solve(inputs: PlanInputs) -> PriceTable:
        return solve_for_chance(inputs)

    def swap(self, table: PriceTable) -> None:
        self._table = table
        self.version += 1

    def _prices(self, fleet: Fleet, rows: IntArray) -> tuple[IntArray, PriceTable]:
        pool = self._pools.at(fleet, rows)
        if len(self._table.value) < len(self._pools):
            self._table = extended(self._table, self._weights(fleet))
        return pool, self._table

    def _worth(self, leftovers: FloatArray, cpu_milli: IntArray, table: PriceTable) -> FloatArray:
        """Worth of a node's leftovers, as far as its CPU lets pods use them all."""
        if table.cpu_per_unit <= 0:
            return leftovers
        return np.minimum(leftovers, np.maximum(cpu_milli, 0) / table.cpu_per_unit)

    def share_keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, line: IntArray, cards: IntArray, need: IntArray
    ) -> IntArray:
        nodes, node, rows = rows, line, rows[line]
        pools, table = self._prices(fleet, nodes)
        free, usable = fleet.free_mib[nodes], np.maximum(fleet.usable_mib[nodes], 1)
        units = free * UNITS // usable
        place = table.place(pools, units)
        cpu_before, memory_before = fleet.cpu_free_milli[nodes], fleet.memory_free_mib[nodes]
        known = self._node_worth(place, cpu_before, memory_before, table)
        before = self._worth(known[0].sum(axis=1), cpu_before, table)
        cpu = cpu_before - request.cpu_milli
        others, levels = self._node_worth(place, cpu, memory_before - request.memory_mib, table, known=known)
        pool, size = pools[node, cards], usable[node, cards]
        left = (free[node, cards] - need) * UNITS // size
        this = table.worth(table.place(pool, left), levels[0][node], levels[1][node])
        after = self._worth(others.sum(axis=1)[node] - others[node, cards] + this, cpu[node], table)
        # Exact, not the difference of two units that are rounded down: a card must not be better by a rounding.
        taken = need * UNITS / size
        cost = before[node] - after - taken * table.weight[pool] + table.cpu_price[pool] * request.cpu_milli
        if table.has_reserve:
            cost += table.reserve[pool, units[node, cards]] - table.reserve[pool, left]
        for pods, price in table.several:
            needed = np.array(pods.units)
            fits = units >= needed[pools]
            now = fits.sum(axis=1)
            then = now[node] - (fits[node, cards] & (left < needed[pool]))
            cost += price * (now[node] // pods.count - then // pods.count)
        return self._keys(cost, packing_tie(fleet, request, rows, taken, units.sum(axis=1)[node]))

    def _node_worth(
        self,
        place: IntArray,
        cpu_milli: IntArray,
        memory_mib: IntArray,
        table: PriceTable,
        known: tuple[FloatArray, tuple[IntArray, IntArray]] | None = None,
    ) -> tuple[FloatArray, tuple[IntArray, IntArray]]:
        """Worth of every leftover [rows, width] with so much free on the nodes [rows], and the levels that this means.

        Where the levels are those of `known`, so is the worth: most nodes have CPU and memory to spare.
        """
        cpu, memory = levels = host_levels(cpu_milli, memory_mib)
        if known is None:
            return table.worth(place, cpu[:, None], memory[:, None]), levels
        worth, (known_cpu, known_memory) = known
        other = np.flatnonzero((cpu != known_cpu) | (memory != known_memory))
        if len(other):
            worth = worth.copy()
            worth[other] = table.worth(place[other], cpu[other, None], memory[other, None])
        return worth, levels

    def set_keys(self, fleet: Fleet, request: GpuRequest, rows: IntArray, take: IntArray) -> IntArray:
        pools, table = self._prices(fleet, rows)
        units = card_units(fleet, rows)
        left = np.maximum(fleet.free_mib[rows] - take, 0) * UNITS // np.maximum(fleet.usable_mib[rows], 1)
        cpu, memory = fleet.cpu_free_milli[rows], fleet.memory_free_mib[rows]
        before = self._worth(table.card_worth(pools, units, cpu, memory).sum(axis=1), cpu, table)
        cpu, memory = cpu - request.cpu_milli, memory - request.memory_mib
        after = self._worth(table.card_worth(pools, left, cpu, memory).sum(axis=1), cpu, table)
        filled = (units - left) * table.weight[pools]
        cpu_price = table.cpu_price[pools].max(axis=1)
        cost = before - after - filled.sum(axis=1)
        cost += (table.reserve[pools, units] - table.reserve[pools, left]).sum(axis=1)
        for pods, price in table.several:
            size = np.array(pods.units)
            cost += price * (fitting(size, pools, units) // pods.count - fitting(size, pools, left) // pods.count)
        total = units.sum(axis=1)
        return self._keys(
            cost + cpu_price * request.cpu_milli,
            packing_tie(fleet, request, rows, (units - left).sum(axis=1), total),
        )

    def choose_cards(self, fleet: Fleet, request: GpuRequest, fit: Fit) -> IntArray:
        """The cards whose leftovers lose least by a share each."""
        pools, table = self._prices(fleet, fit.rows)
        units = card_units(fleet, fit.rows)
        left = np.maximum((fleet.free_mib[fit.rows] - fit.need) * UNITS // np.maximum(fleet.usable_mib[fit.rows], 1), 0)
        cpu = fleet.cpu_free_milli[fit.rows] - request.cpu_milli
        memory = fleet.memory_free_mib[fit.rows] - request.memory_mib
        cost = table.card_worth(pools, units, cpu, memory) - table.card_worth(pools, left, cpu, memory)
        cost += table.reserve[pools, units] - table.reserve[pools, left] - (units - left) * table.weight[pools]
        cost = np.where(fit.cards, cost + units * 1e-6, np.inf)
        return shares_on_first(cost.argsort(axis=1, kind="stable"), fit, request.count)

    def card_of_equals(self, fleet: Fleet, rows: IntArray, equal: BoolArray) -> IntArray:
        """The fullest: equal cost says that either leaves as much room for what is usual, and the emptier card, left as it
        is, has room for what is not."""
        best: IntArray = np.where(equal, fleet.free_mib[rows], np.iinfo(np.int64).max).argmin(axis=1)
        return best

    @staticmethod
    def _keys(cost: FloatArray, tie: IntArray) -> IntArray:
        score = np.minimum(np.maximum(_TOP_COST - np.rint(cost / _STEP), 0), 2 * _TOP_COST).astype(np.int64)
        return compose(score, tie)


def _gpu_demand(profile: Profile, sizes: list[IntArray], runs: list[tuple[int, ...]], weight: FloatArray) -> FloatArray:
    """What a pod of each kind takes of the cards on average over the pools that it runs in [kinds]."""
    demand = np.zeros(len(sizes))
    for at, (request, size, where) in enumerate(zip(profile.kinds, sizes, runs, strict=True)):
        if request.count and where:
            demand[at] = request.count * float(np.mean(size[list(where)] * weight[list(where)]))
    return demand


def fitting(size: IntArray, pools: IntArray, units: IntArray) -> IntArray:
    """Number of cards of each row that have a share's `size` [pools] free."""
    count: IntArray = (units >= size[pools]).sum(axis=1)
    return count
