"""The node's cards as the scheduler is to see them, for the Node annotation `headroom.dev/cards`. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from agent.cards.reader import CardReading, Missing, Reading
from agent.cards.verdicts import Verdict
from headroom import wire
from headroom.domain.card_models import is_display, plain_model
from headroom.domain.labels.node_facts import NodeFacts
from headroom.domain.model import MOST_SLICES, Card
from headroom.domain.node_cards import InventoryError, node_of
from headroom.names import (
    ANNOTATION_NODE_CARDS,
    LABEL_GPU_COUNT,
    RESOURCE_NVIDIA_GPU,
    RESOURCE_NVIDIA_GPU_SHARED,
)
from headroom.units import MIB

_MIG_RESOURCE: Final = "nvidia.com/mig-"
_FINE: Final = Verdict(True)
WITHHELD: Final = Verdict(False, "withheld")
EXCLUDED: Final = Verdict(False, "excluded")
_NVIDIA: Final = frozenset({RESOURCE_NVIDIA_GPU, RESOURCE_NVIDIA_GPU_SHARED})


def cards_of_annotation(node: wire.Node) -> tuple[Card, ...]:
    """Cards that the node's annotation names; none when it cannot be read (it is about to be replaced)."""
    if ANNOTATION_NODE_CARDS not in node.metadata.annotations:
        return ()
    try:
        found = node_of(node)
    except InventoryError:
        return ()
    return tuple(card for card in found.cards if not card.resource)


