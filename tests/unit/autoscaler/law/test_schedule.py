"""The floor of a schedule: at once, whatever the signals say, and never below what the load asks for."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoscaler.law.decide import Rule
from autoscaler.law.inputs import Capacity, Freshness, Gateway, Observation, PodFacts, Reading, Scheduled
from autoscaler.law.rates import RatePolicy
from autoscaler.law.spec import ScaleToZero, Scaling
from tests.unit.autoscaler.law.runs import RUNNING, Run, reading, seen

ASLEEP = replace(RUNNING, min_replicas=0, scale_to_zero=ScaleToZero(idle_seconds=120.0))


def keeps(replicas: int, *, is_open: bool = True) -> Scheduled:
    return Scheduled("day", replicas, is_open, "2026-11-30 18:00 Etc/UTC")


def under(scheduled: Scheduled, *readings: Reading, **more: object) -> Callable[[int], Observation]:
    return lambda n: seen(n, *(readings if n else ()), scheduled=scheduled, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scheduled", "running", "replicas"),
    [
        pytest.param(keeps(6), 10.0, 6, id="more than the load needs"),
        pytest.param(keeps(6), 90.0, 9, id="less than the load needs"),
        pytest.param(keeps(6, is_open=False), 10.0, 2, id="not open"),
        pytest.param(keeps(99), 10.0, 20, id="no more than maxReplicas"),
    ],
)
def test_the_floor(scheduled: Scheduled, running: float, replicas: int) -> None:
    run = Run(RUNNING, 2)
    assert run.tick(under(scheduled, reading("running", running)), times=2) == replicas


def test_it_says_which_window() -> None:
    run = Run(RUNNING, 2)
    run.tick(under(keeps(6), reading("running", 10)))
    assert run.decision is not None
    assert run.decision.reasons[0].text == "raised from 2 to 6: schedule day keeps at least 6"
    assert Rule.SCHEDULE in run.rules()


def test_it_holds_in_an_outage_and_against_rates_and_windows_of_growth() -> None:
    slow = replace(RUNNING, up=Scaling(window_seconds=600.0, policies=(RatePolicy(True, 1, 60.0),)))
    assert Run(slow, 2).tick(under(keeps(6), reading("running", 10))) == 6
    away = Reading("running", Freshness.ERROR)
    assert Run(RUNNING, 2).tick(under(keeps(6), away)) == 6


def test_not_beyond_the_room_and_the_gpus() -> None:
    run = Run(RUNNING, 2)
    assert run.tick(under(keeps(6), reading("running", 10), capacity=Capacity(1))) == 3
    assert run.decision is not None
    assert run.decision.unmet == 3
    assert Run(replace(RUNNING, max_gpus=4.0), 2).tick(under(keeps(6), reading("running", 10))) == 4


def test_after_the_window_replicas_go_and_nothing_swings() -> None:
    run = Run(RUNNING, 2)
    run.tick(under(keeps(6), reading("running", 10)), times=30)
    assert run.replicas == 6
    after = under(keeps(6, is_open=False), reading("running", 10))
    assert run.tick(after, times=10) == 2
    assert {run.tick(after) for _ in range(20)} == {2}


class TestZero:
    def test_a_window_wakes_a_target(self) -> None:
        run = Run(ASLEEP, 0)
        assert run.tick(under(keeps(3, is_open=False)), times=5) == 0
        assert run.tick(under(keeps(3))) == 3
        assert run.decision is not None
        assert run.decision.reasons[0].text == "schedule day keeps at least 3"

    def test_more_requests_in_a_gateway_wake_more(self) -> None:
        assert Run(ASLEEP, 0).tick(under(keeps(3), gateway=Gateway(Freshness.FRESH, 70.0))) == 7
        assert Run(ASLEEP, 0).tick(under(keeps(3), gateway=Gateway(Freshness.FRESH, 10.0))) == 3
        assert Run(ASLEEP, 0).tick(under(keeps(3), gateway=Gateway(Freshness.EMPTY, detail="away"))) == 3

    def test_a_zero_that_a_person_wrote_stays_where_zero_means_off(self) -> None:
        run = Run(RUNNING, 0)
        assert run.tick(under(keeps(3)), times=3) == 0
        assert run.rules() == {Rule.OFF}

    def test_an_idle_target_goes_to_zero_when_the_window_ends(self) -> None:
        run = Run(ASLEEP, 3)
        idle = {"pods": PodFacts(ready=3)}
        assert run.tick(under(keeps(3), reading("running", 0), **idle), times=60) == 3
        after = under(keeps(3, is_open=False), reading("running", 0), **idle)
        assert run.tick(after, times=60) == 0
