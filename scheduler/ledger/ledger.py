"""Who holds which MiB of which card: the one writer of a Fleet's holdings. Pure.

Entries come from two sides: `reserve` promises cards to a pod before it is bound, and `apply` takes in what the API
server says of bound pods. The API server wins: annotations on a bound pod replace what was reserved for it, and what
it says is accounted even where it over-commits a card; only `reserve` refuses to. While a binding is under way
(`begin_binding`) nothing but its outcome ends the entry: the API server may have written it already.

The entries and what is counted for them are in `scheduler.ledger.books`, the way to their cards in `scheduler.ledger.finding`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np

from headroom import wire
from headroom.domain.assignment import Assignment
from headroom.domain.dialects.customs import USUAL
from headroom.domain.dra.claims import Claim, ClaimUse
from headroom.domain.model import GpuNode, GpuRequest, Placement
from scheduler.ledger import checks, room
from scheduler.ledger.books import PATIENCE_SECONDS, Books
from scheduler.ledger.finding import CardFinder, keep_pinned_cards
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import (
    NO_CHANGE,
    Change,
    ChangeKind,
    Held,
    Holding,
    HoldingState,
    LedgerError,
    OverCommitError,
    holding_of,
    is_finished,
)
from scheduler.ledger.measured import CardUse, Holder, Measured, with_aliases

__all__ = [
    "CardUse", "Change", "ChangeKind", "Holding", "HoldingState", "Ledger", "LedgerError", "OverCommitError",
]  # fmt: skip

_NEVER: Final = float("inf")


class Ledger:
    """Holdings by pod UID over a Fleet. Every event costs as much as the pod has cards.

    Only where devices went to pods without annotations does an event also cost as much as that node has pods.
    """

    def __init__(self, fleet: Fleet, *, unix_clock: Callable[[], float] = lambda: 0.0) -> None:
        self.fleet = fleet
        self.customs = USUAL
        self.measured = Measured(fleet)
        self.books = Books(fleet, unix_clock)
        self._finder = CardFinder(self.books)
        self.claims = self.books.claims
        self.holdings = self.books.holdings
        """By pod UID; read only."""
        self._unix_clock = unix_clock
        self.trusted = 0
        """How many pods were settled without any word from the agent of their node; read only."""

    @property
    def problems(self) -> dict[str, str]:
        """What is wrong with pods that are accounted all the same, by UID; read only."""
        return self.books.problems

    @property
    def priorities(self) -> Counter[int]:
        """How many bound pods of each priority hold cards; read only."""
        return self.books.priorities

    @property
    def unsettled(self) -> dict[str, Holding]:
        """Bound pods in slice mode, by UID, on whose cards kubelet's word is still out; read only."""
        return self.books.unsettled

    # Reservations

    def reserve(
        self,
        uid: str,
        pod: str,
        request: GpuRequest,
        placement: Placement,
        *,
        expires_at: float,
        project: str = "",
        priority: int = 0,
    ) -> Holding:
        """Promise cards to a pod; a reservation that it already has is replaced.

        Raises OverCommitError when a card has less left, and LedgerError for an unknown node or card and for a pod that is
        bound or being bound; nothing is changed then.
        """
        old = self.holdings.get(uid)
        if old is not None and old.state is not HoldingState.RESERVED:
            words = "already bound" if old.state is HoldingState.BOUND else "being bound"
            raise LedgerError(f"pod {pod} is {words} to node {old.placement.node}")
        if old is not None and (old.placement, old.request, old.counted) == (placement, request, True):
            old.expires_at, old.project, old.priority = expires_at, project, priority
            return old
        node = room.node_for(self.fleet, placement, request)
        if old is not None:
            self.books.uncount(old)
        try:
            room.check_room(self.fleet, node, request, placement)
        except OverCommitError:
            if old is not None:
                self.books.count(old)
            raise
        if old is not None:
            self.books.drop(old)
        ids = tuple(node.cards[at].id for at in placement.cards)
        assigned = None if placement.devices else Assignment(ids, placement.share_mib, placement.mode)
        holding = Holding(uid, pod, request, placement, HoldingState.RESERVED, expires_at, project, priority, assigned)
        self.books.add(holding)
        self.books.count(holding)
        return holding

    def put_back(self, holding: Holding) -> None:
        """Undo the `release` of a reservation in the same step: it holds what it held, also where that is more than is left by now."""
        self.books.add(holding)
        self.books.count(holding)

    def prolong(self, uid: str, expires_at: float) -> None:
        """Let a reservation end later, or sooner; other holdings stay as they are."""
        holding = self.holdings.get(uid)
        if holding is not None and holding.state is HoldingState.RESERVED:
            holding.expires_at = expires_at

    def begin_binding(self, uid: str) -> None:
        """Hold a reservation until the outcome of its binding is known: `confirm`, `apply` or `release` ends it, time does not.

        Raises LedgerError for a pod without one.
        """
        holding = self.holdings.get(uid)
        if holding is None or holding.state is HoldingState.BOUND:
            raise LedgerError(f"pod {uid} has no reservation to be bound by")
        holding.state, holding.expires_at = HoldingState.BINDING, _NEVER

    def confirm(self, uid: str, node: str) -> Holding | None:
        """Turn a reservation into a bound holding; None when the pod holds nothing on this node.

        None is no harm: the pod's own annotations, when the API server shows them, say the same.
        """
        holding = self.holdings.get(uid)
        if holding is None or holding.placement.node != node:
            return None
        if holding.state is not HoldingState.BOUND:
            self.books.bind(holding)
        self.books.reserved.pop(uid, None)
        return holding

    def release(self, uid: str) -> Holding | None:
        """Give back all that a pod holds, at any end of it; None when it holds nothing."""
        holding = self.holdings.get(uid)
        if holding is None:
            return None
        if holding.state is HoldingState.BOUND:
            self.measured.note_end(holding, self._unix_clock())
        self.books.uncount(holding)
        self.books.drop(holding)
        self._finder.predict(holding.placement.node)
        return holding

    def expire(self, now: float) -> list[Holding]:
        """Release the reservations whose time is up, and return them."""
        over = [
            holding
            for holding in self.books.reserved.values()
            if holding.state is HoldingState.RESERVED and holding.expires_at <= now
        ]
        for holding in over:
            self.release(holding.uid)
        return over

    def trust(self) -> list[str]:
        """Settle pods whose agent has been silent for too long on the cards that they were foretold; their nodes."""
        now = self._unix_clock()
        late = [one for one in self.unsettled.values() if one.started and now - one.begun > PATIENCE_SECONDS]
        for holding in late:
            self.books.uncount(holding)
            self.books.judge_word(holding)
            self.books.count(holding)
            self.trusted += 1
        return list({holding.placement.node for holding in late if holding.counted})

    # What the API server says

    def apply(self, pod: wire.Pod) -> Change:
        """Take in a pod as the API server shows it now; saying the same twice changes nothing. Deleted pods: `release`."""
        uid = pod.metadata.uid
        if is_finished(pod):
            gone = self.release(uid)
            return Change(ChangeKind.RELEASED, gone, (gone.placement.node,)) if gone else NO_CHANGE
        if not pod.spec.node_name:
            return NO_CHANGE
        holding = holding_of(pod, self.customs)
        self.books.judge_word(holding)
        old = self.holdings.get(uid)
        if old is not None and old.state is HoldingState.BOUND:
            keep_pinned_cards(holding, old)
        if old is not None and old.claim == holding.claim:
            # What is written is what was promised to it, or known of it: nothing moves, whether the answer or the watch comes first.
            kind = ChangeKind.NONE if old.state is HoldingState.BOUND else ChangeKind.HELD
            self.confirm(uid, pod.spec.node_name)
            return Change(kind, old, problem=self.problems.get(uid, ""))
        holding.bound_at = self._unix_clock()
        if old is not None:
            self.books.uncount(old)
            self.books.drop(old)
            holding.bound_at = min(holding.bound_at, old.bound_at)
        self.books.add(holding)
        self._finder.resolve(holding)
        self._finder.predict(holding.placement.node)
        if old is not None and old.excess_mib and old.placement.cards == holding.placement.cards and holding.counted:
            holding.excess_mib = old.excess_mib  # until the next reading
            self.fleet.add_excess(self.fleet.row_of[holding.placement.node], holding.excess_mib)
        if old is not None and old.placement.node != holding.placement.node:
            self._finder.predict(old.placement.node)
        freed = (old.placement.node,) if old is not None and old.placement != holding.placement else ()
        settled = old is not None and old.under_way and not holding.under_way
        return Change(
            ChangeKind.HELD, holding, freed, (holding.placement.node,) if settled else (), self.problems.get(uid, "")
        )

    def apply_node(self, node: GpuNode) -> list[Holding]:
        """Take in a node's description; what its pods hold follows the cards' ids.

        A reservation whose card is gone, or no longer has the room, ends; those are returned.
        """
        known = self.fleet.nodes.get(node.name)
        if known == node:
            return []
        if known is not None and (known.cards, known.allocation, known.tells_cards) == (
            node.cards, node.allocation, node.tells_cards,
        ):  # fmt: skip
            self.fleet.upsert_node(node)
            return []
        here = list(self.books.by_node.get(node.name, {}).values())
        for holding in here:
            self.books.uncount(holding)
        self.claims.leave_node(node.name)
        self.fleet.upsert_node(node)
        self.claims.find_on_node(node.name)
        for holding in here:
            self.books.judge_word(holding)
            self._finder.resolve(holding)
        self._finder.predict(node.name)
        return self._end_reservations(holding for holding in here if self._is_void(holding))

    def forget_node(self, name: str) -> list[Holding]:
        """Take in that a node is gone: reservations on it end and are returned, others wait for its return or their own end."""
        here = list(self.books.by_node.get(name, {}).values())
        ended = self._end_reservations(here)
        for holding in here:
            self.books.uncount(holding)
        self.claims.leave_node(name)
        self.fleet.remove_node(name)
        self.measured.forget_node(name)
        for holding in self.books.by_node.get(name, {}).values():
            self.books.judge_word(holding)
            self._finder.resolve(holding)
        return ended

    def _is_void(self, holding: Holding) -> bool:
        row = self.fleet.row_of[holding.placement.node]
        over = self.fleet.over(row)
        too_many = holding.placement.devices > 0 and self.fleet.devices_left(row) < 0
        return holding.predicted or bool(holding.gone) or too_many or any(over[at] for at in holding.placement.cards)

    def _end_reservations(self, holdings: Iterable[Holding]) -> list[Holding]:
        ended = []
        for holding in holdings:  # one after another: what ends may leave room enough for the next
            if holding.state is HoldingState.RESERVED:
                self.release(holding.uid)
                ended.append(holding)
        return ended

    # What resource claims hold

    def apply_claim(self, claim: Claim, use: ClaimUse) -> set[str]:
        """Take in a resource claim as the API server shows it now; gives the nodes on which something may have come free."""
        old = self.claims.holdings.get(claim.key)
        if old is not None and not use.shares:
            self.measured.note_end(old, self._unix_clock())
        return self.books.promise_anew(*self.claims.apply(claim, use))

    def forget_claim(self, key: str) -> set[str]:
        """Take in that a claim is gone; see `apply_claim`."""
        old = self.claims.holdings.get(key)
        if old is not None:
            self.measured.note_end(old, self._unix_clock())
        return self.books.promise_anew(*self.claims.forget(key))

    # What was measured

    def read(self, name: str, uses: Mapping[str, CardUse]) -> bool:
        """Take in a reading of a node's cards, by card id; returns whether free memory changed. Unknown nodes are ignored."""
        node = self.fleet.nodes.get(name)
        if node is None:
            return False
        holders: list[Holder] = [*self.on_node(name), *self.claims.on_node(name)]
        return self.measured.read(node, holders, with_aliases(uses, self.claims.users(name)))

    # Views

    def held_in(self, namespace: str) -> Held:
        """What the pods of a namespace hold and have reserved."""
        return self.books.held_in(namespace)

    def on_node(self, name: str) -> list[Holding]:
        """What pods hold on a node."""
        return self.books.on_node(name)

    def reservations(self) -> list[Holding]:
        """Holdings of pods that are not known to be bound: reserved or being bound."""
        return list(self.books.reserved.values())

    def overcommitted(self) -> list[tuple[str, str, int, int]]:
        """Cards on which bound pods hold more than there is: node, card id, MiB held, MiB usable."""
        rows, columns = np.nonzero(self.fleet.held_mib > self.fleet.usable_mib)
        found = []
        for row, at in zip(rows.tolist(), columns.tolist(), strict=True):
            node = self.fleet.nodes[self.fleet.names[row]]
            held, usable = int(self.fleet.held_mib[row, at]), int(self.fleet.usable_mib[row, at])
            found.append((node.name, node.cards[at].id, held, usable))
        return found

    def dump(self) -> list[dict[str, Any]]:
        """Plain values of every holding, for `/debug/snapshot`; equal ledgers give equal dumps."""
        return [
            {
                "uid": uid,
                "pod": holding.pod,
                "node": holding.placement.node,
                "state": holding.state.value,
                "mode": holding.placement.mode.value,
                "cards": list(holding.placement.cards) if holding.counted else [],
                "share_mib": list(holding.placement.share_mib) if holding.counted else [],
                "devices": holding.placement.devices,
                "predicted": holding.predicted,
                "settled": holding.settled,
                "project": holding.project,
            }
            for uid, holding in sorted(self.holdings.items())
        ]

    def checks(self) -> Iterator[list[str]]:
        """Where the fleet's arrays and the holdings disagree, in small steps; no breach at all unless there is a bug."""
        return checks.of(self.books)

    def check(self) -> list[str]:
        """`checks` at once. For tests."""
        return [breach for found in self.checks() for breach in found]
