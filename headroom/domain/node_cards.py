"""Which cards a node has: from its annotation, its ResourceSlices, its labels and what its device plugins advertise, to a GpuNode. Pure.

Sources in order of trust: the `headroom.dev/cards` annotation, which the agent writes from what the driver says; the ResourceSlices
of a DRA driver; the labels of the vendor's feature discovery; for memory that no label tells, a table of known models. Sources that
contradict each other are an error and never a guess: memory given out twice is found only when a model server dies.
A kind of device that cannot be told does not take the node's other kinds along, and memory that nobody tells does not keep
whole devices from being used.
"""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import Final

import msgspec

from headroom import names, units, wire
from headroom.domain.accelerators import ACCELERATORS, NVIDIA, Accelerator
from headroom.domain.card_models import is_display, is_mig, plain_model
from headroom.domain.dra.cards import KindDevices, by_kind, joined
from headroom.domain.dra.pools import NO_DEVICES, NodeDevices
from headroom.domain.labels.labelled_cards import LabelledCards, usual_reserve
from headroom.domain.labels.node_facts import InventoryError, NodeFacts
from headroom.domain.links import LinksError, Matrix, decode_links
from headroom.domain.model import LARGEST_MIB, MOST_SHARES, MOST_SLICES, Allocation, Card, GpuNode, PinBar, Sharing

__all__ = ["InventoryError", "encode_cards", "node_of", "without_cards"]

_MPS_BARS: Final = {Sharing.MPS: PinBar.MPS, Sharing.UNKNOWN: PinBar.UNKNOWN_SHARING}


class _CardEntry(msgspec.Struct):
    """One entry of the cards annotation."""

    id: str
    model: str
    vram_mib: int = 0
    index: int | None = None
    reserve_mib: int = 0
    slices: int | None = None
    healthy: bool = True


_CARD_ENTRIES: Final = wire.Decoder(list[_CardEntry])


def encode_cards(cards: tuple[Card, ...]) -> str:
    """The cards annotation for these cards: what `node_of` reads back."""
    return msgspec.json.encode(
        [
            {
                "id": card.id, "index": card.index, "model": card.model, "vram_mib": card.vram_mib,
                "reserve_mib": card.reserve_mib, "slices": card.slices, "healthy": card.healthy,
            }
            for card in cards
        ]
    ).decode()  # fmt: skip


def node_of(node: wire.Node, devices: NodeDevices = NO_DEVICES, *, pin_claimable: bool = False) -> GpuNode:
    """The node with its cards; a node without accelerators has none.

    `devices` are those of its ResourceSlices; `pin_claimable` lets pinned pods have cards that resource claims may get, too.
    What cannot be told of one kind of device is in the node's `problems` where another kind can be. Raises InventoryError
    when nothing is left.
    """
    return _NodeReader(node, devices, pin_claimable=pin_claimable).gpu_node()


def without_cards(node: wire.Node) -> GpuNode:
    """The node as a home for pods that need no card: what is left of one whose cards cannot be told.

    Raises InventoryError when not even its CPU and memory can be read.
    """
    return _NodeReader(node).describe(())


