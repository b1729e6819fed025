"""Which cards a node has: from its annotation, its labels and what its device plugin advertises, to a GpuNode. Pure.

Sources in order of trust: the `headroom.dev/cards` annotation, which the agent writes from what the driver says; the
labels of the vendor's feature discovery; for memory that no label tells, a table of known models. Sources that
contradict each other are an error and never a guess: memory given out twice is found only when a model server dies.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import msgspec

from headroom import names, units, wire
from headroom.domain.accelerators import ACCELERATORS, GIB, NVIDIA, Accelerator, plain_model
from headroom.domain.model import LARGEST_HOST, LARGEST_MIB, MOST_SHARES, Allocation, Card, GpuNode, Sharing
from headroom.errors import HeadroomError

# What the driver keeps of a card, where labels give the total only: about 450 MiB on a T4 to 870 MiB on an A100 with
# 80 GB (nvidia-smi -q, "Reserved"). Known models say it exactly; for others this is on the safe side of most.
_UNKNOWN_RESERVE_MIB: Final = 640
_LARGEST_RESERVE_MIB: Final = 1024
_MIG_RESERVE_FRACTION: Final = 64

_SHARING: Final = {
    "": Sharing.EXCLUSIVE,
    "none": Sharing.EXCLUSIVE,
    "time-slicing": Sharing.TIME_SLICING,
    "mps": Sharing.MPS,
}
_MIG_RESOURCE: Final = "nvidia.com/mig-"
_GIGABYTES: Final = re.compile(r"(\d+)G")


class InventoryError(HeadroomError, ValueError):
    """A node whose cards cannot be told; names the node, the field and the value, with the reason in plain words."""

    def __init__(self, node: str, field: str, value: str, reason: str) -> None:
        self.node, self.field, self.value, self.reason = node, field, value, reason
        super().__init__(f"node {node}: {field}: {value}: {reason}")


class _CardEntry(msgspec.Struct):
    """One entry of the cards annotation."""

    id: str
    model: str
    vram_mib: int
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


def node_of(node: wire.Node) -> GpuNode:
    """The node with its cards; a node without accelerators has none. Raises InventoryError."""
    return _NodeReader(node).gpu_node()


def without_cards(node: wire.Node) -> GpuNode:
    """The node as a home for pods that need no card: what is left of one whose cards cannot be told.

    Raises InventoryError when not even its CPU and memory can be read.
    """
    return _NodeReader(node).describe(())


class _NodeReader:
    """Reads one node; keeps its name at hand for errors."""

    def __init__(self, node: wire.Node) -> None:
        self._node = node
        self._name = node.metadata.name
        self._labels = node.metadata.labels

    def gpu_node(self) -> GpuNode:
        annotation = self._node.metadata.annotations.get(names.ANNOTATION_NODE_CARDS)
        kind, resource = self._advertised()
        if annotation is not None:
            cards = self._annotated_cards(annotation, resource)
        elif kind is None:
            return self.describe(())
        else:
            cards = self._labelled_cards(kind, resource)
        return self.describe(cards, resource, self._sharing())

    def describe(self, cards: tuple[Card, ...], resource: str = "", sharing: Sharing = Sharing.EXCLUSIVE) -> GpuNode:
        return GpuNode(
            name=self._name,
            cards=cards,
            sharing=sharing,
            allocation=self._allocation() if cards else Allocation.DISTRIBUTED,
            resource=resource,
            cpu_milli=self._host("cpu", Fraction(1, 1000)),
            memory_mib=self._host("memory", Fraction(units.MIB)),
            schedulable=not self._node.spec.unschedulable,
            labels=self._labels,
        )

    def _fault(self, field: str, value: object, reason: str) -> InventoryError:
        return InventoryError(self._name, field, str(value), reason)

    def _number(self, field: str, value: object) -> Fraction:
        try:
            amount = units.parse_quantity(str(value))
        except units.UnitError as error:
            raise InventoryError(self._name, field, str(value), "not a quantity") from error
        if amount < 0:
            raise self._fault(field, value, "below zero")
        return amount

    def _host(self, resource: str, unit: Fraction) -> int:
        amount = self._number(f"status.allocatable.{resource}", self._node.status.allocatable.get(resource, 0))
        return min(int(amount // unit), LARGEST_HOST)

    def _whole_label(self, label: str) -> int | None:
        text = self._labels.get(label)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 9:
            raise self._fault(label, text, "not a whole number")
        return int(text)

    def _allocation(self) -> Allocation:
        text = self._labels.get(names.LABEL_ALLOCATION, Allocation.DISTRIBUTED.value)
        if text not in set(Allocation):
            raise self._fault(names.LABEL_ALLOCATION, text, "neither distributed nor packed")
        return Allocation(text)

    def _sharing(self) -> Sharing:
        text = self._labels.get(names.LABEL_GPU_SHARING, "")
        sharing = _SHARING.get(text)
        if sharing is None:
            raise self._fault(names.LABEL_GPU_SHARING, text, "not a sharing strategy Headroom knows")
        if sharing is Sharing.EXCLUSIVE and "-MIG-" in self._labels.get(names.LABEL_GPU_PRODUCT, ""):
            return Sharing.MIG
        if sharing is Sharing.EXCLUSIVE and self._replicas() > 1:
            return Sharing.TIME_SLICING
        return sharing

    def _replicas(self) -> int:
        """Devices per card; feature discovery writes 0 where sharing is off."""
        return self._whole_label(names.LABEL_GPU_REPLICAS) or 1

    def _devices(self, resource: str) -> tuple[int, int]:
        """Devices in all and devices in working order that the plugin advertises under a resource."""
        status = self._node.status
        allocatable = self._number(f"status.allocatable.{resource}", status.allocatable.get(resource, 0))
        capacity = self._number(
            f"status.capacity.{resource}", status.capacity.get(resource, status.allocatable.get(resource, 0))
        )
        return int(max(capacity, allocatable)), int(allocatable)

    def _advertised(self) -> tuple[Accelerator | None, str]:
        """The kind of accelerator and the resource that the node's device plugin advertises, if there is one."""
        found = [
            (kind, resource)
            for kind in ACCELERATORS
            for resource in kind.resources
            if self._devices(resource) != (0, 0)
        ]
        if len(found) > 1:
            listed = ", ".join(f"{resource} {self._devices(resource)[0]}" for _, resource in found)
            raise self._fault("status.allocatable", listed, "two kinds of device on one node")
        return found[0] if found else (None, "")

    def _annotated_cards(self, annotation: str, resource: str) -> tuple[Card, ...]:
        field = names.ANNOTATION_NODE_CARDS
        try:
            entries = _CARD_ENTRIES.decode(annotation.encode())
        except wire.WireError as error:
            reason = str(error.__cause__)
            raise InventoryError(self._name, field, annotation[:200], f"not a list of cards: {reason}") from error
        replicas = self._replicas()
        cards = tuple(self._annotated_card(at, entry, replicas) for at, entry in enumerate(entries))
        self._all_different("id", [card.id for card in cards])
        self._all_different("index", [str(card.index) for card in cards])
        slices = sum(card.slices for card in cards)
        if resource and self._devices(resource)[1] > slices:
            advertised = f"{len(cards)} cards with {slices} devices, status.allocatable {self._devices(resource)[1]}"
            raise self._fault(
                f"{field} and {resource}", advertised, "the device plugin hands out more devices than the cards have"
            )
        return cards

    def _all_different(self, what: str, values: Sequence[str]) -> None:
        repeated = next((value for value in values if values.count(value) > 1), None)
        if repeated is not None:
            raise self._fault(names.ANNOTATION_NODE_CARDS, repeated, f"two cards with this {what}")

    def _annotated_card(self, at: int, entry: _CardEntry, replicas: int) -> Card:
        field = f"{names.ANNOTATION_NODE_CARDS}[{at}]"
        slices = replicas if entry.slices is None else entry.slices
        index = at if entry.index is None else entry.index
        if not entry.id or "," in entry.id:
            raise self._fault(f"{field}.id", repr(entry.id), "must be there and without a comma")
        for key, value, least, most in (
            ("vram_mib", entry.vram_mib, 1, LARGEST_MIB), ("reserve_mib", entry.reserve_mib, 0, LARGEST_MIB),
            ("slices", slices, 1, MOST_SHARES), ("index", index, 0, MOST_SHARES),
        ):  # fmt: skip
            if not least <= value <= most:
                bound = f"at least {least}" if value < least else f"at most {most}"
                raise self._fault(f"{field}.{key}", value, f"must be {bound}")
        if entry.reserve_mib > entry.vram_mib:
            raise self._fault(f"{field}.reserve_mib", entry.reserve_mib, f"more than the card's {entry.vram_mib} MiB")
        return Card(entry.id, index, plain_model(entry.model), entry.vram_mib, entry.reserve_mib, slices, entry.healthy)

    def _labelled_cards(self, kind: Accelerator, resource: str) -> tuple[Card, ...]:
        model = self._model(kind, resource)
        vram_mib, reserve_mib = self._memory(kind, model)
        replicas = self._replicas() if kind is NVIDIA else 1
        devices, working = self._devices(resource)
        count = self._whole_label(names.LABEL_GPU_COUNT) if kind is NVIDIA else None
        if count is None and devices % replicas == 0:
            count = devices // replicas
        if count is None or count * replicas != devices:
            raise self._fault(
                f"{names.LABEL_GPU_COUNT} x {names.LABEL_GPU_REPLICAS} and {resource}",
                f"{self._labels.get(names.LABEL_GPU_COUNT, '?')} x {replicas} and {devices}",
                "labels and advertised devices contradict each other",
            )
        if working < devices:
            raise self._fault(
                f"status.allocatable.{resource}", f"{working} of {devices}",
                "some devices do not work, and only the agent's annotation could tell which",
            )  # fmt: skip
        if devices > MOST_SHARES:
            raise self._fault(f"status.capacity.{resource}", devices, f"more than {MOST_SHARES} devices on one node")
        return tuple(Card(str(at), at, model, vram_mib, reserve_mib, replicas) for at in range(count))

    def _model(self, kind: Accelerator, resource: str) -> str:
        if kind is NVIDIA and self._labels.get(names.LABEL_MIG_STRATEGY) == "mixed":
            mixed = [name for name in self._node.status.allocatable if name.startswith(_MIG_RESOURCE)]
            if mixed:
                raise self._fault(
                    names.LABEL_MIG_STRATEGY, "mixed", f"whole cards beside {', '.join(mixed)} cannot be told apart"
                )
        for label in (names.LABEL_CARD_MODEL, *kind.product_labels):
            if self._labels.get(label):
                return plain_model(self._labels[label])
        raise self._fault(
            f"status.allocatable.{resource}", self._devices(resource)[1],
            f"no label names the card model ({' or '.join(kind.product_labels)})",
        )  # fmt: skip

    def _memory(self, kind: Accelerator, model: str) -> tuple[int, int]:
        """Memory of each card and what the driver keeps of it."""
        known = kind.known_vram_mib.get(model)
        stated = self._stated_memory(kind)
        if stated is None and known is None:
            labels = " or ".join((names.LABEL_CARD_VRAM, *kind.memory_labels))
            raise self._fault(
                "card model", model, f"memory unknown: no label {labels}, and not in the table of known models"
            )
        if stated is None:
            assert known is not None
            return known, self._reserve(0)
        if kind is not NVIDIA:
            return stated, self._reserve(0)
        if "-MIG-" in model:
            return stated, self._reserve(stated // _MIG_RESERVE_FRACTION)
        usual = _UNKNOWN_RESERVE_MIB if known is None else min(max(stated - known, 0), _LARGEST_RESERVE_MIB)
        return stated, self._reserve(min(usual, stated))

    def _reserve(self, usual_mib: int) -> int:
        text = self._labels.get(names.LABEL_CARD_RESERVE)
        return usual_mib if text is None else -int(-self._number(names.LABEL_CARD_RESERVE, text) // units.MIB)

    def _stated_memory(self, kind: Accelerator) -> int | None:
        own = self._labels.get(names.LABEL_CARD_VRAM)
        if own is not None:
            return self._positive(
                names.LABEL_CARD_VRAM, own, int(self._number(names.LABEL_CARD_VRAM, own) // units.MIB)
            )
        for label in kind.memory_labels:
            text = self._labels.get(label)
            if text is None:
                continue
            gigabytes = _GIGABYTES.fullmatch(text)
            mib = int(gigabytes.group(1)) * GIB if gigabytes else self._whole_label(label)
            return self._positive(label, text, mib or 0)
        return None

    def _positive(self, label: str, text: str, mib: int) -> int:
        if not 0 < mib <= LARGEST_MIB:
            raise self._fault(
                label, text, "a card has at least 1 MiB" if mib <= 0 else f"a card has at most {LARGEST_MIB} MiB"
            )
        return mib
