"""Each change takes effect once, after it is complete; an effect that fails undoes nothing and keeps nothing from happening."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from headroom import names, wire
from headroom.daemon.guard import Guard
from headroom.domain.dra.objects import RESOURCE_CLAIM, RESOURCE_SLICE
from headroom.domain.model import Placement
from headroom.wire import ADDED, DELETED, MODIFIED
from scheduler.cluster.changes import (
    CardClaimed,
    CardsOverfilled,
    Change,
    Freed,
    PodDisagrees,
    PodWaits,
)
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import Claim, PodEntry, Stage
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name
from tests.fakes.apiserver import ApiServer
from tests.fakes.devices import claim, device, resource_slice, result
from tests.fakes.extender import GIB, NODES, PODS, extender, node, pod

KINDS: tuple[type[Change], ...] = get_args(Change)


class World:
    """A state whose changes are handed on to somebody who looks at the whole state each time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.state = ClusterState(
            policy_by_name("headroom"), SchedulerMetrics(CollectorRegistry()), monotonic=lambda: self.now
        )
        self.failures: list[str] = []
        self.effects = Effects(Guard(self.failures.append))
        self.told: list[tuple[str, str]] = []
        self.version = itertools.count(1)
        for kind in KINDS:
            self.effects.on(kind, kind.__name__, self.look)
        self.effects(self.state.on_node(ADDED, "gpu", wire.NODE.decode(wire.encode(node("gpu", 80)))))
        self.told.clear()

    def look(self, change: Change) -> None:
        assert [words for words in self.state.breaches() if "over-committed" not in words] == []
        if isinstance(change, Freed):
            self.told.append(("Freed", change.node))
        elif isinstance(change, PodDisagrees | CardClaimed | CardsOverfilled):
            self.told.append((type(change).__name__, change.key))
        else:
            self.told.append((type(change).__name__, change.entry.stage.value))

    def event(self, kind: str, name: str = "llm", annotations: dict[str, str] | None = None, **spec: Any) -> None:
        body = pod(name, vram="50Gi", **spec)
        uid = "u" if name == "llm" else name
        body["metadata"] |= {"uid": uid, "resourceVersion": str(next(self.version)), "annotations": annotations or {}}
        shown = wire.POD.decode(wire.encode(body))
        self.effects(self.state.on_pod(kind, shown.key, shown))

    @property
    def entry(self) -> PodEntry:
        return self.state.pods.entries["u"]

    def offer(self) -> None:
        self.effects(self.state.pods.offer(self.entry, Placement("gpu", (0,), (50 * GIB,)), self.now + 30))

    def claim(self, kind: str = ADDED) -> None:
        """kube-scheduler allocates the node's only card to a resource claim, or that is seen again, or goes."""
        body = claim("train-claim", [result("gpu-0", "gpu")], node="gpu")
        self.effects(self.state.devices.on_claim(kind, "default/train-claim", RESOURCE_CLAIM.decode(wire.encode(body))))

    def begin(self) -> PodEntry:
        entry = self.entry
        self.effects(self.state.pods.begin_binding(entry, Placement("gpu", (0,), (50 * GIB,))))
        return entry


def bound_and_deleted(world: World) -> None:
    world.event(ADDED, nodeName="gpu")
    world.event(DELETED, nodeName="gpu")


def waits_and_changes(world: World) -> None:
    world.event(ADDED)
    world.event(MODIFIED, priority=3)
    world.event(MODIFIED, priority=3)


def answered_then_shown(world: World) -> None:
    world.event(ADDED)
    entry = world.begin()
    world.effects(world.state.pods.confirm_binding(entry, "gpu"))
    world.event(MODIFIED, annotations=ON_THE_CARD, nodeName="gpu")
    world.event(MODIFIED, annotations=ON_THE_CARD, nodeName="gpu")


