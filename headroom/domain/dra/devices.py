"""One ResourceSlice, read: its devices, what makes of each a card, and what is wrong with it. Pure.

NVIDIA's driver publishes a card as a device with the attributes `uuid`, `type` (gpu, mig, vfio) and `productName` and the capacity
`memory`; a MIG instance that exists has a `uuid` of its own, one that is cut when it is asked for only a `parentUUID`
(dra-driver-nvidia-gpu, cmd/gpu-kubelet-plugin/deviceinfo.go and partitions.go). Other drivers follow the same names as far as they go.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

from headroom import units
from headroom.domain.dra.objects import Capacity, Counter, ResourceSlice, SliceDevice, quantity_of
from headroom.domain.model import LARGEST_MIB, MOST_SLICES
from headroom.wire import Quantity

_WITHDRAWING: Final = ("NoSchedule", "NoExecute")
_OF_ONE_DEVICE: Final = frozenset(
    {"uuid", "parentUUID", "pciBusID", "pcieRoot", "numaNode", "serialNumber", "minor", "index"}
)
_MOST_PROBLEMS: Final = 3

Counters = tuple[tuple[str, tuple[tuple[str, Fraction], ...]], ...]
"""Amounts by counter, by counter set."""


class DeviceKey(NamedTuple):
    """What names a device in the cluster."""

    driver: str
    pool: str
    name: str

    def __str__(self) -> str:
        return "/".join(self)


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a ResourceSlice."""

    key: DeviceKey
    node: str = ""
    """Empty for one that is not tied to a node by name."""
    uuid: str = ""
    parent: str = ""
    """UUID of the card of which it is a part."""
    attributes: Mapping[str, str | int | bool] = field(default_factory=dict, compare=False)
    """Those that many devices have in common, under the names in which they are published."""
    vram_mib: int = 0
    """0 where no capacity `memory` tells it."""
    most_allocations: int = 1
    """How often it can be allocated by who states no amounts."""
    shares: int = 0
    """Capacity `shares`, where the driver counts users and not memory; 0 for none."""
    withdrawn: bool = False
    """A taint keeps pods away from it."""
    consumes: Counters = ()

    @property
    def is_part(self) -> bool:
        """Whether it is a MIG instance."""
        return self.attributes.get("type") == "mig" or self.uuid.startswith("MIG-")

    @property
    def card_ids(self) -> tuple[str, ...]:
        """Ids under which a node may know the card that it is, or is a part of, the most exact first."""
        own = self.uuid or ("" if self.parent else str(self.key))
        return tuple(filter(None, (own, self.parent)))


@dataclass(frozen=True, slots=True)
class Slice:
    """What one ResourceSlice says."""

    name: str
    driver: str
    pool: str
    generation: int
    expected_slices: int
    devices: Mapping[str, Device]
    """By name."""
    counters: Counters = ()
    problems: tuple[str, ...] = ()
    nodes: frozenset[str] = frozenset()


def read_slice(published: ResourceSlice) -> Slice:
    """Take a ResourceSlice in. What cannot be read is left out on the safe side and is among the problems."""
    spec, name = published.spec, published.metadata.name
    driver, pool = sys.intern(spec.driver), sys.intern(spec.pool.name)
    problems: list[str] = []
    devices: dict[str, Device] = {}
    for each in spec.devices:
        if each.name in devices:
            problems.append(f"ResourceSlice {name}: two devices are called {each.name}")
        device = _device(each, DeviceKey(driver, pool, sys.intern(each.name)), spec.node_name, problems)
        devices[device.key.name] = device
    counters = tuple((each.name, _amounts(each.counters)) for each in spec.shared_counters)
    return Slice(
        name, driver, pool, spec.pool.generation, spec.pool.resource_slice_count, devices, counters,
        tuple(problems[:_MOST_PROBLEMS]),
        frozenset(device.node for device in devices.values() if device.node) or frozenset(filter(None, [spec.node_name])),
    )  # fmt: skip


