"""The ResourceSlices of the cluster, put together to pools and nodes. Pure.

A pool counts as of its newest generation, and is complete when it has as many slices of that as they say. kube-scheduler allocates
nothing from an incomplete pool, but what was allocated stays: a device that only older slices know is still found.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from headroom.domain.dra.classes import Classes
from headroom.domain.dra.devices import Device, DeviceKey, Slice, unsound


class PoolKey(NamedTuple):
    driver: str
    pool: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A device of a node that is an accelerator."""

    device: Device
    resource: str
    """The extended resource for which kube-scheduler may allocate it; empty for none."""
    allocatable: bool
    """Whether kube-scheduler may allocate it at all: its pool is complete and sound."""


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """The accelerators that ResourceSlices say a node has."""

    offers: tuple[Offer, ...] = ()
    problems: tuple[str, ...] = ()
    more: bool = False
    """Whether slices of one of its pools are missing, which may have more of its devices."""


NO_DEVICES = NodeDevices()


class Pools:
    """Slices by name, and the pools and nodes they make up."""

    def __init__(self, classes: Classes) -> None:
        self._classes = classes
        self._slices: dict[str, Slice] = {}
        self._pools: dict[PoolKey, dict[str, Slice]] = {}
        self._of_node: dict[str, dict[PoolKey, int]] = {}
        """How many slices of each pool speak of a node."""

    def apply(self, name: str, now: Slice | None) -> tuple[set[str], set[PoolKey]]:
        """Take in a slice, or its end; the nodes and pools of which something changed."""
        before = self._slices.pop(name, None)
        if before is not None:
            self._note(before, -1)
        if now is not None:
            self._slices[name] = now
            self._note(now, 1)
        if before == now:
            return set(), set()
        changed = [each for each in (before, now) if each is not None]
        pools = {PoolKey(each.driver, each.pool) for each in changed}
        nodes = {node for each in changed for node in each.nodes}
        for pool in pools:  # a new generation ends devices of slices that did not change
            nodes |= {node for each in self._pools.get(pool, {}).values() for node in each.nodes}
        return nodes, pools

    def _note(self, each: Slice, sign: int) -> None:
        pool = PoolKey(each.driver, each.pool)
        here = self._pools.setdefault(pool, {})
        if sign > 0:
            here[each.name] = each
        else:
            here.pop(each.name, None)
            if not here:
                del self._pools[pool]
        for node in each.nodes:
            pools = self._of_node.setdefault(node, {})
            pools[pool] = pools.get(pool, 0) + sign
            if not pools[pool]:
                del pools[pool]
            if not pools:
                del self._of_node[node]

    def nodes(self) -> Iterable[str]:
        """Nodes of which slices speak."""
        return self._of_node.keys()

    def find(self, key: DeviceKey) -> Device | None:
        """A device by its key, as the newest slice that knows it has it."""
        found = (
            (each.generation, each.devices[key.name])
            for each in self._pools.get(PoolKey(key.driver, key.pool), {}).values()
            if key.name in each.devices
        )
        return max(found, key=lambda entry: entry[0], default=(0, None))[1]

    def pools_of(self, node: str) -> list[PoolKey]:
        """The pools of which slices speak of a node."""
        return list(self._of_node.get(node, ()))

    def is_card(self, device: Device) -> bool:
        """Whether a device is an accelerator."""
        return self._classes.is_card(device)

    def is_card_driver(self, driver: str) -> bool:
        """Whether devices of a driver are accelerators, as far as anything tells."""
        if driver in self._classes.drivers():
            return True
        slices = (each for each in self._slices.values() if each.driver == driver)
        return any(self._classes.is_card(device) for each in slices for device in each.devices.values())

    def of_node(self, node: str) -> NodeDevices:
        """The accelerators of a node."""
        pools = self._of_node.get(node)
        if not pools:
            return NO_DEVICES
        offers: list[Offer] = []
        problems: list[str] = []
        more = False
        for pool in pools:
            found = list(self._offers(pool, node, problems))
            offers += found
            if found:
                current = self._current(pool)
                more = more or len(current) < _expected(current)
                problems += (text for each in self._pools[pool].values() for text in each.problems)
        return NodeDevices(tuple(offers), tuple(dict.fromkeys(problems)), more)

    def _current(self, pool: PoolKey) -> list[Slice]:
        """The pool's slices of its newest generation."""
        slices = self._pools[pool].values()
        newest = max(each.generation for each in slices)
        return [each for each in slices if each.generation == newest]

    def _offers(self, pool: PoolKey, node: str, problems: list[str]) -> Iterator[Offer]:
        current = self._current(pool)
        found = {
            device.key: device
            for each in current
            for device in each.devices.values()
            if device.node == node and self._classes.is_card(device)
        }
        if not found:
            return
        complete, words = _judged(pool, current)
        problems += [words] if words else []
        counters = {name: dict(amounts) for each in current for name, amounts in each.counters}
        for device in found.values():
            wrong = unsound(device, counters) if device.consumes else ""
            problems += [wrong] if wrong else []
            yield Offer(device, self._classes.resource_of(device), complete and not wrong)


def _expected(slices: list[Slice]) -> int:
    """How many slices a pool has by its own words."""
    return max(each.expected_slices for each in slices)


def _judged(pool: PoolKey, slices: list[Slice]) -> tuple[bool, str]:
    """Whether devices of the pool can be allocated, and what is wrong with it."""
    name = f"pool {pool.driver}/{pool.pool}"
    expected = _expected(slices)
    if len(slices) < expected:
        return False, f"{name}: {len(slices)} of {expected} ResourceSlices are there"
    devices = [device for each in slices for device in each.devices]
    if len(devices) > len(set(devices)):
        return False, f"{name}: two ResourceSlices have a device of one name"
    return True, ""
