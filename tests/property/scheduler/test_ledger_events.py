"""Whatever happens in whatever order, reservations never over-commit, and a restart finds the same ledger."""

import itertools
import random
from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from headroom import wire
from headroom.domain.assignment import annotations_of
from headroom.domain.device_plugin import share_mib
from headroom.domain.model import Allocation, Card, GpuNode, Mode, Placement, Sharing
from headroom.domain.request import demand_of
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import HoldingState, Ledger, LedgerError

L4, T4 = "NVIDIA-L4", "Tesla-T4"


def cards(prefix: str, model: str, mib: int, count: int, slices: int = 1, sick: int = -1) -> tuple[Card, ...]:
    return tuple(Card(f"{prefix}{at}", at, model, mib, 500, slices, healthy=at != sick) for at in range(count))


DESCRIPTIONS = (
    GpuNode("", cards("", L4, 23000, 2), cpu_milli=8000, memory_mib=32000, resource="nvidia.com/gpu"),
    GpuNode("", cards("GPU-", L4, 23000, 2), cpu_milli=8000, memory_mib=32000, resource="nvidia.com/gpu"),
    GpuNode("", cards("GPU-", L4, 23000, 2, sick=1), cpu_milli=8000, memory_mib=32000, resource="nvidia.com/gpu"),
    GpuNode(
        "", cards("GPU-", T4, 15000, 3, slices=2), Sharing.TIME_SLICING, Allocation.DISTRIBUTED, "nvidia.com/gpu",
        cpu_milli=16000, memory_mib=64000,
    ),
    GpuNode(
        "", cards("GPU-", T4, 15000, 2, slices=4), Sharing.TIME_SLICING, Allocation.PACKED, "nvidia.com/gpu",
        cpu_milli=16000, memory_mib=64000,
    ),
    GpuNode("", cpu_milli=4000, memory_mib=8000),
)  # fmt: skip
NODE_NAMES = st.sampled_from(("n1", "n1", "n1", "n2"))
POD_NAMES = st.sampled_from("abcdef")
SECONDS = st.integers(0, 3)
SPARE = st.sampled_from((None, None, 0, 1, -1))
ASKED: tuple[dict[str, Any], ...] = (
    {"cpu": "500m", "memory": "1Gi"},
    {"nvidia.com/gpu": "1"},
    {"nvidia.com/gpu": "2"},
    {"nvidia.com/gpu": "1", "headroom.dev/vram": "4Gi", "cpu": "1"},
    {"headroom.dev/vram": "9Gi"},
    {"headroom.dev/vram": "3Gi", "memory": "2Gi"},
    {"headroom.dev/gpu-milli": "400"},
    {"nvidia.com/gpu": "1", "nvidia.com/gpu.shared": "1"},  # cannot be understood
)
WRITTEN: tuple[dict[str, str], ...] = (
    {},
    {},
    {},
    {
        "headroom.dev/assigned-cards": "GPU-7",
        "headroom.dev/assigned-vram-mib": "100",
        "headroom.dev/assigned-mode": "slice",
    },
    {
        "headroom.dev/assigned-cards": "GPU-0",
        "headroom.dev/assigned-vram-mib": "lots",
        "headroom.dev/assigned-mode": "pinned",
    },
    {
        "headroom.dev/assigned-cards": "GPU-1",
        "headroom.dev/assigned-vram-mib": "9000",
        "headroom.dev/assigned-mode": "pinned",
    },
    {
        "headroom.dev/assigned-cards": "0,1",
        "headroom.dev/assigned-vram-mib": "50,70",
        "headroom.dev/assigned-mode": "slice",
    },
    {"headroom.dev/assigned-cards": ",", "headroom.dev/assigned-mode": "whatever"},
)


LIMITS, GARBAGE = st.sampled_from(ASKED), st.sampled_from(WRITTEN)


def described(name: str, at: int) -> GpuNode:
    found = DESCRIPTIONS[at]
    return GpuNode(
        name,
        found.cards,
        found.sharing,
        found.allocation,
        found.resource,
        cpu_milli=found.cpu_milli,
        memory_mib=found.memory_mib,
    )


