"""Mends taken back, one by one, each as it was before: the fuzzer must find every one of them."""

from collections.abc import Callable
from typing import Any

import pytest

from headroom.kube.lease import Elector
from headroom.kube.reflector import Reflector
from scheduler.background.fencing import Fence
from scheduler.background.preemption import Preemptor
from scheduler.cluster import pod_entry
from scheduler.cluster.news.pods import PodNews
from scheduler.cluster.pod_entry import HOLDING, Stage, Step
from scheduler.cluster.pods.records import Pods
from scheduler.ledger.holding import HoldingState
from scheduler.ledger.ledger import Ledger
from scheduler.verbs.filter import Extender
from tests.property.scheduler.daemon.play import play
from tests.property.scheduler.daemon.truth import Truth
from tests.property.scheduler.daemon.world import Broken

Patch = pytest.MonkeyPatch


def _bindings_can_be_voided(patch: Patch) -> None:
    """Common to several: what is being bound is a reservation like any other."""
    table = dict(pod_entry.TRANSITIONS) | {(Stage.BINDING, Step.VOID): Stage.WAITING}
    patch.setattr(pod_entry, "TRANSITIONS", table)

    def void(self: Pods, entry: Any, end: str, *, seen_by_scheduler: bool = False) -> Any:
        holding = self._ledger.release(entry.uid) if entry.stage in HOLDING else None
        return [] if holding is None else self._voided(entry, holding, end, seen_by_scheduler=seen_by_scheduler)

    patch.setattr(Pods, "void", void)


def _placed_again(patch: Patch, state: HoldingState) -> None:
    """Common to two: a filter call takes a pod that is in this state for one that waits."""
    settled = Extender._settled

    def of_others(self: Extender, uid: str, offer: Any) -> Any:
        holding = self._state.holding(uid)
        return None if holding is not None and holding.state is state else settled(self, uid, offer)

    patch.setattr(Extender, "_settled", of_others)


def preemption_deadline_ends_a_binding(patch: Patch) -> None:
    """s18."""
    _bindings_can_be_voided(patch)

    def sweep(self: Preemptor, now: float) -> None:
        for entry in list(self._state.pods.claims.values()):
            if entry.claim is not None and now >= entry.claim.deadline:
                secured = entry.claim.secured
                self._give_up(entry, "timed_out")
                if secured:
                    self._effects(self._state.pods.void(entry, "expired"))

    patch.setattr(Preemptor, "sweep", sweep)


def a_read_settles_a_write_that_may_come_yet(patch: Patch) -> None:
    """s22."""

    def not_bound(self: Pods, entry: Any) -> None:
        entry.awaited = False
        self.settle_binding(entry)

    patch.setattr(Pods, "binding_unsure", not_bound)


def a_new_filter_call_ends_a_binding(patch: Patch) -> None:
    """s29."""
    _bindings_can_be_voided(patch)
    _placed_again(patch, HoldingState.BINDING)


def nothing_is_fenced(patch: Patch) -> None:
    """s06b."""

    async def nothing(self: Fence) -> None:
        pass

    patch.setattr(Fence, "raise_before_deciding", nothing)


def versions_are_not_named(patch: Patch) -> None:
    """s06b, the other half: the mark is set, the binding does not mind it."""
    bind = Truth.bind

    def unconditional(self: Truth, name: str, body: Any) -> None:
        body["metadata"].pop("resourceVersion", None)
        bind(self, name, body)

    patch.setattr(Truth, "bind", unconditional)


def a_node_that_goes_ends_a_binding(patch: Patch) -> None:
    """s23."""
    _bindings_can_be_voided(patch)

    def all_of_them(self: Ledger, holdings: Any) -> Any:
        ended = [holding for holding in holdings if holding.state is not HoldingState.BOUND]
        for holding in ended:
            self.release(holding.uid)
        return ended

    patch.setattr(Ledger, "_end_reservations", all_of_them)


def a_reservation_ends_its_namesake(patch: Patch) -> None:
    """s24."""
    reserve = Ledger.reserve

    def ending(self: Ledger, uid: str, pod: str, *args: Any, **more: Any) -> Any:
        for other in [held.uid for held in self.holdings.values() if held.pod == pod and held.uid != uid]:
            self.release(other)
        return reserve(self, uid, pod, *args, **more)

    patch.setattr(Ledger, "reserve", ending)
    patch.setattr(Pods, "has_ended", lambda self, uid: False)


def ghosts_stay(patch: Patch) -> None:
    """s21."""
    patch.setattr(PodNews, "listed", lambda self, began: [])


def a_reign_in_between_goes_unnoticed(patch: Patch) -> None:
    """s06."""
    patch.setattr(Elector, "_is_ours", lambda self, spec: True)


def a_bound_pod_is_placed_again(patch: Patch) -> None:
    """s19."""
    _placed_again(patch, HoldingState.BOUND)


def a_handlers_error_ends_the_watch(patch: Patch) -> None:
    """s12, s19b: the version was noted before the event was taken in, so that no list brought the event again."""

    def noted_first(self: Reflector[Any], kind: str, key: str, version: str, raw: Any) -> None:
        item = self._decoder.decode(raw)
        self._last[key] = item if self._remember is None else self._remember(item)
        self._versions[key] = version
        self._on_event(kind, key, item)

    patch.setattr(Reflector, "_upsert", noted_first)


def the_demand_is_frozen_at_first_sight(patch: Patch) -> None:
    """s27."""

    def frozen(self: Pods, entry: Any, pod: Any, version: int) -> Any:
        entry.version = version
        if entry.stage is Stage.GATED and not pod.spec.scheduling_gates:
            self._move(entry, Step.OPEN)
        return []

    patch.setattr(Pods, "_update", frozen)


FAULTS: dict[str, Callable[[Patch], None]] = {
    "s06": a_reign_in_between_goes_unnoticed,
    "s06b": nothing_is_fenced,
    "s06b version": versions_are_not_named,
    "s12": a_handlers_error_ends_the_watch,
    "s18": preemption_deadline_ends_a_binding,
    "s19": a_bound_pod_is_placed_again,
    "s21": ghosts_stay,
    "s22": a_read_settles_a_write_that_may_come_yet,
    "s23": a_node_that_goes_ends_a_binding,
    "s24": a_reservation_ends_its_namesake,
    "s27": the_demand_is_frozen_at_first_sight,
    "s29": a_new_filter_call_ends_a_binding,
}

THEME_OF: dict[str, str] = {
    "s06": "reigns", "s06b": "reigns", "s06b version": "reigns", "s12": "errors", "s18": "deadlines", "s22": "bindings", "s23": "nodes",
    "s24": "names", "s29": "bindings",
}  # fmt: skip
"""In which runs a fault shows soonest; the seed draws the theme where none is named here."""


def finds(case: str, seeds: int) -> Broken | None:
    """What the fuzzer says first with a mend taken back; None when none of so many seeds shows anything."""
    for seed in range(seeds):
        with pytest.MonkeyPatch.context() as patch:
            FAULTS[case](patch)
            try:
                play(seed, theme=THEME_OF.get(case, ""))
            except Broken as broken:
                return broken
    return None
