"""What ResourceClaims hold: read from their status, and put on the cards of a node. Pure.

A result that states a consumed `memory` holds that much, one that states `shares` its part of the card, any other the whole device.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from headroom import units
from headroom.domain.dra.devices import Device, DeviceKey
from headroom.domain.dra.objects import EXTENDED_CLAIM, AllocatedDevice, ResourceClaim, pods_of, quantity_of
from headroom.domain.dra.pools import Pools
from headroom.domain.model import LARGEST_MIB, MOST_SHARES
from headroom.wire import NodeSelector, Quantity

_NODE_NAME: Final = "metadata.name"
_ALL: Final = "All"


class PodName(NamedTuple):
    uid: str
    key: str
    """`namespace/name`."""


class Allocated(NamedTuple):
    """One result of an allocation."""

    device: DeviceKey
    memory_mib: int
    """Consumed memory; 0 where none is stated."""
    shares: int
    """Consumed `shares`; 0 where none are stated."""


class Wanted(NamedTuple):
    """What a claim asks for, of one class."""

    class_name: str
    devices: int
    memory_mib: int
    """Of each device; 0 where none is stated."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A ResourceClaim, as far as it matters here."""

    key: str
    """`namespace/name`."""
    uid: str
    pods: tuple[PodName, ...] = ()
    """Who may use it."""
    extended: bool = False
    """kube-scheduler made it for a pod that asks for an extended resource."""
    is_allocated: bool = False
    allocated: tuple[Allocated, ...] = ()
    node: str = ""
    """The node to which the allocation is tied; empty where none is named."""
    wanted: tuple[Wanted, ...] = ()
    problem: str = ""


def read_claim(published: ResourceClaim) -> Claim:
    """Take a ResourceClaim in. An amount that cannot be read is left out, so that the whole device counts, and is the problem."""
    meta, allocation = published.metadata, published.status.allocation
    problems: list[str] = []
    results = () if allocation is None else allocation.devices.results
    return Claim(
        key=f"{meta.namespace}/{meta.name}",
        uid=meta.uid,
        pods=tuple(PodName(each.uid, f"{meta.namespace}/{each.name}") for each in pods_of(published)),
        extended=meta.annotations.get(EXTENDED_CLAIM) == "true",
        is_allocated=allocation is not None,
        allocated=tuple(_allocated(each, problems) for each in results if not each.admin_access),
        node="" if allocation is None or allocation.node_selector is None else _named_node(allocation.node_selector),
        wanted=_one_of_equals(tuple(_wanted(published))),
        problem="; ".join(problems[:1]),
    )


def _allocated(result: AllocatedDevice, problems: list[str]) -> Allocated:
    key = DeviceKey(sys.intern(result.driver), sys.intern(result.pool), sys.intern(result.device))
    memory = _amount(quantity_of(result.consumed_capacity, "memory"), f"device {key}: consumed memory", problems)
    shares = _amount(quantity_of(result.consumed_capacity, "shares"), f"device {key}: consumed shares", problems)
    return Allocated(key, min(-(-memory // units.MIB), LARGEST_MIB), min(shares, MOST_SHARES))


def _amount(value: Quantity | None, what: str, problems: list[str]) -> int:
    if value is None:
        return 0
    try:
        amount = -int(-units.parse_quantity(str(value)) // 1)
    except units.UnitError as error:
        problems.append(f"{what}: {error}")
        return 0
    if amount < 0:
        problems.append(f"{what}: {value}: below zero")
    return max(amount, 0)


def _named_node(selector: NodeSelector) -> str:
    """The node that a selector names, as kube-scheduler writes it for devices of one node."""
    for term in selector.node_selector_terms:
        for each in term.match_fields:
            if each.key == _NODE_NAME and each.operator == "In" and len(each.values) == 1:
                return sys.intern(each.values[0])
    return ""


def _wanted(published: ResourceClaim) -> list[Wanted]:
    found = []
    for request in published.spec.devices.requests:
        each = request.exactly or next(iter(request.first_available), None)
        if each is None or each.admin_access or each.allocation_mode == _ALL:
            continue
        memory = quantity_of(each.capacity.requests, "memory") if each.capacity is not None else None
        mib = -(-_amount(memory, "", []) // units.MIB)
        found.append(Wanted(each.device_class_name, max(1, min(each.count, MOST_SHARES)), min(mib, LARGEST_MIB)))
    return found


@lru_cache(maxsize=4096)
def _one_of_equals(wanted: tuple[Wanted, ...]) -> tuple[Wanted, ...]:
    return wanted


class CardShare(NamedTuple):
    """What a claim holds of one device."""

    card_ids: tuple[str, ...]
    """Ids under which a node may know the card, the most exact first."""
    mib: int
    """0 for all of the card."""
    allocations: int
    """How many allocations of the default size it stands for."""
    by_uuid: bool
    """Whether one of the ids is the driver's: then a node that knows none of them has not got the card."""


@dataclass(frozen=True, slots=True)
class ClaimUse:
    """What a claim holds of which node."""

    node: str = ""
    """Empty where it holds no accelerator, or where nothing tells of which node."""
    shares: tuple[CardShare, ...] = ()
    unplaced: int = 0
    """Accelerators of which only the node is known."""
    problem: str = ""


NO_USE: Final = ClaimUse()


def use_of(claim: Claim, pools: Pools) -> ClaimUse:
    """What a claim holds; devices that are no accelerators do not matter here."""
    shares: list[CardShare] = []
    problems = [claim.problem] if claim.problem else []
    node, unplaced = "", 0
    for result in claim.allocated:
        device = pools.find(result.device)
        if device is None:
            if pools.is_card_driver(result.device.driver):
                problems.append(f"device {result.device} is in no ResourceSlice: it may be any card of the node")
                unplaced += 1
        elif pools.is_card(device):
            node = node or device.node
            shares.append(_share(result, device, problems))
    node = node or claim.node
    if not shares and not unplaced:
        return NO_USE
    if not node:
        problems.append("nothing tells to which node its devices belong")
    return ClaimUse(node, tuple(shares), unplaced, "; ".join(_first_few(problems)))


def _first_few(problems: Sequence[str]) -> Sequence[str]:
    return problems if len(problems) <= 3 else [*problems[:2], f"and {len(problems) - 2} more"]


def _share(result: Allocated, device: Device, problems: list[str]) -> CardShare:
    ids, by_uuid = device.card_ids, bool(device.uuid or device.parent)
    if result.memory_mib:
        mib = result.memory_mib
        if device.vram_mib and mib > device.vram_mib:
            problems.append(f"device {device.key}: {mib} MiB are consumed of {device.vram_mib}")
            mib = device.vram_mib
        each = max(device.vram_mib // device.most_allocations, 1)
        return CardShare(ids, mib, max(-(-mib // each), 1), by_uuid)
    if result.shares and device.shares and device.vram_mib:
        part = min(result.shares, device.shares)
        if part < result.shares:
            problems.append(f"device {device.key}: {result.shares} shares are consumed of {device.shares}")
        return CardShare(ids, -(-device.vram_mib * part // device.shares), part, by_uuid)
    # A part of a card whose whole is known by its parent alone holds its own memory; a device by itself, all of it.
    return CardShare(ids, device.vram_mib if device.is_part else 0, device.most_allocations, by_uuid)