def shown_then_answered(world: World) -> None:
    world.event(ADDED)
    entry = world.begin()
    world.event(MODIFIED, nodeName="gpu")
    world.effects(world.state.pods.confirm_binding(entry, "gpu"))


def refused_twice(world: World) -> None:
    world.event(ADDED)
    for _ in range(2):
        world.effects(world.state.pods.refuse(world.entry, np.array([0])))


def offered_and_deleted(world: World) -> None:
    world.event(ADDED)
    world.offer()
    world.event(DELETED)


def offered_and_expired(world: World) -> None:
    world.event(ADDED)
    world.offer()
    world.effects(world.state.pods.sweep(world.now + 100))
    world.effects(world.state.pods.sweep(world.now + 100))


def binding_fails(world: World) -> None:
    world.event(ADDED)
    entry = world.begin()
    world.effects(world.state.pods.fail_binding(entry))
    world.effects(world.state.pods.fail_binding(entry))


def node_goes(world: World) -> None:
    world.event(ADDED)
    world.offer()
    world.effects(world.state.on_node(DELETED, "gpu", wire.Node(wire.Meta(name="gpu"))))


def claim_ends_with_its_pod(world: World) -> None:
    world.event(ADDED)
    world.state.pods.claim(world.entry, Claim("gpu", world.now + 60))
    world.event(DELETED)


ON_THE_CARD = {
    names.ANNOTATION_ASSIGNED_CARDS: "gpu-gpu0", names.ANNOTATION_ASSIGNED_MODE: "pinned",
    names.ANNOTATION_ASSIGNED_VRAM_MIB: str(50 * GIB),
}  # fmt: skip
"""Written on a pod that asks for 50 GiB and is bound to node `gpu`."""


def written_by_hand(world: World) -> None:
    """What is written on the pod names a card that its node has not; it is shown three times, and put right."""
    for _ in range(3):
        world.event(ADDED, annotations=ON_THE_CARD | {names.ANNOTATION_ASSIGNED_CARDS: "gone"}, nodeName="gpu")


def two_on_one_card(world: World) -> None:
    world.event(ADDED, annotations=ON_THE_CARD, nodeName="gpu")
    for _ in range(3):
        world.event(ADDED, "other", annotations=ON_THE_CARD, nodeName="gpu")


def pinned_card_is_claimed(world: World) -> None:
    slices = RESOURCE_SLICE.decode(wire.encode(resource_slice("gpu", [device("gpu-0", "gpu-gpu0")])))
    world.effects(world.state.devices.on_slice(ADDED, slices.metadata.name, slices))
    while world.state.devices.due:
        world.effects(world.state.devices.work_off())
    world.told.clear()
    world.event(ADDED, annotations=ON_THE_CARD, nodeName="gpu")
    for _ in range(3):
        world.claim()
    world.claim(DELETED)


def kept_node_opens(world: World) -> None:
    world.event(ADDED)
    world.effects(world.state.pods.kept.keep(world.entry, "gpu"))
    world.event(ADDED, nodeName="gpu")
    world.event(MODIFIED, nodeName="gpu")


def decider_is_replaced(world: World) -> None:
    world.event(ADDED)
    world.offer()
    for _ in range(2):
        world.effects(world.state.pods.drop_promises())


def gates_go(world: World) -> None:
    gates = [{"name": "kueue"}]
    for gated in (gates, gates, [], [], gates, []):
        world.event(MODIFIED, schedulingGates=gated)


def named_then_moved(world: World) -> None:
    """The room that a pod leaves for a better place is told of; a place that it keeps is not."""
    world.effects(world.state.on_node(ADDED, "other", wire.NODE.decode(wire.encode(node("other", 80)))))
    world.told.clear()
    world.event(ADDED)
    for place in ("gpu", "gpu", "other"):
        placement = Placement(place, (0,), (50 * GIB,))
        world.effects(world.state.pods.offer(world.entry, placement, world.now + 30))


