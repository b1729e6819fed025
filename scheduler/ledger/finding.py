"""Which cards of its node a pod holds: by what is written on it, by reservation, or as a device plugin will have picked them. Pure.

Devices that a device plugin handed out to pods without annotations are predicted. The prediction of a node is made anew
from all its pods, in the order in which kubelet took them in, so that it depends on what the API server says now and
not on the order in which the ledger heard of it: a restart finds the same ledger.
"""

from collections import Counter
from dataclasses import replace
from typing import Final

from headroom import names
from headroom.domain.assignment import Assignment
from headroom.domain.device_plugin import allocated_mib, greedy_cards, share_mib
from headroom.domain.model import GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.agreement import counted_share, positions_counted
from scheduler.ledger.books import Books
from scheduler.ledger.holding import Holding, handed_out

_UNLIMITED: Final = 2**31


class CardFinder:
    """Finds the cards of the entries in the books."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._guessed: set[str] = set()
        """Nodes that may have predicted holdings."""

    def resolve(self, holding: Holding) -> None:
        """Find the cards by id and count the holding; what cannot be found is left to `predict`."""
        node = self._books.fleet.nodes.get(holding.placement.node)
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
        self._books.watch_for_word(holding)  # kubelet has none where kube-scheduler allocates
        if problem:
            self._books.problems[holding.uid] = problem
        else:
            self._books.problems.pop(holding.uid, None)
        holding.predicted = node is not None and positions is None and holding.request.count > 0
        if holding.predicted:
            self._guessed.add(holding.placement.node)
        else:
            self._books.count(holding)

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
        return positions is None or self._books.claims.settles(holding.uid)

    def predict(self, name: str) -> None:
        """Guess the cards of the node's predicted holdings anew, in the order in which devices were handed out."""
        here = self._books.by_node.get(name, {})
        node = self._books.fleet.nodes.get(name)
        if node is None or name not in self._guessed:
            return
        if not any(holding.predicted for holding in here.values()):
            self._guessed.remove(name)
            return
        row = self._books.fleet.row_of[name]
        slices = self._books.fleet.slices[row, : len(node.cards)].tolist()
        used = [0] * len(node.cards)
        for holding in sorted(here.values(), key=handed_out):
            if holding.predicted:
                guess = self._guess(node, holding, used, _offered(node, slices, holding.request))
                if guess != holding.placement or not holding.counted:
                    self._books.uncount(holding)
                    holding.placement = guess
                    self._books.count(holding)
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
        usable = self._books.fleet.usable_mib[self._books.fleet.row_of[node.name]]
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


def keep_pinned_cards(holding: Holding, old: Holding) -> None:
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
