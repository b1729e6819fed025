"""ResourceSlices as drivers publish them, and as none should."""

import json
from typing import Any

import pytest

from headroom.domain.dra.devices import Device, Slice, read_slice
from headroom.domain.dra.objects import RESOURCE_SLICE
from tests.fakes.devices import device, resource_slice

GIB = 1024


def read(*devices: dict[str, Any], **more: Any) -> Slice:
    return read_slice(RESOURCE_SLICE.decode(json.dumps(resource_slice("n", devices, **more)).encode()))


def only(published: dict[str, Any]) -> Device:
    (found,) = read(published).devices.values()
    return found


def test_a_card_of_nvidias_driver() -> None:
    found = only(device("gpu-0", "GPU-0"))
    assert (found.uuid, found.node, found.vram_mib, found.most_allocations) == ("GPU-0", "n", 80 * GIB, 1)
    assert found.card_ids == ("GPU-0",)
    assert found.attributes["type"] == "gpu"
    assert not found.is_part


def test_parts_are_known_by_themselves_or_by_their_card() -> None:
    cut = only(device("gpu-0-mig-1g10gb-0-1", "MIG-0", kind="mig", parent="GPU-0", gib=10))
    assert (cut.card_ids, cut.is_part) == (("MIG-0", "GPU-0"), True)
    not_cut_yet = only(device("gpu-0-mig-1g10gb-0-1", kind="mig", parent="GPU-0", gib=10))
    assert not_cut_yet.card_ids == ("GPU-0",)


def test_names_may_be_qualified_and_a_device_may_have_none() -> None:
    bare = only({"name": "gpu-0"})
    assert (bare.uuid, bare.vram_mib, bare.card_ids) == ("", 0, ("gpu.nvidia.com/n/gpu-0",))
    qualified = only(
        {
            "name": "a", "attributes": {"gpu.example.com/uuid": {"string": "GPU-a"}},
            "capacity": {"gpu.example.com/memory": {"value": "16Gi"}},
        }
    )  # fmt: skip
    assert (qualified.uuid, qualified.vram_mib) == ("GPU-a", 16 * GIB)


@pytest.mark.parametrize(
    ("policy", "more", "allocations"),
    [
        pytest.param({"default": "80Gi", "validRange": {"min": "1Mi"}}, {}, 1, id="--consumable-shares=memory"),
        pytest.param({"default": "0"}, {}, 1, id="--consumable-shares=unlimited: the first may take it all"),
        pytest.param({"default": "0"}, {"shares": {"value": "4", "requestPolicy": {"default": "1"}}}, 4, id="--consumable-shares=4"),
        pytest.param({"default": "20Gi"}, {}, 4, id="a quarter is what one gets without asking"),
        pytest.param({"default": "30Gi"}, {}, 2, id="what is left over is no allocation"),
        pytest.param({}, {}, 1, id="no default is all of it"),
        pytest.param({"default": "20Gi"}, {"cores": {"value": "100", "requestPolicy": {"default": "50"}}}, 2, id="the scarcest decides"),
        pytest.param({"default": "nonsense"}, {}, 1, id="what cannot be read is all of it"),
    ],
)  # fmt: skip
def test_how_often_a_device_can_be_had(policy: dict[str, Any], more: dict[str, Any], allocations: int) -> None:
    """dra-driver-nvidia-gpu, `--consumable-shares` (#850, #423, #1257)."""
    published = device("gpu-0", "GPU-0", policy=policy)
    published["capacity"] |= more
    assert only(published).most_allocations == allocations


@pytest.mark.parametrize(
    ("effect", "withdrawn"), [("NoSchedule", True), ("NoExecute", True), ("None", False), ("", False)]
)
def test_taints_withdraw_a_device(effect: str, withdrawn: bool) -> None:
    assert only(device("gpu-0", "GPU-0", taint=effect)).withdrawn is withdrawn


def test_128_devices_and_a_name_twice() -> None:
    many = read(*(device(f"gpu-{at}", f"GPU-{at}") for at in range(128)))
    assert (len(many.devices), many.problems, many.nodes) == (128, (), frozenset({"n"}))
    twice = read(device("gpu-0", "GPU-0"), device("gpu-0", "GPU-1"))
    assert twice.problems == ("ResourceSlice n-gpu.nvidia.com: two devices are called gpu-0",)


@pytest.mark.parametrize("value", ["many", "-1", "9e30", "1" * 80])
def test_memory_that_cannot_be_is_not_known(value: str) -> None:
    published = device("gpu-0", "GPU-0")
    published["capacity"]["memory"]["value"] = value
    found = read(published)
    assert found.devices["gpu-0"].vram_mib == 0
    assert "device gpu.nvidia.com/n/gpu-0: capacity memory" in found.problems[0]


def test_each_device_may_have_a_node_of_its_own() -> None:
    apart = read(device("a", nodeName="n1"), device("b", nodeName="n2"), nodeName="", perDeviceNodeSelection=True)
    assert apart.nodes == frozenset({"n1", "n2"})
    assert apart.devices["b"].node == "n2"
