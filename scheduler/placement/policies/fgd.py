"""Fragmentation gradient descent: place where the fragmentation of the cluster grows least.

Formula: Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent"
(USENIX ATC 2023). The fragmentation of a node for a typical pod is all of its idle GPU when the node cannot run the pod
(or the pod wants none), else the idle GPU on cards too small for it; F is the mean over typical pods. The score of a
placement is int(100 sigmoid(F before - F after)), F in cards.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headroom.domain.model import GpuRequest
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement.profile import Profile
from scheduler.placement.scoring import CardKinds, Policy, card_units, compose, packing_tie

FloatArray = npt.NDArray[np.float32]

_UNITS: Final = 1001  # a card has 0..1000 thousandths free
_TYPICAL_SHARE: Final = 0.95


@dataclass(frozen=True, slots=True)
class TypicalPods:
    """Typical pods as arrays, one place per pod."""

    requests: tuple[GpuRequest, ...]
    share: FloatArray
    count: FloatArray
    cpu_milli: IntArray


@dataclass(slots=True)
class _Tables:
    """For every kind of card, amount free and typical pod: whether a share fits, and the idle amount when it does not."""

    fits: FloatArray
    fragment: FloatArray


class Fgd(Policy):
    """Scores as published; equal scores go to the tightest node (`packing`) or, as published, to the first in order."""

    name = "fgd"

    def __init__(self, *, packing: bool = True) -> None:
        super().__init__()
        self._packing = packing
        self._kinds = CardKinds()
        self._typical = self.solve(Profile())
        self._tables: _Tables | None = None

    def inputs(self, fleet: Fleet, profile: Profile) -> Profile:
        return profile

    @staticmethod
    def solve(inputs: Profile) -> TypicalPods:
        typical = inputs.typical(_TYPICAL_SHARE)
        return TypicalPods(
            typical.kinds,
            np.array(typical.shares, np.float32),
            np.array([kind.count for kind in typical.kinds], np.float32),
            np.array([kind.cpu_milli for kind in typical.kinds], np.int64),
        )

    def swap(self, table: Any) -> None:
        self._typical = table
        self._tables = None
        self.version += 1

    def _kinds_and_tables(self, fleet: Fleet, rows: IntArray) -> tuple[IntArray, _Tables]:
        kinds = self._kinds.at(fleet, rows)
        if self._tables is None or len(self._tables.fits) != len(self._kinds) * _UNITS:
            self._tables = self._make_tables()
        return kinds, self._tables

    def _make_tables(self) -> _Tables:
        pods = self._typical.requests
        size = (
            np.stack([self._kinds.share_units(pod) for pod in pods], axis=1)
            if pods
            else np.zeros((len(self._kinds), 0))
        )
        units = np.arange(_UNITS)
        fits = units[None, :, None] >= size[:, None, :]
        fragment = np.where(fits, 0, units[None, :, None])
        shape = (len(self._kinds) * _UNITS, len(pods))
        return _Tables(fits.reshape(shape).astype(np.float32), fragment.reshape(shape).astype(np.float32))

    def fragmentation(self, fleet: Fleet, rows: IntArray) -> npt.NDArray[np.float64]:
        """F of each row in thousandths of a card, over the typical pods."""
        kinds, tables = self._kinds_and_tables(fleet, rows)
        units = card_units(fleet, rows)
        at = kinds * _UNITS + units
        return self._mean(
            tables.fits[at].sum(axis=1), tables.fragment[at].sum(axis=1), units.sum(axis=1), fleet.cpu_free_milli[rows]
        )

    def _mean(
        self, fitting: FloatArray, fragment: FloatArray, idle: IntArray, cpu_milli: IntArray
    ) -> npt.NDArray[np.float64]:
        pods = self._typical
        runs = (fitting >= pods.count) & (cpu_milli[:, None] >= pods.cpu_milli) & (pods.count > 0)
        mean: npt.NDArray[np.float64] = (
            np.where(runs, fragment, idle[:, None].astype(np.float32)) @ pods.share
        ).astype(np.float64)
        return mean

    def share_keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, line: IntArray, cards: IntArray, need: IntArray
    ) -> IntArray:
        nodes, node, rows = rows, line, rows[line]
        kinds, tables = self._kinds_and_tables(fleet, nodes)
        units = card_units(fleet, nodes)
        at = kinds * _UNITS + units
        fitting, fragment = tables.fits[at].sum(axis=1), tables.fragment[at].sum(axis=1)
        idle, cpu = units.sum(axis=1), fleet.cpu_free_milli[nodes]
        before = self._mean(fitting, fragment, idle, cpu)
        usable = fleet.usable_mib[rows, cards]
        left = (fleet.free_mib[rows, cards] - need) * 1000 // usable
        old = at[node, cards]
        new = kinds[node, cards] * _UNITS + left
        taken = units[node, cards] - left
        after = self._mean(
            fitting[node] + tables.fits[new] - tables.fits[old],
            fragment[node] + tables.fragment[new] - tables.fragment[old],
            idle[node] - taken,
            cpu[node] - request.cpu_milli,
        )
        return self._keys(fleet, request, rows, before[node] - after, taken)

    def set_keys(self, fleet: Fleet, request: GpuRequest, rows: IntArray, take: IntArray) -> IntArray:
        kinds, tables = self._kinds_and_tables(fleet, rows)
        units = card_units(fleet, rows)
        left = np.maximum(fleet.free_mib[rows] - take, 0) * 1000 // np.maximum(fleet.usable_mib[rows], 1)
        at = kinds * _UNITS + left
        before = self.fragmentation(fleet, rows)
        cpu = fleet.cpu_free_milli[rows] - request.cpu_milli
        after = self._mean(tables.fits[at].sum(axis=1), tables.fragment[at].sum(axis=1), left.sum(axis=1), cpu)
        return self._keys(fleet, request, rows, before - after, (units - left).sum(axis=1))

    def _keys(
        self, fleet: Fleet, request: GpuRequest, rows: IntArray, gain: npt.NDArray[np.float64], taken_units: IntArray
    ) -> IntArray:
        # The sums above are in single precision and their last digits depend on how many rows are summed at once: without
        # rounding a gain of nothing would score 49 or 50 by chance.
        gain = np.rint(gain * 100.0) / 100.0
        score = (100.0 / (1.0 + np.exp(-gain / 1000.0))).astype(np.int64)
        return compose(score, packing_tie(fleet, request, rows, taken_units) if self._packing else 0)
