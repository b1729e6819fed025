"""Cards chosen by their links: never a card without room, never a set that another one beats, and the same one every time."""

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from headroom.domain.links import Matrix
from headroom.domain.model import Card, GpuNode, GpuRequest, Mode
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import Placer
from scheduler.placement.policies.linked import LinkTables, best_set
from scheduler.placement.policies.registry import policy_by_name

PATHS = st.sampled_from([4, 8, 12, 24, 25, 50, 100])
USABLE_MIB = 80_000


@st.composite
def matrices(draw: st.DrawFn, most: int = 8) -> Matrix:
    cards = draw(st.integers(2, most))
    rows = [[0] * cards for _ in range(cards)]
    for one, other in combinations(range(cards), 2):
        rows[one][other] = rows[other][one] = draw(PATHS)
    return tuple(map(tuple, rows))


def slowest_and_sum(matrix: Matrix, cards: tuple[int, ...]) -> tuple[int, int]:
    """What a set is worth, reckoned in another way than the code under test does."""
    paths = [matrix[one][other] for one, other in combinations(cards, 2)]
    return min(paths, default=0), sum(paths)


def best_pairing(matrix: Matrix, cards: tuple[int, ...]) -> int:
    if len(cards) < 2:
        return 0
    first, rest = cards[0], cards[1:]
    return max(
        best_pairing(matrix, rest),
        *(matrix[first][other] + best_pairing(matrix, tuple(card for card in rest if card != other)) for other in rest),
    )


def places(bits: int) -> tuple[int, ...]:
    return tuple(card for card in range(bits.bit_length()) if bits >> card & 1)


@given(st.data())
def test_no_set_of_the_free_cards_is_better_and_of_equals_none_leaves_more(data: st.DataObject) -> None:
    matrix = data.draw(matrices())
    free = data.draw(st.sets(st.sampled_from(range(len(matrix))), min_size=1))
    count = data.draw(st.integers(1, len(free)))
    bits = sum(1 << card for card in free)
    chosen = places(best_set(matrix, count, bits, unused=bits, liked=0))
    assert len(chosen) == count
    assert set(chosen) <= free

    def key(cards: tuple[int, ...]) -> tuple[int, int, int, int]:
        left = tuple(sorted(free - set(cards)))
        return *slowest_and_sum(matrix, cards), best_pairing(matrix, left), slowest_and_sum(matrix, left)[1]

    assert key(chosen) == max(map(key, combinations(sorted(free), count)))
    assert places(best_set(matrix, count, bits, unused=bits, liked=0)) == chosen


@given(matrices(most=6))
def test_the_tables_hold_what_each_set_is_worth(matrix: Matrix) -> None:
    tables = LinkTables(matrix)
    for bits in range(1, 1 << len(matrix)):
        cards = places(bits)
        slowest, total = slowest_and_sum(matrix, cards)
        assert (tables.total[bits], tables.size[bits]) == (total, len(cards))
        if len(cards) > 1:
            assert tables.slowest[bits] == slowest


@given(st.data())
def test_the_placer_takes_only_cards_with_room_and_the_best_linked_of_them(data: st.DataObject) -> None:
    """Whatever pods hold already, whether whole cards are asked for or parts."""
    matrix = data.draw(matrices())
    cards = tuple(Card(f"card-{at}", at, "A40", USABLE_MIB) for at in range(len(matrix)))
    fleet = Fleet()
    row = fleet.upsert_node(GpuNode("n", cards, cpu_milli=64_000, memory_mib=2**20, link_gbytes_per_second=matrix))
    for at in range(len(matrix)):
        held = data.draw(st.sampled_from([0, 0, 0, 20_000, 50_000, USABLE_MIB]))
        if held:
            fleet.take(row, [at], [held], plugin=False)
    count = data.draw(st.integers(1, len(matrix)))
    vram = data.draw(st.sampled_from([0, 10_000, 35_000, 70_000]))
    placer = Placer(fleet, policy_by_name(data.draw(st.sampled_from(["headroom", "fgd", "bestfit", "spread-vram"]))))
    request = GpuRequest(count, Mode.PINNED, vram_mib=vram)
    placement = placer.best(request)
    room = {
        at
        for at in range(len(matrix))
        if fleet.free_mib[row, at] >= (vram or USABLE_MIB) and (vram or not fleet.held_mib[row, at])
    }
    if placement is None:
        assert len(room) < count
        return
    assert len(set(placement.cards)) == count
    assert set(placement.cards) <= room
    assert placement == placer.best(request)
    if count > 1:
        best = max(slowest_and_sum(matrix, chosen) for chosen in combinations(sorted(room), count))
        assert slowest_and_sum(matrix, placement.cards) == best


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6))
def test_the_same_node_takes_the_same_pods_in_the_same_way_twice(sizes: list[int]) -> None:
    """Ties go by index: two fleets that heard of the same things agree."""
    matrix = tuple(tuple(0 if a == b else 100 if a // 2 == b // 2 else 12 for b in range(8)) for a in range(8))
    histories = []
    for _ in range(2):
        fleet = Fleet()
        cards = tuple(Card(f"card-{at}", at, "A40", USABLE_MIB) for at in range(8))
        row = fleet.upsert_node(GpuNode("n", cards, cpu_milli=64_000, memory_mib=2**20, link_gbytes_per_second=matrix))
        placer, taken = Placer(fleet, policy_by_name("headroom")), []
        for size in sizes:
            placement = placer.best(GpuRequest(size, Mode.PINNED))
            if placement is not None:
                fleet.take(row, placement.cards, placement.share_mib, plugin=False)
                taken.append(placement.cards)
        histories.append(taken)
    assert all(one == other for one, other in pairwise(histories))
