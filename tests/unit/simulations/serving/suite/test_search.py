"""The search for a law's best setting: what it tries, what it finds, how it goes on."""

from dataclasses import fields, replace

from simulations.serving.laws.base import Parameters
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.suite.results import Outcome
from simulations.serving.suite.search import best, search, spread

PLAIN = Outcome(**{field.name: 0.0 for field in fields(Outcome)})
KEDA = LAWS["keda-running"]


def landscape(setting: Parameters) -> Outcome:
    """Cheaper with a higher target, until 40; a longer window costs, and a short one loses requests."""
    attainment = 1.0 - max(setting["target"] - 40.0, 0.0) / 200 - max(300.0 - setting["down_window"], 0.0) / 10_000
    return replace(PLAIN, attainment=attainment, gpu_hours=400 / setting["target"] + setting["down_window"] / 300)


def test_the_default_comes_first_then_an_even_spread_over_every_field() -> None:
    settings = list(spread(KEDA, 60))
    assert settings[0] == KEDA.defaults
    assert len({tuple(sorted(setting.items())) for setting in settings}) == 60
    for name in KEDA.space:
        assert len({setting[name] for setting in settings}) >= 3, name
    assert settings == list(spread(KEDA, 60))


def test_refining_finds_more_than_spreading_alone_within_the_same_budget() -> None:
    found = best(search(KEDA, 100, 0.98, landscape), 0.98)
    spread_only = best([(setting, landscape(setting)) for setting in spread(KEDA, 100)], 0.98)
    assert found[1].attainment >= 0.98
    assert found[1].gpu_hours < spread_only[1].gpu_hours
    assert found[1].gpu_hours < 1.15 * landscape({"target": 43.0, "down_window": 250.0}).gpu_hours


def test_the_budget_is_what_is_tried_and_equal_answers_give_equal_searches() -> None:
    first, second = search(KEDA, 30, 0.98, landscape), search(KEDA, 30, 0.98, landscape)
    assert len(first) == 30
    assert first == second


def test_without_a_setting_that_reaches_the_share_the_nearest_is_best() -> None:
    tried = [
        ({"a": 1.0}, replace(PLAIN, attainment=0.9, gpu_hours=1.0)),
        ({"a": 2.0}, replace(PLAIN, attainment=0.95, gpu_hours=9.0)),
    ]
    assert best(tried, 0.98)[0] == {"a": 2.0}
    assert best(tried, 0.85)[0] == {"a": 1.0}
