"""The cheapest mix of cards, and the way there."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoscaler.law.sizing.mix import Variant, cheapest, step

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
        assert step((holding(SMALL, 1), LARGE), 5.0) == (1, 1)

    def test_the_dear_ones_go_first(self) -> None:
        assert step((holding(SMALL, 3), holding(LARGE, 1)), 4.0) == (0, 1)  # a small one costs more for what it does
        dear = replace(LARGE, price=12.0)
        assert step((holding(SMALL, 4), holding(dear, 1)), 4.0) == (4, 0)

    def test_nothing_goes_before_what_takes_its_place_is_ready(self) -> None:
        starting, there = (holding(SMALL, 4), holding(LARGE, 1, 0)), (holding(SMALL, 4), holding(LARGE, 1))
        assert step(starting, 4.0) == (4, 1)
        assert step(there, 4.0) == (0, 1)

    def test_a_small_saving_is_not_worth_a_cold_start(self) -> None:
        almost = replace(LARGE, price=7.5)
        assert step((holding(SMALL, 4), almost), 4.0) == (4, 0)
        assert step((holding(SMALL, 4), replace(LARGE, price=5.0)), 4.0) == (4, 1)

    def test_a_card_that_is_not_to_be_had_is_given_up_for_the_other(self) -> None:
        assert step((SMALL, holding(LARGE, 1, 0)), 4.0) == (0, 1)
        assert step((SMALL, holding(LARGE, 1, 0, missing=1)), 4.0) == (4, 0)


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
        wanted = step(variants, needed)
        serving = sum(min(v.ready, n) * v.capacity for v, n in zip(variants, wanted, strict=True))
        before = sum(v.ready * v.capacity for v in variants)
        assert serving >= min(before, needed) - 1e-6
        for variant, count in zip(variants, wanted, strict=True):
            assert variant.least <= count <= max(variant.upto, variant.replicas)
        variants = [
            replace(v, replicas=n, ready=n, room=None if v.room is None else v.room - (n - v.replicas))
            for v, n in zip(variants, wanted, strict=True)
        ]
    assert step(variants, needed) == wanted
