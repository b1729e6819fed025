"""The fluid plan on cases small enough to solve in the head."""

import dataclasses
import math

import numpy as np
import pytest

from scheduler.placement.policies.knapsack import HOST_LEVELS, knapsack, knapsack_by_host
from scheduler.placement.policies.plan import (
    Bound,
    Piece,
    PlanInputs,
    PriceTable,
    Several,
    extended,
    face_value,
    place_price,
    reserves,
    solve,
    solve_for_chance,
)


def inputs(
    stock: dict[int, float],
    pieces: list[tuple[float, int, float]],
    *,
    cpu_milli: float = 1e9,
    host_cpu_milli: float = 0.0,
) -> PlanInputs:
    """One pool of cards: {free units: cards}; pieces (expected, units, CPU)."""
    cards = np.zeros((2, 1001))
    for units, count in stock.items():
        cards[1, units] = count
    return PlanInputs(
        stock=cards,
        weight=np.array([0.0, 1.0]),
        cpu_milli=np.array([0.0, cpu_milli]),
        pieces=tuple(Piece(at, expected, (1001, units), cpu) for at, (expected, units, cpu) in enumerate(pieces)),
        host_cpu_milli=host_cpu_milli,
        bound=(),
        several=(),
        cpu_per_unit=0.0,
    )


def value(table: PriceTable, *units: int) -> list[float]:
    return [round(float(table.value[1, each]), 3) for each in units]


def test_a_size_that_comes_in_plenty_lends_a_leftover_its_full_size() -> None:
    table = solve(inputs({1000: 10}, [(100, 600, 0), (100, 1000, 0)]))
    assert value(table, 1000, 600, 599) == [1000.0, 600.0, 0.0]


def test_a_size_that_finds_room_anyway_lends_nothing() -> None:
    # Twenty cards for ten 400s and five 600s: every pod fits, so places are plenty and pods are short.
    table = solve(inputs({1000: 20}, [(10, 400, 0), (5, 600, 0)]))
    assert value(table, 1000, 600, 400, 399, 100) == [0.0, 0.0, 0.0, 0.0, 0.0]


def test_with_cards_short_a_leftover_is_worth_what_it_can_hold() -> None:
    # One card and one half-used card for plenty of 500s: the leftover of 500 is as good as any other place for a 500.
    table = solve(inputs({1000: 1, 500: 1}, [(100, 500, 0)]))
    assert value(table, 1000, 999, 500, 499) == [1000.0, 500.0, 500.0, 0.0]


def test_a_rare_small_size_lends_no_worth_to_many_small_leftovers() -> None:
    # 190s are left in plenty by 810s; a single 190 is to come.
    table = solve(inputs({1000: 50, 190: 30}, [(200, 810, 0), (1, 190, 0)]))
    assert value(table, 190, 810, 1000) == [0.0, 810.0, 810.0]


def test_a_size_that_just_finds_room_lends_a_part_of_its_worth() -> None:
    # Nine 400s for ten leftovers: as expected each finds one, a standard deviation more and one does not.
    plan = inputs({400: 10}, [(9, 400, 0)])
    assert value(solve(plan), 400) == [0.0]
    assert value(solve_for_chance(plan), 400) == [round(400 / 3, 3)]


def test_chance_changes_nothing_where_a_size_is_short_or_in_plenty_anyway() -> None:
    for pods in (2, 100):
        plan = inputs({400: 10}, [(pods, 400, 0)])
        assert np.array_equal(solve_for_chance(plan).value, solve(plan).value)
    assert np.array_equal(solve_for_chance(inputs({400: 10}, [])).value, solve(inputs({400: 10}, [])).value)


def test_cpu_has_a_price_where_it_runs_out_before_the_cards() -> None:
    scarce = solve(inputs({1000: 10}, [(100, 1000, 10_000)], cpu_milli=50_000))
    ample = solve(inputs({1000: 10}, [(100, 1000, 10_000)], cpu_milli=500_000))
    assert scarce.cpu_price[1] == pytest.approx(0.1)  # 1,000 units for 10,000 milli
    assert ample.cpu_price[1] == pytest.approx(0.0)


def test_the_plan_starts_from_the_patterns_of_the_one_before() -> None:
    first = solve(inputs({1000: 30, 300: 5}, [(20, 700, 0), (20, 300, 0), (10, 1000, 0)]))
    again = inputs({1000: 30, 300: 5}, [(20, 700, 0), (20, 300, 0), (10, 1000, 0)])
    warm = PlanInputs(again.stock, again.weight, again.cpu_milli, again.pieces, 0.0, (), (), 0.0, first.patterns)
    assert np.allclose(solve(warm).value, first.value)
    assert first.patterns


def test_without_demand_leftovers_are_worth_their_size() -> None:
    assert np.array_equal(solve(inputs({1000: 3}, [])).value, face_value(np.array([0.0, 1.0])).value)


