"""The cards that devices of a node are: grouped by card, and held against what else is known of the node's cards. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from headroom.domain.accelerators import ACCELERATORS, BY_RESOURCE, NVIDIA, Accelerator
from headroom.domain.card_models import is_display, plain_model
from headroom.domain.dra.classes import is_nvidia
from headroom.domain.dra.devices import Device
from headroom.domain.dra.pools import NodeDevices, Offer
from headroom.domain.model import Card

_SAME_MEMORY: Final = 0.02
"""Part of a card's memory by which two sources may differ: whether what the driver keeps is counted in is up to each."""


@dataclass(frozen=True, slots=True)
class DeviceCard:
    """A card as ResourceSlices have it."""

    id: str
    by_uuid: bool
    """Whether `id` is the driver's own: then another source knows the card by the same id."""
    model: str
    vram_mib: int
    """0 where nothing tells it."""
    slices: int
    """How often it can be allocated to who states no amounts."""
    resource: str
    """The extended resource for which it may be allocated; empty for none."""
    withdrawn: bool


@dataclass(frozen=True, slots=True)
class KindDevices:
    """The devices of one kind on a node."""

    cards: tuple[DeviceCard, ...] = ()
    parents: frozenset[str] = frozenset()
    """Ids of cards of which parts can be allocated."""
    more: bool = False
    """Whether the node may have more devices, of which nothing is known yet."""

    @property
    def resource(self) -> str:
        """The extended resource for which some of them may be allocated; empty for none."""
        return next((card.resource for card in self.cards if card.resource), "")


def by_kind(devices: NodeDevices, problems: list[str]) -> dict[str, KindDevices]:
    """The node's devices by the vendor of their kind; what contradicts itself is added to `problems`."""
    problems += devices.problems
    return (
        {
            kind.vendor: _of_kind(
                [offer for offer in devices.offers if _kind_of(offer) is kind], problems, more=devices.more
            )
            for kind in ACCELERATORS
        }
        if devices.offers
        else {}
    )


def _kind_of(offer: Offer) -> Accelerator:
    return NVIDIA if is_nvidia(offer.device) else BY_RESOURCE.get(offer.resource, NVIDIA)


def _of_kind(offers: Sequence[Offer], problems: list[str], *, more: bool) -> KindDevices:
    whole = {offer.device.uuid for offer in offers if offer.device.uuid and not offer.device.is_part}
    cards: dict[str, DeviceCard] = {}
    parents: set[str] = set()
    for offer in offers:
        device = offer.device
        if device.parent and (device.parent in whole or not device.uuid):
            parents.add(device.parent)  # a part that is not cut yet, or that can be had instead of the whole
            continue
        card = _card(offer)
        known = cards.get(card.id)
        cards[card.id] = card if known is None else _same_card(known, card, problems)
    return KindDevices(tuple(cards.values()), frozenset(parents), more)


def _card(offer: Offer) -> DeviceCard:
    device = offer.device
    return DeviceCard(
        id=device.uuid or str(device.key),
        by_uuid=bool(device.uuid),
        model=_model(device),
        vram_mib=device.vram_mib,
        slices=device.most_allocations,
        resource=offer.resource if offer.allocatable else "",
        withdrawn=device.withdrawn,
    )


def _model(device: Device) -> str:
    """The product's name as feature discovery would write it; empty where no attribute tells it."""
    product = next((value for name, value in device.attributes.items() if name.rpartition("/")[2] == "productName"), "")
    profile = device.attributes.get("profile") if device.is_part else None
    model = plain_model(str(product))
    return f"{model}-MIG-{profile}" if model and profile else model


def _same_card(one: DeviceCard, other: DeviceCard, problems: list[str]) -> DeviceCard:
    """Two devices that are one card, such as the card itself and the same for a virtual machine."""
    vram_mib = _agreed_mib(one.id, one.vram_mib, other.vram_mib, "two ResourceSlices", problems)
    return replace(
        one,
        model=one.model or other.model,
        vram_mib=vram_mib,
        slices=min(one.slices, other.slices),
        resource=one.resource or other.resource,
        withdrawn=one.withdrawn or other.withdrawn,
    )


def _agreed_mib(card: str, one: int, other: int, sources: str, problems: list[str]) -> int:
    """The memory of a card by two sources, 0 standing for none: the smaller where they contradict each other."""
    if not one or not other:
        return one or other
    if abs(one - other) > _SAME_MEMORY * max(one, other):
        problems.append(f"card {card}: {one} and {other} MiB by {sources}; the smaller counts")
        return min(one, other)
    return one


def joined(cards: Iterable[Card], devices: KindDevices, *, allocator: bool, problems: list[str]) -> tuple[Card, ...]:
    """The cards with what ResourceSlices say of them. `allocator` tells that kube-scheduler hands out their resource, no plugin.

    A card that may be the device of one that is not found by its id can be claimed, and is not counted on to be allocated.
    """
    cards = tuple(cards)
    known, by_id = {card.id for card in cards}, {card.id: card for card in devices.cards}
    rest = [card for card in cards if card.id not in by_id and card.id not in devices.parents]
    unnamed = [each for each in devices.cards if not each.by_uuid and each.id not in known]
    strangers = [each for each in devices.cards if each.by_uuid and each.id not in known and not is_display(each.model)]
    told = len(unnamed) == len(rest) and not devices.more
    if unnamed and not told:
        problems.append(
            f"ResourceSlices: {len(unnamed)} devices without a uuid and {len(rest)} cards: which is which cannot be told"
        )
    if strangers and cards:
        problems.append(f"ResourceSlices: {strangers[0].id}: not among the node's cards")
    by_position = bool(strangers)  # a card whose id is a position, and not the driver's, may be one of those
    unclear = {card.id for card in rest if unnamed or devices.more or (by_position and card.id.isdigit())}
    spare = iter(unnamed if told else ())
    found = []
    for card in cards:
        device = by_id.get(card.id) or (next(spare, None) if card in rest else None)
        if device is not None:
            found.append(_joined(card, device, allocator=allocator, problems=problems))
        else:
            found.append(replace(card, claimable=card.id in devices.parents or card.id in unclear))
    return tuple(found)


def _joined(card: Card, device: DeviceCard, *, allocator: bool, problems: list[str]) -> Card:
    vram_mib = _agreed_mib(card.id, card.vram_mib, device.vram_mib, "the node and its ResourceSlices", problems)
    by_allocator = allocator and bool(device.resource)
    return replace(
        card,
        vram_mib=vram_mib,
        reserve_mib=min(card.reserve_mib, vram_mib),
        slices=device.slices if by_allocator else card.slices,
        healthy=card.healthy and not device.withdrawn,
        claimable=True,
        by_allocator=by_allocator,
    )