def pod_of(uid: str, name: str, limits: dict[str, Any]) -> wire.Pod:
    container = wire.Container(name="c", resources=wire.Resources(limits=limits))
    return wire.Pod(
        metadata=wire.Meta(name=name, namespace="ns", uid=uid),
        spec=wire.PodSpec(containers=(container,)),
        status=wire.PodStatus(phase="Pending"),
    )


def arrays(fleet: Fleet) -> dict[str, Any]:
    """What the fleet says of each node, whichever row it has."""
    found = {}
    for name, row in fleet.row_of.items():
        width = len(fleet.nodes[name].cards)
        per_card = [
            getattr(fleet, array)[row, :width].tolist()
            for array in ("held_mib", "free_mib", "plugin", "pinned", "slices_free")
        ]
        found[name] = (fleet.nodes[name], per_card, int(fleet.cpu_free_milli[row]), int(fleet.memory_free_mib[row]))
    return found


def picture(ledger: Ledger) -> tuple[Any, ...]:
    return ledger.dump(), arrays(ledger.fleet), ledger.problems, sorted(ledger.overcommitted())


class Cluster(RuleBasedStateMachine):
    """An API server whose watch may lag, a scheduler that reserves and binds, foreign schedulers, kubelets, operators."""

    pods = Bundle("pods")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(Fleet(rows=1, width=1))
        self.truth: dict[str, wire.Pod] = {}
        self.nodes: dict[str, GpuNode] = {}
        self.watch: deque[tuple[str, Any]] = deque()
        self.serial = itertools.count()
        self.shown: dict[str, str] = {}
        """UID of the pod that the watch has shown under each name."""
        self.clock = 0.0

    def say(self, uid: str) -> None:
        """The API server tells watchers of a pod as it is now."""
        seen = wire.POD.decode(wire.encode(self.truth[uid]))
        self.watch.append(("pod", seen))

    @initialize(at=st.integers(0, len(DESCRIPTIONS) - 1))
    def first_node(self, at: int) -> None:
        self.describe_node("n1", at)

    @rule(name=NODE_NAMES, at=st.integers(0, len(DESCRIPTIONS) - 1))
    def describe_node(self, name: str, at: int) -> None:
        self.nodes[name] = described(name, at)
        self.watch.append(("node", self.nodes[name]))

    @rule(name=NODE_NAMES)
    def remove_node(self, name: str) -> None:
        if self.nodes.pop(name, None):
            self.watch.append(("node gone", name))

    def new_pod(self, name: str, limits: dict[str, Any]) -> str | None:
        if any(pod.metadata.name == name for pod in self.truth.values()):
            return None
        uid = f"{next(self.serial) * 7919 % 1000:03d}"
        self.truth[uid] = pod_of(uid, name, limits)
        self.say(uid)
        return uid

    @rule(target=pods, name=POD_NAMES, limits=LIMITS)
    def create(self, name: str, limits: dict[str, Any]) -> Any:
        uid = self.new_pod(name, limits)
        return multiple() if uid is None else uid

    @rule(target=pods, name=POD_NAMES, limits=LIMITS, node=NODE_NAMES, annotations=GARBAGE, second=SECONDS)
    def create_by_another_scheduler(
        self, name: str, limits: dict[str, Any], node: str, annotations: dict[str, str], second: int
    ) -> Any:
        uid = self.new_pod(name, limits)
        if uid is None:
            return multiple()
        self.bind_by_another_scheduler(uid, node, annotations)
        if second:
            self.start(uid, second)
        return uid

    @rule(
        target=pods,
        name=POD_NAMES,
        limits=LIMITS,
        node=NODE_NAMES,
        first=st.integers(0, 2),
        spare=SPARE,
        answered=st.booleans(),
    )
    def create_and_bind(
        self, name: str, limits: dict[str, Any], node: str, first: int, spare: int | None, answered: bool
    ) -> Any:
        uid = self.new_pod(name, limits)
        if uid is None:
            return multiple()
        self.reserve(uid, node, first, spare)
        self.bind(uid, True, answered)
        return uid

    @rule(uid=pods, node=NODE_NAMES, first=st.integers(0, 2), spare=SPARE)
    def reserve(self, uid: str, node: str, first: int, spare: int | None) -> None:
        """Ask for what the pod wants, or for what leaves just `spare` MiB on the first card: below 0, it must be refused."""
        pod = self.truth.get(uid)
        if pod is None or pod.spec.node_name:
            return
        try:
            request = demand_of(pod)
        except ValueError:
            return
        fleet = self.ledger.fleet
        row, known = fleet.row_of.get(node), fleet.nodes.get(node)
        width = len(known.cards) if known else 0
        places = tuple((first + share) % max(width, 1) for share in range(request.count))
        wanted = [
            share_mib(request, int(fleet.usable_mib[row or 0, at]), int(fleet.slices[row or 0, at])) for at in places
        ]
        if spare is not None and wanted and width:
            wanted[0] = max(int(fleet.free_mib[row or 0, places[0]]) - spare, 0)
        placement = Placement(node, places, tuple(wanted), request.mode)
        before = picture(self.ledger)
        self.clock += 1
        try:
            self.ledger.reserve(uid, pod.key, request, placement, expires_at=self.clock + 5)
        except LedgerError:
            assert picture(self.ledger) == before
            return
        assert row is not None
        for at, mib in zip(places, wanted, strict=True):
            # Nothing may be promised on a card on which the API server's pods hold more than there is, but nothing is.
            assert not mib or fleet.held_mib[row, at] <= fleet.usable_mib[row, at]
            assert fleet.plugin[row, at] <= fleet.slices[row, at] or request.mode is Mode.PINNED

    @rule(uid=pods, arrives=st.booleans(), answered=st.booleans())
    def bind(self, uid: str, arrives: bool, answered: bool) -> None:
        """The call may fail, succeed, or succeed without our learning of it."""
        holding, pod = self.ledger.holdings.get(uid), self.truth.get(uid)
        if holding is None or holding.state is HoldingState.BOUND:
            return
        name = holding.placement.node
        described = self.ledger.fleet.nodes.get(name)
        if described is None or not holding.counted or holding.predicted:
            return
        self.ledger.begin_binding(uid)
        if arrives and pod is not None and not pod.spec.node_name:
            pod.metadata.annotations = annotations_of(described, holding.placement)
            pod.spec.node_name = name
            self.say(uid)
            if answered:
                self.ledger.confirm(uid, name)
        elif not arrives:
            self.ledger.release(uid)

    @rule(uid=pods)
    def ask_for_a_binding(self, uid: str) -> None:
        """The call is under way; nodes and time go on meanwhile."""
        holding = self.ledger.holdings.get(uid)
        if holding is not None and holding.state is HoldingState.RESERVED:
            self.ledger.begin_binding(uid)

    @invariant()
    def what_is_being_bound_stays(self) -> None:
        for holding in self.ledger.reservations():
            row = self.ledger.fleet.row_of.get(holding.placement.node)
            assert holding.state is HoldingState.RESERVED or holding.counted == (row is not None)

    @rule(uid=pods, name=NODE_NAMES, annotations=GARBAGE)
    def bind_by_another_scheduler(self, uid: str, name: str, annotations: dict[str, str]) -> None:
        pod = self.truth.get(uid)
        if pod is None or pod.spec.node_name:
            return
        pod.spec.node_name, pod.metadata.annotations = name, dict(annotations)
        self.say(uid)

    @rule(uid=pods, second=SECONDS)
    def start(self, uid: str, second: int) -> None:
        pod = self.truth.get(uid)
        if pod is not None and pod.spec.node_name and not pod.status.start_time:
            pod.status.start_time, pod.status.phase = f"2026-01-01T00:00:0{second}Z", "Running"
            self.say(uid)

    @rule(uid=pods, phase=st.sampled_from(("Succeeded", "Failed")))
    def finish(self, uid: str, phase: str) -> None:
        if uid in self.truth:
            self.truth[uid].status.phase = phase
            self.say(uid)

    @rule(uid=consumes(pods), noticed=st.booleans())
    def delete(self, uid: str, noticed: bool) -> None:
        """An end that the watch misses shows when the list is read again, or when the name is taken anew."""
        pod = self.truth.pop(uid, None)
        if pod is not None:
            self.watch.append(("gone" if noticed else "missed", uid))

    @rule(count=st.integers(1, 8))
    def deliver(self, count: int) -> None:
        for _ in range(min(count, len(self.watch))):
            kind, seen = self.watch.popleft()
            if kind == "node":
                self.ledger.apply_node(seen)
            elif kind == "node gone":
                self.ledger.forget_node(seen)
            elif kind == "gone":
                self.ledger.release(seen)
            elif kind == "pod":
                earlier = self.shown.get(seen.metadata.name)
                if earlier not in (None, seen.metadata.uid):
                    self.ledger.release(earlier)
                self.shown[seen.metadata.name] = seen.metadata.uid
                self.ledger.apply(seen)
                before = picture(self.ledger)
                self.ledger.apply(seen)
                assert picture(self.ledger) == before, "the same news twice changed something"

    @rule()
    def expire(self) -> None:
        self.clock += 3
        for holding in self.ledger.expire(self.clock):
            assert holding.expires_at <= self.clock
        assert all(holding.expires_at > self.clock for holding in self.ledger.reservations())

    @invariant()
    def the_books_agree(self) -> None:
        assert self.ledger.check() == []

    def teardown(self) -> None:
        """Whatever happened: a restart finds the same ledger."""
        order = random.Random(0)
        self.deliver(len(self.watch))
        for uid, holding in list(self.ledger.holdings.items()):
            if uid not in self.truth or holding.state is HoldingState.BINDING:
                self.ledger.release(uid)
        self.ledger.expire(float("inf"))
        restarted = Ledger(Fleet())
        news: list[Any] = [*self.nodes.values(), *self.truth.values()]
        order.shuffle(news)
        for seen in news:
            if isinstance(seen, GpuNode):
                restarted.apply_node(seen)
            else:
                restarted.apply(seen)
        assert restarted.check() == []
        assert picture(restarted) == picture(self.ledger)


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=300, stateful_step_count=25, deadline=None)
TestCluster = pytest.mark.timeout(300)(TestCluster)


