"""Chooses the node and the cards for a pod: one code for the extender, for fit questions and for every simulation.

Equal requests form a request class. For each class seen lately the placer keeps a key for every row (see
`scheduler.placement.scoring`), kept up as rows change (`scheduler.placement.row_cache`). A choice is then one maximum over an array.
Which node wins depends on the fleet and the request alone, never on the order of rows.
"""

from collections.abc import Callable, Container, Iterable
from typing import Any, Final

import numpy as np

from headroom.domain.device_plugin import allocated_mib
from headroom.domain.model import GpuRequest, Mode, Placement
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet, HostUse
from scheduler.placement import filtering, mixing, refusals
from scheduler.placement.filtering import Fit
from scheduler.placement.policies import linked
from scheduler.placement.policies.simple import BY_ORDER
from scheduler.placement.profile import LearnedProfile, Profile
from scheduler.placement.row_cache import ChangedRows, RowCaches
from scheduler.placement.scoring import Policy, first_of_equals, score_of

_NEVER: Final = np.int64(np.iinfo(np.int64).min)  # key of a row that cannot run the request
_MOST_BYTES: Final = 2**25  # of all classes: 640 of them at 5,000 nodes
_TRIES_BEFORE_SORTING: Final = 8
_REMEMBERED_ARRIVALS: Final = 5000  # the half-life of what is learned of the workload


