"""Which setting of a rival counts as its best."""

import pytest

from simulations.demo.services import tuning
from simulations.demo.services.record import ServiceRecord, Share, SideRecord, Track
from simulations.demo.services.scenario import SERVICES
from simulations.serving.laws.catalogue import LAWS


def side(met: int, card_seconds: float) -> SideRecord:
    service = ServiceRecord("chat", "m", "what", "promise", 2.0, Track(), met, 1000, 0)
    share = Share(0, "pod", ("n1", 0), 1, 0.0, 0.0, card_seconds)
    return SideRecord("x", (), 15.0, 5400.0, (), [share], {}, {}, [service])


@pytest.mark.parametrize(
    ("runs", "chosen"),
    [
        pytest.param({1.0: (999, 900.0), 2.0: (991, 800.0), 3.0: (980, 100.0)}, 2.0, id="the cheapest that keeps 99 %"),
        pytest.param({1.0: (980, 900.0), 2.0: (950, 100.0)}, 1.0, id="none keeps it: most in time"),
    ],
)
def test_the_best_setting(runs: dict[float, tuple[int, float]], chosen: float) -> None:
    assert tuning.best([({"target": t}, side(*run)) for t, run in runs.items()], 0) == {"target": chosen}


@pytest.mark.parametrize("law", tuning.TRIED)
def test_what_is_held_is_one_of_those_tried_for_each_service(law: str) -> None:
    assert set(tuning.TUNED[law]) == {service.name for service in SERVICES}
    for setting in tuning.TUNED[law].values():
        assert setting in tuning.TRIED[law]
        assert setting.keys() <= LAWS[law].space.keys() | LAWS[law].defaults.keys()