BOUND_POD = st.tuples(st.sampled_from(ASKED[1:6]), GARBAGE, st.integers(0, 2))


@settings(max_examples=300, deadline=None)
@given(
    at=st.integers(0, len(DESCRIPTIONS) - 1),
    stay=st.lists(BOUND_POD, min_size=2, max_size=6),
    go=st.lists(BOUND_POD, max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_the_order_of_news_does_not_matter(at: int, stay: list[Any], go: list[Any], order: random.Random) -> None:
    """Pods that came and went, and pods that stay, heard of in any order."""
    pods = []
    for number, (limits, annotations, second) in enumerate((*stay, *go)):
        pod = pod_of(f"u{number}", f"p{number}", limits)
        pod.spec.node_name, pod.metadata.annotations = "n1", dict(annotations)
        pod.status.start_time = f"2026-01-01T00:00:0{second}Z" if second else None
        pods.append(pod)
    pictures = []
    for news in ([*pods[: len(stay)]], pods):
        ledger = Ledger(Fleet())
        shuffled: list[GpuNode | wire.Pod] = [described("n1", at), *news]
        order.shuffle(shuffled)
        for seen in shuffled:
            if isinstance(seen, GpuNode):
                ledger.apply_node(seen)
            else:
                ledger.apply(seen)
        for gone in news[len(stay) :]:
            ledger.release(gone.metadata.uid)
        assert ledger.check() == []
        pictures.append(picture(ledger))
    assert pictures[0] == pictures[1]


def test_the_picture_tells_ledgers_apart() -> None:
    """The comparison above would be worthless if it did not see a single MiB."""
    ledgers = []
    for mib in (100, 101):
        ledger = Ledger(Fleet())
        ledger.apply_node(described("n1", 1))
        pod = pod_of("u", "p", ASKED[4])
        pod.spec.node_name = "n1"
        pod.metadata.annotations = annotations_of(described("n1", 1), Placement("n1", (0,), (mib,), Mode.PINNED))
        ledger.apply(pod)
        ledgers.append(ledger)
    assert picture(ledgers[0]) != picture(ledgers[1])
    assert np.array_equal(ledgers[0].fleet.usable_mib, ledgers[1].fleet.usable_mib)
