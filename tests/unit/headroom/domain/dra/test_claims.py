"""What ResourceClaims hold, whatever their drivers write."""

import json
from typing import Any

import pytest

from headroom.domain.dra.claims import ClaimUse, Wanted, read_claim, use_of
from headroom.domain.dra.classes import Classes, read_class
from headroom.domain.dra.devices import read_slice
from headroom.domain.dra.objects import DEVICE_CLASS, RESOURCE_CLAIM, RESOURCE_SLICE
from headroom.domain.dra.pools import Pools
from tests.fakes.devices import claim, device, device_class, resource_slice, result

GIB = 1024
SHARES = {"shares": {"value": "4", "requestPolicy": {"default": "1"}}}


def pools() -> Pools:
    classes = Classes()
    classes.apply(
        "x",
        read_class(
            DEVICE_CLASS.decode(json.dumps(device_class("x", "nvidia.com/gpu", "gpu.example.com", "")).encode())
        ),
    )
    found = Pools(classes)
    shared = device("shared", "GPU-1", policy={"default": "0"})
    shared["capacity"] |= SHARES
    listed = [
        device("gpu-0", "GPU-0"),
        shared,
        device("memory", "GPU-2", policy={"default": "20Gi"}),
        device("part", kind="mig", parent="GPU-3", gib=10),
        device("cut", "MIG-4", kind="mig", parent="GPU-4", gib=10),
    ]
    for each in (resource_slice("n", listed), resource_slice("n", [{"name": "bare"}], driver="gpu.example.com")):
        found.apply(each["metadata"]["name"], read_slice(RESOURCE_SLICE.decode(json.dumps(each).encode())))
    return found


def use(published: dict[str, Any]) -> ClaimUse:
    return use_of(read_claim(RESOURCE_CLAIM.decode(json.dumps(published).encode())), pools())


def shares(*results: dict[str, Any]) -> list[tuple[Any, ...]]:
    found = use(claim("c", results))
    assert (found.node, found.problem, found.unplaced) == ("n", "", 0)
    return [tuple(share) for share in found.shares]


@pytest.mark.parametrize(
    ("name", "consumed", "held"),
    [
        pytest.param("gpu-0", None, (("GPU-0",), 0, 1, True), id="all of the card"),
        pytest.param("memory", {"memory": "20Gi"}, (("GPU-2",), 20 * GIB, 1, True), id="consumed memory"),
        pytest.param(
            "memory", {"gpu.nvidia.com/memory": "30Gi"}, (("GPU-2",), 30 * GIB, 2, True), id="qualified; as much as two"
        ),
        pytest.param("memory", {"memory": "1048577"}, (("GPU-2",), 2, 1, True), id="bytes are rounded up"),
        pytest.param("shared", {"memory": "0", "shares": "1"}, (("GPU-1",), 20 * GIB, 1, True), id="a share of four"),
        pytest.param("shared", {"memory": "0"}, (("GPU-1",), 0, 4, True), id="no amount is all of it"),
        pytest.param("part", None, (("GPU-3",), 10 * GIB, 1, True), id="a part that is known by its card"),
        pytest.param("cut", None, (("MIG-4", "GPU-4"), 10 * GIB, 1, True), id="a part that a node may know by itself"),
    ],
)
def test_a_result_holds(name: str, consumed: dict[str, str] | None, held: tuple[Any, ...]) -> None:
    assert shares(result(name, "n", consumed=consumed)) == [held]


def test_a_device_without_a_uuid_is_known_by_its_name() -> None:
    assert shares(result("bare", "n", driver="gpu.example.com")) == [(("gpu.example.com/n/bare",), 0, 1, False)]


def test_several_results_and_one_for_an_administrator() -> None:
    assert len(shares(result("gpu-0", "n"), result("memory", "n"), result("cut", "n", adminAccess=True))) == 2


@pytest.mark.parametrize(
    ("published", "expected"),
    [
        pytest.param(claim("c"), ClaimUse(), id="not allocated"),
        pytest.param(claim("c", [result("nic-0", "n", driver="nic.example.com")], node="n"), ClaimUse(), id="no accelerator"),
        pytest.param(
            claim("c", [result("gone", "n")], node="n"),
            ClaimUse("n", (), 1, "device gpu.nvidia.com/n/gone is in no ResourceSlice: it may be any card of the node"),
            id="a device that nobody publishes",
        ),
        pytest.param(
            claim("c", [result("gone", "n")]),
            ClaimUse(
                "", (), 1,
                "device gpu.nvidia.com/n/gone is in no ResourceSlice: it may be any card of the node;"
                " nothing tells to which node its devices belong",
            ),
            id="of an unknown node",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_found(published: dict[str, Any], expected: ClaimUse) -> None:
    assert use(published) == expected


@pytest.mark.parametrize(
    ("name", "consumed", "mib", "words"),
    [
        ("memory", {"memory": "81Gi"}, 80 * GIB, "82944 MiB are consumed of 81920"),
        ("shared", {"shares": "5"}, 80 * GIB, "5 shares are consumed of 4"),
        ("gpu-0", {"memory": "plenty"}, 0, "consumed memory: 'plenty' is not a quantity"),
        ("gpu-0", {"memory": "-5"}, 0, "consumed memory: -5: below zero"),
    ],
)
def test_amounts_that_cannot_be(name: str, consumed: dict[str, str], mib: int, words: str) -> None:
    found = use(claim("c", [result(name, "n", consumed=consumed)]))
    assert found.shares[0].mib == mib
    assert words in found.problem


def test_what_a_claim_asks_for() -> None:
    requests: list[dict[str, Any]] = [
        {"name": "a", "exactly": {"deviceClassName": "gpu.nvidia.com", "allocationMode": "ExactCount", "count": 2}},
        {"name": "b", "firstAvailable": [{"name": "x", "deviceClassName": "small", "capacity": {"requests": {"memory": "20Gi"}}},
                                         {"name": "y", "deviceClassName": "large"}]},
        {"name": "c", "exactly": {"deviceClassName": "admin", "adminAccess": True}},
    ]  # fmt: skip
    found = read_claim(RESOURCE_CLAIM.decode(json.dumps(claim("c", requests=requests)).encode()))
    assert found.wanted == (Wanted("gpu.nvidia.com", 2, 0), Wanted("small", 1, 20 * GIB))


def test_whose_a_claim_is() -> None:
    shared = read_claim(RESOURCE_CLAIM.decode(json.dumps(claim("c", [], pods=[("p", "u"), ("q", "v")])).encode()))
    assert ([tuple(each) for each in shared.pods], shared.extended) == ([("u", "default/p"), ("v", "default/q")], False)
    made = read_claim(RESOURCE_CLAIM.decode(json.dumps(claim("c", pods=[("p", "u")], extended=True)).encode()))
    assert ([tuple(each) for each in made.pods], made.extended, made.is_allocated) == (
        [("u", "default/p")],
        True,
        False,
    )
