"""Groups near each other on small clusters of any shape: never further apart than need be, never outside what is required."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headroom.domain.model import WHOLE_MILLI, Card, GpuNode, GpuRequest, Placement
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet
from scheduler.placement.groups.near import Topology, seat_near
from scheduler.placement.groups.together import Seat, Unseated
from scheduler.placement.placer import Placer, hold
from scheduler.placement.policies.registry import policy_by_name

GIB = 1024
CARD_GIB = 80


@dataclass(frozen=True)
class Machine:
    held_gib: tuple[int, ...]
    domains: tuple[int, int, int]
    """Of the rack, the block and the zone; -1: no label. A rack of two blocks can be drawn too: labels are what people write."""


MACHINES = st.lists(
    st.builds(
        Machine,
        st.lists(st.sampled_from((0, 0, 0, 10, 45, 80)), min_size=1, max_size=4).map(tuple),
        st.tuples(st.integers(-1, 3), st.integers(-1, 1), st.integers(-1, 1)),
    ),
    min_size=1,
    max_size=7,
)
REQUESTS = st.one_of(
    st.sampled_from((10, 30, 40, 70)).map(lambda gib: GpuRequest(1, vram_mib=gib * GIB)),
    st.integers(1, 3).map(lambda count: GpuRequest(count, milli=WHOLE_MILLI)),
)


def fleet_of(machines: Sequence[Machine], order: Sequence[int]) -> Fleet:
    found = Fleet()
    for at in order:
        cards = tuple(Card(f"n{at}-{card}", card, "A100", CARD_GIB * GIB) for card in range(len(machines[at].held_gib)))
        found.upsert_node(GpuNode(f"n{at}", cards, cpu_milli=64_000, memory_mib=2**20))
        for card, gib in enumerate(machines[at].held_gib):
            if gib:
                found.take(found.row_of[f"n{at}"], (card,), (gib * GIB,), plugin=False)
    return found


def levels_of(machines: Sequence[Machine], order: Sequence[int]) -> tuple[IntArray, ...]:
    return tuple(np.array([machines[at].domains[level] for at in order], np.int64) for level in range(3))


def seat(
    machines: Sequence[Machine], requests: Sequence[GpuRequest], required: int | None, order: Sequence[int]
) -> list[str] | None:
    """The node of each request; None where they have no places, and then nothing is held."""
    found, levels = fleet_of(machines, order), levels_of(machines, order)
    rows, held, before = np.arange(len(machines)), dict[int, Placement](), found.dump()

    def take(at: int, placement: Placement) -> None:
        hold(found, requests[at], placement)
        held[at] = placement

    def give(at: int) -> None:
        hold(found, requests[at], held.pop(at), -1)

    placer = Placer(found, policy_by_name("bestfit"), check_host=True)
    near = Topology(levels, None if required is None else levels[required], "one")
    answer = seat_near(placer, [Seat(request, rows) for request in requests], near, take, give)
    assert (found.held_mib <= found.usable_mib).all()
    if isinstance(answer, Unseated):
        assert found.dump() == before
        return None
    assert [held[at] for at in range(len(requests))] == answer
    return [placement.node for placement in answer]


def room(machine: Machine, request: GpuRequest) -> int:
    """How many pods that all ask for this a machine holds: exact for parts of one card, and for whole cards."""
    if request.whole_cards:
        return machine.held_gib.count(0) // request.count
    return sum((CARD_GIB * GIB - gib * GIB) // request.vram_mib for gib in machine.held_gib)


def holds_all(machines: Sequence[Machine], request: GpuRequest, count: int, *same: tuple[int, int]) -> bool:
    """Whether the machines that have these domains (level, domain) hold so many."""
    inside = [one for one in machines if all(one.domains[level] == domain for level, domain in same)]
    return sum(room(one, request) for one in inside) >= count


def best_level(machines: Sequence[Machine], request: GpuRequest, count: int, required: int | None) -> int | None:
    """The nearest level with a domain that holds all, by looking at all of them; 3: none in common; None: no place."""
    limits = [()] if required is None else [((required, domain),) for domain in range(4)]
    for level in range(3):
        if any(holds_all(machines, request, count, (level, at), *limit) for at in range(4) for limit in limits):
            return level
    return 3 if any(holds_all(machines, request, count, *limit) for limit in limits) else None


def level_of(machines: Sequence[Machine], nodes: Sequence[str]) -> int:
    used = [machines[int(name[1:])].domains for name in nodes]
    common = (level for level in range(3) if len({one[level] for one in used}) == 1 and used[0][level] >= 0)
    return next(common, 3)


@given(MACHINES, REQUESTS, st.integers(1, 10), st.sampled_from((None, 0, 1, 2)), st.randoms())
@settings(max_examples=150, deadline=None)
def test_pods_that_are_alike_are_as_near_as_can_be(
    machines: list[Machine], request: GpuRequest, count: int, required: int | None, random: object
) -> None:
    order = list(range(len(machines)))
    nodes = seat(machines, [request] * count, required, order)
    best = best_level(machines, request, count, required)
    if nodes is None:
        assert best is None
        return
    assert best is not None
    assert level_of(machines, nodes) <= best
    if required is not None:
        assert (
            level_of(machines, nodes) <= required or len({machines[int(n[1:])].domains[required] for n in nodes}) == 1
        )
    random.shuffle(order)  # type: ignore[attr-defined]
    assert sorted(seat(machines, [request] * count, required, order) or []) == sorted(nodes), (
        "the order of nodes is of no matter"
    )


@given(MACHINES, st.lists(REQUESTS, min_size=1, max_size=7), st.sampled_from((None, 0, 1, 2)), st.randoms())
@settings(max_examples=150, deadline=None)
def test_pods_of_several_kinds_are_never_outside_what_is_required(
    machines: list[Machine], requests: list[GpuRequest], required: int | None, random: object
) -> None:
    order = list(range(len(machines)))
    nodes = seat(machines, requests, required, order)
    shuffled = list(requests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = seat(machines, shuffled, required, order)
    assert (nodes is None) == (again is None), "the order of pods is of no matter"
    if nodes is None:
        return
    assert again is not None
    assert sorted(zip(map(str, requests), nodes, strict=True)) == sorted(zip(map(str, shuffled), again, strict=True))
    if required is not None:
        domains = {machines[int(name[1:])].domains[required] for name in nodes}
        assert len(domains) == 1
        assert domains != {-1}