def slices_of(node: wire.Node, cards: int) -> int:
    """Devices that the device plugin makes of each of the `cards` cards or MIG instances that it hands out.

    What kubelet counts wins over a label that does not agree with it; 1 where neither tells. 0 while kubelet counts none of a
    resource that it has had: it or the plugin starts anew, and what was known before still holds.
    """
    facts = NodeFacts(node)
    try:
        label = facts.replicas() or 0
        count = facts.whole_label(LABEL_GPU_COUNT) or 0
    except InventoryError:
        label = count = 0
    label = label if label <= MOST_SLICES else 0
    devices = max(_advertised(node, name) for name in _NVIDIA)
    if devices == 0 and not label and any(str(node.status.capacity.get(name)) == "0" for name in _NVIDIA):
        return 0
    if not 0 < devices <= MOST_SLICES * max(cards, 1) or not cards or count * label == devices:
        return label or 1
    if devices % cards == 0:
        return devices // cards
    # Some cards are withheld from the plugin, or gone: the label says it, unless it cannot account for all the devices.
    return max(label, 1) if devices <= max(label, 1) * cards else -(-devices // cards)


def _advertised(node: wire.Node, resource: str) -> int:
    status = node.status
    text = str(status.capacity.get(resource, status.allocatable.get(resource, 0)))
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def plugin_owns_instances(node: wire.Node) -> bool:
    """Whether the device plugin hands out MIG instances under names of their own (its `mixed` strategy).

    Headroom does not understand requests by those names, so it must not give the same instances out by itself.
    """
    return any(name.startswith(_MIG_RESOURCE) and str(amount) != "0" for name, amount in node.status.capacity.items())


def is_excluded(card: CardReading, words: Collection[str]) -> bool:
    """Whether one of the words names the card: its UUID (or its parent's), its index, or its model."""
    model = plain_model(card.model).lower()
    return any(
        word in (card.id, card.parent, str(card.index)) or plain_model(word).lower() == model for word in words if word
    )


@dataclass(frozen=True, slots=True)
class Known:
    """What the rest of the node says of its cards, besides the driver."""

    slices: int = 1
    """Devices of each card, where kubelet's own list does not tell; 0 where nobody tells now."""
    instances: bool = True
    """Whether MIG instances are Headroom's to give out."""
    offered: Mapping[str, int] | None = None
    """Devices by card id in kubelet's list of what the device plugin hands out; None where there is no such list."""
    held: frozenset[str] = frozenset()
    """Cards that pods of this node hold."""
    replaced: frozenset[str] = frozenset()
    """Cards that somebody says are gone for good."""


@dataclass(slots=True)
class Inventory:
    """Knows every card this agent (or, by the annotation, its predecessor) has seen, so that one that falls silent is
    shown as unhealthy rather than dropped: pods may still hold its memory.

    A card that the driver no longer lists, or that the device plugin no longer hands out, is forgotten after
    `forget_seconds`, or at once when somebody says that it is replaced; not while a pod holds it.
    """

    unified_memory_mib: int = 0
    """Memory of a card that reports none because it shares the host's; 0 publishes it without a size."""
    excluded: tuple[str, ...] = ()
    """UUIDs, indices and models of cards to leave alone."""
    forget_seconds: float = 86_400.0
    reasons: dict[str, Verdict] = field(default_factory=dict)
    """Why cards are shown as unhealthy that the driver knows nothing bad of."""
    forgotten: tuple[str, ...] = ()
    """Cards that the last update dropped for good."""
    _known: dict[str, Card] = field(default_factory=dict)
    _away_since: dict[str, float] = field(default_factory=dict)
    _told_memory: set[str] = field(default_factory=set)
    """Cards that have reported memory of their own: one that stops to is broken, not unified."""

    def expect(self, cards: tuple[Card, ...]) -> None:
        """Take over what a predecessor published."""
        for card in cards:
            self._known.setdefault(card.id, card)

    def update(
        self, reading: Reading | None, verdicts: Mapping[str, Verdict], slices: int = 1, known: Known | None = None
    ) -> tuple[Card, ...]:
        """Cards to publish, by driver index and id; `reading` is None when the driver cannot be asked.

        `index` counts them from 0: MIG instances of one card share the driver's index, and it shifts when a card is lost.
        """
        around = Known(slices) if known is None else known
        self.reasons, self.forgotten = {}, ()
        if reading is not None:
            for card in reading.cards:
                self._take_in(card, around)
            self._let_go(reading, around)
        ordered = sorted(self._known.values(), key=lambda card: (card.index, card.id))
        return tuple(
            Card(
                card.id,
                at,
                card.model,
                card.vram_mib,
                card.reserve_mib,
                card.slices,
                verdicts.get(card.id, _FINE).healthy and card.id not in self.reasons,
            )
            for at, card in enumerate(ordered)
        )

    def _take_in(self, card: CardReading, around: Known) -> None:
        if not card.allocatable or (card.parent and not around.instances) or is_display(plain_model(card.model)):
            self._known.pop(card.id, None)
            return
        offered = around.offered is None or card.id in around.offered
        if is_excluded(card, self.excluded):
            # Where the plugin hands it out all the same, or a pod has it, it must stay in sight.
            if not (around.offered is not None and offered) and card.id not in around.held:
                self._known.pop(card.id, None)
                return
            self.reasons[card.id] = EXCLUDED
        elif not offered:
            if card.id not in self._known:
                return  # never given to Kubernetes
            self.reasons[card.id] = WITHHELD
        described = self._described(card, around)
        if described is not None:
            self._known[card.id] = described

    def _let_go(self, reading: Reading, around: Known) -> None:
        """Drop what is not there any more: at once or after a time."""
        present = {card.id for card in reading.cards}
        # One that is there but cannot even say its name may be any of those that are missed.
        nameless = any(not card.id for card in reading.broken)
        named = {card.id for card in reading.broken}
        for card_id in list(self._known):
            if card_id.startswith("MIG-") and card_id not in present and not reading.broken:
                # Reshaped away, as opposed to lost: its parent answers and does not have it any more.
                del self._known[card_id]
                continue
            missed = card_id not in present and card_id not in named and not nameless
            if not missed and self.reasons.get(card_id) is not WITHHELD:
                self._away_since.pop(card_id, None)
                continue
            since = self._away_since.setdefault(card_id, reading.at)
            over = reading.at - since >= self.forget_seconds and card_id not in around.held
            if over or card_id in around.replaced:
                del self._known[card_id], self._away_since[card_id]
                self.reasons.pop(card_id, None)
                self.forgotten = (*self.forgotten, card_id)

    def _described(self, card: CardReading, around: Known) -> Card | None:
        """The card to publish; None where it cannot be told now."""
        before, total = self._known.get(card.id), card.memory_total_bytes
        told = around.slices if around.offered is None else around.offered.get(card.id, around.slices)
        slices = told or (before.slices if before is not None else 1)
        model = plain_model(card.model)
        if total is Missing.NOT_SUPPORTED and card.id not in self._told_memory:
            return Card(card.id, card.index, model, self.unified_memory_mib, 0, slices)
        if isinstance(total, Missing) or total < MIB:
            # A reading gone wrong: what was known of the card stays.
            return before
        self._told_memory.add(card.id)
        reserve = 0 if isinstance(card.memory_reserved_bytes, Missing) else -(-card.memory_reserved_bytes // MIB)
        if before is not None:
            # The driver's reserve breathes by a few MiB; following it down would rewrite the Node for nothing.
            reserve = max(reserve, before.reserve_mib)
        vram = total // MIB
        return Card(card.id, card.index, model, vram, min(reserve, vram), slices)
