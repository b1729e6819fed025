"""The simple policies: random, spread, and the published baselines.

Sources: dot product, clustering, packing and best fit are the baselines of Weng et al., "Beware of Fragmentation"
(USENIX ATC 2023), with the scales of their simulator: 128 cores and 8 cards.
"""

from types import MappingProxyType
from typing import Final

import numpy as np

from headroom.domain.model import GpuRequest, Order
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement.filtering import Fit
from scheduler.placement.scoring import Policy, card_units, compose, shares_on_first

_CPU_SCALE_MILLI: Final = 128_000
_GPU_SCALE_UNITS: Final = 8_000  # thousandths of a card


class NodePolicy(Policy):
    """A policy that scores nodes; which card a share takes is a rule of its own (the fullest with room)."""

    def node_scores(self, fleet: Fleet, request: GpuRequest, rows: IntArray, taken_units: IntArray) -> IntArray:
        """Whole-number score per row for taking `taken_units` thousandths of a card there."""
        raise NotImplementedError

    def card_preference(self, fleet: Fleet, rows: IntArray, cards: IntArray) -> IntArray:
        """Larger for the card to take within a node, in thousandths: the fullest with room."""
        preference: IntArray = 1000 - card_units(fleet, rows)[np.arange(len(rows)), cards]
        return preference

    def share_keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, line: IntArray, cards: IntArray, need: IntArray
    ) -> IntArray:
        rows = rows[line]
        units = -(-need * 1000 // fleet.usable_mib[rows, cards])
        score = self.node_scores(fleet, request, rows, units)
        return compose(score, self.card_preference(fleet, rows, cards))

    def set_keys(self, fleet: Fleet, request: GpuRequest, rows: IntArray, take: IntArray) -> IntArray:
        units = -(-take * 1000 // np.maximum(fleet.usable_mib[rows], 1))
        score = self.node_scores(fleet, request, rows, units.sum(axis=1))
        return compose(score)


class DotProduct(NodePolicy):
    """Lowest product of what the node has free and what the pod asks, as in Tetris (Grandl et al., SIGCOMM 2014)."""

    name = "dotprod"

    def node_scores(self, fleet: Fleet, request: GpuRequest, rows: IntArray, taken_units: IntArray) -> IntArray:
        cpu = fleet.cpu_free_milli[rows] / _CPU_SCALE_MILLI * (request.cpu_milli / _CPU_SCALE_MILLI)
        gpu = card_units(fleet, rows).sum(axis=1) / _GPU_SCALE_UNITS * (taken_units / _GPU_SCALE_UNITS)
        score: IntArray = (100 * (1 - (cpu + gpu) / 2)).astype(np.int64)
        return score


class GpuClustering(NodePolicy):
    """Nodes that hold only pods of the same shape first, then mixed ones with that shape, then idle ones, then others.

    Within each of the four bands of 25 points, fuller nodes score higher. It must be told of placements (`note`).
    """

    name = "gpuclustering"

    def __init__(self) -> None:
        super().__init__()
        self._held = np.zeros((0, 10), np.int64)

    @staticmethod
    def _shape(request: GpuRequest) -> int:
        """0 for a pod on part of a card, else its number of whole cards (those above 8 count alike)."""
        return min(request.count, 9) if request.whole_cards else 0

    def _grow(self, fleet: Fleet) -> None:
        if len(self._held) < fleet.capacity:
            more = np.zeros((fleet.capacity - len(self._held), 10), np.int64)
            self._held = np.concatenate([self._held, more])

    def note(self, row: int, request: GpuRequest, sign: int) -> None:
        if request.count > 0:
            self._held[row, self._shape(request)] += sign

    def node_scores(self, fleet: Fleet, request: GpuRequest, rows: IntArray, taken_units: IntArray) -> IntArray:
        self._grow(fleet)
        if request.count == 0:
            return np.zeros(len(rows), np.int64)
        kinds = (self._held[rows] > 0).sum(axis=1)
        same = self._held[rows, self._shape(request)] > 0
        band = np.where(same, np.where(kinds == 1, 75, 50), np.where(kinds == 0, 25, 0))
        score: IntArray = band + 25 * (_GPU_SCALE_UNITS - card_units(fleet, rows).sum(axis=1)) // _GPU_SCALE_UNITS
        return score


class GpuPacking(NodePolicy):
    """Cards already in use first, then free cards of a node in use, then idle nodes; fewer free cards touched is better."""

    name = "gpupacking"

    def share_keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, line: IntArray, cards: IntArray, need: IntArray
    ) -> IntArray:
        rows = rows[line]
        units = card_units(fleet, rows)[np.arange(len(rows)), cards]
        score = self._scores(fleet, rows, (units == 1000).astype(np.int64), units // 10)
        return compose(score, self.card_preference(fleet, rows, cards))

    def set_keys(self, fleet: Fleet, request: GpuRequest, rows: IntArray, take: IntArray) -> IntArray:
        if request.count == 0:
            return compose(np.zeros(len(rows), np.int64))
        units = np.where(take > 0, card_units(fleet, rows), 0)
        return compose(self._scores(fleet, rows, (units == 1000).sum(axis=1), (units // 10).sum(axis=1)))

    @staticmethod
    def _scores(fleet: Fleet, rows: IntArray, free_cards_used: IntArray, free_percent: IntArray) -> IntArray:
        free_cards = (card_units(fleet, rows) == 1000).sum(axis=1)
        idle = np.maximum(33 - free_cards, free_cards)
        used_node = np.maximum(50 - free_cards_used, 33)
        used_card = np.maximum(100 - free_percent // 10, 50)
        score = np.where(free_cards_used > 0, used_node, used_card)
        scores: IntArray = np.where(free_cards == fleet.card_count[rows], idle, score)
        return scores


class BestFit(NodePolicy):
    """Least CPU and GPU left over on the node, weighted alike, as a whole number within 0..100."""

    name = "bestfit"

    def node_scores(self, fleet: Fleet, request: GpuRequest, rows: IntArray, taken_units: IntArray) -> IntArray:
        cpu = (fleet.cpu_free_milli[rows] - request.cpu_milli) / _CPU_SCALE_MILLI
        gpu = (card_units(fleet, rows).sum(axis=1) - taken_units) / _GPU_SCALE_UNITS
        score: IntArray = (100 * (1 - (cpu + gpu) / 2)).astype(np.int64)
        return score


class Random(NodePolicy):
    """A random feasible node and a random card of it with room, drawn afresh for every placement."""

    name = "random"

    def __init__(self, rng: np.random.Generator) -> None:
        super().__init__()
        self.draws = rng

    def share_keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, line: IntArray, cards: IntArray, need: IntArray
    ) -> IntArray:
        return self._draw(len(line))

    def set_keys(self, fleet: Fleet, request: GpuRequest, rows: IntArray, take: IntArray) -> IntArray:
        return self._draw(len(rows))

    def _draw(self, count: int) -> IntArray:
        assert self.draws is not None
        return self.draws.integers(0, 2**62, count)


class Spread(NodePolicy):
    """Fullest (`binpack-*`) or emptiest (`spread-*`) node and card first, by memory or by time slices."""

    def __init__(self, name: str, *, cards: str = "") -> None:
        """`cards` names the order of cards within a node, where it is not that of nodes."""
        super().__init__()
        self.name = name
        self._sign = _sign(name)
        self._card_sign = _sign(cards or name)
        self._slices = name.endswith("slices")

    def node_scores(self, fleet: Fleet, request: GpuRequest, rows: IntArray, taken_units: IntArray) -> IntArray:
        if self._slices:
            free, total = fleet.slices_free[rows].sum(axis=1), fleet.slices[rows].sum(axis=1)
        else:
            free, total = fleet.free_mib[rows].sum(axis=1), fleet.usable_mib[rows].sum(axis=1)
        score: IntArray = 1000 + self._sign * (free * 1000 // np.maximum(total, 1))
        return score

    def card_preference(self, fleet: Fleet, rows: IntArray, cards: IntArray) -> IntArray:
        preference: IntArray = 1000 + self._card_sign * card_units(fleet, rows)[np.arange(len(rows)), cards]
        return preference

    def choose_cards(self, fleet: Fleet, request: GpuRequest, fit: Fit) -> IntArray:
        order = np.where(fit.cards, self._card_sign * -fleet.free_mib[fit.rows], np.iinfo(np.int64).max)
        return shares_on_first(order.argsort(axis=1, kind="stable"), fit, request.count)


def _sign(name: str) -> int:
    return -1 if name.startswith("binpack") else 1


BY_ORDER: Final = MappingProxyType(
    {
        Order.SPREAD_NODES: Spread("spread-vram", cards="binpack"),
        Order.SPREAD_CARDS: Spread("binpack-vram", cards="spread"),
        Order.SPREAD_NODES | Order.SPREAD_CARDS: Spread("spread-vram"),
    }
)
"""The policy for pods that say themselves which node and card they would like first."""
