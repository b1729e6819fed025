"""The demo's fleet: cards as sold, and seeded mixes of nodes."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headroom import names
from headroom.domain.model import Card, GpuNode, Sharing


@dataclass(frozen=True, slots=True)
class CardType:
    """A card as its maker describes it, and what the report assumes about money and power."""

    short: str
    product: str
    """As GPU feature discovery spells it."""
    vram_mib: int
    """As the driver reports it."""
    reserve_mib: int
    """What the driver keeps for itself."""
    limit_watts: float
    """Board power limit, from the maker's data sheet."""
    idle_watts: float
    """Powered, nothing loaded."""
    context_watts: float
    """Added as soon as one process holds the card (26-50 W on A100 and H100, 66 W on L40S: arXiv 2605.23918)."""
    dollars_per_hour: float
    """Assumed price of one card hour: on-demand list price of a cloud instance divided by its cards, rounded."""


CARD_TYPES: Final = {
    card.short: card
    for card in (
        CardType("T4", "Tesla-T4", 15360, 450, 70, 10, 15, 0.53),
        CardType("A10", "NVIDIA-A10", 23028, 500, 150, 16, 25, 1.01),
        CardType("L40S", "NVIDIA-L40S", 46068, 600, 350, 33, 66, 1.86),
        CardType("A100-40", "NVIDIA-A100-SXM4-40GB", 40960, 600, 400, 52, 28, 2.75),
        CardType("A100-80", "NVIDIA-A100-SXM4-80GB", 81920, 700, 400, 58, 28, 3.43),
        CardType("H100", "NVIDIA-H100-80GB-HBM3", 81559, 700, 700, 70, 48, 6.88),
    )
}
LABEL_POOL: Final = "pool"
SHARED_POOL: Final = "shared"
SLICED_POOL: Final = "time-sliced"
"""Nodes where the device plugin deals time slices; kept apart, because memory that Headroom pins there is in the plugin's way."""
WHOLE_POOL: Final = "whole-cards"
"""Nodes for models that span cards: kubelet picks among all cards of such a node, so nobody else may hold part of one."""

BY_PRODUCT: Final = {card.product: card for card in CARD_TYPES.values()}


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """So many equal nodes of a fleet."""

    card: str
    nodes: int
    cards_per_node: int
    slices: int = 1
    """Time slices per card; 1 = the device plugin hands out whole cards."""
    cpu_milli: int = 64_000
    memory_mib: int = 512 * 1024
    pool: str = SHARED_POOL


PLACEMENT_FLEET: Final = (
    NodeGroup("T4", 3, 4, slices=4, cpu_milli=48_000, memory_mib=192 * 1024, pool=SLICED_POOL),
    NodeGroup("T4", 2, 4, cpu_milli=48_000, memory_mib=192 * 1024),
    NodeGroup("A10", 3, 4, slices=4, pool=SLICED_POOL),
    NodeGroup("A10", 3, 4),
    NodeGroup("L40S", 6, 4),
    NodeGroup("A100-40", 3, 8, cpu_milli=96_000, memory_mib=1024 * 1024),
    NodeGroup("A100-80", 2, 8, cpu_milli=96_000, memory_mib=1024 * 1024),
    NodeGroup("H100", 2, 8, cpu_milli=192_000, memory_mib=2048 * 1024, pool=WHOLE_POOL),
)
"""The fleet of the placement chapter: 124 cards on 24 nodes."""


def build_fleet(groups: tuple[NodeGroup, ...], rng: random.Random) -> list[GpuNode]:
    """Nodes of all groups, in a seeded order."""
    nodes = build_fleet_of(groups)
    rng.shuffle(nodes)
    return nodes


def build_fleet_of(groups: tuple[NodeGroup, ...]) -> list[GpuNode]:
    """Nodes of all groups in their order; names tell the card and count up per card type."""
    nodes = []
    counts: dict[str, int] = {}
    for group in groups:
        for _ in range(group.nodes):
            counts[group.card] = counts.get(group.card, 0) + 1
            nodes.append(_node(f"{group.card.lower()}-{counts[group.card]:02d}", group))
    return nodes


def _node(name: str, group: NodeGroup) -> GpuNode:
    kind = CARD_TYPES[group.card]
    cards = tuple(
        Card(
            id=f"GPU-{name}-{index}",
            index=index,
            model=kind.product,
            vram_mib=kind.vram_mib,
            reserve_mib=kind.reserve_mib,
            slices=group.slices,
        )
        for index in range(group.cards_per_node)
    )
    return GpuNode(
        name=name,
        cards=cards,
        sharing=Sharing.TIME_SLICING if group.slices > 1 else Sharing.EXCLUSIVE,
        resource=names.RESOURCE_NVIDIA_GPU,
        cpu_milli=group.cpu_milli,
        memory_mib=group.memory_mib,
        labels={LABEL_POOL: group.pool},
    )


def sorted_nodes(nodes: Sequence[GpuNode]) -> list[GpuNode]:
    """By card type as in the catalogue, then by name."""
    order = list(BY_PRODUCT)
    return sorted(nodes, key=lambda node: (order.index(node.cards[0].model), node.name))


def total_usable_mib(nodes: list[GpuNode]) -> int:
    """Memory of all cards that pods may hold."""
    return sum(card.usable_mib for node in nodes for card in node.cards)
