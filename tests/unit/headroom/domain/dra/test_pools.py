"""Slices put together to pools and nodes."""

import json
from typing import Any

from headroom.domain.dra.classes import Classes
from headroom.domain.dra.devices import DeviceKey, read_slice
from headroom.domain.dra.objects import RESOURCE_SLICE
from headroom.domain.dra.pools import PoolKey, Pools
from tests.fakes.devices import NVIDIA, device, resource_slice

POOL = PoolKey(NVIDIA, "n")


def pools(*slices: dict[str, Any]) -> Pools:
    found = Pools(Classes())
    for each in slices:
        put(found, each)
    return found


def put(known: Pools, published: dict[str, Any]) -> tuple[set[str], set[PoolKey]]:
    return known.apply(published["metadata"]["name"], read_slice(RESOURCE_SLICE.decode(json.dumps(published).encode())))


def devices(known: Pools, node: str = "n") -> dict[str, bool]:
    """Devices of a node, and whether they can be allocated."""
    return {offer.device.key.name: offer.allocatable for offer in known.of_node(node).offers}


def test_a_pool_of_several_slices_is_complete_when_all_are_there() -> None:
    first = resource_slice("n", [device("gpu-0", "GPU-0")], name="a", slices=2)
    known = pools(first)
    assert devices(known) == {"gpu-0": False}
    assert known.of_node("n").problems == ("pool gpu.nvidia.com/n: 1 of 2 ResourceSlices are there",)
    assert put(known, resource_slice("n", [device("gpu-1", "GPU-1")], name="b", slices=2)) == ({"n"}, {POOL})
    assert devices(known) == {"gpu-0": True, "gpu-1": True}
    assert known.of_node("n").problems == ()


def test_of_two_generations_the_newer_counts_and_what_only_the_older_knows_is_still_found() -> None:
    known = pools(
        resource_slice("n", [device("gpu-0", "GPU-0"), device("gpu-1", "GPU-1")], name="old"),
        resource_slice("n", [device("gpu-0", "GPU-new")], name="new", generation=2),
    )
    assert devices(known) == {"gpu-0": True}
    found = known.find(DeviceKey(NVIDIA, "n", "gpu-0")), known.find(DeviceKey(NVIDIA, "n", "gpu-1"))
    assert [each and each.uuid for each in found] == ["GPU-new", "GPU-1"]
    assert known.apply("old", None) == ({"n"}, {POOL})
    assert known.find(DeviceKey(NVIDIA, "n", "gpu-1")) is None


def test_a_device_in_two_slices_makes_its_pool_unsound() -> None:
    known = pools(*(resource_slice("n", [device("gpu-0", "GPU-0")], name=name, slices=2) for name in "ab"))
    assert devices(known) == {"gpu-0": False}
    assert known.of_node("n").problems == ("pool gpu.nvidia.com/n: two ResourceSlices have a device of one name",)


def test_counters_that_do_not_add_up() -> None:
    """A device that consumes more than there is can never be allocated; it is named."""
    counters = [{"name": "gpu-0-counter-set", "counters": {"memory": {"value": "80Gi"}}}]

    def consuming(name: str, of: str, amount: str) -> dict[str, Any]:
        return device(
            name, f"GPU-{name}", consumesCounters=[{"counterSet": of, "counters": {"memory": {"value": amount}}}]
        )

    known = pools(
        resource_slice("n", [], name="counters", slices=2, sharedCounters=counters),
        resource_slice(
            "n", [consuming("a", "gpu-0-counter-set", "80Gi"), consuming("b", "gpu-0-counter-set", "81Gi"), consuming("c", "none", "1")],
            name="devices", slices=2,
        ),
    )  # fmt: skip
    assert devices(known) == {"a": True, "b": False, "c": False}
    assert known.of_node("n").problems == (
        "device gpu.nvidia.com/n/b: it consumes more of gpu-0-counter-set.memory than there is",
        "device gpu.nvidia.com/n/c: it consumes counters of none, which its pool has not",
    )


def test_a_slice_that_moves_to_another_node_changes_both() -> None:
    known = pools(resource_slice("n", [device("gpu-0", "GPU-0")], name="s"))
    moved = resource_slice("m", [device("gpu-0", "GPU-0")], name="s")
    assert put(known, moved) == ({"n", "m"}, {POOL, PoolKey(NVIDIA, "m")})
    assert (devices(known), devices(known, "m")) == ({}, {"gpu-0": True})
    assert put(known, moved) == (set(), set())


def test_devices_that_are_no_accelerators_are_not_a_nodes() -> None:
    known = pools(resource_slice("n", [device("nic-0", kind="nic")], driver="nic.example.com"))
    assert devices(known) == {}
    assert not known.is_card_driver("nic.example.com")
    assert known.is_card_driver(NVIDIA)
