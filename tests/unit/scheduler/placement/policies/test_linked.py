"""Which cards a pod gets where links are known, in words; `tests/property/scheduler/test_linked_sets.py` has the rule."""

import numpy as np
import pytest

from headroom.domain.links import Matrix
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Order, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import Placer
from scheduler.placement.policies.registry import policy_by_name

BRIDGED = tuple(tuple(0 if a == b else 100 if a // 2 == b // 2 else 12 for b in range(8)) for a in range(8))
"""NVLink bridges between 0 and 1, 2 and 3, and so on."""
MIB = 46_000


def fleet_of(matrix: Matrix, *held: int, slices: int = 1) -> Fleet:
    fleet = Fleet()
    cards = tuple(Card(f"card-{at}", at, "A40", MIB, slices=slices) for at in range(max(len(matrix), 8)))
    node = GpuNode(
        "n", cards, cpu_milli=64_000, memory_mib=2**20, link_gbytes_per_second=matrix,
        resource="nvidia.com/gpu" if slices > 1 else "", sharing=Sharing.TIME_SLICING if slices > 1 else Sharing.EXCLUSIVE,
        allocation=Allocation.DISTRIBUTED,
    )  # fmt: skip
    row = fleet.upsert_node(node)
    for at in held:
        fleet.take(row, [at], [MIB], plugin=False)
    return fleet


def cards_of(fleet: Fleet, request: GpuRequest, policy: str = "headroom") -> tuple[int, ...]:
    placement = Placer(fleet, policy_by_name(policy)).best(request)
    assert placement is not None
    return placement.cards


@pytest.mark.parametrize(
    ("held", "count", "expected"),
    [
        pytest.param((0,), 2, (2, 3), id="two: a bridged pair, not the first two that are free"),
        pytest.param((0,), 1, (1,), id="one: the card that has lost its partner"),
        pytest.param((0, 3, 5), 1, (1,), id="one of several without partners: the first"),
        pytest.param((0, 7), 4, (2, 3, 4, 5), id="four: two whole pairs"),
        pytest.param((0, 2, 4, 6), 2, (1, 3), id="no pair is left: the first two"),
    ],
)
def test_whole_cards_by_their_links(held: tuple[int, ...], count: int, expected: tuple[int, ...]) -> None:
    assert cards_of(fleet_of(BRIDGED, *held), GpuRequest(count, Mode.PINNED)) == expected


def test_without_a_matrix_the_policy_chooses() -> None:
    assert cards_of(fleet_of((), 0), GpuRequest(2, Mode.PINNED)) == (1, 2)


def test_parts_of_cards_go_to_a_linked_pair_and_of_equal_pairs_to_the_one_in_use() -> None:
    fleet = fleet_of(BRIDGED)
    fleet.take(0, [4, 5], [10_000, 10_000], plugin=False)
    assert cards_of(fleet, GpuRequest(2, Mode.PINNED, vram_mib=20_000)) == (4, 5)


def test_a_pod_that_says_which_cards_it_likes_first_gets_those() -> None:
    fleet = fleet_of(BRIDGED)
    fleet.take(0, [0, 3], [10_000, 10_000], plugin=False)
    assert cards_of(fleet, GpuRequest(2, Mode.PINNED, vram_mib=20_000, order=Order.SPREAD_CARDS)) == (1, 2)


def test_in_slice_mode_links_change_nothing() -> None:
    request = GpuRequest(1, Mode.SLICE, vram_mib=9_000, resource="nvidia.com/gpu")
    assert cards_of(fleet_of(BRIDGED, slices=4), request) == cards_of(fleet_of((), slices=4), request)


def test_more_than_sixteen_cards_are_left_to_the_policy() -> None:
    many = tuple(tuple(0 if a == b else 100 if a // 2 == b // 2 else 12 for b in range(18)) for a in range(18))
    fleet = Fleet(width=80)
    cards = tuple(Card(f"card-{at}", at, "A40", MIB) for at in range(18))
    row = fleet.upsert_node(GpuNode("n", cards, cpu_milli=64_000, memory_mib=2**20, link_gbytes_per_second=many))
    fleet.take(row, [0], [MIB], plugin=False)
    assert cards_of(fleet, GpuRequest(2, Mode.PINNED)) == (1, 2)


def test_a_node_with_links_in_a_fleet_of_wide_rows() -> None:
    """The fleet's arrays may be wider than a word has bits."""
    fleet = fleet_of(BRIDGED, 0)
    fleet.grow(16, 100)
    assert cards_of(fleet, GpuRequest(2, Mode.PINNED)) == (2, 3)


def test_sixteen_cards_are_chosen_exactly_and_the_tables_are_shared() -> None:
    from scheduler.placement.policies.linked import best_set, tables_of

    rng = np.random.default_rng(7)
    upper = np.triu(rng.choice([8, 12, 24, 50], (16, 16)), 1)
    matrix = tuple(map(tuple, (upper + upper.T).tolist()))
    chosen = best_set(matrix, 4, 2**16 - 1, unused=2**16 - 1, liked=0)
    tables = tables_of(matrix)
    assert tables is tables_of(tuple(matrix))
    assert tables.worth[chosen] == tables.worth[tables.size == 4].max()
