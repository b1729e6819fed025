"""Whom a plan would evict for whom."""

from collections.abc import Generator
from typing import TypeVar, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headroom.domain.model import Card, GpuNode, GpuRequest, Mode, Placement, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.placement.victims import Occupant, fits_without, plan

GIB = 1024
T = TypeVar("T")


def worked_out(planning: Generator[None, None, T]) -> T:
    """What a plan comes to when it is worked out in one go."""
    while True:
        try:
            next(planning)
        except StopIteration as end:
            return cast(T, end.value)


class Scene:
    """Nodes with 80 GiB cards and pods on them, for `plan` alone."""

    def __init__(self, cards: dict[str, int]) -> None:
        self.fleet = Fleet()
        for name, count in cards.items():
            found = tuple(Card(f"{name}-{at}", at, "A100", 80 * GIB) for at in range(count))
            self.fleet.upsert_node(GpuNode(name, found))
        self.pods: dict[str, list[Occupant]] = {name: [] for name in cards}

    def hold(self, name: str, on: str, gib: int, priority: int, card: int = 0, *, leaving: bool = False) -> "Scene":
        placement = Placement(on, (card,), (gib * GIB,), Mode.PINNED)
        self.fleet.take(self.fleet.row_of[on], placement.cards, placement.share_mib, plugin=False)
        self.pods[on].append(Occupant(name, "default", name, priority, placement, leaving))
        return self

    def victims(self, gib: int, priority: int, count: int = 1) -> tuple[str, list[str]] | None:
        request = GpuRequest(count, vram_mib=gib * GIB)
        rows = list(range(len(self.fleet.names)))
        chosen = worked_out(plan(self.fleet, lambda row: self.pods[self.fleet.names[row]], request, priority, rows))
        return None if chosen is None else (chosen.node, sorted(victim.name for victim in chosen.victims))


def test_the_least_important_victim_goes_first() -> None:
    scene = Scene({"a": 1, "b": 1}).hold("costly", "a", 60, 100).hold("cheap", "b", 60, 10)
    assert scene.victims(40, priority=1000) == ("b", ["cheap"])


def test_then_the_fewest_victims() -> None:
    scene = Scene({"a": 1, "b": 1}).hold("a1", "a", 30, 0).hold("a2", "a", 30, 0).hold("b1", "b", 60, 0)
    assert scene.victims(60, priority=1) == ("b", ["b1"])


def test_then_the_least_memory_and_nobody_who_may_stay() -> None:
    scene = Scene({"a": 1}).hold("small", "a", 10, 0).hold("large", "a", 60, 0)
    assert scene.victims(15, priority=1) == ("a", ["small"])
    assert scene.victims(40, priority=1) == ("a", ["large"])


def test_a_node_that_goes_while_the_plan_is_worked_out_is_passed_over() -> None:
    scene = Scene({"a": 1, "b": 1}).hold("cheap", "a", 60, 0).hold("costly", "b", 60, 10)
    planning = plan(
        scene.fleet,
        lambda row: scene.pods.get(scene.fleet.names[row], []),
        GpuRequest(1, vram_mib=40 * GIB),
        50,
        [0, 1],
    )
    next(planning)
    scene.fleet.remove_node("a")
    assert (found := worked_out(planning)) is not None
    assert found.node == "b"


SHARES = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 40), st.integers(0, 3), st.sampled_from(Mode)),
    max_size=12,
)


@given(
    held=SHARES,
    measured=st.lists(st.integers(0, 80), min_size=9, max_size=9),
    gib=st.integers(1, 80),
    mode=st.sampled_from(Mode),
)
def test_many_nodes_at_once_are_judged_as_one_by_one(
    held: list[tuple[int, int, int, int, Mode]], measured: list[int], gib: int, mode: Mode
) -> None:
    """A node has a plan exactly where its lower priorities, taken away one after another, leave enough room."""
    fleet = Fleet()
    for name in "abc":
        cards = tuple(Card(f"{name}{at}", at, "A100", 80 * GIB, slices=4) for at in range(3))
        fleet.upsert_node(GpuNode(name, cards, Sharing.TIME_SLICING, resource="nvidia.com/gpu"))
    pods: list[list[Occupant]] = [[], [], []]
    for number, (row, card, size, priority, share_mode) in enumerate(held):
        placement = Placement("abc"[row], (card,), (size * GIB,), share_mode)
        fleet.take(row, placement.cards, placement.share_mib, plugin=share_mode is Mode.SLICE)
        pods[row].append(Occupant(f"u{number}", "default", f"p{number}", priority, placement))
    for row in range(3):
        fleet.set_measured(row, [mib * GIB for mib in measured[3 * row : 3 * row + 3]])
    request = GpuRequest(1, mode, vram_mib=gib * GIB, resource="nvidia.com/gpu" if mode is Mode.SLICE else "")
    for row in range(3):
        lower = [pod for pod in pods[row] if pod.priority < 2]
        chosen = worked_out(plan(fleet, lambda row: pods[row], request, 2, [row]))
        assert (chosen is not None) == bool(lower and fits_without(fleet, row, lower, request))


@pytest.mark.parametrize("priority", [5, 4, -1])
def test_equal_or_higher_priority_is_never_evicted(priority: int) -> None:
    assert Scene({"a": 1}).hold("held", "a", 60, 5).victims(40, priority=priority) is None


def test_lower_priorities_that_do_not_make_enough_room_are_left_alone() -> None:
    scene = Scene({"a": 1}).hold("low", "a", 20, 0).hold("high", "a", 50, 100)
    assert scene.victims(40, priority=50) is None


def test_pods_on_their_way_out_are_waited_for_before_anybody_is_evicted() -> None:
    scene = Scene({"a": 1}).hold("leaving", "a", 60, 100, leaving=True).hold("low", "a", 10, 0)
    assert scene.victims(60, priority=50) == ("a", [])


def test_several_cards_are_freed_together() -> None:
    scene = Scene({"a": 2}).hold("one", "a", 60, 0, card=0).hold("two", "a", 60, 0, card=1)
    assert scene.victims(40, priority=1, count=2) == ("a", ["one", "two"])
    assert scene.victims(40, priority=1, count=3) is None


def test_a_measured_foreign_process_is_not_evicted_with_the_pod() -> None:
    scene = Scene({"a": 1}).hold("low", "a", 20, 0)
    scene.fleet.set_measured(0, [60 * GIB])  # 20 GiB are the pod's, 40 GiB are somebody else's
    assert scene.victims(50, priority=1) is None
    assert scene.victims(35, priority=1) == ("a", ["low"])
