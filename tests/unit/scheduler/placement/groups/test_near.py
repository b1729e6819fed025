"""Where the pods of a group come to be near each other, on drawn clusters of racks and blocks."""

import numpy as np
import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.placement.groups.near import Topology, nearest_rows_near, seat_near
from scheduler.placement.groups.together import Seat, Unseated
from scheduler.placement.placer import Placer, hold
from scheduler.placement.policies.registry import policy_by_name

GIB = 1024
RACKS = {"a0": 0, "a1": 0, "b0": 1, "b1": 1, "c0": 2, "c1": 2}
"""Two nodes in each of three racks; a and b are one block."""
BLOCKS = {"a0": 0, "a1": 0, "b0": 0, "b1": 0, "c0": 1, "c1": 1}


def fleet(free: str) -> Fleet:
    """Nodes by name with so many free cards of four: `a0:4 a1:2`."""
    found = Fleet()
    for name, _, cards in (part.partition(":") for part in free.split()):
        node = GpuNode(
            name,
            tuple(Card(f"{name}-{at}", at, "A100", 80 * GIB) for at in range(4)),
            cpu_milli=64_000,
            memory_mib=2**20,
        )
        found.upsert_node(node)
        for at in range(int(cards), 4):
            found.take(found.row_of[name], (at,), (80 * GIB,), plugin=False)
    return found


def codes(found: Fleet, domains: dict[str, int]) -> np.ndarray:
    return np.array([domains.get(name, -1) for name in found.names], np.int64)


def topology(found: Fleet, required: str = "", placed: str = "") -> Topology:
    levels = {"rack": codes(found, RACKS), "block": codes(found, BLOCKS)}
    rows = np.array([found.row_of[name] for name in placed.split()], np.int64)
    return Topology(tuple(levels.values()), levels.get(required), f"one {required}", rows)


def seated(found: Fleet, near: Topology, *requests: GpuRequest) -> list[str] | Unseated:
    rows = np.arange(len(found.names))
    held: dict[int, Placement] = {}

    def take(at: int, placement: Placement) -> None:
        hold(found, requests[at], placement)
        held[at] = placement

    def give(at: int) -> None:
        hold(found, requests[at], held.pop(at), -1)

    before = found.dump()
    placer = Placer(found, policy_by_name("bestfit"), check_host=True)
    answer = seat_near(placer, [Seat(request, rows) for request in requests], near, take, give)
    if isinstance(answer, Unseated):
        assert found.dump() == before, "nothing is held"
        return answer
    return sorted(placement.node for placement in answer)


WHOLE = GpuRequest(1)
NODE = GpuRequest(4)
EMPTY = "a0:4 a1:4 b0:4 b1:4 c0:4 c1:4"


@pytest.mark.parametrize(
    ("free", "requests", "expected"),
    [
        pytest.param(EMPTY, [NODE] * 2, ["a0", "a1"], id="one rack"),
        pytest.param(
            "a0:4 a1:3 b0:4 b1:1 c0:4 c1:4", [NODE] * 2, ["c0", "c1"], id="the only rack with two empty nodes"
        ),
        pytest.param(
            "a0:4 a1:4 b0:2 b1:1 c0:4 c1:4", [WHOLE] * 3, ["b0", "b0", "b1"], id="the rack with the least room"
        ),
        pytest.param("a0:4 a1:0 b0:4 b1:0 c0:4 c1:0", [NODE] * 2, ["a0", "b0"], id="one block where no rack will do"),
        pytest.param("a0:4 a1:0 b0:1 b1:0 c0:4 c1:0", [NODE] * 2, ["a0", "c0"], id="anywhere where no block will do"),
        pytest.param(
            "a0:1 a1:1 b0:3 b1:3 c0:0 c1:0", [WHOLE] * 7, ["a0", *["b0"] * 3, *["b1"] * 3], id="the fuller rack first"
        ),
        pytest.param("x0:4 x1:4 c0:4 c1:4", [NODE] * 2, ["c0", "c1"], id="nodes without labels are near to nothing"),
        pytest.param("x0:4 x1:4", [NODE] * 2, ["x0", "x1"], id="no node has a label"),
        pytest.param(EMPTY, [NODE] + [WHOLE] * 4, ["a0", *["a1"] * 4], id="pods of two kinds"),
        pytest.param(EMPTY, [NODE] * 7, Unseated(0), id="more than there is"),
    ],
)
def test_the_nearest_domain_that_holds_all(
    free: str, requests: list[GpuRequest], expected: list[str] | Unseated
) -> None:
    found = fleet(free)
    assert seated(found, topology(found), *requests) == expected


