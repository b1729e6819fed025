"""Which cards a device plugin hands out, how much a share takes, and how the outcome is written down."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headroom.domain.assignment import Assignment, AssignmentError, annotations_of, assignment_of
from headroom.domain.device_plugin import greedy_cards, share_mib
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Placement

SPREAD, PACK = Allocation.DISTRIBUTED, Allocation.PACKED


@pytest.mark.parametrize(
    ("allocation", "given_out", "slices", "count", "cards"),
    [
        (SPREAD, [0, 0, 0], [4, 4, 4], 1, (0,)),
        (SPREAD, [1, 0, 2], [4, 4, 4], 1, (1,)),
        (SPREAD, [0, 0], [4, 4], 3, (0, 1, 0)),
        (SPREAD, [3, 0], [4, 4], 2, (1, 1)),  # the idle card twice: fewest given out counts before distinct cards
        (SPREAD, [4, 3], [4, 4], 1, (1,)),
        (SPREAD, [4, 3], [4, 4], 2, None),
        (PACK, [0, 2, 1], [4, 4, 4], 1, (1,)),
        (PACK, [0, 3], [4, 4], 2, (1, 0)),
        (PACK, [0, 0], [4, 4], 2, (0, 0)),
        (PACK, [4, 0], [4, 4], 1, (1,)),
        (SPREAD, [0, 0, 0], [1, 0, 1], 2, (0, 2)),
        (SPREAD, [], [], 1, None),
        (SPREAD, [0], [1], 0, ()),
    ],
)
def test_the_plugins_choice(
    allocation: Allocation, given_out: list[int], slices: list[int], count: int, cards: tuple[int, ...] | None
) -> None:
    assert greedy_cards(given_out, slices, count, allocation) == cards


@pytest.mark.parametrize(
    ("request_", "usable", "slices", "mib"),
    [
        (GpuRequest(1, Mode.SLICE, vram_mib=5000), 15000, 4, 5000),
        (GpuRequest(1, Mode.SLICE), 15001, 4, 3750),
        (GpuRequest(1, Mode.SLICE), 15000, 1, 15000),
        (GpuRequest(1, Mode.PINNED), 15000, 4, 15000),
        (GpuRequest(1, Mode.PINNED, milli=1000), 15001, 4, 15001),
        (GpuRequest(1, Mode.SLICE, milli=333), 1000, 4, 333),
        (GpuRequest(1, Mode.PINNED, milli=1), 999, 1, 1),
    ],
)
def test_size_of_a_share(request_: GpuRequest, usable: int, slices: int, mib: int) -> None:
    assert share_mib(request_, usable, slices) == mib


@given(usable=st.integers(1000, 200_000), parts=st.lists(st.integers(1, 1000), max_size=20))
def test_thousandths_that_add_up_to_a_card_fit_on_it(usable: int, parts: list[int]) -> None:
    while sum(parts) > 1000:
        parts.pop()
    assert sum(share_mib(GpuRequest(1, milli=milli), usable, 1) for milli in parts) <= usable


NODE = GpuNode(
    "n1", (Card("GPU-a", 0, "L4", 24000, 1000), Card("GPU-b", 1, "L4", 24000, 1000), Card("GPU-c", 2, "T4", 16000))
)


@pytest.mark.parametrize(
    ("placement", "written"),
    [
        (Placement("n1", (1,), (8000,)), ("GPU-b", "8000", "0.333", "pinned")),
        (Placement("n1", (0, 1), (23000, 23000), Mode.SLICE), ("GPU-a,GPU-b", "23000", "0.958", "slice")),
        (Placement("n1", (0, 0), (100, 100), Mode.SLICE), ("GPU-a,GPU-a", "100", "0.004", "slice")),
        (Placement("n1", (0, 2), (23000, 16000)), ("GPU-a,GPU-c", "23000,16000", "0.958", "pinned")),
    ],
)
def test_what_is_written_is_read_back(placement: Placement, written: tuple[str, ...]) -> None:
    annotations = annotations_of(NODE, placement)
    prefix = "headroom.dev/assigned-"
    assert tuple(annotations[prefix + key] for key in ("cards", "vram-mib", "vram-share", "mode")) == written
    ids = tuple(NODE.cards[at].id for at in placement.cards)
    assert assignment_of(annotations) == Assignment(ids, placement.share_mib, placement.mode)


def test_nothing_written_is_no_assignment_and_half_of_it_is_an_error() -> None:
    assert assignment_of({"other": "x"}) is None
    with pytest.raises(AssignmentError, match="assigned-mode"):
        assignment_of({"headroom.dev/assigned-cards": "GPU-a"})
