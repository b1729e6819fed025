"""Pods as the watch and kube-scheduler show them: each is judged by what it is now, and nothing is remembered of what is gone."""

import itertools
from typing import Any

import numpy as np
import pytest

from headroom import wire
from headroom.domain.model import Placement
from headroom.wire import ADDED, DELETED, MODIFIED
from scheduler.cluster.changes import Freed, PodGone, PodWaits
from scheduler.cluster.pod_entry import Stage
from scheduler.cluster.pods.records import Pods
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name
from tests.fakes.extender import GIB, node, pod

from prometheus_client import CollectorRegistry  # isort: skip


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> ClusterState:
    made = ClusterState(policy_by_name("headroom"), SchedulerMetrics(CollectorRegistry()), monotonic=clock)
    for name in ("gpu", "other"):
        made.on_node(ADDED, name, wire.NODE.decode(wire.encode(node(name, 80))))
    return made


@pytest.fixture
def pods(state: ClusterState) -> Pods:
    return state.pods


versions = itertools.count(1)


def shown(
    name: str = "llm", uid: str = "u", *, vram: str = "50Gi", version: int | None = None, **spec: Any
) -> wire.Pod:
    body = pod(name, vram=vram, **spec)
    body["metadata"] |= {"uid": uid, "resourceVersion": str(next(versions) if version is None else version)}
    return wire.POD.decode(wire.encode(body))


def on(node_name: str, gib: int = 50) -> Placement:
    return Placement(node_name, (0,), (gib * GIB,))


def held(state: ClusterState) -> int:
    return int(state.fleet.held_mib.sum()) // GIB


GATES = [{"name": "kueue.x-k8s.io/admission"}]


def test_a_gated_pod_that_gets_a_node_selector_is_judged_by_it(state: ClusterState, pods: Pods) -> None:
    """s27: Kueue adds the selector of a flavour when it lifts the gate."""
    state.on_pod(ADDED, "default/llm", shown(schedulingGates=GATES))
    assert pods.entries["u"].request.models == frozenset()
    changes = state.on_pod(MODIFIED, "default/llm", shown(nodeSelector={"nvidia.com/gpu.product": "NVIDIA-H100"}))
    assert pods.entries["u"].request.models == {"NVIDIA-H100"}
    assert changes == [PodWaits(pods.entries["u"])]


def test_kube_schedulers_version_of_a_pod_counts_too_if_it_is_newer(state: ClusterState, pods: Pods) -> None:
    state.on_pod(ADDED, "default/llm", shown(version=1000, schedulingGates=GATES))
    pods.show(shown(version=1002))
    assert pods.entries["u"].stage is Stage.WAITING
    state.on_pod(MODIFIED, "default/llm", shown(version=1001, schedulingGates=GATES, priority=7))
    assert pods.entries["u"].stage is Stage.WAITING
    assert pods.entries["u"].facts.priority == 0
    state.on_pod(MODIFIED, "default/llm", shown(version=1003, priority=5))
    assert pods.entries["u"].facts.priority == 5


def test_a_gated_pod_is_no_demand_yet(state: ClusterState) -> None:
    state.on_pod(ADDED, "default/llm", shown(schedulingGates=GATES))
    assert state.placer.profile.seen == 0
    state.on_pod(MODIFIED, "default/llm", shown())
    assert state.placer.profile.seen == 1


@pytest.mark.parametrize(
    ("now", "stays"),
    [
        pytest.param({"vram": "60Gi"}, False, id="another size"),
        pytest.param({"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-H100"}}, False, id="other cards only"),
        pytest.param({"priority": 9}, True, id="another priority"),
        pytest.param({"limits": {"cpu": "8"}}, True, id="resized on the host"),
        pytest.param({"nominatedNodeName": "gpu"}, True, id="nothing that matters"),
    ],
)
def test_a_reservation_stays_only_while_its_cards_suit_the_pod(
    state: ClusterState, pods: Pods, now: dict[str, Any], stays: bool
) -> None:
    state.on_pod(ADDED, "default/llm", shown())
    entry = pods.entries["u"]
    pods.name(entry, on("gpu"), 2000)
    changes = state.on_pod(MODIFIED, "default/llm", shown(**now))
    assert entry.stage is (Stage.NAMED if stays else Stage.WAITING)
    assert held(state) == (50 if stays else 0)
    assert [change.node for change in changes if isinstance(change, Freed)] == ([] if stays else ["gpu"])
    if stays:
        holding = state.ledger.holdings["u"]
        assert (holding.priority, holding.request) == (entry.facts.priority, entry.request)
    assert state.breaches() == []


def test_a_pod_that_cannot_be_understood_any_more_holds_nothing(state: ClusterState, pods: Pods) -> None:
    state.on_pod(ADDED, "default/llm", shown())
    pods.name(pods.entries["u"], on("gpu"), 2000)
    state.on_pod(MODIFIED, "default/llm", shown(limits={"memory": "lots"}))
    assert "lots" in state.news.problems["default/llm"]
    assert (pods.entries, held(state)) == ({}, 0)
    state.on_pod(MODIFIED, "default/llm", shown())
    assert state.news.problems == {}
    assert pods.entries["u"].stage is Stage.WAITING