class Placer:
    """Best placement of a request on a fleet under a policy. Pure: it never changes the fleet.

    `check_host` also demands CPU and host memory (simulations and fit questions; in a cluster kube-scheduler checks those).
    `profile` learns the workload through `observe`.
    """

    def __init__(
        self, fleet: Fleet, policy: Policy, *, check_host: bool = False, profile: LearnedProfile | None = None
    ) -> None:
        self.fleet = fleet
        self.policy = policy
        self.check_host = check_host
        self.profile = profile or LearnedProfile()
        self._classes = RowCaches(fleet, self._evaluated, (np.int64, np.int16), most_bytes=_MOST_BYTES)
        self._version = policy.version
        self._rank = np.zeros(0, np.int64)
        self._ranked_names: list[str] = []
        self._rank_changes = ChangedRows()
        self._planned_at = 0
        self._devices_asked_at: int | None = None
        self.devices_wanted = False
        """Whether pods come that get their cards from a device plugin: it matters on which nodes pods are pinned."""

    def best(
        self, request: GpuRequest, offered: Callable[[int], bool] | None = None, excluded: Container[int] = ()
    ) -> Placement | None:
        """The best placement among the rows that are offered (None: all) and not excluded; None when nothing fits."""
        row = self.best_row(request, offered, excluded)
        return None if row is None else self.placement_at(request, row)

    def best_row(
        self, request: GpuRequest, offered: Callable[[int], bool] | None = None, excluded: Container[int] = ()
    ) -> int | None:
        """The row of the best placement; see `best`."""
        keys = self._keys(request)
        if offered is None and not excluded:
            return self._top(keys)
        keys = keys.copy()
        for _ in range(_TRIES_BEFORE_SORTING):
            row = self._top(keys)
            if row is None:
                return None
            if row not in excluded and (offered is None or offered(row)):
                return row
            keys[row] = _NEVER
        for row in self._in_order(keys):
            if row not in excluded and (offered is None or offered(row)):
                return row
        return None

    def best_among(self, request: GpuRequest, rows: IntArray) -> int | None:
        """The best of the given rows; None when none of them fits."""
        keys = self._keys(request)[rows]
        if not len(rows) or keys.max() == _NEVER:
            return None
        best = rows[keys == keys.max()]
        return int(best[self.ranks()[best].argmin()])

    def fitting(self, request: GpuRequest, rows: IntArray) -> IntArray:
        """Those of the given rows that can run the request now."""
        fits: IntArray = rows[self._keys(request)[rows] != _NEVER]
        return fits

    def placement_at(self, request: GpuRequest, row: int) -> Placement:
        """The cards that the policy takes on a row that fits."""
        rows = np.array([row], np.int64)
        if request.mode is Mode.PINNED and request.count == 1:
            at = int(self._standing(request)[1][row])
            if self.fleet.links_matter and linked.matrix_of(self.fleet, row):
                fit = filtering.fit(self.fleet, request, rows, check_host=self.check_host)
                at = linked.card_of_equals(self.fleet, request, fit, at)
            share = int(filtering.need_mib(self.fleet, request, rows)[0, at])
            return Placement(self.fleet.names[row], (at,), (share,), request.mode)
        if filtering.allocates(self.fleet, request, rows)[0]:
            name, count = self.fleet.names[row], request.count
            most_mib = count * allocated_mib(self.fleet.nodes[name], request)
            return Placement(name, (), (), request.mode, devices=count, devices_mib=most_mib)
        fit = filtering.fit(self.fleet, request, rows, check_host=self.check_host)
        take = fit.take if fit.take is not None else chosen_cards(self.fleet, self._policy_for(request), request, fit)
        cards: list[int] = []
        shares: list[int] = []
        for at in np.flatnonzero(take[0]).tolist():
            times = round(int(take[0, at]) / int(fit.need[0, at]))
            cards += [at] * times
            shares += [int(fit.need[0, at])] * times
        return Placement(self.fleet.names[row], tuple(cards), tuple(shares), request.mode)

    def order(self, request: GpuRequest, rows: Iterable[int]) -> list[tuple[int, int]]:
        """(row, score 0..10) of the rows that fit, for kube-scheduler's prioritize; 10 is the policy's favourite.

        Steps follow the rank among the rows offered, not the raw score: ten steps are all that the protocol has.
        """
        keys = self._keys(request)
        given = np.fromiter(rows, np.int64)
        given = given[keys[given] != _NEVER]
        levels, level = np.unique(keys[given], return_inverse=True)
        if len(levels) <= 1:
            return [(row, 10) for row in given.tolist()]
        score = level * 10 // (len(levels) - 1)
        return list(zip(given.tolist(), score.tolist(), strict=True))

    def refusal(self, request: GpuRequest, row: int) -> str | None:
        """Why the row cannot run the request, in stable words; None when it can."""
        return refusals.refusal(self.fleet, request, row, check_host=self.check_host)

    def fits(self, request: GpuRequest, row: int) -> bool:
        """Whether the row can run the request now."""
        return bool(self._keys(request)[row] != _NEVER)

    def latest(self, count: int) -> list[GpuRequest]:
        """The classes that were looked at last, the last one first."""
        return self._classes.latest(count)

    def get_ready(self, request: GpuRequest) -> None:
        """Bring the keys of the request's class up to date, for a choice that is to come."""
        self._keys(request)
        self.ranks()

    def score(self, request: GpuRequest, row: int) -> int | None:
        """The policy's score of the best placement on the row, for explanations; None when it does not fit."""
        key = int(self._keys(request)[row])
        return None if key == _NEVER else score_of(key)

    def observe(self, request: GpuRequest, now: float = 0.0) -> None:
        """Count an arrival for the learned workload profile. `now` is seconds on any steady clock."""
        self.profile.observe(request)
        if request.mode is Mode.SLICE and request.count:
            self._devices_asked_at = self.profile.seen
        wanted = (
            self._devices_asked_at is not None and self.profile.seen - self._devices_asked_at <= _REMEMBERED_ARRIVALS
        )
        if wanted is not self.devices_wanted:
            self.devices_wanted = wanted
            self._classes.clear()

    def replan(self, profile: Profile | None = None) -> None:
        """Rebuild the policy's table here and now, from the learned profile unless another is given.

        A daemon solves in a thread instead, between `plan_inputs` and the policy's `swap`.
        """
        inputs = self.plan_inputs(profile)
        if inputs is not None:
            self.policy.swap(self.policy.solve(inputs))

    def plan_inputs(self, profile: Profile | None = None) -> Any:
        """What the policy's `solve` needs, taken from the fleet as it is now; None for a policy without a plan."""
        self._planned_at = self.profile.seen
        return self.policy.inputs(self.fleet, self.profile.profile() if profile is None else profile)

    def replan_after(self, pods: int) -> None:
        """Replan when so many pods have been seen since the last time."""
        if self.profile.seen - self._planned_at >= pods:
            self.replan()

    def _top(self, keys: IntArray) -> int | None:
        if not len(keys):
            return None
        row = int(keys.argmax())
        top = keys[row]
        if top == _NEVER:
            return None
        if self.policy.draws is not None:
            return int(self.policy.draws.choice(np.flatnonzero(keys != _NEVER)))
        ties = np.flatnonzero(keys == top)
        if len(ties) > 1:
            row = int(ties[self.ranks()[ties].argmin()])
        return row

    def _in_order(self, keys: IntArray) -> list[int]:
        rows = np.flatnonzero(keys != _NEVER)
        order = np.lexsort((self.ranks()[rows], -keys[rows]))
        ordered: list[int] = rows[order].tolist()
        return ordered

    def ranks(self) -> IntArray:
        """Place of each row's name in the sorted list of names; sorted anew only after a node came or went."""
        names, known = self.fleet.names, self._ranked_names
        changed = self._rank_changes.since_last(self.fleet).tolist()
        if any(row >= len(known) or known[row] is not names[row] for row in changed):
            self._ranked_names = list(names)
            self._rank = np.empty(len(names), np.int64)
            self._rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        return self._rank

    def _keys(self, request: GpuRequest) -> IntArray:
        """The key of every row for the request's class; `_NEVER` where it does not fit."""
        return self._standing(request)[0]

    def _standing(self, request: GpuRequest) -> tuple[IntArray, IntArray]:
        """Keys of the request's class over all rows, and the card that goes with each key."""
        if self._version != self.policy.version:
            self._classes.clear()
            self._version = self.policy.version
        keys, card = self._classes.of(request)
        return keys, card

    def _policy_for(self, request: GpuRequest) -> Policy:
        """The policy, unless the pod itself says what it would like first."""
        return BY_ORDER.get(request.order, self.policy) if request.order else self.policy

    def _evaluated(self, request: GpuRequest, rows: IntArray) -> tuple[IntArray, IntArray]:
        fit = filtering.fit(self.fleet, request, rows, check_host=self.check_host)
        keep = fit.fits
        keys, card = np.full(len(rows), _NEVER), np.zeros(len(rows), np.int64)
        if not keep.all():
            take = None if fit.take is None else fit.take[keep]
            fit = Fit(rows[keep], keep[keep], fit.cards[keep], fit.need[keep], take)
        if len(fit.rows):
            keys[keep], card[keep] = evaluate(self.fleet, self._policy_for(request), request, fit)
            keys[keep] -= mixing.price(self.fleet, request, fit.rows, devices_wanted=self.devices_wanted)
        return keys, card


