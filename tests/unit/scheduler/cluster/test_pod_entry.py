"""Where each step leads, in the record and in the ledger: every pair of stage and step, on the real parts."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from headroom import wire
from headroom.domain.dialects.customs import Customs
from headroom.domain.model import Placement
from headroom.wire import ADDED, DELETED, MODIFIED
from scheduler.cluster.pod_entry import HOLDING, FactsReader, PodEntry, Stage, Step, TransitionError, facts_of
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name
from tests.fakes.extender import node, pod

MATRIX = """
          gate   open     name   offer    refuse   void     bind     fail     bound  end
gated     -      waiting  -      offered  refused  -        binding  -        bound  gone
waiting   gated  -        named  offered  refused  -        binding  -        bound  gone
named     -      -        -      offered  -        waiting  binding  -        bound  gone
offered   -      -        -      offered  -        waiting  binding  -        bound  gone
binding   -      -        -      -        -        -        binding  waiting  bound  gone
refused   gated  -        named  offered  refused  waiting  binding  -        bound  gone
bound     -      -        -      -        -        -        -        -        bound  gone
"""


def expected() -> list[tuple[Stage, Step, Stage | None]]:
    head, *lines = MATRIX.strip().splitlines()
    steps = [Step(word) for word in head.split()]
    rows = [line.split() for line in lines]
    return [
        (Stage(row[0]), step, None if word == "-" else Stage(word))
        for row in rows
        for step, word in zip(steps, row[1:], strict=True)
    ]


def test_the_matrix_is_complete() -> None:
    pairs = {(stage, step) for stage, step, _ in expected()}
    assert pairs == set(itertools.product(set(Stage) - {Stage.GONE}, Step))


class Scene:
    """One node with two cards of 80 GiB, one pod of 50 GiB, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.state = ClusterState(
            policy_by_name("headroom"), SchedulerMetrics(CollectorRegistry()), monotonic=lambda: self.now
        )
        self.pods = self.state.pods
        self.state.on_node(ADDED, "gpu", wire.NODE.decode(wire.encode(node("gpu", 80, 80))))
        self.version = itertools.count(1)

    def seen(self, kind: str = MODIFIED, **spec: Any) -> wire.Pod:
        """The watch shows the pod as it is now."""
        body = pod("llm", vram="50Gi", **spec)
        body["metadata"] |= {"uid": "u", "resourceVersion": str(next(self.version))}
        shown = wire.POD.decode(wire.encode(body))
        self.state.on_pod(kind, shown.key, shown)
        return shown

    @property
    def entry(self) -> PodEntry:
        return self.pods.entries["u"]

    def on(self, card: int) -> Placement:
        return Placement("gpu", (card,), (50 * 1024,))

    def reach(self, stage: Stage) -> PodEntry:
        """Bring a fresh pod to a stage by the ways that lead there in the daemon."""
        self.seen(ADDED, **({"schedulingGates": [{"name": "kueue"}]} if stage is Stage.GATED else {}))
        entry = self.entry
        if stage is Stage.NAMED:
            self.pods.name(entry, self.on(0), self.now + 120)
        elif stage is Stage.OFFERED:
            self.pods.offer(entry, self.on(0), self.now + 30)
        elif stage is Stage.REFUSED:
            self.pods.refuse(entry, np.array([0]))
        elif stage in (Stage.BINDING, Stage.BOUND):
            self.pods.begin_binding(entry, self.on(0))
        if stage is Stage.BOUND:
            self.pods.confirm_binding(entry, "gpu")
        assert entry.stage is stage
        return entry

    def act(self, step: Step, entry: PodEntry) -> None:
        """Let something happen, as the daemon does."""
        gates = [{"name": "kueue"}]
        acts: dict[Step, Callable[[], object]] = {
            Step.GATE: lambda: self.seen(schedulingGates=gates),
            Step.OPEN: self.seen,
            Step.NAME: lambda: self.pods.name(entry, self.on(1), self.now + 120),
            Step.OFFER: lambda: self.pods.offer(entry, self.on(1), self.now + 30),
            Step.REFUSE: lambda: self.pods.refuse(entry, np.array([0])),
            Step.VOID: self.pods.drop_promises,
            Step.BIND: lambda: self.pods.begin_binding(entry, self.on(1)),
            Step.FAIL: lambda: self.pods.fail_binding(entry),
            Step.BOUND: lambda: self.seen(nodeName="gpu"),
            Step.END: lambda: self.seen(DELETED),
        }
        acts[step]()

    def held_mib(self) -> list[int]:
        return self.state.fleet.held_mib[self.state.fleet.row_of["gpu"], :2].tolist()


