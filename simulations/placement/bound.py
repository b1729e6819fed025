"""How much of a cluster a policy could allocate at best, if it refuses no pod that fits and nobody leaves.

Kinds of pods arrive in the proportions of a list, as fluids. Nothing leaves, so what fits once and later does not never fits
again: up to some moment of its own, every pod of a kind is placed, and none after it. A kind that asks for at least as much as
another in every respect stops no later than that one. So the best that such a policy can reach is a linear programme: choose
the moments, under that order, and a cutting-stock plan (Gilmore and Gomory 1961) that holds all that came before them.

It is a bound for the list's mean mix, not for one draw of arrivals. What it leaves out can only raise it: cards and CPU are
counted by pools of like cards, not by node (a pod on several cards may be split, a card may use CPU of another node); host
memory holds no pod back; fragmenting on purpose, so that a kind stops early, costs nothing.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

from headroom.domain.model import GpuNode, GpuRequest
from headroom.errors import HeadroomError
from scheduler.ledger.fleet import Fleet
from scheduler.placement.policies.knapsack import UNITS, FloatArray, cut, knapsack
from scheduler.placement.policies.linear_programme import Solution, UnsolvedError, maximise
from scheduler.placement.scoring import CardKinds
from simulations.placement.traces import Pod

_SLACK: Final = 1e-5  # part of the cluster by which the bound may be too low: when to stop looking for patterns
_CORE_MILLI: Final = 1000.0

Cuts = tuple[tuple[int, int], ...]
"""Pieces cut from one card: (piece, how many), sorted."""


class BoundError(HeadroomError):
    """The linear programme of the bound was not solved."""


def asks_at_least(one: GpuRequest, other: GpuRequest) -> bool:
    """Whether a place for `one` is always a place for `other`."""
    return (
        one.count >= other.count
        and one.cpu_milli >= other.cpu_milli
        and one.memory_mib >= other.memory_mib
        and (not other.count or one.milli >= other.milli)
        and (not other.models or (bool(one.models) and one.models <= other.models))
    )


def bound_percent(nodes: Sequence[GpuNode], pods: Sequence[Pod], load: float) -> float:
    """Most GPU, in percent of the cluster's, that can be allocated once `load` times the cluster's GPU has been asked for.

    Pods ask for thousandths of cards of 1,000 units, as in the openb lists. Raises BoundError.
    """
    programme = _Programme(nodes, pods, load)
    while True:
        result = programme.optimise()
        if not programme.grow(result):
            return 100.0 * result.value


class _Programme:
    """Variables: the moment of each kind, cards by pattern, CPU of each pool for pods without a GPU. CPU is in cores.

    Rows: cards of each pool, supply of each piece, CPU of each pool, CPU of pods without a GPU, order of moments.
    """

    def __init__(self, nodes: Sequence[GpuNode], pods: Sequence[Pod], load: float) -> None:
        fleet = Fleet(rows=len(nodes), width=max(len(node.cards) for node in nodes))
        for node in nodes:
            fleet.upsert_node(node)
        rows, pools = np.arange(len(nodes)), CardKinds(by_cpu=True)
        pool = pools.at(fleet, rows)
        cores = fleet.cpu_milli[rows] / _CORE_MILLI
        self._cards = np.bincount(pool[pool > 0], minlength=len(pools)).astype(np.float64)
        self._cores = np.zeros(len(pools))
        np.add.at(self._cores, pool, (pool > 0) * (cores / np.maximum((pool > 0).sum(axis=1), 1))[:, None])
        self._cores[0] = cores[(pool == 0).all(axis=1)].sum()
        self._load = load

        counts = Counter(pod.request for pod in pods)
        self._kinds = sorted(counts, key=repr)
        total = sum(pod.units for pod in pods)
        self._cluster = UNITS * float(self._cards.sum())
        self._arrivals = np.array([counts[kind] for kind in self._kinds]) * self._cluster / total  # at a load of 1
        names = [
            (tuple(pools.share_units(kind).tolist()), kind.cpu_milli / kind.count / _CORE_MILLI) if kind.count else None
            for kind in self._kinds
        ]
        pieces = list(dict.fromkeys(name for name in names if name is not None))
        self._piece = [-1 if name is None else pieces.index(name) for name in names]
        self._sizes = np.array([units for units, _ in pieces], np.int64)
        self._piece_cores = np.array([cpu for _, cpu in pieces])
        self._order = _direct_order(self._kinds)
        self._patterns: dict[tuple[int, Cuts], None] = {}
        for at, piece in np.argwhere(self._sizes.T <= UNITS).tolist():
            self._patterns[at, ((piece, UNITS // int(self._sizes[piece, at])),)] = None

    def optimise(self) -> Solution:
        """Solve over the patterns known so far."""
        pools, pieces, kinds = len(self._cards), len(self._piece_cores), len(self._kinds)
        supply, cores, host, order = pools, pools + pieces, 2 * pools + pieces, 2 * pools + pieces + 1
        entries: list[tuple[int, int, float]] = []
        for at, (kind, piece) in enumerate(zip(self._kinds, self._piece, strict=True)):
            asked = kind.count if piece >= 0 else kind.cpu_milli / _CORE_MILLI
            entries.append((supply + piece if piece >= 0 else host, at, self._arrivals[at] * asked))
        for line, (first, last) in enumerate(self._order):
            entries += [(order + line, first, 1.0), (order + line, last, -1.0)]
        for column, (pool, cuts) in enumerate(self._patterns, kinds):
            entries.append((pool, column, 1.0))
            entries += [(supply + piece, column, -float(times)) for piece, times in cuts]
            entries.append((cores + pool, column, sum(self._piece_cores[piece] * times for piece, times in cuts)))
        columns = kinds + len(self._patterns)
        for pool in range(pools):
            entries += [(cores + pool, columns + pool, 1.0), (host, columns + pool, -1.0)]
        worth = np.zeros(columns + pools)
        worth[:kinds] = self._arrivals * [kind.count * kind.milli for kind in self._kinds] / self._cluster
        limit = np.concatenate([self._cards, np.zeros(pieces), self._cores, np.zeros(1 + len(self._order))])
        most = np.full(len(worth), np.inf)
        most[:kinds] = self._load
        try:
            return maximise(worth, entries, limit, most=most)
        except UnsolvedError as error:
            raise BoundError(f"the bound: {error}") from error

    def grow(self, result: Solution) -> bool:
        """Add the best pattern of each pool under the result's prices; False when that could no longer matter."""
        pools, pieces = len(self._cards), len(self._piece_cores)
        price: FloatArray = result.price * self._cluster
        core_price = price[pools + pieces : 2 * pools + pieces]
        gain = price[pools : pools + pieces, None] - self._piece_cores[:, None] * core_price
        value, choice = knapsack(self._sizes, gain)
        over = value[:, UNITS] - price[:pools]
        if float(np.maximum(over, 0.0) @ self._cards) < _SLACK * self._cluster:
            return False
        known = len(self._patterns)
        for pool in np.flatnonzero((over > 0) & (self._cards > 0)).tolist():
            cuts = cut(choice[pool], self._sizes[:, pool], UNITS)
            self._patterns[pool, tuple(sorted(cuts.items()))] = None
        return len(self._patterns) > known


def _direct_order(kinds: Sequence[GpuRequest]) -> list[tuple[int, int]]:
    """Pairs (first, last) of kinds of which the first stops no later, without those that follow from others."""
    above = np.array([[one != other and asks_at_least(one, other) for other in kinds] for one in kinds])
    through = (above.astype(np.int64) @ above.astype(np.int64)) > 0
    return [(first, last) for first, last in np.argwhere(above & ~through).tolist()]
