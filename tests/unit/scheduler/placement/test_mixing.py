"""Pods that Headroom pins and pods of the device plugin on nodes of whole cards: case s41."""

import random

import numpy as np
import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import Placer, hold
from scheduler.placement.policies.registry import policy_by_name

GIB = 1024
RESOURCE = "nvidia.com/gpu"
WHOLE = GpuRequest(1, Mode.SLICE, resource=RESOURCE)
PINNED = tuple(GpuRequest(1, vram_mib=size * GIB) for size in (10, 20, 35))


def node(name: str, cards: int = 8, slices: int = 1, resource: str = RESOURCE) -> GpuNode:
    found = tuple(Card(f"{name}-{at}", at, "A100", 80 * GIB, 0, slices) for at in range(cards))
    return GpuNode(name, found, resource=resource, cpu_milli=64000, memory_mib=400000)


def placer(*nodes: GpuNode, policy: str = "headroom") -> Placer:
    fleet = Fleet()
    for each in nodes:
        fleet.upsert_node(each)
    return Placer(fleet, policy_by_name(policy))


def put(on: Placer, request: GpuRequest) -> Placement | None:
    on.observe(request)
    found = on.best(request)
    if found is not None:
        hold(on.fleet, request, found)
    return found


def churn(seed: int, pinned_part: float, policy: str = "headroom") -> tuple[int, int]:
    """Whole-card pods refused while cards were wholly free, and how many there were (without the price, up to 5 % are)."""
    rng = random.Random(seed)
    on = placer(*(node(f"n{at:02d}") for at in range(20)), policy=policy)
    refused = asked = 0
    alive: list[tuple[GpuRequest, Placement]] = []
    for turn in range(1200):
        if alive and rng.random() < 0.45:
            request, placement = alive.pop(rng.randrange(len(alive)))
            hold(on.fleet, request, placement, -1)
            continue
        request = rng.choice(PINNED) if rng.random() < pinned_part else WHOLE
        found = put(on, request)
        asked += request is WHOLE
        if found is not None:
            alive.append((request, found))
        elif request is WHOLE:
            refused += bool((on.fleet.held_mib[:20] == 0).sum())
        if turn % 100 == 0:
            on.replan()
    return refused, asked


@pytest.mark.parametrize("policy", ["headroom", "bestfit"])
@pytest.mark.parametrize("pinned_part", [0.1, 0.3, 0.5])
def test_pinned_pods_do_not_poison_nodes_for_whole_card_pods(pinned_part: float, policy: str) -> None:
    refused, asked = map(sum, zip(*(churn(seed, pinned_part, policy) for seed in range(2)), strict=True))
    assert refused <= asked * 0.01


def test_a_pinned_pod_goes_where_others_of_its_kind_are() -> None:
    on = placer(*(node(f"n{at}") for at in range(4)))
    for _ in range(5):
        assert put(on, WHOLE) is not None
    first = put(on, PINNED[0])
    assert first is not None
    for _ in range(4):
        found = put(on, PINNED[2])
        assert found is not None
        assert found.node == first.node


def test_what_fits_nowhere_else_is_mixed() -> None:
    """A price is no bar."""
    on = placer(node("only"))
    assert put(on, WHOLE) is not None
    assert put(on, PINNED[0]) is not None


def test_a_small_node_is_mixed_before_a_large_one() -> None:
    on = placer(node("large", 8), node("small", 2))
    on.observe(WHOLE)
    found = put(on, PINNED[0])
    assert found is not None
    assert found.node == "small"


@pytest.mark.parametrize(
    "other", [node("b", slices=4), node("b", resource="")], ids=["time-shared cards", "no device plugin"]
)
def test_where_no_whole_cards_are_handed_out_nothing_is_withheld(other: GpuNode) -> None:
    on = placer(node("a"), other)
    on.observe(WHOLE)
    found = put(on, PINNED[0])
    assert found is not None
    assert found.node == "b"


def test_without_pods_of_the_plugin_there_is_no_price() -> None:
    """Keys are those of the policy alone."""
    on = placer(node("a"), node("b"))
    before = on.order(PINNED[0], np.arange(2).tolist())
    on.observe(PINNED[0])
    assert on.order(PINNED[0], np.arange(2).tolist()) == before == [(0, 10), (1, 10)]
