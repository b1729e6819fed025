"""Prefill and decode: what each is held to, and how they share what there is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.law.sizing import prices
from autoscaler.law.sizing.prices import CostSettings, CostState, Iterations
from autoscaler.law.sizing.roles import Counts, Part, Role, objective_of, together
from autoscaler.law.spec import Objective


def shared(prefill: Part, decode: Part, cards: int, of: Counts = (1, 1)) -> Counts:
    """What both get where so many cards are free; `of` are the cards of a replica of each."""
    each = dict(zip(Role, of, strict=True))

    def fits(role: Role, limit: int, beside: int) -> int:
        other = Role.DECODE if role is Role.PREFILL else Role.PREFILL
        return min(max(cards - beside * each[other], 0) // each[role], limit)

    return together(prefill, decode, fits)


@pytest.mark.parametrize(
    ("prefill", "decode", "cards", "counts"),
    [
        pytest.param(Part(1, 4), Part(1, 2), 9, (4, 2), id="room for all"),
        pytest.param(Part(1, 4), Part(1, 2), 2, (2, 2), id="decode first, prefill gets the rest"),
        pytest.param(Part(1, 4), Part(1, 4), 2, (1, 3), id="no prefill for what decode could not take"),
        pytest.param(Part(1, 8), Part(2, 2), 3, (4, 2), id="decode has enough"),
        pytest.param(Part(2, 5), Part(2, 5), 0, (2, 2), id="no room: nothing"),
        pytest.param(Part(3, 3), Part(3, 3), 0, (3, 3), id="nothing wanted"),
        pytest.param(
            Part(2, 5),
            Part(6, 6, least=2),
            0,
            (2, 3),
            id="decode gives up what it keeps for later, as many as prefill lacks",
        ),
        pytest.param(Part(2, 8), Part(6, 6, least=4), 1, (3, 4), id="no more than it can do without"),
        pytest.param(Part(6, 6, least=1), Part(1, 3), 0, (4, 1), id="prefill gives up for decode"),
        pytest.param(Part(2, 5), Part(6, 6), 0, (2, 6), id="what decode needs is not known: it keeps what it has"),
        pytest.param(Part(2, 5), Part(6, 6, least=2), 3, (5, 6), id="nothing is given up while there is room"),
        pytest.param(
            Part(2, 2, least=1), Part(6, 4, least=2), 0, (2, 6), id="nothing lacks: each lowers by its own law"
        ),
        pytest.param(Part(0, 2), Part(0, 1), 1, (0, 1), id="from nothing: decode, then prefill"),
    ],
)
def test_what_there_is_goes_to_the_role_that_has_work(prefill: Part, decode: Part, cards: int, counts: Counts) -> None:
    assert shared(prefill, decode, cards) == counts


def test_replicas_of_several_cards() -> None:
    """Decode on four cards, prefill on one: six free cards are one more of decode, and of prefill what decode keeps up with."""
    assert shared(Part(1, 8), Part(1, 4), 6, of=(1, 4)) == (3, 2)


def test_prefill_that_decode_cannot_follow_is_not_asked_for() -> None:
    """Decode's cards are used up, prefill has a kind of its own: more of it would fill decode's queue."""

    def fits(role: Role, limit: int, _beside: int) -> int:
        return limit if role is Role.PREFILL else 0

    assert together(Part(2, 8), Part(2, 4), fits) == (4, 2)


counts = st.integers(0, 40)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    before, wanted = draw(counts), draw(counts)
    return Part(before, wanted, draw(st.none() | st.integers(0, before)))


@given(parts(), parts(), st.integers(0, 80), st.integers(1, 8), st.integers(1, 8))
def test_nothing_beyond_need_and_nothing_lowered_on_the_unknown(
    prefill: Part, decode: Part, cards: int, each: int, other: int
) -> None:
    found = shared(prefill, decode, cards, of=(each, other))
    for count, part, beside, its in zip(found, (prefill, decode), found[::-1], (decode, prefill), strict=True):
        assert count <= max(part.before, part.wanted)
        if part.least is None or part.growth:
            assert count >= part.before
        else:
            assert count >= part.before - max(part.before - part.least, 0)
        if count < part.before:  # for the other role, which lacks that many and more
            assert part.before - count <= its.wanted - beside
    used = sum(
        max(n - part.before, 0) * cost for n, part, cost in zip(found, (prefill, decode), (each, other), strict=True)
    )
    assert used <= cards


@given(parts(), parts(), st.integers(0, 80))
def test_more_room_is_never_fewer_replicas(prefill: Part, decode: Part, cards: int) -> None:
    fewer, more = shared(prefill, decode, cards), shared(prefill, decode, cards + 1)
    assert all(a <= b for a, b in zip(fewer, more, strict=True))


@given(parts(), parts(), st.integers(0, 30))
def test_it_settles(prefill: Part, decode: Part, cards: int) -> None:
    """Round after round with what is free then: what was given up is taken by the other role, once, and nothing swings."""
    seen: list[Counts] = []
    for _ in range(6):
        counts = shared(prefill, decode, cards)
        cards -= sum(counts) - prefill.before - decode.before
        prefill, decode = (
            Part(count, min(part.wanted, count) if count < part.before else part.wanted, part.least)
            for count, part in zip(counts, (prefill, decode), strict=True)
        )
        seen.append(counts)
    assert seen[2:] == [seen[2]] * 4


def test_the_objective_is_divided() -> None:
    whole = Objective(first_token_seconds=2.0, inter_token_seconds=0.1, share=0.98)
    prefill, decode = objective_of(Role.PREFILL, whole), objective_of(Role.DECODE, whole)
    assert prefill is not None
    assert decode is not None
    assert (prefill.first_token_seconds, prefill.inter_token_seconds) == (2.0, None)
    assert (decode.first_token_seconds, decode.inter_token_seconds) == (None, 0.1)
    assert (1 - prefill.share) + (1 - decode.share) == pytest.approx(1 - whole.share)


def test_a_role_without_a_part_in_the_objective_has_none() -> None:
    assert objective_of(Role.PREFILL, Objective(inter_token_seconds=0.1)) is None
    assert objective_of(Role.DECODE, Objective(first_token_seconds=2.0)) is None
    assert objective_of(Role.DECODE, Objective(request_seconds=20.0)) is not None


def test_a_prompt_token_costs_what_it_took_in_the_mean() -> None:
    settings, state = CostSettings(), CostState()
    assert prices.prompt_cost(state, settings) is None
    for tokens in (300.0, 500.0, 200.0, 512.0):
        assert prices.prompt_cost(state, settings) is None  # too few
        state = prices.learn(state, Iterations(0.02 + 0.0001 * tokens, 0.1, tokens), settings)
    for tokens in (300.0, 500.0, 200.0, 512.0):
        state = prices.learn(state, Iterations(0.02 + 0.0001 * tokens, 0.1, tokens), settings)
    cost = prices.prompt_cost(state, settings)
    assert cost is not None
    assert cost.per_prompt_token == pytest.approx(0.0001 + 0.02 / 378, rel=0.01)
    assert cost.full_batch == 0.0  # a prefill replica is full when it computes all the time, whatever is inside
