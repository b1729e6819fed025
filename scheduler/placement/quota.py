"""What the pods of a namespace may hold together, by what the ledger says that they do. Pure.

A ResourceQuota counts a size once, however many cards a pod takes it of, and each way to ask by itself. Here the annotations
`headroom.dev/max-vram` and `headroom.dev/max-cards` of a Namespace limit the memory and the cards (or slices) that its pods hold,
reserved ones included, whatever they asked in. A share counts as one card, whatever its size.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from headroom import names, wire
from headroom.domain.model import GpuRequest, Placement
from headroom.units import MIB, UnitError, parse_quantity
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger, LedgerError
from scheduler.placement.filtering import BoolArray, most_mib

_LEAST_MIB: Final = 64  # below it a number lacks its unit


class QuotaError(LedgerError):
    """More than the namespace's quota allows; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one namespace; None where there is none."""

    namespace: str
    vram_mib: int | None = None
    cards: int | None = None
    vram_text: str = ""
    problem: str = ""
    """What is wrong with the annotations: then nothing more is placed, until somebody mends them."""

    def words(self, annotation: str, value: str) -> str:
        """Why a pod is refused; only what was written down is in it, so that the words stay while pods come and go."""
        return f"quota of namespace {self.namespace}: {annotation} {value}"


def quota_of(namespace: wire.Namespace) -> Quota | None:
    """The limits that a namespace's annotations state; None where they state none."""
    meta = namespace.metadata
    vram, cards = (meta.annotations.get(name) for name in (names.ANNOTATION_MAX_VRAM, names.ANNOTATION_MAX_CARDS))
    if vram is None and cards is None:
        return None
    try:
        vram_mib = None if vram is None else _vram_mib(vram)
    except UnitError as error:
        return Quota(meta.name, problem=f"{names.ANNOTATION_MAX_VRAM}: {vram!r}: {error}")
    if cards is not None and not (cards.isascii() and cards.isdigit() and len(cards) < 10):
        return Quota(meta.name, problem=f"{names.ANNOTATION_MAX_CARDS}: {cards!r}: not a number of cards")
    return Quota(meta.name, vram_mib, None if cards is None else int(cards), vram or "")


def _vram_mib(text: str) -> int:
    amount = parse_quantity(text)
    if amount < 0:
        raise UnitError("below zero")
    if 0 < amount < _LEAST_MIB * MIB:
        raise UnitError(f"that is in bytes, and less than {_LEAST_MIB} MiB; write the unit, such as 80Gi")
    return int(amount // MIB)


@dataclass(slots=True)
class Budget:
    """What is left of a namespace's quota; None where it is not limited."""

    quota: Quota
    vram_mib: int | None
    cards: int | None

    def refusal(self, count: int, vram_mib: int) -> str | None:
        """Why so many shares of so much memory in all do not fit in what is left; None when they do."""
        quota = self.quota
        if quota.problem:
            return f"namespace {quota.namespace}: {quota.problem}"
        if self.cards is not None and count > self.cards:
            return quota.words(names.ANNOTATION_MAX_CARDS, str(quota.cards))
        if self.vram_mib is not None and vram_mib > self.vram_mib:
            return self.vram_words
        return None

    @property
    def vram_words(self) -> str:
        """Why a pod is refused for its memory."""
        return self.quota.words(names.ANNOTATION_MAX_VRAM, self.quota.vram_text)

    def take(self, count: int, vram_mib: int) -> None:
        """Count a pod more."""
        self.cards = None if self.cards is None else self.cards - count
        self.vram_mib = None if self.vram_mib is None else self.vram_mib - vram_mib

    def refusal_of(self, request: GpuRequest) -> str | None:
        """Why the request fits on no node; for a share whose size the card decides, only what is certain."""
        return self.refusal(request.count, request.count * max(request.vram_mib, 1))

    def rows(self, fleet: Fleet, request: GpuRequest) -> BoolArray | None:
        """Rows on which the request's shares fit in the memory that is left; None where that depends on no card."""
        if self.vram_mib is None or request.vram_mib:
            return None
        within: BoolArray = most_mib(fleet, request, np.arange(fleet.capacity)) <= self.vram_mib
        return within


class Quotas:
    """The limits of all namespaces, held against the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._quotas: dict[str, Quota] = {}

    def on_event(self, kind: str, name: str, namespace: wire.Namespace) -> bool:
        """Apply an event of the watch on namespaces; returns whether a limit changed."""
        quota = None if kind == wire.DELETED else quota_of(namespace)
        if quota == self._quotas.get(name):
            return False
        if quota is None:
            del self._quotas[name]
        else:
            self._quotas[name] = quota
        return True

    def budget(self, namespace: str, uid: str = "") -> Budget | None:
        """What is left for a pod, besides what it holds itself; None where nothing limits the namespace."""
        quota = self._quotas.get(namespace)
        if quota is None:
            return None
        held = self._ledger.held_in(namespace)
        own = self._ledger.holdings.get(uid)
        if own is not None:
            held = held.without(own.weighed)
        return Budget(
            quota,
            None if quota.vram_mib is None else quota.vram_mib - held.vram_mib,
            None if quota.cards is None else quota.cards - held.shares,
        )

    def rows(self, namespace: str, uid: str, request: GpuRequest) -> BoolArray | None:
        """Rows on which the quota lets the pod run, where that depends on the cards; None where it does not."""
        budget = self.budget(namespace, uid)
        return None if budget is None else budget.rows(self._ledger.fleet, request)

    def refusal(self, namespace: str, uid: str, request: GpuRequest) -> str | None:
        """Why the quota lets the pod run nowhere; None when it does, as far as that depends on no card."""
        budget = self.budget(namespace, uid)
        return None if budget is None else budget.refusal_of(request)

    def beyond(self, namespace: str, uid: str, placement: Placement) -> str | None:
        """Why these shares, in place of what the pod has reserved, are more than is left; None when they are not."""
        budget = self.budget(namespace, uid)
        if budget is None:
            return None
        own = self._ledger.holdings.get(uid)
        if (
            own is not None
            and own.placement.shares >= placement.shares
            and own.placement.held_mib >= placement.held_mib
        ):
            return None  # what was allowed stays, also when the limit was lowered since
        return budget.refusal(placement.shares, placement.held_mib)

    def check(self, namespace: str, uid: str, placement: Placement) -> None:
        """As `beyond`. Raises QuotaError."""
        if (words := self.beyond(namespace, uid, placement)) is not None:
            raise QuotaError(words)

    def each(self) -> list[tuple[Quota, int, int]]:
        """Every limited namespace, with the MiB and the cards that its pods hold."""
        found = []
        for name, quota in sorted(self._quotas.items()):
            held = self._ledger.held_in(name)
            found.append((quota, held.vram_mib, held.shares))
        return found

    def problems(self) -> dict[str, str]:
        """What is wrong with annotations, by namespace."""
        return {name: quota.problem for name, quota in sorted(self._quotas.items()) if quota.problem}
