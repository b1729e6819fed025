"""Tells apart the memory in use on a card: what a pod uses beyond its share (excess), and what belongs to no pod (foreign). Pure.

A reading is older than the ledger: since it was taken pods may have come and gone. What it says of a pod that is gone is forgotten
until a later reading shows it again, and then it is nobody's. Two kinds of readings are understood:

- *By process* (Headroom's agent): what each pod uses is known, so what is nobody's is known as well, whether pods have loaded or not.
- *Totals* (dcgm-exporter, or a driver that does not name processes): pods that ran when it was taken are supposed to use up to their
  shares, and the rest is nobody's. A pod that has just started may have loaded nothing yet, so while one is young, memory that was
  nobody's before it came stays nobody's.

In both, pods that started after the reading come on top of it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from headroom.domain.model import GpuNode, Placement
from scheduler.ledger.fleet import Fleet

LOADING_SECONDS: Final = 600.0
"""How long a pod counts as loading where only totals are known: large models from network storage take minutes."""
_KEPT_SECONDS: Final = 600.0
"""How long a pod that is gone is remembered: longer than any reading that still counts is old."""


class CardUse(msgspec.Struct, frozen=True, gc=False):
    """One card as read at one moment. There is one for every card of the cluster: the garbage collector need not look at them."""

    at: float
    """Unix seconds."""
    total_mib: int | None
    """In use by anybody; None where only pods are known."""
    outside_mib: int | None = None
    """In use by processes outside pods; None where processes are not known, and the total alone must do."""
    by_pod: Mapping[str, int] = msgspec.field(default_factory=dict)
    """In use by the processes of a pod, by `namespace/name`."""


class Holder(Protocol):
    """Who holds shares of cards: a pod, or a resource claim for its pods."""

    excess_mib: dict[int, int]

    @property
    def pod(self) -> str:
        """Under which name what it uses is read."""

    @property
    def begun(self) -> float:
        """From when on it can have used its cards (Unix seconds)."""

    @property
    def counted(self) -> bool:
        """Whether the fleet includes it."""

    @property
    def placement(self) -> Placement:
        """What it holds."""


def with_aliases(uses: Mapping[str, CardUse], aliases: Mapping[str, str]) -> Mapping[str, CardUse]:
    """The readings with what some pods use counted under the names of others: those that share a resource claim."""
    if not aliases:
        return uses
    return {card: msgspec.structs.replace(use, by_pod=_renamed(use.by_pod, aliases)) for card, use in uses.items()}


def _renamed(by_pod: Mapping[str, int], aliases: Mapping[str, str]) -> Mapping[str, int]:
    total: dict[str, int] = {}
    for pod, mib in by_pod.items():
        name = aliases.get(pod, pod)
        total[name] = total.get(name, 0) + mib
    return total


@dataclass(slots=True)
class _Tenant:
    """A pod on one card: its shares there together, and when it began to be able to use it (Unix seconds)."""

    share_mib: int
    begun: float


@dataclass(frozen=True, slots=True)
class _Departed:
    pod: str
    begun: float
    ended: float
    share_mib: Mapping[str, int]
    """By card id."""


class Measured:
    """Brings readings into the fleet, and remembers which pods are gone since."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._departed: dict[str, list[_Departed]] = {}

    def note_end(self, holding: Holder, now: float) -> None:
        """Note that a bound pod is gone; `now` is in Unix seconds."""
        node = self._fleet.nodes.get(holding.placement.node)
        if node is None or not holding.counted or not holding.placement.cards:
            return
        shares: dict[str, int] = {}
        for at, mib in zip(holding.placement.cards, holding.placement.share_mib, strict=True):
            shares[node.cards[at].id] = shares.get(node.cards[at].id, 0) + mib
        gone = [one for one in self._departed.get(node.name, ()) if now - one.ended < _KEPT_SECONDS]
        self._departed[node.name] = [*gone, _Departed(holding.pod, holding.begun, now, shares)]

    def forget_node(self, name: str) -> None:
        """Forget the pods that were on a node."""
        self._departed.pop(name, None)

    def read(self, node: GpuNode, holdings: Iterable[Holder], uses: Mapping[str, CardUse]) -> bool:
        """Take in a reading of the node's cards, by card id; returns whether free memory changed.

        A card without one, or whose memory is unknown, counts by what pods declare.
        """
        fleet, row = self._fleet, self._fleet.row_of[node.name]
        tenants = _tenants(holdings)
        excess: dict[str, dict[int, int]] = {}
        measured, foreign = [], []
        for at, card in enumerate(node.cards):
            use = uses.get(card.id)
            if use is None or not card.sized:  # there is nothing to hold it against
                measured.append(0)
                foreign.append(0)
                continue
            here = tenants.get(at, {})
            departed = [one for one in self._departed.get(node.name, ()) if one.ended >= use.at]
            used, others = _attributed(use, here, departed)
            for pod, mib in used.items():
                if mib > here[pod].share_mib:
                    excess.setdefault(pod, {})[at] = mib - here[pod].share_mib
            gone = [
                (one.pod, one.share_mib[card.id])
                for one in departed
                if card.id in one.share_mib and one.begun <= use.at
            ]
            foreign.append(_foreign(use, here, used, others, gone, int(fleet.foreign_mib[row, at])))
            measured.append(use.total_mib if use.total_mib is not None else sum(use.by_pod.values()))
        before = fleet.free_mib[row].copy()
        self._set_excess(row, holdings, excess)
        fleet.set_measured(row, measured, foreign)
        return bool((fleet.free_mib[row] != before).any())

    def _set_excess(self, row: int, holdings: Iterable[Holder], excess: Mapping[str, Mapping[int, int]]) -> None:
        for holding in holdings:
            found = excess.get(holding.pod, {})
            if found:  # a pod may hold one card by itself and another by a claim
                found = {at: mib for at, mib in found.items() if at in holding.placement.cards}
            if holding.excess_mib != found and holding.counted:
                self._fleet.add_excess(row, holding.excess_mib, -1)
                holding.excess_mib = dict(found)
                self._fleet.add_excess(row, holding.excess_mib)


