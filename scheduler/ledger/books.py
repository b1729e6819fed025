"""The entries of a ledger: lists over them, and what is counted for each in the fleet and for its namespace. Pure.

A pod in slice mode is under way until kubelet's word on its cards is in: the agent writes it on the pod (`names.ANNOTATION_KUBELET_CARDS`).
Where no agent does that, kubelet's having started the pod has to do; where one is silent, it is waited for `PATIENCE_SECONDS` from then.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from headroom.domain.model import GpuNode, Mode
from scheduler.ledger.claims import ResourceClaims
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import NOTHING, Held, Holding, HoldingState
from scheduler.ledger.room import need_mib
from scheduler.ledger.under_way import Devices

PATIENCE_SECONDS: Final = 30.0
_NEVER: Final = float("inf")


class Books:
    """Entries by pod UID. `Ledger` decides what happens to them; here every list and every count is kept in step."""

    def __init__(self, fleet: Fleet, unix_clock: Callable[[], float]) -> None:
        self.fleet = fleet
        self.unix_clock = unix_clock
        self.claims = ResourceClaims(fleet, unix_clock)
        self.holdings: dict[str, Holding] = {}
        self.problems: dict[str, str] = {}
        """What is wrong with pods that are accounted all the same, by UID."""
        self.priorities: Counter[int] = Counter()
        """How many bound pods of each priority hold cards."""
        self.by_node: dict[str, dict[str, Holding]] = {}
        self.by_namespace: dict[str, Held] = {}
        self.counts = 0
        """How often something was counted by priority or namespace."""
        self.reserved: dict[str, Holding] = {}
        """Those that are not bound yet."""
        self.unsettled: dict[str, Holding] = {}
        """Bound pods in slice mode on whose cards kubelet's word is still out."""

    # Entries and their cards

    def add(self, holding: Holding) -> None:
        """Enter a pod."""
        self.holdings[holding.uid] = holding
        self.by_node.setdefault(holding.placement.node, {})[holding.uid] = holding
        if holding.state is HoldingState.BOUND:
            self._rank(holding, 1)
            self.watch_for_word(holding)
        else:
            self.reserved[holding.uid] = holding

    def bind(self, holding: Holding) -> None:
        """Note that a reservation's pod is bound."""
        holding.state, holding.expires_at, holding.bound_at = HoldingState.BOUND, _NEVER, self.unix_clock()
        self._rank(holding, 1)
        self.watch_for_word(holding)

    def drop(self, holding: Holding) -> None:
        """Strike a pod out; it must not be counted any more."""
        uid, node = holding.uid, holding.placement.node
        del self.holdings[uid]
        self._weigh(holding, NOTHING)
        if holding.state is HoldingState.BOUND:
            self._rank(holding, -1)
        here = self.by_node[node]
        del here[uid]
        if not here:
            del self.by_node[node]
        self.reserved.pop(uid, None)
        self.unsettled.pop(uid, None)
        self.problems.pop(uid, None)

    # Kubelet's word

    def judge_word(self, holding: Holding) -> None:
        """Whether a pod is settled, by its node as it is known now: a started one is where no agent tells of its cards, or
        where that has been silent for too long.

        Judged anew whenever the node changes, comes or goes, so that a restart finds the same.
        """
        node = self.fleet.nodes.get(holding.placement.node)
        patient = node is None or node.tells_cards
        silent = holding.started != "" and holding.placement.mode is Mode.SLICE
        holding.settled = holding.told or (
            silent and (not patient or self.unix_clock() - holding.begun > PATIENCE_SECONDS)
        )
        if self.holdings.get(holding.uid) is holding:
            self.watch_for_word(holding)

    def watch_for_word(self, holding: Holding) -> None:
        """Keep the list of pods on whose cards kubelet's word is still out."""
        if holding.state is HoldingState.BOUND and holding.under_way:
            self.unsettled[holding.uid] = holding
        else:
            self.unsettled.pop(holding.uid, None)

    def _devices(self, node: GpuNode, row: int, holding: Holding) -> Devices | None:
        """What the fleet must know of a pod in slice mode whose cards are foretold only, or may come back."""
        cards, shares = holding.per_card
        under_way = holding.under_way
        if not cards or holding.placement.mode is not Mode.SLICE or not (under_way or holding.leaving):
            return None
        resource = int(self.fleet.card_resource[row, cards[0]])
        if not under_way:
            return Devices(cards, shares, resource)
        need = (
            (max(shares),) * len(node.cards) if holding.as_written else need_mib(self.fleet, node, row, holding.request)
        )
        return Devices(cards, shares, resource, need)

    def _rank(self, holding: Holding, change: int) -> None:
        """Count a bound pod that holds cards, or no longer."""
        if holding.request.count == 0:
            return
        self.counts += 1
        self.priorities[holding.priority] += change
        if not self.priorities[holding.priority]:
            del self.priorities[holding.priority]

    def count(self, holding: Holding) -> None:
        """Count what a pod holds: for its namespace, and in the fleet where its node is known."""
        row = self.fleet.row_of.get(holding.placement.node)
        if row is not None:
            holding.devices = self._devices(self.fleet.nodes[holding.placement.node], row, holding)
            holding.promised = self.promised(holding)
            self.fleet.take(row, *holding.per_card, **holding.per_node)
            holding.counted, holding.excess_mib = True, {}
        self._weigh(holding, holding.in_all)

    def uncount(self, holding: Holding) -> None:
        """Take what a pod holds out of the fleet; its namespace is counted anew by `count` or `drop`."""
        if holding.counted:
            row = self.fleet.row_of[holding.placement.node]
            self.fleet.give(row, *holding.per_card, **holding.per_node)
            self.fleet.add_excess(row, holding.excess_mib, -1)
            holding.counted = False

    def _weigh(self, holding: Holding, held: Held) -> None:
        """Count for a namespace what one of its pods holds; a node that goes for a while makes no room in its quota."""
        left = self.held_in(holding.namespace).without(holding.weighed).plus(held)
        self.counts += 1
        holding.weighed = held
        if left == NOTHING:
            self.by_namespace.pop(holding.namespace, None)
        else:
            self.by_namespace[holding.namespace] = left

    def promised(self, holding: Holding) -> int:
        """Devices of a pod by claims of which nothing is known yet."""
        devices = holding.placement.devices
        if devices and self.claims.settles(holding.uid):
            devices = 0
        return devices + self.claims.unknown(holding.resource_claims)

    def promise_anew(self, freed: set[str], pods: Iterable[str]) -> set[str]:
        """Count anew how many devices are promised to some pods, as more or less is known of their claims; adds nodes with more left."""
        for uid in pods:
            holding = self.holdings.get(uid)
            if holding is not None and holding.counted:
                more = self.promised(holding) - holding.promised
                holding.promised += more
                self.fleet.promise(self.fleet.row_of[holding.placement.node], more)
                freed |= {holding.placement.node} if more < 0 else set()
        return freed

    def held_in(self, namespace: str) -> Held:
        """What the pods of a namespace hold and have reserved."""
        return self.by_namespace.get(namespace, NOTHING)

    def on_node(self, name: str) -> list[Holding]:
        """What pods hold on a node."""
        return list(self.by_node.get(name, {}).values())