@pytest.mark.parametrize(("stage", "step", "after"), expected(), ids=str)
def test_where_a_step_leads(stage: Stage, step: Step, after: Stage | None) -> None:
    """A step that cannot follow is refused in words or ignored; either way nothing changes in the record or the ledger."""
    scene = Scene()
    entry = scene.reach(stage)
    held = scene.held_mib()
    if after is None:
        with pytest.raises(TransitionError, match=rf"pod default/llm is {stage}: it cannot {step}"):
            entry.after(step)
        with contextlib.suppress(TransitionError):
            scene.act(step, entry)
        assert scene.held_mib() == held
    else:
        scene.act(step, entry)
    assert entry.stage is (after or stage)
    assert (sum(scene.held_mib()) > 0) == (entry.stage in {*HOLDING, Stage.BOUND})
    assert ("u" in scene.pods.entries) == (entry.stage is not Stage.GONE and not (step is Step.BOUND and after))
    assert [found for found in scene.state.breaches() if "over-committed" not in found] == []


@pytest.mark.parametrize(
    ("end", "happens"),
    [
        ("expired", lambda scene: scene.pods.sweep(scene.now + 1000)),
        ("node_changed", lambda scene: scene.state.on_node(DELETED, "gpu", wire.Node(wire.Meta(name="gpu")))),
        ("moved", lambda scene: scene.pods.void(scene.entry, "moved")),
        ("handed_over", lambda scene: scene.pods.drop_promises()),
    ],
)
@pytest.mark.parametrize("stage", sorted(HOLDING))
def test_what_ends_a_reservation_leaves_a_binding_alone(
    stage: Stage, end: str, happens: Callable[[Scene], Any]
) -> None:
    """While the API server may have written a binding already, its cards are nobody else's: s18, s23, s29."""
    scene = Scene()
    entry = scene.reach(stage)
    happens(scene)
    assert entry.stage is (Stage.BINDING if stage is Stage.BINDING else Stage.WAITING)
    assert ("u" in scene.state.ledger.holdings) == (stage is Stage.BINDING)
    assert scene.pods.check() == []
    if stage is Stage.BINDING:
        scene.state.on_node(ADDED, "gpu", wire.NODE.decode(wire.encode(node("gpu", 80, 80))))
        assert scene.held_mib() == [50 * 1024, 0]


def test_a_pod_that_rests_rests_again_when_its_room_is_lost() -> None:
    """kube-scheduler let it rest when it was refused, and was told nothing since."""
    scene = Scene()
    entry = scene.reach(Stage.REFUSED)
    scene.pods.name(entry, scene.on(0), scene.now + 120)
    scene.pods.sweep(scene.now + 1000)
    assert entry.stage is Stage.REFUSED


def test_a_refused_attempt_does_not_settle_an_earlier_one_without_an_answer() -> None:
    """s22: the first write may land after the second was refused."""
    scene = Scene()
    entry = scene.reach(Stage.BINDING)
    scene.pods.binding_unsure(entry)
    scene.pods.begin_binding(entry, scene.on(0))
    assert scene.pods.fail_binding(entry) == []
    assert entry.stage is Stage.BINDING
    assert scene.held_mib() == [50 * 1024, 0]
    scene.pods.settle_binding(entry)
    assert entry.stage is Stage.WAITING
    assert scene.held_mib() == [0, 0]


def test_facts_from_memory_are_those_of_the_pod() -> None:
    reader, names = FactsReader(("headroom",)), frozenset({"headroom"})
    base = pod("llm", vram="10Gi")
    changes: list[dict[str, Any]] = [
        {},
        {"metadata": {"name": "other", "creationTimestamp": "2026-01-02T00:00:00Z"}},
        {"metadata": {"annotations": {"nvidia.com/use-gputype": "A100"}}},
        {"metadata": {"labels": {"headroom.dev/project": "chat"}}},
        {"metadata": {"namespace": "elsewhere"}},
        {"spec": {"priority": 7}},
        {"spec": {"schedulingGates": [{"name": "kueue"}]}},
        {"spec": {"schedulerName": "default-scheduler"}},
        {"spec": {"nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}},
        {"status": {"nominatedNodeName": "n1"}},
    ]
    for change in changes * 2:
        body = {part: base[part] | change.get(part, {}) for part in ("metadata", "spec", "status")}
        shown = wire.POD.decode(wire.encode(body))
        assert reader.of(shown) == facts_of(shown, names)
    first, again = (reader.of(wire.POD.decode(wire.encode(base))) for _ in range(2))
    assert first.request is again.request
    reader.customs = Customs(gpushare_unit_mib=1)
    assert reader.of(wire.POD.decode(wire.encode(base))).request is not first.request
