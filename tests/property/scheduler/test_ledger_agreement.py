"""What placement says fits, the ledger takes; what the ledger takes is what the cards' sizes say."""

from hypothesis import given, settings
from hypothesis import strategies as st

from headroom.domain.device_plugin import share_mib
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger
from scheduler.placement.placer import Placer
from scheduler.placement.policies.registry import policy_by_name

RESOURCE = "nvidia.com/gpu"


@st.composite
def nodes(draw: st.DrawFn) -> GpuNode:
    slices = draw(st.sampled_from((1, 1, 2, 4)))
    cards = tuple(
        Card(f"GPU-{at}", at, draw(st.sampled_from(("L4", "T4"))), mib, reserve, slices, healthy)
        for at, (mib, reserve, healthy) in enumerate(
            draw(
                st.lists(
                    st.tuples(st.integers(40, 90), st.integers(0, 9), st.sampled_from((True, True, True, False))),
                    min_size=1,
                    max_size=4,
                )
            )
        )
    )
    sharing = Sharing.TIME_SLICING if slices > 1 else Sharing.EXCLUSIVE
    return GpuNode("n", cards, sharing, draw(st.sampled_from(list(Allocation))), RESOURCE)


def sized(count: int, mode: Mode, size: tuple[int, int], models: frozenset[str]) -> GpuRequest:
    vram_mib, milli = size
    resource = RESOURCE if mode is Mode.SLICE else ""
    return GpuRequest(count, mode, vram_mib, milli, resource, models=models)


SIZES = st.one_of(
    st.tuples(st.integers(1, 90), st.just(0)), st.tuples(st.just(0), st.integers(1, 1000)), st.just((0, 0))
)
REQUESTS = st.builds(
    sized,
    st.integers(1, 3),
    st.sampled_from(list(Mode)),
    SIZES,
    st.sampled_from((frozenset[str](), frozenset({"L4"}))),
)


@settings(max_examples=300, deadline=None)
@given(
    node=nodes(), requests=st.lists(REQUESTS, min_size=1, max_size=8), measured=st.lists(st.integers(0, 60), max_size=4)
)
def test_what_placement_says_fits_is_taken(node: GpuNode, requests: list[GpuRequest], measured: list[int]) -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(node)
    fleet = ledger.fleet
    row = fleet.row_of["n"]
    fleet.set_measured(row, measured[: len(node.cards)])
    placer = Placer(fleet, policy_by_name("fgd"))
    for number, request in enumerate(requests):
        if placer.refusal(request, row) is not None:
            continue
        placement = placer.placement_at(request, row)
        ledger.reserve(f"u{number}", f"ns/p{number}", request, placement, expires_at=1.0)
        for at, mib in zip(placement.cards, placement.share_mib, strict=True):
            assert mib == share_mib(request, node.cards[at].usable_mib, node.cards[at].slices)
            assert not request.models or node.cards[at].model in request.models
    assert ledger.check() == []
    assert ledger.overcommitted() == []
