"""Headroom's own policy: bid prices from a fluid plan of what the free cards can still hold.

The cost of a placement is what it strands: the drop in the worth of the node's leftovers (see `scheduler.plan`) beyond the
GPU that the pod itself fills, plus the price of taking a card of a model that other pods cannot do without. Lowest cost
wins; equal costs go to the node with the least left over.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headroom.fleet import Fleet, IntArray
from headroom.model import GpuRequest
from scheduler.filtering import Fit
from scheduler.plan import UNITS, Piece, PlanInputs, PriceTable, leftovers_at_face_value, solve
from scheduler.profile import Profile
from scheduler.scoring import CardKinds, Policy, card_units, compose, packing_tie, shares_on_first

FloatArray = npt.NDArray[np.float64]

_RESOLUTION: Final = 100  # steps of cost per thousandth of a card: costs closer than that are ties
_TOP_COST: Final = 2**24


class Headroom(Policy):
    """Bid-price placement."""

    name = "headroom"

    def __init__(self) -> None:
        super().__init__()
        self._kinds = CardKinds()
        self._table = leftovers_at_face_value(np.ones(1))
        self._weight = np.ones(1)

    def inputs(self, fleet: Fleet, profile: Profile) -> PlanInputs:
        rows = np.flatnonzero(fleet.alive & fleet.schedulable)
        kinds = self._kinds.at(fleet, rows)
        count = len(self._kinds)
        self._weight = self._weights(fleet)
        weight = self._weight
        units = card_units(fleet, rows)
        stock = np.zeros((count, UNITS + 1))
        np.add.at(stock, (kinds[kinds > 0], units[kinds > 0]), 1.0)
        free = float((stock * np.arange(UNITS + 1)).sum(axis=1) @ weight)
        pieces: dict[tuple[int, ...], float] = {}
        bound: dict[tuple[int, ...], float] = {}
        mean = gpu_cpu = 0.0
        sizes: list[tuple[GpuRequest, float, tuple[int, ...], float]] = []
        for request, share in zip(profile.kinds, profile.shares, strict=True):
            if request.count == 0:
                continue
            size = tuple(self._kinds.share_units(fleet, request).tolist())
            runs = [kind for kind in range(1, count) if size[kind] <= UNITS]
            if not runs:
                continue
            demand = request.count * float(np.mean([size[kind] * weight[kind] for kind in runs]))
            sizes.append((request, share, size, demand))
            mean += share * demand
            gpu_cpu += share * request.cpu_milli
        horizon = free / mean if mean else 0.0
        for request, share, size, demand in sizes:
            any_model = tuple(self._kinds.share_units(fleet, _any_model(request)).tolist())
            pieces[any_model] = pieces.get(any_model, 0.0) + share * horizon * request.count
            runs = tuple(kind for kind in range(1, count) if size[kind] <= UNITS)
            if len(runs) < count - 1:
                bound[runs] = bound.get(runs, 0.0) + share * horizon * demand
        return PlanInputs(
            stock,
            weight,
            tuple(Piece(expected, size) for size, expected in sorted(pieces.items())),
            tuple(sorted(bound.items())),
            gpu_cpu / mean if mean else 0.0,
            self._table.patterns,
        )

    def _weights(self, fleet: Fleet) -> FloatArray:
        usable = np.array(self._kinds.usable_mib, np.float64)
        present = fleet.usable_mib[fleet.usable_mib > 0]
        return usable / present.mean() if present.size else np.ones(len(usable))

    @staticmethod
    def solve(inputs: PlanInputs) -> PriceTable:
        return solve(inputs)

    def swap(self, table: PriceTable) -> None:
        self._table = table
        self.version += 1

    def _prices(self, fleet: Fleet, rows: IntArray) -> tuple[IntArray, PriceTable]:
        kinds = self._kinds.at(fleet, rows)
        if len(self._table.value) < len(self._kinds):
            self._weight = self._weights(fleet)
            self._table = leftovers_at_face_value(self._weight)
        return kinds, self._table

    def _worth(self, leftovers: FloatArray, cpu_milli: IntArray, table: PriceTable) -> FloatArray:
        if table.cpu_per_unit <= 0:
            return leftovers
        return np.minimum(leftovers, np.maximum(cpu_milli, 0) / table.cpu_per_unit)

    def share_keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, cards: IntArray, need: IntArray
    ) -> IntArray:
        nodes, node = np.unique(rows, return_inverse=True)
        kinds, table = self._prices(fleet, nodes)
        units = card_units(fleet, nodes)
        each = table.value[kinds, units]
        leftovers, cpu = each.sum(axis=1), fleet.cpu_free_milli[nodes]
        before = self._worth(leftovers, cpu, table)
        left = (fleet.free_mib[rows, cards] - need) * UNITS // fleet.usable_mib[rows, cards]
        kind = kinds[node, cards]
        remaining = leftovers[node] - each[node, cards] + table.value[kind, left]
        after = self._worth(remaining, cpu[node] - request.cpu_milli, table)
        taken = units[node, cards] - left
        filled = taken * self._weight[kind]
        cost = before[node] - after - filled + table.kind_price[kind] * filled
        return self._keys(fleet, request, rows, cost, taken)

    def set_keys(self, fleet: Fleet, request: GpuRequest, rows: IntArray, take: IntArray) -> IntArray:
        kinds, table = self._prices(fleet, rows)
        units = card_units(fleet, rows)
        left = (fleet.free_mib[rows] - take) * UNITS // np.maximum(fleet.usable_mib[rows], 1)
        cpu = fleet.cpu_free_milli[rows]
        before = self._worth(table.value[kinds, units].sum(axis=1), cpu, table)
        after = self._worth(table.value[kinds, left].sum(axis=1), cpu - request.cpu_milli, table)
        filled = (units - left) * self._weight[kinds]
        cost = before - after - filled.sum(axis=1) + (filled * table.kind_price[kinds]).sum(axis=1)
        return self._keys(fleet, request, rows, cost, (units - left).sum(axis=1))

    def choose_cards(self, fleet: Fleet, request: GpuRequest, fit: Fit) -> IntArray:
        """The cards whose leftovers lose least by a share each."""
        kinds, table = self._prices(fleet, fit.rows)
        units = card_units(fleet, fit.rows)
        left = np.maximum((fleet.free_mib[fit.rows] - fit.need) * UNITS // np.maximum(fleet.usable_mib[fit.rows], 1), 0)
        cost = table.value[kinds, units] - table.value[kinds, left] - (units - left) * self._weight[kinds]
        cost = np.where(fit.cards, cost + units * 1e-6, np.inf)
        return shares_on_first(cost.argsort(axis=1, kind="stable"), fit, request.count)

    def _keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, cost: FloatArray, taken_units: IntArray
    ) -> IntArray:
        score = np.clip(_TOP_COST - np.rint(cost * _RESOLUTION), 0, 2 * _TOP_COST).astype(np.int64)
        return compose(score, packing_tie(fleet, request, rows, taken_units))


def _any_model(request: GpuRequest) -> GpuRequest:
    import dataclasses

    return dataclasses.replace(request, models=frozenset()) if request.models else request