def _device(published: SliceDevice, key: DeviceKey, node: str, problems: list[str]) -> Device:
    attributes = {name: value for name, each in published.attributes.items() if (value := each.value) is not None}
    memory: Capacity | None = quantity_of(published.capacity, "memory")
    vram_mib = 0 if memory is None else _mib(key, memory.value, problems)
    return Device(
        key,
        node=sys.intern(published.node_name or node),
        uuid=str(quantity_of(attributes, "uuid") or ""),
        parent=str(quantity_of(attributes, "parentUUID") or ""),
        attributes=_in_common(tuple(sorted((name, value) for name, value in attributes.items() if not _is_own(name)))),
        vram_mib=vram_mib,
        most_allocations=_most_allocations(key, published, problems) if published.allow_multiple_allocations else 1,
        shares=_whole(key, quantity_of(published.capacity, "shares")),
        withdrawn=any(taint.effect in _WITHDRAWING for taint in published.taints),
        consumes=_consumed(tuple((each.counter_set, _amounts(each.counters)) for each in published.consumes_counters)),
    )


def _is_own(attribute: str) -> bool:
    return attribute.rpartition("/")[2] in _OF_ONE_DEVICE


@lru_cache(maxsize=4096)
def _in_common(items: tuple[tuple[str, str | int | bool], ...]) -> Mapping[str, str | int | bool]:
    """One object for all equal sets of attributes: tens of thousands of devices make a few dozen different ones."""
    return MappingProxyType(dict(items))


@lru_cache(maxsize=4096)
def _consumed(counters: Counters) -> Counters:
    return counters


def _amounts(counters: Mapping[str, Counter]) -> tuple[tuple[str, Fraction], ...]:
    found = []
    for name, counter in sorted(counters.items()):
        try:
            found.append((name, units.parse_quantity(str(counter.value))))
        except units.UnitError:
            found.append((name, Fraction(0)))
    return tuple(found)


def _mib(key: DeviceKey, value: Quantity, problems: list[str]) -> int:
    try:
        mib = units.quantity_to_mib_floor(str(value))
    except units.UnitError as error:
        problems.append(f"device {key}: capacity memory: {error}")
        return 0
    if not 0 <= mib <= LARGEST_MIB:
        problems.append(f"device {key}: capacity memory: {value}: a card has at most {LARGEST_MIB} MiB")
        return 0
    return mib


def _whole(key: DeviceKey, capacity: Capacity | None) -> int:
    try:
        return max(0, min(int(units.parse_quantity(str(capacity.value))), MOST_SLICES)) if capacity is not None else 0
    except units.UnitError:
        return 0


def _most_allocations(key: DeviceKey, published: SliceDevice, problems: list[str]) -> int:
    """How often the device can be allocated by who states no amounts: each time the default of every capacity is consumed, and all
    of it where there is none (consumable_capacity.go, fillEmptyRequest).

    Once where all defaults are 0: then nothing limits its users, and the first may take it all.
    """
    most = MOST_SLICES
    limited = False
    for name, capacity in published.capacity.items():
        policy = capacity.request_policy
        try:
            value = units.parse_quantity(str(capacity.value))
            usual = value if policy is None or policy.default is None else units.parse_quantity(str(policy.default))
        except units.UnitError as error:
            problems.append(f"device {key}: capacity {name}: {error}")
            return 1
        if usual > 0:
            most, limited = min(most, int(value // usual)), True
    return max(most, 1) if limited else 1


def unsound(device: Device, counters: Mapping[str, Mapping[str, Fraction]]) -> str:
    """Why the device can never be allocated by the counters of its pool, in words; empty where it can."""
    for name, amounts in device.consumes:
        there = counters.get(name)
        if there is None:
            return f"device {device.key}: it consumes counters of {name}, which its pool has not"
        for counter, amount in amounts:
            if amount > there.get(counter, 0):
                return f"device {device.key}: it consumes more of {name}.{counter} than there is"
    return ""
