"""Which room that came free is worth waking refused pods for; the work grows with the kinds of pods, not with their number."""

from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from headroom import wire
from headroom.wire import ADDED
from scheduler.background import room_of_use
from scheduler.background.room_of_use import node_of_use
from scheduler.cluster.changes import Freed
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement import filtering
from scheduler.placement.policies.registry import policy_by_name
from tests.fakes.extender import node, pod


class World:
    def __init__(self, *nodes: dict[str, Any]) -> None:
        self.now = 1000.0
        metrics = SchedulerMetrics(CollectorRegistry())
        self.state = ClusterState(policy_by_name("headroom"), metrics, monotonic=lambda: self.now)
        self.seating = Seating(self.state, hold_seconds=60.0, monotonic=lambda: self.now)
        for body in nodes:
            self.state.on_node(ADDED, body["metadata"]["name"], wire.NODE.decode(wire.encode(body)))

    def refused(self, name: str, vram: str, **spec: Any) -> None:
        body = pod(name, vram=vram, **spec)
        body["metadata"] |= {"uid": name, "resourceVersion": "1"}
        shown = wire.POD.decode(wire.encode(body))
        self.state.on_pod(ADDED, shown.key, shown)
        self.state.pods.refuse(self.state.pods.entries[name], np.arange(len(self.state.fleet.names)))

    def freed(self, *names: str, seen: bool = False) -> dict[str, Freed]:
        return {name: self.state.pods.freed(name, seen_by_scheduler=seen) for name in names}


async def test_room_is_of_use_where_some_refused_pod_fits() -> None:
    world = World(node("small", 24), node("large", 80))
    world.refused("wants-70", "70Gi")
    world.refused("wants-60", "60Gi")
    assert await node_of_use(world.state, world.seating, world.freed("small")) is None
    assert await node_of_use(world.state, world.seating, world.freed("small", "large")) == "large"
    world.refused("wants-20", "20Gi")
    assert await node_of_use(world.state, world.seating, world.freed("small")) == "small"


@pytest.mark.parametrize(
    ("seconds", "seen", "woken"),
    [
        pytest.param(60, False, True, id="hidden from kube-scheduler"),
        pytest.param(60, True, False, id="kube-scheduler tries it again by itself"),
        pytest.param(1, True, True, id="refused on news that kube-scheduler had before the extender"),
    ],
)
async def test_kube_scheduler_tries_pods_again_by_itself_where_it_saw_the_cause(
    seconds: int, seen: bool, woken: bool
) -> None:
    world = World(node("gpu", 80))
    world.refused("waits", "10Gi")
    world.now += seconds
    found = await node_of_use(world.state, world.seating, world.freed("gpu", seen=seen))
    assert found == ("gpu" if woken else None)


async def test_room_from_before_the_refusal_is_no_news() -> None:
    world = World(node("gpu", 80))
    freed = world.freed("gpu")
    world.refused("waits", "10Gi")
    assert await node_of_use(world.state, world.seating, freed) is None


async def test_a_node_that_went_is_passed_over() -> None:
    world = World(node("gpu", 80))
    world.refused("waits", "10Gi")
    assert await node_of_use(world.state, world.seating, {**world.freed("gone"), **world.freed("gpu")}) == "gpu"


async def test_pods_that_differ_in_size_and_cpu_alone_are_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(*(node(f"n{at}", 8) for at in range(50)))
    for at in range(300):
        world.refused(f"p{at}", f"{10 + at % 60}Gi", priority=at)
    questions = []

    def counted(*args: Any, **options: Any) -> object:
        questions.append(args)
        return filtering.fit(*args, **options)

    monkeypatch.setattr(room_of_use, "filtering", type("counting", (), {"fit": staticmethod(counted)}))
    assert await node_of_use(world.state, world.seating, world.freed(*(f"n{at}" for at in range(50)))) is None
    assert len(questions) == 1