@pytest.mark.parametrize(
    ("free", "required", "placed", "requests", "expected"),
    [
        pytest.param(EMPTY, "rack", "", [NODE] * 2, ["a0", "a1"], id="there is one"),
        pytest.param(
            "a0:4 a1:0 b0:4 b1:0 c0:4 c1:0", "rack", "", [NODE] * 2, " in one rack", id="no rack is large enough"
        ),
        pytest.param("a0:4 a1:0 b0:4 b1:0 c0:4 c1:0", "block", "", [NODE] * 2, ["a0", "b0"], id="a block is"),
        pytest.param(
            "a0:4 a1:0 b0:4 b1:0 c0:4 c1:4", "block", "", [NODE] * 2, ["c0", "c1"], id="a block, and one rack of it"
        ),
        pytest.param(
            "x0:4 x1:4",
            "rack",
            "",
            [NODE] * 2,
            " in one rack: no node that is open to them has such a label",
            id="no label",
        ),
        pytest.param(EMPTY, "rack", "b0", [WHOLE], ["b0"], id="where the others are"),
        pytest.param("a0:4 a1:4 b0:0 b1:0", "rack", "b0", [WHOLE], " in one rack", id="no room where the others are"),
        pytest.param(
            EMPTY, "rack", "a0 b0", [WHOLE], " in one rack: its other pods are not in one", id="the others are in two"
        ),
    ],
)
def test_a_required_domain_is_kept_or_nothing_is_held(
    free: str, required: str, placed: str, requests: list[GpuRequest], expected: list[str] | str
) -> None:
    found = fleet(free)
    answer = seated(found, topology(found, required, placed), *requests)
    assert (answer.within if isinstance(answer, Unseated) else answer) == expected


def test_a_missing_member_comes_near_the_others_where_it_can() -> None:
    found = fleet("a0:1 a1:1 b0:4 b1:4 c0:4 c1:4")
    assert seated(found, topology(found, placed="c0"), WHOLE) == ["c0"]
    found = fleet("a0:1 a1:1 b0:4 b1:4 c0:0 c1:0")
    assert seated(found, topology(found, placed="b0"), *[WHOLE] * 9) == ["a0", *["b0"] * 4, *["b1"] * 4]


def test_devices_of_a_device_plugin_are_counted() -> None:
    found = Fleet()
    for name in ("a0", "a1", "b0", "b1"):
        node = GpuNode(
            name,
            (Card(f"{name}-0", 0, "A100", 80 * GIB),),
            resource="nvidia.com/gpu",
            cpu_milli=64_000,
            memory_mib=2**20,
        )
        found.upsert_node(node)
    devices = GpuRequest(1, mode=Mode.SLICE, resource="nvidia.com/gpu")
    assert seated(found, topology(found, "rack"), *[devices] * 2) == ["a0", "a1"]
    assert isinstance(seated(found, topology(found, "rack"), *[devices] * 3), Unseated)


@pytest.mark.parametrize(
    ("required", "count", "expected"),
    [("", 2, {"a0", "b0"}), ("rack", 2, {"c0", "c1"}), ("rack", 3, None), ("block", 3, {"a0", "b0", "b1"})],
)
def test_nodes_are_kept_within_one_domain(required: str, count: int, expected: set[str] | None) -> None:
    """The nodes that close for a late group are of no use to it where they are in two racks."""
    found = fleet("a0:4 a1:0 b0:4 b1:1 c0:3 c1:3")
    seats = [Seat(NODE, np.arange(len(found.names)))] * count
    rows = nearest_rows_near(found, seats, topology(found, required))
    assert (None if rows is None else {found.names[row] for row in rows}) == expected
