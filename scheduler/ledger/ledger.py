"""Who holds which MiB of which card: the one writer of a Fleet's holdings. Pure.

Entries come from two sides: `reserve` promises cards to a pod before it is bound, and `apply` takes in what the API
server says of bound pods. The API server wins: annotations on a bound pod replace what was reserved for it, and what
it says is accounted even where it over-commits a card; only `reserve` refuses to. While a binding is under way
(`begin_binding`) nothing but its outcome ends the entry: the API server may have written it already.

Devices that a device plugin handed out to pods without annotations are predicted. The prediction of a node is made anew
from all its pods, in the order in which kubelet took them in, so that it depends on what the API server says now and
not on the order in which the ledger heard of it: a restart finds the same ledger.

A pod in slice mode is under way until kubelet's word on its cards is in: the agent writes it on the pod (`names.ANNOTATION_KUBELET_CARDS`).
Where no agent does that, kubelet's having started the pod has to do; where one is silent, it is waited for `PATIENCE_SECONDS` from then.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from headroom import names, wire
from headroom.domain.assignment import Assignment
from headroom.domain.device_plugin import allocated_mib, greedy_cards, share_mib
from headroom.domain.dialects.customs import USUAL
from headroom.domain.dra.claims import Claim, ClaimUse
from headroom.domain.model import GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger import checks
from scheduler.ledger.agreement import counted_share, positions_counted
from scheduler.ledger.claims import ResourceClaims
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import (
    NO_CHANGE,
    NOTHING,
    Change,
    ChangeKind,
    Held,
    Holding,
    HoldingState,
    LedgerError,
    OverCommitError,
    handed_out,
    holding_of,
    is_finished,
)
from scheduler.ledger.measured import CardUse, Holder, Measured, with_aliases
from scheduler.ledger.under_way import Devices

__all__ = ["CardUse", "Change", "ChangeKind", "Holding", "HoldingState", "Ledger", "LedgerError", "OverCommitError"]

PATIENCE_SECONDS: Final = 30.0
_NEVER: Final = float("inf")
_UNLIMITED: Final = 2**31


class Ledger:
    """Holdings by pod UID over a Fleet. Every event costs as much as the pod has cards.

    Only where devices went to pods without annotations does an event also cost as much as that node has pods.
    """

    def __init__(self, fleet: Fleet, *, unix_clock: Callable[[], float] = lambda: 0.0) -> None:
        self.fleet = fleet
        self.customs = USUAL
        self.measured = Measured(fleet)
        self.claims = ResourceClaims(fleet, unix_clock)
        self._unix_clock = unix_clock
        self.holdings: dict[str, Holding] = {}
        """By pod UID; read only."""
        self.problems: dict[str, str] = {}
        """What is wrong with pods that are accounted all the same, by UID."""
        self.priorities: Counter[int] = Counter()
        """How many bound pods of each priority hold cards; read only."""
        self._by_node: dict[str, dict[str, Holding]] = {}
        self._by_namespace: dict[str, Held] = {}
        self._reserved: dict[str, Holding] = {}
        """Those that are not bound yet."""
        self.unsettled: dict[str, Holding] = {}
        """Bound pods in slice mode, by UID, on whose cards kubelet's word is still out; read only."""
        self.trusted = 0
        """How many pods were settled without any word from the agent of their node; read only."""
        self._guessed: set[str] = set()
        """Nodes that may have predicted holdings."""

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
        node = self._node_for(placement, request)
        if old is not None:
            self._uncount(old)
        try:
            self._check_room(node, request, placement)
        except OverCommitError:
            if old is not None:
                self._count(old)
            raise
        if old is not None:
            self._drop(old)
        ids = tuple(node.cards[at].id for at in placement.cards)
        assigned = None if placement.devices else Assignment(ids, placement.share_mib, placement.mode)
        holding = Holding(uid, pod, request, placement, HoldingState.RESERVED, expires_at, project, priority, assigned)
        self._add(holding)
        self._count(holding)
        return holding

    def _node_for(self, placement: Placement, request: GpuRequest) -> GpuNode:
        node = self.fleet.nodes.get(placement.node)
        if node is None:
            raise LedgerError(f"node {placement.node} is not known")
        shares = placement.shares
        if shares != request.count or len(placement.cards) != len(placement.share_mib):
            raise LedgerError(f"{request.count} shares were asked for, not {shares} of {placement.share_mib} MiB")
        if any(not 0 <= at < len(node.cards) for at in placement.cards) or any(mib < 0 for mib in placement.share_mib):
            raise LedgerError(f"node {node.name} has {len(node.cards)} cards, not {placement.cards}")
        if placement.mode is Mode.PINNED and len(set(placement.cards)) < len(placement.cards):
            raise LedgerError(f"cards {placement.cards} of node {node.name} are not all different")
        return node

    def _check_room(self, node: GpuNode, request: GpuRequest, placement: Placement) -> None:
        row = self.fleet.row_of[node.name]
        wanted: Counter[int] = Counter()
        for at, mib in zip(placement.cards, placement.share_mib, strict=True):
            wanted[at] += mib
        uncertain = placement.mode is Mode.SLICE and row in self.fleet.under_way
        for at, mib in wanted.items():
            # What may come to pods under way is judged for all of them together, with this one.
            free = self.fleet.room_mib(row, at) if uncertain else int(self.fleet.free_mib[row, at])
            if mib > free:
                raise OverCommitError(f"card {node.cards[at].id} of node {node.name} has {free} MiB left, not {mib}")
        if uncertain and placement.cards:
            self._check_under_way(node, row, request, placement)
        if placement.devices > (left := self.fleet.devices_left(row)) and placement.devices:
            raise OverCommitError(f"node {node.name} has {left} devices left (DRA), not {placement.devices}")
        if placement.mode is Mode.SLICE:
            for at, devices in Counter(placement.cards).items():
                left = int(self.fleet.slices_free[row, at])
                if devices > left:
                    raise OverCommitError(
                        f"card {node.cards[at].id} of node {node.name} has {left} slices left, not {devices}"
                    )

    def _check_under_way(self, node: GpuNode, row: int, request: GpuRequest, placement: Placement) -> None:
        resource = int(self.fleet.card_resource[row, placement.cards[0]])
        need = self._need_mib(node, row, request)
        if not self.fleet.under_way.has_room(self.fleet, row, resource, need, request.count, [True] * len(node.cards)):
            raise OverCommitError(
                f"node {node.name} has no card left that would have room for pod after pod, whichever the device plugin picks"
            )

    def _need_mib(self, node: GpuNode, row: int, request: GpuRequest) -> tuple[int, ...]:
        """MiB that one share of a request takes on each of the node's cards."""
        usable = self.fleet.usable_mib[row].tolist()
        return tuple(share_mib(request, usable[at], card.slices) for at, card in enumerate(node.cards))

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
            holding.state, holding.expires_at, holding.bound_at = HoldingState.BOUND, _NEVER, self._unix_clock()
            self._rank(holding, 1)
            self._watch_for_word(holding)
        self._reserved.pop(uid, None)
        return holding

    def release(self, uid: str) -> Holding | None:
        """Give back all that a pod holds, at any end of it; None when it holds nothing."""
        holding = self.holdings.get(uid)
        if holding is None:
            return None
        if holding.state is HoldingState.BOUND:
            self.measured.note_end(holding, self._unix_clock())
        self._uncount(holding)
        self._drop(holding)
        self._predict(holding.placement.node)
        return holding

    def expire(self, now: float) -> list[Holding]:
        """Release the reservations whose time is up, and return them."""
        over = [
            holding
            for holding in self._reserved.values()
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
            self._uncount(holding)
            self._judge_word(holding)
            self._count(holding)
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
        self._judge_word(holding)
        old = self.holdings.get(uid)
        if old is not None and old.state is HoldingState.BOUND:
            _keep_pinned_cards(holding, old)
        if old is not None and old.claim == holding.claim:
            # What is written is what was promised to it, or known of it: nothing moves, whether the answer or the watch comes first.
            kind = ChangeKind.NONE if old.state is HoldingState.BOUND else ChangeKind.HELD
            self.confirm(uid, pod.spec.node_name)
            return Change(kind, old, problem=self.problems.get(uid, ""))
        holding.bound_at = self._unix_clock()
        if old is not None:
            self._uncount(old)
            self._drop(old)
            holding.bound_at = min(holding.bound_at, old.bound_at)
        self._add(holding)
        self._resolve(holding)
        self._predict(holding.placement.node)
        if old is not None and old.excess_mib and old.placement.cards == holding.placement.cards and holding.counted:
            holding.excess_mib = old.excess_mib  # until the next reading
            self.fleet.add_excess(self.fleet.row_of[holding.placement.node], holding.excess_mib)
        if old is not None and old.placement.node != holding.placement.node:
            self._predict(old.placement.node)
        freed = (old.placement.node,) if old is not None and old.placement != holding.placement else ()
        settled = old is not None and _is_under_way(old) and not _is_under_way(holding)
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
        here = list(self._by_node.get(node.name, {}).values())
        for holding in here:
            self._uncount(holding)
        self.claims.leave_node(node.name)
        self.fleet.upsert_node(node)
        self.claims.find_on_node(node.name)
        for holding in here:
            self._judge_word(holding)
            self._resolve(holding)
        self._predict(node.name)
        return self._end_reservations(holding for holding in here if self._is_void(holding))

    def forget_node(self, name: str) -> list[Holding]:
        """Take in that a node is gone: reservations on it end and are returned, others wait for its return or their own end."""
        here = list(self._by_node.get(name, {}).values())
        ended = self._end_reservations(here)
        for holding in here:
            self._uncount(holding)
        self.claims.leave_node(name)
        self.fleet.remove_node(name)
        self.measured.forget_node(name)
        for holding in self._by_node.get(name, {}).values():
            self._judge_word(holding)
            self._resolve(holding)
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

    # Entries and their cards

    def _add(self, holding: Holding) -> None:
        self.holdings[holding.uid] = holding
        self._by_node.setdefault(holding.placement.node, {})[holding.uid] = holding
        if holding.state is HoldingState.BOUND:
            self._rank(holding, 1)
            self._watch_for_word(holding)
        else:
            self._reserved[holding.uid] = holding

    def _drop(self, holding: Holding) -> None:
        uid, node = holding.uid, holding.placement.node
        del self.holdings[uid]
        self._weigh(holding, NOTHING)
        if holding.state is HoldingState.BOUND:
            self._rank(holding, -1)
        here = self._by_node[node]
        del here[uid]
        if not here:
            del self._by_node[node]
        self._reserved.pop(uid, None)
        self.unsettled.pop(uid, None)
        self.problems.pop(uid, None)

    # Kubelet's word

    def _judge_word(self, holding: Holding) -> None:
        """Whether a pod is settled, by its node as it is known now: a started one is where no agent tells of its cards, or
        where that has been silent for too long.

        Judged anew whenever the node changes, comes or goes, so that a restart finds the same.
        """
        node = self.fleet.nodes.get(holding.placement.node)
        patient = node is None or node.tells_cards
        silent = holding.started != "" and holding.placement.mode is Mode.SLICE
        holding.settled = holding.told or (
            silent and (not patient or self._unix_clock() - holding.begun > PATIENCE_SECONDS)
        )
        if self.holdings.get(holding.uid) is holding:
            self._watch_for_word(holding)

    def _watch_for_word(self, holding: Holding) -> None:
        if holding.state is HoldingState.BOUND and _is_under_way(holding):
            self.unsettled[holding.uid] = holding
        else:
            self.unsettled.pop(holding.uid, None)

    def _devices(self, node: GpuNode, row: int, holding: Holding) -> Devices | None:
        """What the fleet must know of a pod in slice mode whose cards are foretold only, or may come back."""
        cards, shares = holding.per_card
        under_way = _is_under_way(holding)
        if not cards or holding.placement.mode is not Mode.SLICE or not (under_way or holding.leaving):
            return None
        resource = int(self.fleet.card_resource[row, cards[0]])
        if not under_way:
            return Devices(cards, shares, resource)
        need = (max(shares),) * len(node.cards) if holding.as_written else self._need_mib(node, row, holding.request)
        return Devices(cards, shares, resource, need)

    def _rank(self, holding: Holding, change: int) -> None:
        """Count a bound pod that holds cards, or no longer."""
        if holding.request.count == 0:
            return
        self.priorities[holding.priority] += change
        if not self.priorities[holding.priority]:
            del self.priorities[holding.priority]

    def _resolve(self, holding: Holding) -> None:
        """Find the cards by id and count the holding; what cannot be found is left to `_predict`."""
        node = self.fleet.nodes.get(holding.placement.node)
        positions, problem = None, holding.fault
        holding.gone = ()
        if node is not None and holding.assigned is not None:
            positions, missing = _positions(node, holding.assigned.cards)
            if missing:
                words = f"node {node.name} has not the cards written on the pod: {', '.join(missing)}"
                problem = "; ".join(filter(None, (problem, words)))
            if missing and holding.request.mode is Mode.PINNED and _tells_ids(node):
                holding.gone = missing
                positions = self._hold_what_is_left(node, holding, positions)
            elif missing:
                positions = None
            else:
                if not holding.as_written:
                    positions = positions_counted(node, holding.request, positions)
                sizes, wrong = self._sizes(node, holding, positions, holding.assigned)
                problem = "; ".join(filter(None, (problem, wrong)))
                holding.placement = replace(
                    holding.placement, cards=positions, share_mib=sizes, devices=0, devices_mib=0
                )
        if node is not None and self._is_allocated(node, holding, positions):
            positions = ()
            devices, most_mib = holding.request.count, allocated_mib(node, holding.request)
            holding.placement = replace(
                holding.placement, cards=(), share_mib=(), devices=devices, devices_mib=devices * most_mib
            )
        self._watch_for_word(holding)  # kubelet has none where kube-scheduler allocates
        if problem:
            self.problems[holding.uid] = problem
        else:
            self.problems.pop(holding.uid, None)
        holding.predicted = node is not None and positions is None and holding.request.count > 0
        if holding.predicted:
            self._guessed.add(holding.placement.node)
        else:
            self._count(holding)

    def _hold_what_is_left(self, node: GpuNode, holding: Holding, positions: tuple[int, ...]) -> tuple[int, ...]:
        """Count a pinned pod on those of its cards that are still there. It sees no other card, so it can use none in place of one
        that has gone.
        """
        assert holding.assigned is not None
        pairs = zip(holding.assigned.cards, holding.assigned.share_mib, strict=True)
        shares = tuple(mib for card, mib in pairs if card not in holding.gone)
        left = replace(holding.assigned, share_mib=shares)
        sizes, _ = self._sizes(node, holding, positions, left)
        holding.placement = replace(holding.placement, cards=positions, share_mib=sizes, devices=0, devices_mib=0)
        return positions

    def _is_allocated(self, node: GpuNode, holding: Holding, positions: tuple[int, ...] | None) -> bool:
        """Whether kube-scheduler allocates the pod's devices (DRA): not where cards are written on it that a plugin gave it before."""
        request = holding.request
        if request.count == 0 or request.mode is not Mode.SLICE or not node.allocates(request.resource):
            return False
        return positions is None or self.claims.settles(holding.uid)

    def _predict(self, name: str) -> None:
        """Guess the cards of the node's predicted holdings anew, in the order in which devices were handed out."""
        here = self._by_node.get(name, {})
        node = self.fleet.nodes.get(name)
        if node is None or name not in self._guessed:
            return
        if not any(holding.predicted for holding in here.values()):
            self._guessed.remove(name)
            return
        row = self.fleet.row_of[name]
        slices = self.fleet.slices[row, : len(node.cards)].tolist()
        used = [0] * len(node.cards)
        for holding in sorted(here.values(), key=handed_out):
            if holding.predicted:
                guess = self._guess(node, holding, used, _offered(node, slices, holding.request))
                if guess != holding.placement or not holding.counted:
                    self._uncount(holding)
                    holding.placement = guess
                    self._count(holding)
            if holding.predicted or holding.placement.mode is Mode.SLICE:
                for at in holding.placement.cards:
                    used[at] += 1

    def _guess(self, node: GpuNode, holding: Holding, used: list[int], slices: list[int]) -> Placement:
        request, assigned = holding.request, holding.assigned
        count = max(len(assigned.cards), request.count) if assigned else request.count
        cards = greedy_cards(used, slices, count, node.allocation)
        if cards is None:
            # More devices than the node is known to have: accounted where they hurt least, to be seen as over-commit.
            unlimited = (
                [_UNLIMITED if number else 0 for number in slices] if any(slices) else [_UNLIMITED] * len(slices)
            )
            cards = greedy_cards(used, unlimited, count, node.allocation) or ()
        return Placement(node.name, cards, self._sizes(node, holding, cards, assigned)[0], holding.placement.mode)

    def _sizes(
        self, node: GpuNode, holding: Holding, cards: tuple[int, ...], assigned: Assignment | None
    ) -> tuple[tuple[int, ...], str]:
        """MiB held on each card, by what is written on the pod and what it asks for; and what is wrong with what is written."""
        usable = self.fleet.usable_mib[self.fleet.row_of[node.name]]
        written = [*(assigned.share_mib if assigned else ()), *(0 for _ in cards)]
        wrong, sizes = "", []
        for at, mib in zip(cards, written, strict=False):
            card = node.cards[at]
            believed = not mib or holding.as_written
            counted, words = (mib, "") if believed else counted_share(holding.request, card, mib)
            # Nothing is written, or 0 on a card of unknown memory.
            sizes.append(counted or share_mib(holding.request, int(usable[at]), card.slices))
            wrong = wrong or ("" if holding.foreign else words)
        return tuple(sizes), wrong

    def _count(self, holding: Holding) -> None:
        row = self.fleet.row_of.get(holding.placement.node)
        if row is not None:
            holding.devices = self._devices(self.fleet.nodes[holding.placement.node], row, holding)
            holding.promised = self._promised(holding)
            self.fleet.take(row, *holding.per_card, **holding.per_node)
            holding.counted, holding.excess_mib = True, {}
        self._weigh(holding, holding.in_all)

    def _uncount(self, holding: Holding) -> None:
        if holding.counted:
            row = self.fleet.row_of[holding.placement.node]
            self.fleet.give(row, *holding.per_card, **holding.per_node)
            self.fleet.add_excess(row, holding.excess_mib, -1)
            holding.counted = False

    def _weigh(self, holding: Holding, held: Held) -> None:
        """Count for a namespace what one of its pods holds; a node that goes for a while makes no room in its quota."""
        left = self.held_in(holding.namespace).without(holding.weighed).plus(held)
        holding.weighed = held
        if left == NOTHING:
            self._by_namespace.pop(holding.namespace, None)
        else:
            self._by_namespace[holding.namespace] = left

    def _promised(self, holding: Holding) -> int:
        """Devices of a pod by claims of which nothing is known yet."""
        devices = holding.placement.devices
        if devices and self.claims.settles(holding.uid):
            devices = 0
        return devices + self.claims.unknown(holding.resource_claims)

    # What resource claims hold

    def apply_claim(self, claim: Claim, use: ClaimUse) -> set[str]:
        """Take in a resource claim as the API server shows it now; gives the nodes on which something may have come free."""
        old = self.claims.holdings.get(claim.key)
        if old is not None and not use.shares:
            self.measured.note_end(old, self._unix_clock())
        return self._look_again(*self.claims.apply(claim, use))

    def forget_claim(self, key: str) -> set[str]:
        """Take in that a claim is gone; see `apply_claim`."""
        old = self.claims.holdings.get(key)
        if old is not None:
            self.measured.note_end(old, self._unix_clock())
        return self._look_again(*self.claims.forget(key))

    def _look_again(self, freed: set[str], pods: Iterable[str]) -> set[str]:
        for uid in pods:
            holding = self.holdings.get(uid)
            if holding is not None and holding.counted:
                more = self._promised(holding) - holding.promised
                holding.promised += more
                self.fleet.promise(self.fleet.row_of[holding.placement.node], more)
                freed |= {holding.placement.node} if more < 0 else set()
        return freed

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
        return self._by_namespace.get(namespace, NOTHING)

    def on_node(self, name: str) -> list[Holding]:
        """What pods hold on a node."""
        return list(self._by_node.get(name, {}).values())

    def reservations(self) -> list[Holding]:
        """Holdings of pods that are not known to be bound: reserved or being bound."""
        return list(self._reserved.values())

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
        return checks.of(self, self._by_node, self._by_namespace, self._promised)

    def check(self) -> list[str]:
        """`checks` at once. For tests."""
        return [breach for found in self.checks() for breach in found]


def _is_under_way(holding: Holding) -> bool:
    """Whether kubelet may still give the pod other cards than those that it is counted on."""
    placement = holding.placement
    return placement.mode is Mode.SLICE and not placement.devices and not holding.settled and holding.request.count > 0


def _offered(node: GpuNode, slices: list[int], request: GpuRequest) -> list[int]:
    """Devices by card under the resource that a request names; all of the node's where it names none, or none of the node's."""
    if not request.resource or all(card.resource == "" for card in node.cards):
        return slices
    offered = [
        number if node.resource_of(card) == request.resource else 0
        for card, number in zip(node.cards, slices, strict=True)
    ]
    return offered if any(offered) else slices


def _positions(node: GpuNode, ids: tuple[str, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Card positions by id, of those that are there, and the ids of the others.

    A number that is no id is the card's index, which stood for the id before an agent ran.
    """
    by_id = {card.id: at for at, card in enumerate(node.cards)}
    by_index = {str(card.index): at for at, card in enumerate(node.cards)}
    found = [(card, by_id.get(card, by_index.get(card))) for card in ids]
    return tuple(at for _, at in found if at is not None), tuple(card for card, at in found if at is None)


def _tells_ids(node: GpuNode) -> bool:
    """Whether the node's cards are known by ids of their own, so that an id that is not among them is one of no card here.

    Not so where labels alone describe them: a card known by its position may be any of those that pods were given by id.
    """
    return any(card.id != str(card.index) for card in node.cards)


def _keep_pinned_cards(holding: Holding, old: Holding) -> None:
    """Cards that Headroom picked never change once the pod is bound, whatever is written on it later."""
    known, written = old.assigned, holding.assigned
    if (
        known is None
        or not known.cards
        or holding.request.mode is not Mode.PINNED
        or holding.placement.node != old.placement.node
    ):
        return
    if written is not None and Counter(written.cards) == Counter(known.cards):
        return
    said = ",".join(written.cards) if written is not None else "none"
    words = f"{names.ANNOTATION_ASSIGNED_CARDS}: {said}: changed since the binding, which gave {','.join(known.cards)}"
    holding.assigned = known
    holding.fault = "; ".join(filter(None, (holding.fault, words)))