def test_an_unbound_pod_that_is_being_deleted_is_gone(state: ClusterState, pods: Pods) -> None:
    state.on_pod(ADDED, "default/llm", shown())
    pods.name(pods.entries["u"], on("gpu"), 2000)
    leaving = shown()
    leaving.metadata.deletion_timestamp = "2026-01-01T00:00:00Z"
    state.on_pod(MODIFIED, "default/llm", leaving)
    assert (pods.entries, held(state)) == ({}, 0)


# Two pods of one name


def test_a_late_call_about_an_earlier_pod_does_not_end_what_the_later_one_holds(
    state: ClusterState, pods: Pods
) -> None:
    """s24: StatefulSets make a pod anew under its name within the same second."""
    state.on_pod(ADDED, "default/web-0", shown("web-0", "old"))
    state.on_pod(DELETED, "default/web-0", shown("web-0", "old"))
    state.on_pod(ADDED, "default/web-0", shown("web-0", "new", nodeName="gpu"))
    assert pods.has_ended("old")
    assert not pods.has_ended("new")
    assert held(state) == 50


def test_a_new_pod_of_a_name_ends_the_one_before(state: ClusterState, pods: Pods) -> None:
    state.on_pod(ADDED, "default/web-0", shown("web-0", "old", nodeName="gpu"))
    changes = state.on_pod(MODIFIED, "default/web-0", shown("web-0", "new"))
    assert [change.node for change in changes if isinstance(change, Freed)] == ["gpu"]
    assert list(pods.entries) == ["new"]
    assert held(state) == 0


def test_kube_scheduler_may_know_the_new_pod_of_a_name_before_the_watch_shows_it(
    state: ClusterState, pods: Pods
) -> None:
    state.on_pod(ADDED, "default/web-0", shown("web-0", "old", nodeName="gpu"))
    new, _ = pods.show(shown("web-0", "new"))
    assert new is not None
    pods.offer(new, on("other"), 2000)
    state.on_pod(MODIFIED, "default/web-0", shown("web-0", "old", nodeName="gpu"))  # the watch lags behind
    assert held(state) == 100
    state.on_pod(DELETED, "default/web-0", shown("web-0", "old", nodeName="gpu"))
    state.on_pod(ADDED, "default/web-0", shown("web-0", "new"))
    assert (held(state), new.stage) == (50, Stage.OFFERED)


# What only kube-scheduler spoke of


def test_a_pod_bound_and_gone_while_the_watch_was_away_holds_nothing_after_the_next_list(
    state: ClusterState, pods: Pods, clock: Clock
) -> None:
    """s21."""
    entry, _ = pods.show(shown())
    assert entry is not None
    pods.begin_binding(entry, on("gpu"))
    pods.confirm_binding(entry, "gpu")
    assert state.news.listed(clock.now - 1) == []  # that list may have been read before the pod was made
    assert held(state) == 50
    clock.now += 5
    changes = state.news.listed(clock.now)
    assert [change.node for change in changes if isinstance(change, Freed)] == ["gpu"]
    assert (pods.entries, state.ledger.holdings) == ({}, {})


@pytest.mark.parametrize("stage", [Stage.WAITING, Stage.OFFERED, Stage.BINDING])
def test_a_pod_that_was_there_before_a_list_and_is_not_in_it_is_gone(
    state: ClusterState, pods: Pods, clock: Clock, stage: Stage
) -> None:
    entry, _ = pods.show(shown())
    assert entry is not None
    if stage is Stage.OFFERED:
        pods.offer(entry, on("gpu"), 2000)
    elif stage is Stage.BINDING:
        pods.begin_binding(entry, on("gpu"))
    clock.now += 1
    assert PodGone(entry) in state.news.listed(clock.now)
    assert held(state) == 0


def test_pods_that_the_list_holds_stay(state: ClusterState, pods: Pods, clock: Clock) -> None:
    entry, _ = pods.show(shown())
    assert entry is not None
    pods.begin_binding(entry, on("gpu"))
    pods.confirm_binding(entry, "gpu")
    clock.now += 1
    state.on_pod(ADDED, "default/llm", shown(nodeName="gpu"))
    assert state.news.listed(clock.now) == []
    assert held(state) == 50


def test_one_that_no_event_confirms_is_forgotten_and_one_that_is_shown_is_not(
    state: ClusterState, pods: Pods, clock: Clock
) -> None:
    pods.show(shown("ghost", "g"))
    pods.show(shown("real", "r"))
    state.on_pod(ADDED, "default/real", shown("real", "r"))
    clock.now += 100
    pods.sweep(clock.now)
    assert list(pods.entries) == ["r"]


def test_an_unbound_version_that_comes_after_the_answer_changes_nothing(state: ClusterState, pods: Pods) -> None:
    """The watch may be behind the API server's answer to the binding, or to a read."""
    state.on_pod(ADDED, "default/llm", shown(version=1000))
    state.on_pod(MODIFIED, "default/llm", shown(version=1002, nodeName="gpu"))
    state.on_pod(MODIFIED, "default/llm", shown(version=1001))
    assert pods.entries == {}
    assert held(state) == 50


def test_what_was_refused_can_be_looked_up_by_name(state: ClusterState, pods: Pods) -> None:
    state.on_pod(ADDED, "default/llm", shown())
    unseen, _ = pods.show(shown("early", "e"))
    pods.refuse(pods.entries["u"], np.array([0]))
    assert pods.find("default/llm") is pods.entries["u"]
    assert pods.find("default/early") is unseen
    assert pods.find("default/nobody") is None
