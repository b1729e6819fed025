"""Variants in one unit: what they are worth, and their pods."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.law.inputs import PodFacts
from autoscaler.law.sizing.prices import Cost
from autoscaler.law.sizing.worth import in_units, learned, price_on, whole

SLOW, FAST = Cost(0.0004, 0.002, 30.0), Cost(0.0001, 0.0005, 60.0)


def test_a_worth_moves_slowly_to_what_a_request_costs_on_either() -> None:
    worth: tuple[float, ...] = (1.0, 5.0)
    once = learned(worth, [SLOW, FAST], 1000, 100)
    assert once == pytest.approx((1.0, 4.975))
    for _ in range(400):
        worth = learned(worth, [SLOW, FAST], 1000, 100)
    assert worth == pytest.approx((1.0, 4.0), abs=0.001)


@pytest.mark.parametrize(
    ("costs", "lengths"),
    [
        pytest.param([SLOW, None], (1000, 100), id="the other card has no price yet"),
        pytest.param([None, FAST], (1000, 100), id="the first card has no price yet"),
        pytest.param([SLOW, FAST], (0, 0), id="no length of a request is known"),
    ],
)
def test_what_is_not_known_changes_no_worth(costs: list[Cost | None], lengths: tuple[float, float]) -> None:
    assert learned((1.0, 5.0), costs, *lengths) == (1.0, 5.0)


def test_a_price_is_that_of_the_card_or_of_another_by_what_they_are_worth() -> None:
    assert price_on(0, (1.0, 4.0), [SLOW, FAST]) == SLOW
    assert price_on(1, (1.0, 4.0), [SLOW, FAST]) == FAST
    assert price_on(0, (1.0, 4.0), [None, FAST]) == SLOW._replace(full_batch=60.0)
    assert price_on(1, (1.0, 4.0), [SLOW, None]) == FAST._replace(full_batch=30.0)
    assert price_on(0, (1.0, 4.0), [None, None]) is None


@pytest.mark.parametrize(("units", "count"), [(0.0, 1), (3.995, 4), (3.98, 3), (10.2, 10)])
def test_full_replicas_count(units: float, count: int) -> None:
    assert whole(units) == count


@given(
    st.integers(0, 5),
    st.lists(st.floats(0, 500), max_size=4).map(tuple),
    st.lists(st.floats(0, 500), max_size=4).map(tuple),
    st.integers(1, 30),
    st.integers(0, 40),
)
def test_all_replicas_are_ready_or_on_the_way(
    ready: int, starting: tuple[float, ...], homeless: tuple[float, ...], replicas: int, units_ready: int
) -> None:
    facts = in_units(PodFacts(ready, starting, homeless), replicas, units_ready)
    assert facts.alive == replicas
    assert facts.ready == (min(units_ready, replicas) if ready else 0)
    assert set(facts.starting) <= {*starting, *homeless, 0.0}