def best_by_hand(room: int, level: float = math.inf) -> int:
    """Of all ways to cut 320s, 470s and 810s worth 300, 470 and 700, which need 4, 11 and 3 levels of the host."""
    return max(
        a * 300 + b * 470 + c * 700
        for a in range(4)
        for b in range(3)
        for c in range(2)
        if a * 320 + b * 470 + c * 810 <= room and a * 4 + b * 11 + c * 3 <= level
    )


def test_knapsack_against_all_combinations() -> None:
    sizes, gain = np.array([[320], [470], [810]]), np.array([[300.0], [470.0], [700.0]])
    best, last = knapsack(sizes, gain)
    for room in range(0, 1001, 10):
        assert best[0, room] == pytest.approx(best_by_hand(room))
    assert last[0, 319] == -1


def test_knapsack_by_host_against_all_combinations() -> None:
    sizes, gain, need = np.array([[320], [470], [810]]), np.array([[300.0], [470.0], [700.0]]), np.array([4, 11, 3])
    unlimited, _ = knapsack(sizes, gain)
    best = knapsack_by_host(sizes, gain, need, unlimited)
    for level in range(HOST_LEVELS - 1):
        for room in range(0, 1001, 10):
            assert best[0, room, level] == pytest.approx(best_by_hand(room, level))
    assert np.array_equal(best[:, :, -1], unlimited)


def test_a_leftover_is_worth_no_more_than_the_cpu_and_memory_beside_it_allow() -> None:
    plan = inputs({1000: 10}, [(100, 500, 4_000)])
    plan = dataclasses.replace(plan, pieces=(dataclasses.replace(plan.pieces[0], memory_mib=6 * 1024.0),))
    table = solve(plan)
    pools, units = np.ones((6, 2), np.int64), np.array([[1000, 500]] * 6)
    cpu_milli = np.array([8_000, 7_999, 3_999, 8_000, 8_000, 10**9])
    memory_mib = np.array([12 * 1024, 12 * 1024, 12 * 1024, 12 * 1024 - 1, 0, 10**9])
    assert table.card_worth(pools, units, cpu_milli, memory_mib).tolist() == [
        [1000.0, 500.0], [500.0, 500.0], [0.0, 0.0], [500.0, 500.0], [0.0, 0.0], [1000.0, 500.0],
    ]  # fmt: skip


def test_a_pod_that_needs_more_cpu_than_levels_tell_apart_fits_where_there_is_plenty() -> None:
    table = solve(inputs({1000: 10}, [(100, 1000, 80_000)]))
    pools, units = np.ones((2, 1), np.int64), np.full((2, 1), 1000)
    worth = table.card_worth(pools, units, np.array([20_000, 90_000]), np.array([0, 0]))
    assert worth.tolist() == [[0.0], [1000.0]]


def test_confined_demand_is_poured_over_its_pools_until_they_level() -> None:
    stock = np.zeros((4, 1001))
    stock[1:, 1000] = 10.0
    plan = PlanInputs(
        stock,
        np.array([0.0, 1.0, 1.0, 1.0]),
        np.full(4, 1e9),
        (),
        0.0,
        (Bound(4.0, (1001, 1000, 1001, 1001), 0.0), Bound(6.0, (1001, 1000, 1000, 1001), 0.0)),
        (),
        0.0,
    )
    worth = reserves(plan)
    # 4 whole cards on pool 1 only, then 6 more on pools 1 and 2: both end at 5 of 10 cards
    assert worth[:, 1000].tolist() == pytest.approx([0.0, 500.0, 500.0, 0.0])
    assert worth[1, 999] == pytest.approx(0.5 * 0.5 * 999)  # no whole card, half the price is on units


def test_a_place_for_several_cards_is_dearer_the_more_of_them_are_asked_for() -> None:
    weight = np.array([0.0, 1.0])
    few, many = (Several(8, (1001, 1000), expected, slots=100.0) for expected in (1.0, 50.0))
    assert place_price(many, weight) == pytest.approx(50 * place_price(few, weight))
    assert place_price(Several(8, (1001, 1000), 5.0, slots=0.0), weight) == 0.0


def test_a_table_is_extended_by_pools_that_came_later() -> None:
    pods = Several(2, (1001, 1000), 1.0, 1.0)
    by_host = np.zeros((2, 1001, HOST_LEVELS))
    table = PriceTable(np.array([0.0, 1.0]), by_host, by_host, np.ones((2, 1001)), np.ones(2), ((pods, 7.0),), 3.0)
    longer = extended(table, np.array([0.0, 0.8, 2.0]))
    assert longer.weight.tolist() == [0.0, 1.0, 2.0]  # what is known keeps its weight until the next plan
    assert longer.value[:, 1000].tolist() == [0.0, 0.0, 2000.0]
    assert longer.reserve[:, 1000].tolist() == [1.0, 1.0, 0.0]
    assert longer.several[0][0].units == (1001, 1000, 1001)
