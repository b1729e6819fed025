"""The metrics page is written in a thread while the event loop goes on."""

import dataclasses
import sys
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from headroom import wire
from headroom.domain.request import request_of
from headroom.wire import ADDED
from scheduler.cluster.state import ClusterState
from scheduler.cluster.view import StateView
from scheduler.metrics import FleetCollector, SchedulerMetrics
from scheduler.placement.fragmentation import fragmentation
from scheduler.placement.policies.registry import policy_by_name
from tests.fakes.extender import node, pod

_SCRAPES = 25


@pytest.fixture
def short_turns() -> Iterator[None]:
    """Threads take turns as often as in the daemon, and more."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("short_turns")
def test_scrapes_do_not_race_with_pods_and_nodes_that_come() -> None:
    """s13: new kinds of pods and new nodes all the while; every scrape is whole, and shows one moment."""
    state = ClusterState(policy_by_name("headroom"), SchedulerMetrics(CollectorRegistry()), monotonic=lambda: 0.0)
    view = StateView(state)
    collector = FleetCollector(view, lambda: fragmentation(view.fleet, view.profile))
    base = request_of(wire.POD.decode(wire.encode(pod("p", vram="1Gi"))))
    assert base is not None
    failures, scrapes, take = list[str](), list[int](), threading.Event()

    def scrape() -> None:
        while len(scrapes) + len(failures) < _SCRAPES:
            take.wait()
            try:
                families = {family.name: family for family in collector.collect()}
                nodes = {sample.labels["node"] for sample in families["headroom_node_vram_bytes"].samples}
                assert families["headroom_nodes"].samples[0].value == len(nodes)
                scrapes.append(len(nodes))
            except Exception as error:  # whatever it is, the page would be lost
                failures.append(f"{type(error).__name__}: {error}")
            take.clear()  # as the page: the next view is taken when this one has been written

    thread = threading.Thread(target=scrape)
    thread.start()
    number = 0
    while thread.is_alive():
        number += 1
        state.placer.observe(dataclasses.replace(base, vram_mib=1000 + number % 60000, cpu_milli=number), 0.0)
        if number % 50 == 0:
            name = f"n{number % 1000}"
            state.on_node(ADDED if number % 100 else "DELETED", name, wire.NODE.decode(wire.encode(node(name, 80, 80))))
        if not take.is_set():
            view.take()
            take.set()
    thread.join()
    assert failures == []
    assert len(scrapes) == _SCRAPES
