"""How many more pods of a kind fit: placed one after another on a copy of the fleet. Pure."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from headroom.domain.model import GpuRequest, Placement
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement import refusals
from scheduler.placement.groups.near import most_of
from scheduler.placement.placer import Placer, hold
from scheduler.placement.scoring import Policy

TOO_MANY_PODS: Final = "the node takes no more pods"
KEPT_APART: Final = "pod anti-affinity"


@dataclass(frozen=True, slots=True)
class FitCount:
    """How many more pods of a kind fit: in total (up to the limit asked), by node, and why the other nodes take none."""

    fits: int
    nodes: dict[str, int]
    reasons: dict[str, int]


class Trial:
    """Places copies of a request on `fleet`, which is its own to change. With `one_per_node` each takes a node of its own."""

    def __init__(
        self,
        fleet: Fleet,
        request: GpuRequest,
        policy: Policy,
        *,
        one_per_node: bool = False,
        admits: Callable[[Placement], str | None] = lambda _: None,
        pods_left: Mapping[str, int] | None = None,
        devices_wanted: bool = False,
    ) -> None:
        """`admits` counts a placement that is about to be made, or says why it may not be: then the trial ends.

        `pods_left` is how many more pods of any kind a node takes (its `pods`), where that is known. `devices_wanted` as in `Placer`.
        """
        self.fleet = fleet
        self._admits = admits
        self._barred = ""
        self._request, self._one_per_node = request, one_per_node
        self._placer = Placer(fleet, policy, check_host=True)
        self._placer.devices_wanted = devices_wanted
        self._nodes: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()
        self._pods_left = dict(pods_left or {})
        for name, left in self._pods_left.items():
            if left <= 0:
                self.close(fleet.row_of[name], TOO_MANY_PODS)

    def close(self, row: int, reason: str) -> None:
        """Take a node out of the question; one that is cordoned for the pod stays that."""
        if self.fleet.alive[row] and (self.fleet.schedulable[row] or self._request.on_cordoned):
            self.fleet.alive[row] = False
            self.fleet.touch(row)
            self._closed[reason] += 1

    def seat(self, request: GpuRequest, rows: IntArray) -> Placement | None:
        """Place a pod of another kind, which comes first, on the best of the rows; None where it has no place."""
        row = self._placer.best_among(request, rows)
        if row is None:
            return None
        placement = self._placer.placement_at(request, row)
        hold(self.fleet, request, placement)
        self._count_pod(placement.node)
        return placement

    def unseat(self, request: GpuRequest, placement: Placement) -> None:
        """Undo `seat`."""
        hold(self.fleet, request, placement, -1)
        row, left = self.fleet.row_of[placement.node], self._pods_left.get(placement.node)
        if left is None:
            return
        self._pods_left[placement.node] = left + 1
        if left == 0 and not self.fleet.alive[row]:
            self.fleet.alive[row] = True
            self.fleet.touch(row)
            self._closed[TOO_MANY_PODS] -= 1

    def _count_pod(self, name: str) -> None:
        left = self._pods_left.get(name)
        if left is not None:
            self._pods_left[name] = left - 1
            if left == 1:
                self.close(self.fleet.row_of[name], TOO_MANY_PODS)

    def step(self, rows: IntArray | None = None) -> bool:
        """Place one more, on one of the rows if so asked; False when none fits any more."""
        row = self._placer.best_row(self._request) if rows is None else self._placer.best_among(self._request, rows)
        if row is None:
            return False
        placement = self._placer.placement_at(self._request, row)
        if (barred := self._admits(placement)) is not None:
            self._barred = barred
            return False
        hold(self.fleet, self._request, placement)
        self._nodes[placement.node] += 1
        if self._one_per_node:
            self.close(self.fleet.row_of[placement.node], KEPT_APART)
        self._count_pod(placement.node)
        return True

    @property
    def exhausted(self) -> bool:
        """Whether no more of the pods fit."""
        return self._placer.best(self._request) is None

    def room(self, rows: IntArray) -> int:
        """A bound for how many more fit on these rows."""
        rows = self._placer.fitting(self._request, rows)
        most = most_of(self.fleet, self._request, rows)
        return int((np.minimum(most, 1) if self._one_per_node else most).sum())

    @property
    def placed(self) -> int:
        """How many were placed so far."""
        return self._nodes.total()

    def result(self) -> FitCount:
        """What was placed so far, and why every other node takes no more."""
        words = refusals.refusals(self.fleet, self._request, np.flatnonzero(self.fleet.alive), check_host=True)
        reasons = Counter(word or self._barred for word in words if word or self._barred)
        reasons.update(self._closed)
        return FitCount(
            self._nodes.total(), dict(self._nodes), {word: nodes for word, nodes in reasons.items() if nodes > 0}
        )