def evaluate(fleet: Fleet, policy: Policy, request: GpuRequest, fit: Fit) -> tuple[IntArray, IntArray]:
    """Keys of the best placement on rows that all fit, and the card it takes (0 where the cards are no single choice)."""
    rows = fit.rows
    if fit.take is not None:
        return policy.set_keys(fleet, request, rows, fit.take), np.zeros(len(rows), np.int64)
    if request.count > 1:
        take = chosen_cards(fleet, policy, request, fit)
        return policy.set_keys(fleet, request, rows, take), np.zeros(len(rows), np.int64)
    line, card = first_of_equals(fleet, rows, fit.cards).nonzero()
    keys = policy.share_keys(fleet, request, rows, line, card, fit.need[line, card])
    by_card = np.full(fit.cards.shape, _NEVER)
    by_card[line, card] = keys
    top = by_card.max(axis=1)
    best = policy.card_of_equals(fleet, rows, by_card == top[:, None])
    return top, best


def chosen_cards(fleet: Fleet, policy: Policy, request: GpuRequest, fit: Fit) -> IntArray:
    """MiB [rows, width] to take for several shares: of the cards that the policy likes, or the best linked ones where links are known."""
    return linked.relink(fleet, request, fit, policy.choose_cards(fleet, request, fit))


def hold(fleet: Fleet, request: GpuRequest, placement: Placement, sign: int = 1) -> None:
    """Take what a placement holds from the fleet, or give it back with sign -1."""
    act = fleet.take if sign > 0 else fleet.give
    act(
        fleet.row_of[placement.node],
        placement.cards,
        placement.share_mib,
        plugin=placement.mode is Mode.SLICE,
        host=HostUse(request.cpu_milli, request.memory_mib),
        promised=placement.devices,
    )
