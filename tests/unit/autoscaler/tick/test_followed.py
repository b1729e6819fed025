"""What others follow: the metrics of an object that only advises, and how often statuses are written where there are many."""

import pytest
from prometheus_client import Gauge

from autoscaler.tick.reporter import READINGS_PER_SECOND
from autoscaler.tick.status import says_something_new
from tests.fakes.fleet import Fleet
from tests.fakes.scraping import vllm

RUNNING = [{"name": "running", "type": "running", "target": 10}]


def metric(fleet: Fleet, name: str, **labels: str) -> float | None:
    found = {"namespace": "default", "name": "llm", **labels}
    gauge: Gauge = getattr(fleet.daemon.metrics, name)
    return next(
        (sample.value for family in gauge.collect() for sample in family.samples if sample.labels == found), None
    )


async def test_an_object_that_advises_says_what_to_follow() -> None:
    fleet = Fleet()
    fleet.deployment(replicas=4)
    for pod in fleet.pods():
        fleet.scrape(pod, vllm(15.0))
    fleet.object(mode="Advisory", signals=RUNNING)
    await fleet.tick(3)
    assert fleet.replicas == 4
    assert [metric(fleet, name) for name in ("needed", "decided", "replicas")] == [6, 6, 4]
    assert metric(fleet, "signal_target", signal="running") == 10
    fleet.prometheus.targets.clear()
    await fleet.tick(30)
    assert metric(fleet, "needed") is None
    assert metric(fleet, "decided") == 4
    await fleet.close()


@pytest.mark.parametrize(
    ("new", "seconds", "crowd", "written"),
    [
        ({"currentReplicas": 2}, 0.0, 600.0, True),
        ({"desiredReplicas": 2}, 0.0, 0.0, True),
        ({"desiredReplicas": 2}, 599.0, 600.0, False),
        ({"desiredReplicas": 2}, 600.0, 600.0, True),
        ({"signals": [{"name": "a", "value": "9"}]}, 60.0, 0.0, True),
        ({"signals": [{"name": "a", "value": "9"}]}, 600.0, 600.0, False),
        ({"signals": [{"name": "a", "value": "9"}]}, 660.0, 600.0, True),
    ],
)
def test_readings_wait_in_a_crowd_and_decisions_do_not(
    new: dict[str, object], seconds: float, crowd: float, written: bool
) -> None:
    old = {"currentReplicas": 1, "desiredReplicas": 1, "signals": [{"name": "a", "value": "1"}]}
    assert says_something_new(old | new, old, seconds, 60.0, crowd) is written


async def test_many_objects_with_moving_loads_write_few_statuses() -> None:
    fleet, objects, seconds = Fleet(), 200, 900.0
    for number in range(objects):
        name = f"m{number}"
        fleet.deployment(name, replicas=2)
        fleet.object(name, engine="custom", signals=[{"name": "q", "type": "query", "query": "load", "target": 10}])
    fleet.prometheus.custom = {"load": 15.0}
    await fleet.tick(3)
    fleet.kube.writes.clear()
    for minute in range(int(seconds / 60)):
        fleet.prometheus.custom = {"load": 11.0 + minute % 9}
        await fleet.tick(4)
    written = len([path for _, path in fleet.kube.writes if path.endswith("/status")])
    assert 0 < written / seconds < READINGS_PER_SECOND * 1.2
    await fleet.close()


async def test_a_servers_words_reach_no_terminal_as_commands() -> None:
    fleet = Fleet()
    fleet.deployment(replicas=4)
    for pod in fleet.pods():
        fleet.scrape(pod, vllm(5.0))
    fleet.object(signals=RUNNING)
    fleet.prometheus.warnings = ["store\x00 \x1b[31m\nis down\ud800 " + "x" * 5000]
    await fleet.tick(2)
    message = fleet.signal()["message"]
    assert message.isprintable()
    assert "is down" in message
    await fleet.close()


async def test_the_echo_of_a_status_costs_no_object_its_turn() -> None:
    fleet = Fleet()
    fleet.deployment(replicas=4)
    fleet.object(signals=RUNNING)
    before = fleet.world.targets["default/llm"]
    fleet.object(signals=RUNNING)
    assert fleet.world.targets["default/llm"] is before
    fleet.object(signals=RUNNING, maxReplicas=7)
    assert fleet.world.targets["default/llm"].spec.max_replicas == 7
    await fleet.close()
