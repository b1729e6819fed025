"""For every card and whatever happens: total = pods + idle + unattributed, for energy, time and activity, to the last unit."""

from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from agent.cards.reader import CardReading, Missing, Reading
from agent.energy.books import ESTIMATED, MEASURED, Account, Holder, Use, apportion
from agent.pods.index import PodKey

PODS = [PodKey("ns", f"pod-{at}", f"project-{at % 2}") for at in range(4)]
CARDS = ["GPU-a", "GPU-b"]

ratios = st.floats(0, 1, allow_nan=False)
maybe_ratio = st.one_of(st.just(Missing.NOT_SUPPORTED), ratios)
maybe_watts = st.one_of(st.just(Missing.NOT_SUPPORTED), st.floats(0, 1000, allow_nan=False))
maybe_counter = st.one_of(st.just(Missing.NOT_SUPPORTED), st.integers(0, 2**40))
holders = st.lists(st.builds(Holder, st.sampled_from(PODS), st.floats(0, 2, allow_nan=False)), max_size=5)
uses = st.one_of(
    st.just(Missing.NOT_SUPPORTED),
    st.lists(st.builds(Use, st.one_of(st.none(), st.sampled_from(PODS)), maybe_ratio), max_size=5),
)


Step = tuple[float, tuple[CardReading, ...], dict[str, Any], dict[str, Any]]
"""Seconds since the last reading, the cards, their holders and uses."""


@st.composite
def steps(draw: st.DrawFn) -> Step:
    cards = draw(st.lists(st.sampled_from(CARDS), unique=True, max_size=2))
    readings = tuple(
        CardReading(
            card, 0, "L4", energy_millijoules=draw(maybe_counter), power_watts=draw(maybe_watts),
            utilization_ratio=draw(maybe_ratio), sm_ratio=draw(maybe_ratio),
        )
        for card in cards
    )  # fmt: skip
    return (
        draw(st.floats(-10, 60, allow_nan=False)),
        readings,
        {c: draw(holders) for c in cards},
        {c: draw(uses) for c in cards},
    )


@given(st.lists(steps(), max_size=12), st.floats(0, 300, allow_nan=False))
def test_every_card_adds_up(history: list[Step], idle_watts: float) -> None:
    account = Account(longest_gap_seconds=30.0, keep_finished_seconds=1e9, idle_watts={"L4": idle_watts})
    at = 0.0
    for seconds, readings, held, used in history:
        at += seconds
        account.observe(Reading(at, readings), held, used)
        for book in account.cards.values():
            for source in (MEASURED, ESTIMATED):
                pods = sum(entry.energy_millijoules[source] for entry in book.pods.values())
                nobody = book.idle_millijoules[source] + book.unattributed_millijoules[source]
                assert book.energy_millijoules[source] == pods + nobody
            reserved = sum(entry.reserved_milliseconds for entry in book.pods.values())
            assert sum(book.observed_milliseconds.values()) == reserved + book.unreserved_milliseconds
            busy = sum(entry.busy_milliseconds for entry in book.pods.values())
            assert book.busy_milliseconds == busy + book.unattributed_busy_milliseconds


@given(st.lists(steps(), max_size=12))
def test_nothing_in_the_books_ever_goes_down(history: list[Step]) -> None:
    account = Account(longest_gap_seconds=30.0, keep_finished_seconds=1e9)
    at = 0.0
    before: dict[tuple[object, ...], int] = {}
    for seconds, readings, held, used in history:
        at += seconds
        account.observe(Reading(at, readings), held, used)
        after = dict(amounts(account))
        assert all(after[key] >= value for key, value in before.items())
        before = after


def amounts(account: Account) -> Iterator[tuple[tuple[object, ...], int]]:
    for card, book in account.cards.items():
        for source in (MEASURED, ESTIMATED):
            yield (card, "energy", source), book.energy_millijoules[source]
            yield (card, "idle", source), book.idle_millijoules[source]
            yield (card, "unattributed", source), book.unattributed_millijoules[source]
        yield (card, "unreserved"), book.unreserved_milliseconds
        for pod, entry in book.pods.items():
            for source in (MEASURED, ESTIMATED):
                yield (card, pod, source), entry.energy_millijoules[source]
            yield (card, pod, "reserved"), entry.reserved_milliseconds
            yield (card, pod, "busy"), entry.busy_milliseconds


@given(
    st.integers(0, 2**50), st.lists(st.floats(0, 1e6, allow_nan=False), max_size=8), st.floats(0, 1e6, allow_nan=False)
)
def test_parts_are_whole_not_negative_and_add_up(total: int, weights: list[float], rest: float) -> None:
    parts, remainder = apportion(total, weights, rest)
    assert sum(parts) + remainder == total
    assert all(part >= 0 for part in (*parts, remainder))
    everything = sum(weights) + rest
    for part, weight in zip(parts, weights, strict=True):
        if everything > 0:
            assert abs(part - total * weight / everything) <= 1 + total * 1e-9
