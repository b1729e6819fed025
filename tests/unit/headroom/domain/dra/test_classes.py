"""What a DeviceClass may mean, and which one serves an extended resource."""

import json
from typing import Any

import pytest

from headroom.domain.dra.classes import Classes, read_class
from headroom.domain.dra.devices import Device, DeviceKey
from headroom.domain.dra.objects import DEVICE_CLASS
from tests.fakes.devices import device_class

GPU = "nvidia.com/gpu"


def device_of(driver: str = "gpu.nvidia.com", **attributes: Any) -> Device:
    return Device(DeviceKey(driver, "n", "d"), attributes=attributes)


def classes(*published: dict[str, Any]) -> Classes:
    found = Classes()
    for each in published:
        found.apply(each["metadata"]["name"], read_class(DEVICE_CLASS.decode(json.dumps(each).encode())))
    return found


def with_expression(text: str) -> dict[str, Any]:
    found = device_class(resource=GPU)
    found["spec"]["selectors"] = [{"cel": {"expression": text}}]
    return found


@pytest.mark.parametrize(
    ("expression", "device", "may"),
    [
        ("device.driver == 'gpu.nvidia.com'", device_of(), True),
        ("device.driver == 'gpu.nvidia.com'", device_of("nic.example.com"), False),
        ('device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].type == "gpu"', device_of(type="gpu"), True),
        ('device.driver == "gpu.nvidia.com" && device.attributes["gpu.nvidia.com"].type == "gpu"', device_of(type="mig"), False),
        ("device.attributes['gpu.nvidia.com'].type == 'gpu'", device_of(**{"gpu.nvidia.com/type": "mig"}), False),
        ("device.attributes['gpu.nvidia.com'].type == 'gpu'", device_of("other.example.com", type="mig"), True),
        ("device.attributes['gpu.nvidia.com'].shared == true", device_of(shared=False), False),
        ("device.attributes['gpu.nvidia.com'].index == 3", device_of(index=4), False),
        # What is not read may mean any device.
        ("device.driver == 'other' || device.driver == 'gpu.nvidia.com'", device_of("nic"), True),
        ("!(device.driver == 'gpu.nvidia.com')", device_of(), True),
        ("device.driver == 'other' ? true : false", device_of(), True),
        ("device.driver == 'gpu.nvidia.com' && (device.driver == 'x' || true)", device_of("nic"), False),
        ("device.attributes['gpu.nvidia.com'].productName.startsWith('A && B')", device_of(productName="L4"), True),
        ("", device_of(), True),
    ],
)  # fmt: skip
def test_selectors(expression: str, device: Device, may: bool) -> None:
    assert classes(with_expression(expression)).resource_of(device) == (GPU if may else "")


def test_of_two_classes_for_a_resource_the_newer_serves_it_and_of_equally_old_ones_the_lower_name() -> None:
    """As kube-scheduler's extendedresourcecache does it."""
    old, new = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"
    one = device_class("b", GPU, "b.example.com", "", old)
    assert classes(one, device_class("c", GPU, "c.example.com", "", new)).resource_of(device_of("c.example.com")) == GPU
    assert classes(device_class("a", GPU, "a.example.com", "", old), one).resource_of(device_of("a.example.com")) == GPU
    assert classes(one, device_class("a", GPU, "a.example.com", "", old)).resource_of(device_of("b.example.com")) == ""


def test_only_a_change_of_who_serves_what_is_one() -> None:
    found = Classes()
    serving = read_class(DEVICE_CLASS.decode(json.dumps(device_class(resource=GPU)).encode()))
    idle = read_class(DEVICE_CLASS.decode(json.dumps(device_class("mig")).encode()))
    assert [found.apply("gpu", serving), found.apply("gpu", serving), found.apply("mig", idle), found.apply("gpu", None)] == [
        True, False, False, True,
    ]  # fmt: skip


def test_what_is_an_accelerator() -> None:
    known = classes(device_class("x", GPU, "gpu.example.com", ""))
    assert known.is_card(device_of("gpu.nvidia.com"))
    assert known.is_card(device_of("gpu.example.com"))
    assert known.is_card(Device(DeviceKey("hami.example.com", "n", "d"), uuid="GPU-1"))
    assert not known.is_card(device_of("nic.example.com"))
