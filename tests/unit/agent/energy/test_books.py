"""Whose energy and time it was: idle by share, activity by use, and the lines for what is nobody's."""

from collections.abc import Iterable
from typing import Any

import pytest

from agent.cards.reader import CardReading, Missing, Reading
from agent.energy.books import ESTIMATED, MEASURED, UNKNOWN, Account, CardBook, Holder, Use, apportion
from agent.pods.index import PodKey

A, B = PodKey("chat", "a", "search"), PodKey("chat", "b", "mail")
CARD = "GPU-a"


class Bench:
    """Feeds an account one card's readings, ten seconds apart unless said otherwise."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("idle_watts", {"L4": 20.0})
        self.account = Account(longest_gap_seconds=30.0, **options)
        self.at = 0.0

    def step(
        self,
        *,
        holders: Iterable[Holder] = (),
        uses: Iterable[Use] | Missing = (),
        seconds: float = 10.0,
        **fields: Any,
    ) -> "Bench":
        self.at += seconds
        card = CardReading(CARD, 0, "L4", **fields)
        used = uses if isinstance(uses, Missing) else list(uses)
        self.account.observe(Reading(self.at, (card,)), {CARD: list(holders)}, {CARD: used})
        return self

    @property
    def book(self) -> CardBook:
        return self.account.cards[CARD]

    def joules(self, source: str = MEASURED) -> dict[str, Any]:
        book = self.book
        pods = {pod.name: entry.energy_millijoules[source] / 1000 for pod, entry in book.pods.items()}
        return pods | {
            "idle": book.idle_millijoules[source] / 1000,
            "unattributed": book.unattributed_millijoules[source] / 1000,
            "total": book.energy_millijoules[source] / 1000,
        }


def test_idle_power_goes_by_reserved_share_and_the_rest_is_the_cards_own() -> None:
    bench = Bench()
    holders = [Holder(A, 0.5), Holder(B, 0.25)]
    bench.step(holders=holders, energy_millijoules=0).step(holders=holders, energy_millijoules=200_000)
    assert bench.joules() == {"a": 100.0, "b": 50.0, "idle": 50.0, "unattributed": 0.0, "total": 200.0}


def test_activity_goes_by_multiprocessor_time_whatever_is_reserved() -> None:
    bench = Bench()
    holders, uses = [Holder(A, 0.5), Holder(B, 0.5)], [Use(A, 0.6), Use(B, 0.2)]
    bench.step(holders=holders, uses=uses, energy_millijoules=0)
    bench.step(holders=holders, uses=uses, energy_millijoules=1_000_000)
    # 20 W x 10 s idle in halves, 800 J of activity three to one.
    assert bench.joules() == {"a": 100 + 600, "b": 100 + 200, "idle": 0.0, "unattributed": 0.0, "total": 1000.0}


def test_a_process_outside_pods_has_a_line_of_its_own() -> None:
    bench = Bench()
    holders, uses = [Holder(A, 1.0)], [Use(A, 0.3), Use(None, 0.3)]
    bench.step(holders=holders, uses=uses, energy_millijoules=0)
    bench.step(holders=holders, uses=uses, energy_millijoules=1_000_000)
    assert bench.joules() == {"a": 200 + 400, "idle": 0.0, "unattributed": 400.0, "total": 1000.0}


@pytest.mark.parametrize(
    ("shares", "uses", "joules"),
    [
        pytest.param((0.25, 0.75), [Use(A), Use(B)], (200, 600, 0), id="both run: by reserved share"),
        pytest.param((0.25, 0.75), [Use(A)], (800, 0, 0), id="only one runs"),
        pytest.param((0.25, 0.25), [Use(A), Use(None)], (800 / 3, 0, 1600 / 3), id="a quarter against the free half"),
        pytest.param((0.25, 0.75), [Use(None)], (0, 0, 800), id="only a foreigner"),
        pytest.param((0.125, 0.375), Missing.NOT_SUPPORTED, (100, 300, 400), id="processes unknown: by share of all"),
    ],
)
def test_without_multiprocessor_time_reserved_shares_decide(
    shares: tuple[float, float], uses: list[Use] | Missing, joules: tuple[float, float, float]
) -> None:
    holders = [Holder(A, shares[0]), Holder(B, shares[1])]
    bench = Bench(idle_watts={"L4": 0.0})
    bench.step(holders=holders, uses=uses, energy_millijoules=0)
    bench.step(holders=holders, uses=uses, energy_millijoules=800_000)
    energy = bench.joules()
    assert (energy["a"], energy["b"], energy["unattributed"]) == pytest.approx(joules, abs=0.001)


def test_a_guest_without_a_share_is_not_charged_to_the_hosts_silently() -> None:
    bench = Bench(idle_watts={"L4": 0.0})
    holders, uses = [Holder(A, 0.5)], [Use(A), Use(B)]
    bench.step(holders=holders, uses=uses, energy_millijoules=0).step(
        holders=holders, uses=uses, energy_millijoules=100_000
    )
    assert bench.joules() == {"a": 50.0, "b": 0.0, "idle": 0.0, "unattributed": 50.0, "total": 100.0}


def test_power_stands_in_for_a_missing_counter_and_is_marked_as_an_estimate() -> None:
    bench = Bench()
    bench.step(holders=[Holder(A, 1.0)], power_watts=100.0).step(holders=[Holder(A, 1.0)], power_watts=200.0)
    assert bench.joules(ESTIMATED) == {"a": 1500.0, "idle": 0.0, "unattributed": 0.0, "total": 1500.0}
    assert bench.joules(MEASURED)["total"] == 0
    assert bench.book.observed_milliseconds == {MEASURED: 0, ESTIMATED: 10_000, UNKNOWN: 0}


def test_neither_counter_nor_power_is_no_energy_and_is_seen_in_the_coverage() -> None:
    bench = Bench()
    bench.step(holders=[Holder(A, 1.0)]).step(holders=[Holder(A, 1.0)])
    assert bench.joules()["total"] == bench.joules(ESTIMATED)["total"] == 0
    assert bench.book.observed_milliseconds == {MEASURED: 0, ESTIMATED: 0, UNKNOWN: 10_000}
    assert bench.book.pods[A].reserved_milliseconds == 10_000


@pytest.mark.parametrize(
    "after",
    [pytest.param(3_000, id="the driver was loaded anew"), pytest.param(10**15, id="the counter leapt beyond reason")],
)
def test_a_counter_that_goes_back_or_leaps_is_replaced_by_an_estimate(after: int) -> None:
    bench = Bench()
    bench.step(energy_millijoules=5_000_000, power_watts=50.0).step(energy_millijoules=after, power_watts=50.0)
    assert (bench.joules(MEASURED)["total"], bench.joules(ESTIMATED)["total"]) == (0.0, 500.0)
    assert bench.account.counter_resets == 1
    bench.step(energy_millijoules=after + 400_000, power_watts=50.0)
    assert bench.joules(MEASURED)["total"] == 400.0


def test_a_long_silence_leaves_its_energy_to_nobody() -> None:
    bench = Bench()
    holders = [Holder(A, 1.0)]
    bench.step(holders=holders, energy_millijoules=0).step(holders=holders, energy_millijoules=900_000, seconds=31.0)
    assert bench.joules() == {"a": 0.0, "idle": 0.0, "unattributed": 900.0, "total": 900.0}
    assert (bench.account.gaps, sum(bench.book.observed_milliseconds.values())) == (1, 0)


@pytest.mark.parametrize("seconds", [0.0, -5.0])
def test_a_clock_that_stands_or_jumps_back_books_nothing(seconds: float) -> None:
    bench = Bench()
    bench.step(energy_millijoules=0).step(energy_millijoules=100_000, seconds=seconds)
    assert bench.joules()["total"] == 0
    assert bench.account.clock_anomalies == 1


def test_idle_power_is_learned_from_an_empty_card() -> None:
    bench = Bench(idle_watts={})
    bench.step(power_watts=30.0, energy_millijoules=0).step(power_watts=18.0, energy_millijoules=180_000)
    holders, uses = [Holder(A, 1.0)], [Use(B, 0.5)]
    bench.step(holders=holders, uses=uses, power_watts=100.0, energy_millijoules=1_180_000)
    assert bench.joules() == {"a": 180.0, "b": 820.0, "idle": 180.0, "unattributed": 0.0, "total": 1180.0}


def test_time_reserved_and_time_busy_are_booked_with_the_energy() -> None:
    bench = Bench()
    holders, uses = [Holder(A, 0.5), Holder(B, 0.25)], [Use(A, 0.3), Use(None, 0.1)]
    for energy in (0, 1000):
        bench.step(holders=holders, uses=uses, energy_millijoules=energy, utilization_ratio=0.8)
    book = bench.book
    assert {pod.name: (entry.reserved_milliseconds, entry.busy_milliseconds) for pod, entry in book.pods.items()} == {
        "a": (5000, 6000),
        "b": (2500, 0),
    }
    assert (book.unreserved_milliseconds, book.busy_milliseconds, book.unattributed_busy_milliseconds) == (
        2500,
        8000,
        2000,
    )


def test_shares_beyond_a_whole_card_are_scaled_down_to_one() -> None:
    bench = Bench()
    holders = [Holder(A, 1.0), Holder(B, 1.0)]
    bench.step(holders=holders, energy_millijoules=0).step(holders=holders, energy_millijoules=100_000)
    assert bench.joules() == {"a": 50.0, "b": 50.0, "idle": 0.0, "unattributed": 0.0, "total": 100.0}


def test_a_pod_that_is_gone_stays_until_its_amounts_have_been_collected() -> None:
    bench = Bench(keep_finished_seconds=60.0)
    bench.step(holders=[Holder(A, 1.0)], energy_millijoules=0).step(holders=[Holder(A, 1.0)], energy_millijoules=1000)
    for _ in range(6):
        bench.step(energy_millijoules=1000)
    assert A in bench.book.pods
    bench.step(energy_millijoules=1000)
    assert A not in bench.book.pods


def test_a_pod_is_in_the_books_with_zeros_before_it_has_used_anything() -> None:
    bench = Bench()
    bench.step(holders=[Holder(A, 1.0)], energy_millijoules=5000)
    assert bench.book.pods[A].energy_millijoules == {MEASURED: 0, ESTIMATED: 0}


def test_instances_are_booked_on_their_card() -> None:
    account = Account(longest_gap_seconds=30.0)
    parent = CardReading(CARD, 0, "A100", energy_millijoules=0)
    instance = CardReading("MIG-1", 0, "A100", parent=CARD)
    account.observe(Reading(0.0, (parent, instance)), {}, {})
    assert list(account.cards) == [CARD]


@pytest.mark.parametrize(
    ("total", "weights", "rest", "parts"),
    [
        (10, [1, 1, 1], 0, ([4, 3, 3], 0)),
        (10, [1, 1], 1, ([4, 3], 3)),
        (0, [1, 2], 1, ([0, 0], 0)),
        (7, [], 0, ([], 7)),
        (7, [0.0, 0.0], 0, ([0, 0], 7)),
        (1, [0.1, 0.2], 0.7, ([0, 0], 1)),
    ],
)
def test_apportioning(total: int, weights: list[float], rest: float, parts: tuple[list[int], int]) -> None:
    assert apportion(total, weights, rest) == parts


class TestACounterThatIsReadLessOften:
    """Joules of thirty seconds go by the use in all of them, not by that of the moment at which the counter was read."""

    def test_by_the_use_in_all_of_the_time(self) -> None:
        bench = Bench(idle_watts={"L4": 0.0})
        bench.step(energy_millijoules=0, energy_at=10.0)
        bench.step(uses=[Use(A, 0.6)], energy_millijoules=0, energy_at=10.0)
        bench.step(uses=[Use(B, 0.2)], energy_millijoules=0, energy_at=10.0)
        assert bench.joules()["total"] == 0
        bench.step(uses=[Use(B, 0.4)], energy_millijoules=1_200_000, energy_at=40.0)
        assert bench.joules() == {"a": 600.0, "b": 600.0, "idle": 0.0, "unattributed": 0.0, "total": 1200.0}
        assert bench.book.observed_milliseconds[MEASURED] == 30_000

    def test_a_pod_that_is_gone_is_still_owed_its_part(self) -> None:
        bench = Bench(idle_watts={"L4": 0.0}, keep_finished_seconds=5.0)
        bench.step(energy_millijoules=0, energy_at=10.0)
        bench.step(uses=[Use(A, 0.5)], energy_millijoules=0, energy_at=10.0)
        bench.step(energy_millijoules=0, energy_at=10.0)
        bench.step(uses=[Use(B, 0.5)], energy_millijoules=100_000, energy_at=40.0)
        assert bench.joules() == {"a": 50.0, "b": 50.0, "idle": 0.0, "unattributed": 0.0, "total": 100.0}

    def test_idle_power_is_that_of_all_of_the_time(self) -> None:
        bench = Bench()
        holders = [Holder(A, 0.5)]
        bench.step(holders=holders, energy_millijoules=0, energy_at=10.0)
        bench.step(holders=holders, uses=[Use(B, 0.5)], energy_millijoules=0, energy_at=10.0)
        bench.step(holders=holders, uses=[Use(B, 0.5)], energy_millijoules=1_000_000, energy_at=30.0)
        assert bench.joules() == {"a": 200.0, "b": 600.0, "idle": 200.0, "unattributed": 0.0, "total": 1000.0}

    def test_a_gap_in_between_makes_it_nobodys(self) -> None:
        bench = Bench()
        bench.step(energy_millijoules=0, energy_at=10.0)
        bench.step(uses=[Use(A, 0.5)], energy_millijoules=0, energy_at=10.0)
        bench.step(uses=[Use(A, 0.5)], seconds=100.0, energy_millijoules=700_000, energy_at=120.0)
        assert bench.joules()["unattributed"] == 700.0
        assert bench.account.gaps == 1

    def test_power_stands_in_for_all_of_the_time_when_the_counter_was_reset(self) -> None:
        bench = Bench(idle_watts={"L4": 0.0})
        bench.step(energy_millijoules=5_000_000, energy_at=10.0, power_watts=50.0)
        bench.step(uses=[Use(A, 0.5)], energy_millijoules=5_000_000, energy_at=10.0, power_watts=50.0)
        bench.step(uses=[Use(A, 0.5)], energy_millijoules=1_000, energy_at=30.0, power_watts=50.0)
        assert bench.joules(ESTIMATED)["a"] == 1000.0
        assert bench.account.counter_resets == 1