WAITS = ("PodWaits", "waiting")


@pytest.mark.parametrize(
    ("happens", "told"),
    [
        (bound_and_deleted, [("Freed", "gpu")]),
        (waits_and_changes, [WAITS]),
        (answered_then_shown, [WAITS, ("PodBound", "bound")]),
        (shown_then_answered, [WAITS, ("PodBound", "bound")]),
        (refused_twice, [WAITS, ("PodRefused", "refused"), ("PodRefused", "refused")]),
        (offered_and_deleted, [WAITS, ("PodGone", "gone"), ("Freed", "gpu")]),
        (offered_and_expired, [WAITS, ("Freed", "gpu")]),
        (binding_fails, [WAITS, ("Freed", "gpu")]),
        (node_goes, [WAITS, ("Freed", "gpu")]),
        (claim_ends_with_its_pod, [WAITS, ("PodGone", "gone"), ("Freed", "gpu")]),
        (written_by_hand, [("PodDisagrees", "default/llm")]),
        (two_on_one_card, [("CardsOverfilled", "default/other")]),
        (pinned_card_is_claimed, [("CardClaimed", "default/llm"), ("Freed", "gpu")]),
        (kept_node_opens, [WAITS, ("PodBound", "bound"), ("Freed", "gpu")]),
        (decider_is_replaced, [WAITS, ("Freed", "gpu")]),
        (gates_go, [WAITS, WAITS]),
        (named_then_moved, [WAITS, ("Freed", "gpu")]),
    ],
)
def test_each_effect_happens_once_and_after_the_change(
    happens: Callable[[World], None], told: list[tuple[str, str]]
) -> None:
    world = World()
    happens(world)
    assert world.told == told
    assert world.failures == []


def test_an_effect_that_fails_keeps_the_others_from_nothing() -> None:
    world = World()
    heard: list[Change] = []

    def fail(_: Change) -> None:
        raise RuntimeError("no")

    effects = Effects(Guard(world.failures.append))
    effects.on(PodWaits, "first", fail)
    effects.on(PodWaits, "second", heard.append)
    waits = PodWaits(entry=None)  # type: ignore[arg-type]
    effects([waits, waits])
    assert heard == [waits, waits]
    assert world.failures == ["first", "first"]


def test_what_an_effect_changes_is_handed_on_after_what_is_due_already() -> None:
    """Re-entering a change that is being made was how one DELETED event reserved, freed and reserved again."""
    effects = Effects(Guard(lambda where: None))
    order: list[str] = []

    def first(change: Freed) -> None:
        order.append(f"first {change.node}")
        if change.node == "a":
            effects([Freed("b", 2, 0.0, seen_by_scheduler=True)])

    effects.on(Freed, "first", first)
    effects.on(Freed, "second", lambda change: order.append(f"second {change.node}"))
    effects([Freed("a", 1, 0.0, seen_by_scheduler=True), Freed("c", 3, 0.0, seen_by_scheduler=True)])
    assert order == ["first a", "second a", "first c", "second c", "first b", "second b"]


async def test_an_effect_that_fails_neither_undoes_the_change_nor_stops_the_watch(tmp_path: Path) -> None:
    def fail(_: Freed) -> None:
        raise RuntimeError("no")

    async with ApiServer() as api:
        api.put(NODES, node("gpu", 80))
        async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
            running.daemon.effects.on(Freed, "broken", fail)
            await running.place(await running.create(pod("llm", vram="50Gi")))
            api.remove(PODS, "llm")
            await running.caught_up()
            assert running.daemon.state.fleet.held_mib.sum() == 0
            assert await running.metric("headroom_cycle_failures_total", task="broken") == 1
            assert running.daemon.pods.relists == 1
            entry = (await running.create(pod("next", vram="50Gi")))["metadata"]["uid"]
            assert running.daemon.state.pods.entries[entry].stage is Stage.WAITING
