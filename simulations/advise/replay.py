"""Today's pods on today's cards, and the same pods placed by memory: two maps of one fleet.

Today's map is what the scheduler's own ledger makes of the pods. The other one is filled pod by pod, largest first, by the real
`Placer`, with the policy that opens the fewest cards; a pod stays on the card models it runs on, and on nodes that its selectors
and tolerations allow.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from headroom import wire
from headroom.domain.model import Card, GpuNode, PinBar, Sharing
from headroom.domain.node_cards import InventoryError, node_of
from headroom.domain.request import RequestError, demand_of
from scheduler.cluster.host_rules import host_feasible
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet, HostUse
from scheduler.ledger.ledger import Ledger
from scheduler.placement.placer import Placer
from scheduler.placement.policies.registry import policy_by_name
from simulations.advise.tenants import Rules, Tenant, wanted_request

_FEWEST_CARDS: Final = "binpack-vram"
_FOREVER: Final = float("inf")

CardRef = tuple[str, int]
"""Node and position of a card."""


@dataclass(slots=True)
class Map:
    """Who is on which card: (tenant's index, MiB) by card."""

    cards: dict[CardRef, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    unplaced: list[int] = field(default_factory=list)

    def held_by_model(self, nodes: Mapping[str, GpuNode]) -> Counter[str]:
        """Cards that somebody holds, by model."""
        return Counter(nodes[node].cards[at].model for (node, at), pods in self.cards.items() if pods)


def described(nodes: Iterable[wire.Node], problems: list[str]) -> dict[str, GpuNode]:
    """Nodes with cards as Headroom understands them; a node that it does not goes to `problems`."""
    found = {}
    for node in nodes:
        try:
            gpu_node = node_of(node)
        except InventoryError as error:
            problems.append(str(error))
            continue
        if gpu_node.cards:
            found[gpu_node.name] = gpu_node
            problems += [f"node {gpu_node.name}: {problem}" for problem in gpu_node.problems]
    return found


def today(nodes: Mapping[str, GpuNode], tenants: list[Tenant]) -> Map:
    """Where the pods are. A card that a device plugin chose is predicted, as the extender does before the agent has said."""
    ledger = _ledger(nodes.values())
    for tenant in tenants:
        ledger.apply(tenant.pod)
    found = Map()
    for index, tenant in enumerate(tenants):
        holding = ledger.holdings.get(tenant.pod.metadata.uid)
        if holding is None:
            continue
        for at, mib in zip(holding.placement.cards, holding.placement.share_mib, strict=True):
            found.cards[tenant.node, at].append((index, mib))
    return found


def with_headroom(
    nodes: Mapping[str, GpuNode],
    raw: Mapping[str, wire.Node],
    tenants: list[Tenant],
    others: Iterable[wire.Pod],
    rules: Rules,
) -> Map:
    """The same pods placed by memory on the same cards, freed of time slices. `others` are pods without a GPU, which stay."""
    ledger = _ledger(_pinnable(node) for node in nodes.values())
    _hold_others(ledger, others)
    placer = Placer(ledger.fleet, policy_by_name(_FEWEST_CARDS), check_host=True)
    allowed = _Allowed(ledger.fleet, raw)
    found = Map()
    wanted = [wanted_request(tenant, rules) for tenant in tenants]
    for index in sorted(range(len(tenants)), key=lambda at: _largest_first(tenants[at], wanted[at].vram_mib)):
        tenant, request = tenants[index], wanted[index]
        row = placer.best_among(request, allowed.rows(tenant))
        if row is None:
            found.unplaced.append(index)
            continue
        placement = placer.placement_at(request, row)
        ledger.reserve(tenant.pod.metadata.uid, tenant.pod.key, request, placement, expires_at=_FOREVER)
        for at, mib in zip(placement.cards, placement.share_mib, strict=True):
            found.cards[placement.node, at].append((index, mib))
    return found


def _largest_first(tenant: Tenant, size_mib: int) -> tuple[float, str]:
    whole = size_mib or tenant.usable_mib
    return -tenant.request.count * 1e9 - whole, tenant.pod.key


def _ledger(nodes: Iterable[GpuNode]) -> Ledger:
    ledger = Ledger(Fleet())
    for node in nodes:
        ledger.apply_node(node)
    return ledger


def _hold_others(ledger: Ledger, others: Iterable[wire.Pod]) -> None:
    """CPU and memory that pods without a GPU take of the nodes with cards."""
    for pod in others:
        row = ledger.fleet.row_of.get(pod.spec.node_name)
        if row is None:
            continue
        try:
            demand = demand_of(pod)
        except RequestError:
            continue
        ledger.fleet.take(row, (), (), plugin=False, host=HostUse(demand.cpu_milli, demand.memory_mib))


def _pinnable(node: GpuNode) -> GpuNode:
    """The node without time slices: Headroom picks the cards itself. MIG instances and other vendors' cards stay as they are."""
    if node.sharing is Sharing.MIG or any(card.pin_bar is PinBar.OTHER_VENDOR for card in node.cards):
        return node
    cards = tuple(_whole(card) for card in node.cards)
    return replace(node, cards=cards, sharing=Sharing.EXCLUSIVE, one_device_each=False)


def _whole(card: Card) -> Card:
    return replace(card, slices=1, pin_bar=PinBar.NONE)


class _Allowed:
    """Rows that a pod may run on by card model, selectors, affinity and taints; equal rules are judged once."""

    def __init__(self, fleet: Fleet, raw: Mapping[str, wire.Node]) -> None:
        self._fleet, self._raw = fleet, raw
        self._known: dict[bytes, IntArray] = {}

    def rows(self, tenant: Tenant) -> IntArray:
        """Rows of the fleet, in order."""
        spec = tenant.pod.spec
        node_affinity = spec.affinity.node_affinity if spec.affinity else None
        key = wire.encode((spec.node_selector, node_affinity, spec.tolerations, sorted(tenant.models)))
        if key not in self._known:
            free = wire.Pod(
                spec=wire.PodSpec(
                    node_selector=spec.node_selector, affinity=spec.affinity, tolerations=spec.tolerations
                )
            )
            self._known[key] = np.array(
                [
                    row
                    for name, row in self._fleet.row_of.items()
                    if tenant.models.issuperset(card.model for card in self._fleet.nodes[name].cards)
                    and host_feasible(free, self._raw[name])
                ],
                np.int64,
            )
        return self._known[key]
