"""The cheapest mix of cards, and the way there."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.law.sizing.mix import Need, Variant, cheapest, cheapest_of, step

SMALL = Variant(price=2.0, capacity=1.0, replicas=0, ready=0)
LARGE = Variant(price=7.0, capacity=4.0, replicas=0, ready=0)


def holding(variant: Variant, replicas: int, ready: int | None = None, **more: int) -> Variant:
    return replace(variant, replicas=replicas, ready=replicas if ready is None else ready, **more)


@pytest.mark.parametrize(
    ("variants", "needed", "counts"),
    [
        pytest.param((SMALL, LARGE), 1.0, (1, 0), id="a small one for a small load"),
        pytest.param((SMALL, LARGE), 4.0, (0, 1), id="a large one does more for its price"),
        pytest.param((SMALL, LARGE), 5.0, (1, 1), id="the rest on a small one"),
        pytest.param((SMALL, LARGE), 7.5, (0, 2), id="a large one that is not full is cheaper than four small ones"),
        pytest.param((SMALL, replace(LARGE, room=0)), 5.0, (5, 0), id="no large card is to be had"),
        pytest.param((SMALL, holding(LARGE, 2, 1, missing=1)), 8.0, (4, 1), id="one large one found no node"),
        pytest.param((replace(SMALL, least=2), LARGE), 6.0, (2, 1), id="a minimum of its own"),
        pytest.param((replace(SMALL, most=1), replace(LARGE, most=1)), 9.0, (1, 1), id="not enough: all that there is"),
        pytest.param((SMALL, LARGE), 0.0, (0, 0), id="nothing"),
    ],
)
def test_the_cheapest_mix(variants: tuple[Variant, ...], needed: float, counts: tuple[int, ...]) -> None:
    assert cheapest(variants, needed) == counts


def test_a_price_or_a_capacity_of_nothing_is_refused() -> None:
    for bad in (replace(SMALL, price=0.0), replace(SMALL, capacity=-1.0), replace(SMALL, price=float("nan"))):
        with pytest.raises(ValueError, match="must be above 0"):
            cheapest((bad, LARGE), 1.0)


class TestOnTheWay:
    def test_what_is_missing_is_asked_for_at_once(self) -> None:
        assert step((holding(SMALL, 1), LARGE), Need(5.0)) == (1, 1)

    def test_the_dear_ones_go_first(self) -> None:
        assert step((holding(SMALL, 3), holding(LARGE, 1)), Need(4.0)) == (
            0,
            1,
        )  # a small one costs more for what it does
        dear = replace(LARGE, price=12.0)
        assert step((holding(SMALL, 4), holding(dear, 1)), Need(4.0)) == (4, 0)

    def test_nothing_goes_before_what_takes_its_place_is_ready(self) -> None:
        starting, there = (holding(SMALL, 4), holding(LARGE, 1, 0)), (holding(SMALL, 4), holding(LARGE, 1))
        assert step(starting, Need(4.0)) == (4, 1)
        assert step(there, Need(4.0)) == (0, 1)

    def test_a_small_saving_is_not_worth_a_cold_start(self) -> None:
        almost = replace(LARGE, price=7.5)
        assert step((holding(SMALL, 4), almost), Need(4.0)) == (4, 0)
        assert step((holding(SMALL, 4), replace(LARGE, price=5.0)), Need(4.0)) == (4, 1)

    def test_a_card_that_is_not_to_be_had_is_given_up_for_the_other(self) -> None:
        assert step((SMALL, holding(LARGE, 1, 0)), Need(4.0)) == (0, 1)
        assert step((SMALL, holding(LARGE, 1, 0, missing=1)), Need(4.0)) == (4, 0)

    def test_one_large_one_may_be_enough_where_small_ones_need_spare_ones(self) -> None:
        """The law asks for eight small ones, or for one large one that does as much as four of them."""
        need = Need(8.0, (8, 1))
        assert cheapest_of((SMALL, LARGE), need) == (0, 1)
        assert cheapest_of((SMALL, replace(LARGE, room=0)), need) == (8, 0)
        assert step((holding(SMALL, 1), holding(LARGE, 2)), need) == (0, 1)
        assert step((holding(SMALL, 1), LARGE), need) == (1, 1)
        assert step((holding(SMALL, 1), holding(LARGE, 1, 0)), need) == (1, 1)

    def test_a_little_more_load_is_no_reason_to_exchange_what_is_there(self) -> None:
        """Three small ones and a large one cost 13; for one unit more two large ones cost 14, one more small one 15."""
        assert step((holding(SMALL, 3), holding(LARGE, 1)), Need(8.0)) == (4, 1)
        assert step((holding(SMALL, 3), replace(holding(LARGE, 1), price=5.0)), Need(8.0)) == (3, 2)


VARIANTS = st.lists(
    st.builds(
        lambda price, capacity, replicas, share, room, least: Variant(
            price, capacity, replicas, round(replicas * share), room, min(least, replicas), max(replicas, 8)
        ),
        st.floats(0.5, 10), st.floats(0.3, 6), st.integers(0, 6), st.floats(0, 1), st.none() | st.integers(0, 6), st.integers(0, 2),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(deadline=None)
@given(VARIANTS, st.floats(0, 40))
def test_no_mix_is_cheaper(variants: list[Variant], needed: float) -> None:
    found = cheapest(variants, needed)

    def does(counts: tuple[int, ...]) -> float:
        return sum(n * variant.capacity for n, variant in zip(counts, variants, strict=True))

    def costs(counts: tuple[int, ...]) -> float:
        return sum(n * variant.price for n, variant in zip(counts, variants, strict=True))

    every = list(itertools.product(*(range(variant.least, variant.upto + 1) for variant in variants)))
    enough = [counts for counts in every if does(counts) >= needed]
    assert found in every
    if enough:
        assert does(found) >= needed - 1e-6
        assert costs(found) <= min(map(costs, enough)) + 1e-6
    else:
        assert does(found) >= max(map(does, every)) - 1e-6


@settings(deadline=None)
@given(VARIANTS, st.floats(0, 40))
def test_it_settles_and_keeps_what_serves_on_the_way(variants: list[Variant], needed: float) -> None:
    """Every replica asked for becomes ready before the next step."""
    for _ in range(6):
        wanted = step(variants, Need(needed))
        serving = sum(min(v.ready, n) * v.capacity for v, n in zip(variants, wanted, strict=True))
        before = sum(v.ready * v.capacity for v in variants)
        assert serving >= min(before, needed) - 1e-6
        for variant, count in zip(variants, wanted, strict=True):
            assert variant.least <= count <= max(variant.upto, variant.replicas)
        variants = [
            replace(v, replicas=n, ready=n, room=None if v.room is None else v.room - (n - v.replicas))
            for v, n in zip(variants, wanted, strict=True)
        ]
    assert step(variants, Need(needed)) == wanted


def costs(variants: list[Variant], counts: tuple[int, ...]) -> float:
    return sum(n * variant.price for n, variant in zip(counts, variants, strict=True))


@settings(deadline=None)
@given(VARIANTS, st.floats(0, 40), st.floats(0, 10))
def test_more_load_costs_no_less(variants: list[Variant], needed: float, more: float) -> None:
    if sum(variant.upto * variant.capacity for variant in variants) > needed + more:
        less, much = cheapest(variants, needed), cheapest(variants, needed + more)
        assert costs(variants, much) >= costs(variants, less) - 1e-6


NEEDS = st.builds(Need, st.floats(0, 40), st.lists(st.none() | st.integers(0, 8), min_size=3, max_size=3).map(tuple))


@settings(deadline=None)
@given(VARIANTS, NEEDS)
def test_the_goal_is_no_dearer_than_any_variant_alone(variants: list[Variant], need: Need) -> None:
    found = cheapest_of(variants, need)
    for at, (variant, count) in enumerate(zip(variants, need.alone, strict=False)):
        if count is not None and count <= variant.upto:
            alone = tuple(max(v.least, count if at == of else 0) for of, v in enumerate(variants))
            assert costs(variants, found) <= costs(variants, alone) + 1e-6
            assert need.is_met(variants, found)
    for variant, count in zip(variants, found, strict=True):
        assert variant.least <= count <= variant.upto


@settings(deadline=None)
@given(VARIANTS, st.lists(NEEDS, min_size=3, max_size=10))
def test_with_loads_that_come_and_go_it_settles_within_a_tenth_of_the_cheapest(
    variants: list[Variant], needs: list[Need]
) -> None:
    for need in needs:
        for _ in range(4):
            wanted = step(variants, need)
            variants = [
                replace(v, replicas=n, ready=n, room=None if v.room is None else v.room - (n - v.replicas))
                for v, n in zip(variants, wanted, strict=True)
            ]
        assert costs(variants, wanted) <= 1.1 * costs(variants, cheapest_of(variants, need)) + 1e-6
        assert step(variants, need) == wanted
