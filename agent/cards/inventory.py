"""The node's cards as the scheduler is to see them, for the Node annotation `headroom.dev/cards`. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.cards.reader import CardReading, Missing, Reading
from agent.cards.verdicts import Verdict
from headroom import wire
from headroom.domain.model import Card
from headroom.domain.node_cards import InventoryError, node_of
from headroom.names import (
    ANNOTATION_NODE_CARDS,
    LABEL_GPU_REPLICAS,
    RESOURCE_NVIDIA_GPU,
    RESOURCE_NVIDIA_GPU_SHARED,
)
from headroom.units import MIB

_MOST_SLICES: Final = 1024
_MIG_RESOURCE: Final = "nvidia.com/mig-"


def cards_of_annotation(node: wire.Node) -> tuple[Card, ...]:
    """Cards that the node's annotation names; none when it cannot be read (it is about to be replaced)."""
    if ANNOTATION_NODE_CARDS not in node.metadata.annotations:
        return ()
    try:
        return node_of(node).cards
    except InventoryError:
        return ()


def slices_of(node: wire.Node, cards: int) -> int:
    """Time slices that the device plugin makes of each of `cards` cards: by label, else by what it advertises, else 1."""
    text = node.metadata.labels.get(LABEL_GPU_REPLICAS, "")
    if text.isascii() and text.isdigit() and 0 < int(text) <= _MOST_SLICES:
        return int(text)
    for resource in (RESOURCE_NVIDIA_GPU, RESOURCE_NVIDIA_GPU_SHARED):
        devices = str(node.status.capacity.get(resource, 0))
        if cards and devices.isascii() and devices.isdigit() and 0 < int(devices) <= _MOST_SLICES * cards:
            return max(int(devices) // cards, 1)
    return 1


def plugin_owns_instances(node: wire.Node) -> bool:
    """Whether the device plugin hands out MIG instances under names of their own (its `mixed` strategy).

    Headroom does not understand requests by those names, so it must not give the same instances out by itself.
    """
    return any(name.startswith(_MIG_RESOURCE) and str(amount) != "0" for name, amount in node.status.capacity.items())


@dataclass(slots=True)
class Inventory:
    """Knows every card this agent (or, by the annotation, its predecessor) has seen, so that one that falls silent is
    shown as unhealthy rather than dropped: pods may still hold its memory."""

    _known: dict[str, Card] = field(default_factory=dict)

    def expect(self, cards: tuple[Card, ...]) -> None:
        """Take over what a predecessor published."""
        for card in cards:
            self._known.setdefault(card.id, card)

    def update(
        self, reading: Reading | None, verdicts: Mapping[str, Verdict], slices: int, *, instances: bool = True
    ) -> tuple[Card, ...]:
        """Cards to publish, by driver index and id; `reading` is None when the driver cannot be asked.

        `instances` says whether MIG instances are Headroom's to give out.

        `index` counts them from 0: MIG instances of one card share the driver's index, and it shifts when a card is lost.
        """
        for card in reading.cards if reading is not None else ():
            if not card.allocatable or (card.parent and not instances):
                self._known.pop(card.id, None)
            elif isinstance(card.memory_total_bytes, int) and card.memory_total_bytes >= MIB:
                # Less is a reading gone wrong; a card without memory would make the whole annotation void.
                self._known[card.id] = self._described(card, card.memory_total_bytes, slices)
        if reading is not None:
            # Instances that were reshaped away, as opposed to lost: their parent answers and does not have them any more.
            present = {card.id for card in reading.cards}
            for card_id in [id_ for id_ in self._known if id_.startswith("MIG-") and id_ not in present]:
                if not reading.broken:
                    del self._known[card_id]
        ordered = sorted(self._known.values(), key=lambda card: (card.index, card.id))
        return tuple(
            Card(
                card.id,
                at,
                card.model,
                card.vram_mib,
                card.reserve_mib,
                card.slices,
                verdicts.get(card.id, _FINE).healthy,
            )
            for at, card in enumerate(ordered)
        )

    def _described(self, card: CardReading, total_bytes: int, slices: int) -> Card:
        before = self._known.get(card.id)
        reserve = 0 if isinstance(card.memory_reserved_bytes, Missing) else -(-card.memory_reserved_bytes // MIB)
        if before is not None:
            # The driver's reserve breathes by a few MiB; following it down would rewrite the Node for nothing.
            reserve = max(reserve, before.reserve_mib)
        shared = 1 if card.parent else slices
        vram = total_bytes // MIB
        return Card(card.id, card.index, card.model, vram, min(reserve, vram), shared)


_FINE = Verdict(True)