class _NodeReader:
    """Reads one node, kind by kind."""

    def __init__(self, node: wire.Node, devices: NodeDevices = NO_DEVICES, *, pin_claimable: bool = False) -> None:
        self._facts = NodeFacts(node)
        self._devices = by_kind(devices, self._facts.problems)
        self._pin_claimable = pin_claimable
        self._labels = node.metadata.labels
        self._annotation = node.metadata.annotations.get(names.ANNOTATION_NODE_CARDS)

    def gpu_node(self) -> GpuNode:
        found: list[tuple[str, tuple[Card, ...]]] = []
        errors: list[InventoryError] = []
        for kind in ACCELERATORS:
            try:
                # Hand-written labels speak of the first kind that the node has.
                resource, cards = self._kind(kind, hand_labels=not found and not errors)
            except InventoryError as error:
                errors.append(error)
                continue
            if cards:
                found.append((resource, self._settled(kind, cards)))
        if errors and not found:
            raise errors[0]
        self._facts.problems += [f"{error.field}: {error.value}: {error.reason}" for error in errors]
        return self._composed(found)

    def _composed(self, found: Sequence[tuple[str, tuple[Card, ...]]]) -> GpuNode:
        """The node of the cards of each kind. The ids of further kinds must not look like positions of the first."""
        if not found:
            return self.describe(())
        resource, cards = found[0]
        for other, more in found[1:]:
            prefix, after = other.split(".", 1)[0], max(card.index for card in cards) + 1
            cards += tuple(
                replace(card, id=f"{prefix}-{card.id}", index=after + at, resource=other)
                for at, card in enumerate(more)
            )
        return self.describe(cards, resource)

    def _kind(self, kind: Accelerator, *, hand_labels: bool) -> tuple[str, tuple[Card, ...]]:
        """The cards of a kind, and the extended resource under which they are handed out. Raises InventoryError."""
        resource = self._resource(kind)
        devices = self._devices.get(kind.vendor)
        if devices is None or not (devices.cards or devices.parents):
            return resource, self._cards(kind, resource, hand_labels=hand_labels)
        # kube-scheduler goes to the plugin where that has working devices, and allocates where not.
        allocator = not (resource and self._facts.devices(resource).working) and bool(devices.resource)
        plugin = "" if allocator else resource
        cards = self._cards(kind, plugin, hand_labels=hand_labels, devices=devices)
        cards = joined(cards, devices, allocator=allocator, problems=self._facts.problems)
        return devices.resource if allocator else resource, cards

    def _cards(
        self, kind: Accelerator, resource: str, *, hand_labels: bool, devices: KindDevices | None = None
    ) -> tuple[Card, ...]:
        if self._annotation is not None and kind is self._annotated_kind:
            return self._annotated_cards(self._entries(), resource)
        if devices is not None and devices.cards:
            try:
                return self._annotated_cards(self._slice_entries(kind, devices), resource, source="ResourceSlices")
            except InventoryError as error:
                if not resource:
                    raise
                self._facts.problems.append(f"{error.field}: {error.value}: {error.reason}")
        return LabelledCards(self._facts, kind, resource, hand_labels=hand_labels).read()

    def _slice_entries(self, kind: Accelerator, devices: KindDevices) -> list[_CardEntry]:
        """The cards of ResourceSlices as entries of the annotation. The driver's total counts what it keeps for itself."""
        return [
            _CardEntry(
                card.id, card.model or kind.vendor, card.vram_mib,
                reserve_mib=usual_reserve(kind, card.model, card.vram_mib), healthy=not card.withdrawn,
            )
            for card in devices.cards
        ]  # fmt: skip

    def describe(self, cards: tuple[Card, ...], resource: str = "") -> GpuNode:
        """The node with these cards, the first of which are handed out under `resource`."""
        sharing, links = self._sharing(cards), self._links(cards)
        return GpuNode(
            name=self._facts.name,
            cards=cards,
            sharing=sharing,
            allocation=self._facts.allocation() if cards else Allocation.DISTRIBUTED,
            resource=resource,
            one_device_each=any(card.slices > 1 for card in cards) and self._facts.one_device_each(sharing),
            cpu_milli=self._facts.host("cpu", Fraction(1, 1000)),
            memory_mib=self._facts.host("memory", Fraction(units.MIB)),
            schedulable=not self._facts.node.spec.unschedulable,
            labels=self._labels,
            problems=tuple(self._facts.problems),
            tells_cards=names.ANNOTATION_AGENT_TELLS in self._facts.node.metadata.annotations,
            link_gbytes_per_second=links,
        )

    def _links(self, cards: tuple[Card, ...]) -> Matrix:
        """How the cards are linked, where the agent tells. What it does not tell of a card counts as the worst path."""
        text = self._facts.node.metadata.annotations.get(names.ANNOTATION_NODE_LINKS)
        if text is None or len(cards) < 2:
            return ()
        try:
            links = decode_links(text)
        except LinksError as error:
            self._facts.problems.append(f"{names.ANNOTATION_NODE_LINKS}: {error}")
            return ()
        missing = [card.id for card in cards if card.id not in links.cards]
        told = [card for card in cards if card.healthy and not card.resource and not is_mig(card.model)]
        if any(card.id in missing for card in told):
            self._facts.problems.append(f"{names.ANNOTATION_NODE_LINKS}: does not name {', '.join(missing)}")
        return links.matrix([card.id for card in cards]) if len(missing) < len(cards) else ()

    def _sharing(self, cards: tuple[Card, ...]) -> Sharing:
        if any(card.slices > 1 for card in cards):
            return self._strategy
        return Sharing.MIG if any(is_mig(card.model) for card in cards) else Sharing.EXCLUSIVE

    @cached_property
    def _strategy(self) -> Sharing:
        """How shared cards are handed out here."""
        return self._facts.sharing()

    def _resource(self, kind: Accelerator) -> str:
        """The resource under which the kind's devices are advertised: one with working devices, else any; empty for none."""
        devices = {resource: self._facts.devices(resource) for resource in kind.resources}
        working = [resource for resource, number in devices.items() if number.working]
        if len(working) > 1:
            listed = ", ".join(f"{resource} {devices[resource].all}" for resource in working)
            raise self._facts.fault("status.allocatable", listed, "the same cards under two names")
        return next(iter(working or [resource for resource, number in devices.items() if number.all]), "")

    def _settled(self, kind: Accelerator, cards: tuple[Card, ...]) -> tuple[Card, ...]:
        """The cards of a kind with what they have in common: why they cannot be pinned, and whether their model is told."""
        shared = any(card.slices > 1 for card in cards)
        bar = PinBar.NONE if kind.shareable else PinBar.OTHER_VENDOR
        if shared and not bar:
            bar = _MPS_BARS.get(self._strategy, PinBar.NONE)
        one_model = len({card.model for card in cards}) == 1
        matched = one_model and any(label in self._labels for label in kind.product_labels)
        return tuple(
            replace(card, pin_bar=why, model_matched=matched) if (why := bar or self._bar(card)) or matched else card
            for card in cards
        )

    def _bar(self, card: Card) -> PinBar:
        """Why Headroom must not pick a card by itself, whatever is true of its kind."""
        claimed = card.claimable and not self._pin_claimable
        return card.pin_bar or (PinBar.CLAIMS if claimed else PinBar.NONE)

    # The annotation

    def _entries(self) -> list[_CardEntry]:
        """The annotation's entries. Raises InventoryError."""
        text = self._annotation or ""
        try:
            return _CARD_ENTRIES.decode(text.encode())
        except wire.WireError as error:
            reason = f"not a list of cards: {error.__cause__}"
            raise self._facts.fault(names.ANNOTATION_NODE_CARDS, text[:200], reason) from error

    @cached_property
    def _annotated_kind(self) -> Accelerator:
        """Whose cards the annotation lists: NVIDIA's, unless only another vendor's plugin is there and no id is NVIDIA's."""
        try:
            entries = self._entries()
            advertised = [
                kind for kind in ACCELERATORS if any(self._facts.devices(name).all for name in kind.resources)
            ]
        except InventoryError:
            return NVIDIA  # told when its cards are read
        if not advertised or NVIDIA in advertised or any(entry.id.startswith(NVIDIA.ids) for entry in entries):
            return NVIDIA
        return advertised[0]

    def _annotated_cards(
        self, entries: Sequence[_CardEntry], resource: str, *, source: str = names.ANNOTATION_NODE_CARDS
    ) -> tuple[Card, ...]:
        devices = self._facts.devices(resource).working if resource else 0
        replicas = self._facts.replicas() or 1
        if entries and devices > replicas * len(entries) and self._facts.sign_of_sharing():
            replicas = -(-devices // len(entries))  # what kubelet counts wins over a label
        cards = tuple(self._annotated_card(f"{source}[{at}]", at, entry, replicas) for at, entry in enumerate(entries))
        self._all_different("id", [card.id for card in cards])
        self._all_different("index", [str(card.index) for card in cards])
        cards = tuple(card for card in cards if not is_display(card.model))
        slices = sum(card.slices for card in cards)
        if devices > slices:
            advertised = f"{len(cards)} cards with {slices} devices, status.allocatable {devices}"
            raise self._facts.fault(
                f"{source} and {resource}", advertised, "the device plugin hands out more devices than the cards have"
            )
        return cards

    def _all_different(self, what: str, values: Sequence[str]) -> None:
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise self._facts.fault(names.ANNOTATION_NODE_CARDS, repeated, f"two cards with this {what}")

    def _annotated_card(self, field: str, at: int, entry: _CardEntry, replicas: int) -> Card:
        slices = replicas if entry.slices is None else entry.slices
        index = at if entry.index is None else entry.index
        if not entry.id or "," in entry.id:
            raise self._facts.fault(f"{field}.id", repr(entry.id), "must be there and without a comma")
        for key, value, least, most in (
            ("vram_mib", entry.vram_mib, 0, LARGEST_MIB), ("reserve_mib", entry.reserve_mib, 0, LARGEST_MIB),
            ("slices", slices, 1, MOST_SLICES), ("index", index, 0, MOST_SHARES),
        ):  # fmt: skip
            if not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise self._facts.fault(f"{field}.{key}", value, f"must be {bound}")
        vram_mib = entry.vram_mib or self._unified_mib()
        if entry.reserve_mib > vram_mib:
            raise self._facts.fault(f"{field}.reserve_mib", entry.reserve_mib, f"more than the card's {vram_mib} MiB")
        return Card(entry.id, index, plain_model(entry.model), vram_mib, entry.reserve_mib, slices, entry.healthy)

    def _unified_mib(self) -> int:
        """What somebody wrote by hand for cards that tell no memory of their own; 0 where nobody did."""
        text = self._labels.get(names.LABEL_CARD_VRAM)
        return 0 if text is None else int(self._facts.number(names.LABEL_CARD_VRAM, text) // units.MIB)
