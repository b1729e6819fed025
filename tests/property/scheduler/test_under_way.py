"""Whatever order kubelet takes pods in, and whichever of equal cards the device plugin picks, no card gets more than it has."""

import itertools
import random
from collections.abc import Iterator

from hypothesis import assume, given
from hypothesis import strategies as st

from headroom.domain.device_plugin import most_devices
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import LedgerError
from scheduler.ledger.ledger import Ledger
from scheduler.placement.placer import Placer
from scheduler.placement.policies.registry import policy_by_name

KNOWN = [Allocation.DISTRIBUTED, Allocation.PACKED]
NEVER = 1e9


def picks(used: list[int], slices: list[int], allocation: Allocation) -> list[int]:
    """Every card that the plugin may take next."""
    free = [at for at, total in enumerate(slices) if used[at] < total]
    if not free or allocation is Allocation.UNKNOWN:
        return free
    best = (max if allocation is Allocation.PACKED else min)(used[at] for at in free)
    return [at for at in free if used[at] == best]


def outcomes(used: list[int], slices: list[int], devices: int, allocation: Allocation) -> Iterator[tuple[int, ...]]:
    """All that can come of so many devices, one after the other, as devices by card."""
    if not devices:
        yield (0,) * len(slices)
        return
    for at in picks(used, slices, allocation):
        after = [number + (card == at) for card, number in enumerate(used)]
        for rest in outcomes(after, slices, devices - 1, allocation):
            yield tuple(number + (card == at) for card, number in enumerate(rest))


cards = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=3)


@given(cards, st.integers(1, 4), st.sampled_from([*KNOWN, Allocation.UNKNOWN]))
def test_the_most_is_never_passed_and_reached_where_nothing_leaves(
    described: list[tuple[int, int, int]], count: int, allocation: Allocation
) -> None:
    slices = [total for total, _, _ in described]
    used = [min(given, total) for total, given, _ in described]
    leaving = [min(gone, given) for (_, _, gone), given in zip(described, used, strict=True)]
    most = most_devices(used, leaving, slices, count, allocation)
    seen = [0] * len(slices)
    for gone in itertools.product(*(range(number + 1) for number in leaving)):
        start = [number - less for number, less in zip(used, gone, strict=True)]
        for outcome in outcomes(start, slices, min(count, sum(slices) - sum(start)), allocation):
            seen = [max(one, other) for one, other in zip(seen, outcome, strict=True)]
    assert all(number <= bound for number, bound in zip(seen, most, strict=True)), (seen, most)
    if not any(leaving) and allocation is not Allocation.PACKED:
        assert list(most) == [min(number, count) for number in seen]


@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=8),
    counts=st.lists(st.integers(1, 2), min_size=8, max_size=8),
    settled=st.lists(st.integers(1, 60), max_size=3),
    allocation=st.sampled_from([*KNOWN, Allocation.UNKNOWN]),
    number=st.integers(1, 3),
    seed=st.integers(0, 2**20),
)
def test_no_card_is_promised_twice(
    sizes: list[int], counts: list[int], settled: list[int], allocation: Allocation, number: int, seed: int
) -> None:
    """s05 and the burst on the real kubelet: pods are bound one after the other, kubelet takes them in in any order."""
    chance = random.Random(seed)
    usable = 80
    described = tuple(Card(f"GPU-{at}", at, "A100", usable, 0, 4) for at in range(number))
    node = GpuNode("n", described, allocation=allocation, resource="nvidia.com/gpu", cpu_milli=64000, memory_mib=400000)
    ledger = Ledger(Fleet())
    ledger.apply_node(node)
    placer = Placer(ledger.fleet, policy_by_name("headroom"))
    used, load = [0] * number, [0] * number
    for mib in settled:
        card = chance.randrange(number)
        assume(load[card] + mib <= usable and used[card] < 4)
        ledger.fleet.take(0, (card,), (mib,), plugin=True)
        used[card], load[card] = used[card] + 1, load[card] + mib
    accepted = []
    for at, mib in enumerate(sizes):
        request = GpuRequest(counts[at], mode=Mode.SLICE, vram_mib=mib, resource="nvidia.com/gpu")
        placement = placer.best(request)
        if placement is None:
            continue
        try:
            ledger.reserve(f"u{at}", f"ns/p{at}", request, placement, expires_at=NEVER)
        except LedgerError as error:
            raise AssertionError(f"what fits must be taken: {error}") from error
        accepted.append(request)
    for _ in range(10):
        now_used, now_load = list(used), list(load)
        for request in chance.sample(accepted, len(accepted)):
            for _ in range(request.count):
                card = chance.choice(picks(now_used, [4] * number, allocation))
                now_used[card] += 1
                now_load[card] += request.vram_mib
        assert max(now_load) <= usable, (now_load, accepted)
