"""Places for all pods of a group or for none, and the nodes that come nearest to having them."""

import numpy as np
import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.placement.groups.together import Seat, Unseated, nearest_rows, seat_all
from scheduler.placement.placer import Placer, hold
from scheduler.placement.policies.registry import policy_by_name

GIB = 1024


def fleet(*held_gib: int, cpu_milli: int = 64_000) -> Fleet:
    """A node of two cards of 80 GiB for each number, which is what is held of each of its cards."""
    found = Fleet()
    for at, gib in enumerate(held_gib):
        cards = tuple(Card(f"n{at}-{card}", card, "A100", 80 * GIB) for card in range(2))
        found.upsert_node(GpuNode(f"n{at}", cards, cpu_milli=cpu_milli, memory_mib=2**20))
        if gib:
            found.take(found.row_of[f"n{at}"], (0, 1), (gib * GIB, gib * GIB), plugin=False)
    return found


def asking(gib: int, count: int = 1, cpu_milli: int = 0) -> GpuRequest:
    return GpuRequest(count, vram_mib=gib * GIB, cpu_milli=cpu_milli)


def seated(found: Fleet, *requests: GpuRequest, apart: bool = False) -> list[str] | int:
    """The nodes of the seats, or how many had one where not all do."""
    rows = np.arange(len(found.names))
    held: dict[int, Placement] = {}

    def take(at: int, placement: Placement) -> None:
        hold(found, requests[at], placement)
        held[at] = placement

    def give(at: int) -> None:
        hold(found, requests[at], held.pop(at), -1)

    placer = Placer(found, policy_by_name("bestfit"), check_host=True)
    answer = seat_all(placer, [Seat(request, rows, apart) for request in requests], take, give)
    return answer.seated if isinstance(answer, Unseated) else [placement.node for placement in answer]


@pytest.mark.parametrize(
    ("held_gib", "requests", "expected"),
    [
        pytest.param((0,), [asking(70)] * 2, ["n0", "n0"], id="a card each"),
        pytest.param((0, 0), [asking(30), asking(70, 2)], ["n1", "n0"], id="the largest first"),
        pytest.param((0, 50), [asking(70)] * 3, 2, id="one too many"),
        pytest.param((0,), [asking(10, cpu_milli=40_000)] * 2, 1, id="the processors of the node are counted"),
        pytest.param((), [asking(1)], 0, id="no node"),
        pytest.param((10,), [asking(75)] * 2, 0, id="less memory in all than is asked for: no place is looked for"),
        pytest.param((0,), [GpuRequest(1)] * 3, 0, id="fewer cards in all than are asked for"),
        pytest.param((0,), [GpuRequest(1)] * 2, ["n0", "n0"], id="whole cards"),
    ],
)
def test_all_have_a_place_or_nothing_is_held(
    held_gib: tuple[int, ...], requests: list[GpuRequest], expected: list[str] | int
) -> None:
    found = fleet(*held_gib)
    before = found.dump()
    answer = seated(found, *requests)
    if isinstance(expected, int):
        assert answer == expected
        assert found.dump() == before
    else:
        assert isinstance(answer, list)
        assert sorted(answer) == sorted(expected)
        assert answer[0] == expected[0]


def test_pods_that_must_not_share_a_host_do_not() -> None:
    assert seated(fleet(0, 0), *[asking(10)] * 2, apart=True) == ["n0", "n1"]
    assert seated(fleet(0, 0), *[asking(10)] * 3, apart=True) == 2


@pytest.mark.parametrize(
    ("held_gib", "count", "gib", "expected"),
    [
        pytest.param((70, 20, 50), 2, 70, ["n1"], id="one node, where least must end"),
        pytest.param((70, 20, 50), 4, 70, ["n1", "n2"], id="as few as hold all"),
        pytest.param((70, 20, 50), 8, 30, ["n2", "n0"], id="four a node; n1 has room for two already"),
        pytest.param((70, 20, 50), 7, 70, None, id="more than the cluster holds"),
        pytest.param((0,), 1, 90, None, id="no card is so large"),
    ],
)
def test_the_nodes_that_come_nearest(
    held_gib: tuple[int, ...], count: int, gib: int, expected: list[str] | None
) -> None:
    found = fleet(*held_gib)
    rows = nearest_rows(found, [Seat(asking(gib), np.arange(len(found.names)))] * count)
    names = None if rows is None else [found.names[row] for row in rows]
    if expected is not None and count == 8:
        assert names is not None
        assert len(names) == 2
    else:
        assert names == expected
