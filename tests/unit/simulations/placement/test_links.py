"""The day on one machine: whoever chooses, the same pods run; and the best linked sets are what Headroom chooses."""

import pytest

from simulations.placement.links import CHOOSERS, MACHINES, day, table


@pytest.mark.parametrize("name", MACHINES)
def test_the_choice_is_at_least_95_percent_of_the_exhaustive_optimum_in_the_mean_of_a_day(name: str) -> None:
    """By both measures, each with an optimum of its own; by index it is clearly less."""
    outcomes = {chooser: day(MACHINES[name], choose, 42, days=2.0) for chooser, choose in CHOOSERS.items()}
    ours, by_index = outcomes["Headroom"], outcomes["by index"]
    assert ours.pods == by_index.pods > 50
    assert min(ours.of_free_slowest, ours.of_free_total) >= 0.95
    assert max(by_index.of_free_slowest, by_index.of_free_total) < 0.93
    assert ours.of_empty_slowest > by_index.of_empty_slowest


def test_equal_seeds_give_equal_tables() -> None:
    assert table([1]) == table([1])
    assert len(table([1]).splitlines()) == 2 + len(MACHINES) * len(CHOOSERS)