def _tenants(holdings: Iterable[Holder]) -> dict[int, dict[str, _Tenant]]:
    """Who holds what of each card position."""
    found: dict[int, dict[str, _Tenant]] = {}
    for holding in holdings:
        if not holding.counted:
            continue
        for at, mib in zip(holding.placement.cards, holding.placement.share_mib, strict=True):
            here = found.setdefault(at, {})
            known = here.get(holding.pod)
            if known is None:
                here[holding.pod] = _Tenant(mib, holding.begun)
            else:
                known.share_mib += mib
    return found


def _attributed(
    use: CardUse, tenants: Mapping[str, _Tenant], departed: Iterable[_Departed]
) -> tuple[dict[str, int], tuple[int, int]]:
    """What each tenant uses; and what pods use that hold nothing here: those that are gone since, and others."""
    used: dict[str, int] = {}
    gone = stray = 0
    ended = {one.pod for one in departed}
    for pod, mib in use.by_pod.items():
        tenant = tenants.get(pod)
        if tenant is not None and tenant.begun <= use.at:
            used[pod] = mib
        elif pod in ended:
            gone += mib
        else:
            stray += mib
    return used, (gone, stray)


def _foreign(
    use: CardUse,
    tenants: Mapping[str, _Tenant],
    used: Mapping[str, int],
    others: tuple[int, int],
    departed: Iterable[tuple[str, int]],
    before: int,
) -> int:
    """MiB that are no pod's here; `before` is what the reading before this one came to."""
    gone, stray = others
    explained = sum(used.values()) + gone
    if use.outside_mib is not None:
        rest = use.total_mib - explained if use.total_mib is not None else 0
        return max(use.outside_mib + stray, rest)
    if use.total_mib is None:
        return stray
    ran = {pod: tenant for pod, tenant in tenants.items() if tenant.begun <= use.at}
    covered = sum(max(tenant.share_mib, used.get(pod, 0)) for pod, tenant in ran.items())
    covered += sum(max(share, use.by_pod.get(pod, 0)) for pod, share in departed)
    least = max(use.total_mib - covered, stray, 0)
    if not any(use.at - tenant.begun < LOADING_SECONDS for tenant in ran.values()):
        return least
    return max(min(before, use.total_mib - explained), least)
