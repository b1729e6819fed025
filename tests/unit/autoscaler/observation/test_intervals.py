"""Any scrape interval from 15 s to two minutes is read alike; longer ones, and samples that come late, are said."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from autoscaler.law.inputs import Freshness
from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import histogram, together, vllm

LONG_AGO = START - 5000
WORK: dict[str, Any] = {"signals": None, "work": {"secondsPerPromptToken": "0.0002", "secondsPerOutputToken": "0.0003"}}
INTERVALS = [5.0, 15.0, 30.0, 45.0, 60.0, 90.0, 120.0]


@pytest.fixture
async def fleet() -> AsyncIterator[Fleet]:
    made = Fleet()
    made.deployment(replicas=8)
    yield made
    assert made.failures() == 0
    await made.close()


def scraped(fleet: Fleet, every: float, **engine: Any) -> None:
    for number, pod in enumerate(fleet.pods(8)):
        fleet.scrape(pod, vllm(since=LONG_AGO, **engine), target={"every": every, "phase": 1 + number * every / 8})


class TestEveryInterval:
    @pytest.mark.parametrize("every", INTERVALS)
    async def test_the_same_work_is_seen_at_any(self, fleet: Fleet, every: float) -> None:
        """T13: at 60 s half of it was seen."""
        scraped(fleet, every, running=9.0, kv_cache=0.3, per_second=5.0)
        fleet.object(**WORK)
        await fleet.tick(3)
        for _ in range(20):
            await fleet.tick()
            wish = fleet.wish("work")
            assert (wish.state, wish.value) == (Freshness.FRESH, pytest.approx(8 * 5 * 0.13, rel=0.01))

    @pytest.mark.parametrize("every", INTERVALS)
    async def test_an_idle_fleet_is_lowered_and_nothing_flaps(self, fleet: Fleet, every: float) -> None:
        """T01, T02, T03: Prometheus' own default is 60 s."""
        scraped(fleet, every, running=0.0, kv_cache=0.0, per_second=0.0)
        fleet.object(**WORK)
        states = set()
        for _ in range(80):
            await fleet.tick()
            states |= (
                {wish.state for wish in fleet.outcomes["default/llm"].decision.wishes}
                if fleet.now > START + 60
                else set()
            )
        assert (fleet.replicas, states) == (1, {Freshness.FRESH})
        assert [event["reason"] for event in fleet.kube.events if event["type"] == "Warning"] == []

    @pytest.mark.parametrize("every", INTERVALS)
    async def test_a_rising_load_is_followed(self, fleet: Fleet, every: float) -> None:
        """T01b."""
        scraped(fleet, every, running=30.0, kv_cache=0.5, per_second=9.0)
        fleet.object(**WORK)
        await fleet.tick(12)
        assert fleet.replicas == 12

    @pytest.mark.parametrize("every", [15.0, 60.0])
    async def test_one_missed_scrape_is_no_silence(self, fleet: Fleet, every: float) -> None:
        down: dict[str, Any] = {"down": lambda time: START + 300 <= time < START + 300 + every}
        for number, pod in enumerate(fleet.pods(8)):
            target = {"every": every, "phase": 1 + number, **down}
            fleet.scrape(pod, vllm(9.0, kv_cache=0.3, per_second=5.0, since=LONG_AGO), target=target)
        fleet.object(**WORK)
        await fleet.tick(4)
        for _ in range(40):
            await fleet.tick()
            assert {wish.state for wish in fleet.outcomes["default/llm"].decision.wishes} == {Freshness.FRESH}

    async def test_pods_of_unequal_intervals(self, fleet: Fleet) -> None:
        for number, pod in enumerate(fleet.pods(8)):
            every = 15.0 if number % 2 else 90.0
            fleet.scrape(
                pod,
                vllm(9.0, kv_cache=0.3, per_second=5.0, since=LONG_AGO),
                target={"every": every, "phase": 3.0 * number},
            )
        fleet.object(**WORK)
        await fleet.tick(3)
        for _ in range(20):
            await fleet.tick()
            assert fleet.wish("work").value == pytest.approx(8 * 5 * 0.13, rel=0.01)

    @pytest.mark.parametrize("every", INTERVALS)
    async def test_latencies_are_read_at_any(self, fleet: Fleet, every: float) -> None:
        rates = {"0.5": 1.0, "1.0": 3.0, "+Inf": 4.0}
        for number, pod in enumerate(fleet.pods(8)):
            serves = together(vllm(1.0), histogram("vllm:time_to_first_token_seconds", rates, LONG_AGO))
            fleet.scrape(pod, serves, target={"every": every, "phase": 1 + number * every / 8})
        fleet.object(
            signals=[{"name": "ttft", "type": "timeToFirstToken", "target": 2, "quantile": "0.5"}], minReplicas=8
        )
        await fleet.tick(3)
        for _ in range(12):
            await fleet.tick()
            wish = fleet.wish("ttft")
            assert (wish.state, wish.value) == (Freshness.FRESH, pytest.approx(0.75))

    async def test_the_interval_is_shown(self, fleet: Fleet) -> None:
        scraped(fleet, 60.0, running=9.0, kv_cache=0.3, per_second=5.0)
        fleet.object(**WORK)
        await fleet.tick(8)
        assert fleet.status()["learned"]["scrapeSeconds"] == "60"

    async def test_a_change_of_the_interval_is_noticed(self, fleet: Fleet) -> None:
        for number, pod in enumerate(fleet.pods(8)):
            serves, phase = vllm(9.0, kv_cache=0.3, per_second=5.0, since=LONG_AGO), float(number)
            fleet.scrape(pod, serves, target={"until": START + 100, "phase": phase})
            fleet.scrape(pod, serves, target={"since": START + 100, "every": 90.0, "phase": phase})
        fleet.object(**WORK)
        await fleet.tick(40)
        for _ in range(12):
            await fleet.tick()
            assert fleet.wish("work").value == pytest.approx(8 * 5 * 0.13, rel=0.01)
        assert fleet.status()["learned"]["scrapeSeconds"] == "90"

    async def test_no_more_is_asked_than_the_interval_needs(self, fleet: Fleet) -> None:
        scraped(fleet, 15.0, running=9.0, kv_cache=0.3, per_second=5.0)
        fleet.object(**WORK)
        await fleet.tick(5)
        fleet.prometheus.asked.clear()
        await fleet.tick()
        windows = [query.rpartition("[")[2] for query in fleet.prometheus.asked if query.endswith("]")]
        assert windows == ["75s]", "90s]"]


class TestTooRare:
    @pytest.mark.parametrize("every", [180.0, 300.0])
    async def test_longer_ones_are_said_to_be_too_long(self, fleet: Fleet, every: float) -> None:
        scraped(fleet, every, running=0.0, kv_cache=0.0, per_second=0.0)
        fleet.object(**WORK)
        await fleet.tick(8)
        for _ in range(40):
            await fleet.tick()
            assert {wish.state for wish in fleet.outcomes["default/llm"].decision.wishes} == {Freshness.STALE}
        assert fleet.replicas == 8
        assert (
            f"is scraped every {every:.0f} s, which is too rarely: at most every 120 s"
            in fleet.signal("work")["message"]
        )

    async def test_it_says_so_without_an_event_at_every_scrape(self, fleet: Fleet) -> None:
        scraped(fleet, 300.0, running=0.0, kv_cache=0.0, per_second=0.0)
        fleet.object(**WORK)
        await fleet.tick(80)
        assert len(fleet.kube.events) <= 1


class TestLate:
    @pytest.mark.parametrize("late", [75.0, 200.0])
    async def test_samples_that_come_late_are_stale_with_their_age(self, fleet: Fleet, late: float) -> None:
        """T04: remote storage behind."""
        scraped(fleet, 15.0, running=0.0, kv_cache=0.0, per_second=0.0)
        fleet.prometheus.late = late
        fleet.object(**WORK)
        await fleet.tick(12)
        wish = fleet.wish("kvCache")
        assert (wish.state, fleet.replicas) == (Freshness.STALE, 8)
        assert f"is {wish.age_seconds:.0f} s old (scraped every 15 s)" in wish.detail
        assert late <= wish.age_seconds <= late + 15

    @pytest.mark.parametrize("late", [5.0, 20.0])
    async def test_a_little_late_is_fresh(self, fleet: Fleet, late: float) -> None:
        scraped(fleet, 15.0, running=9.0, kv_cache=0.3, per_second=5.0)
        fleet.prometheus.late = late
        fleet.object(**WORK)
        await fleet.tick(4)
        assert fleet.wish("work").value == pytest.approx(8 * 5 * 0.13, rel=0.01)

    @pytest.mark.parametrize("ahead", [600.0, -600.0])
    async def test_prometheus_clock_is_its_own(self, fleet: Fleet, ahead: float) -> None:
        """T05."""
        scraped(fleet, 15.0, running=15.0, kv_cache=0.3, per_second=5.0)
        fleet.prometheus.ahead = ahead
        fleet.object()
        assert await fleet.tick(3) == [12] * 3


class TestReset:
    async def test_a_server_restarted_in_place_makes_no_spike(self, fleet: Fleet) -> None:
        """T06."""

        def serves(time: float) -> Any:
            since = LONG_AGO if time < START + 100 else START + 100
            return vllm(9.0, kv_cache=0.3, per_second=5.0, since=since)(time)

        for pod in fleet.pods(8):
            fleet.scrape(pod, serves)
        fleet.object(**WORK)
        await fleet.tick(3)
        for _ in range(14):
            await fleet.tick()
            assert fleet.wish("work").value == pytest.approx(8 * 5 * 0.13, rel=0.4)
            assert fleet.replicas in (8, 7)


class TestSilentPods:
    async def test_some_pods_without_samples_count_as_busy_when_lowering(self, fleet: Fleet) -> None:
        """Q18b: three of eight pods are not seen any more."""
        for number, pod in enumerate(fleet.pods(8)):
            fleet.scrape(pod, vllm(8.0 if number < 3 else 3.0), target={"until": START} if number < 3 else {})
        fleet.object()
        await fleet.tick(24)
        assert fleet.replicas == 5

    async def test_three_that_overflow_raise_without_the_fourth(self, fleet: Fleet) -> None:
        """L30."""
        for pod in fleet.pods(8)[:6]:
            fleet.scrape(pod, vllm(30.0))
        fleet.object()
        await fleet.tick(4)
        assert fleet.replicas == 18

    async def test_most_pods_without_samples_are_no_basis(self, fleet: Fleet) -> None:
        """L31b."""
        for pod in fleet.pods(8)[:3]:
            fleet.scrape(pod, vllm(60.0))
        fleet.object()
        assert await fleet.tick(4) == [8] * 4
        assert "only 3 of 8 pods report" in fleet.signal()["message"]

    async def test_a_silent_pod_is_looked_for_now_and_then(self, fleet: Fleet) -> None:
        for pod in fleet.pods(8)[:7]:
            fleet.scrape(pod, vllm(9.0))
        fleet.object()
        await fleet.tick(100)
        searches = [query for query in fleet.prometheus.asked if query.endswith("[660s]")]
        assert 2 <= len(searches) <= 4


async def test_a_latency_of_pods_that_are_not_scraped_any_more_does_not_lower() -> None:
    """Prometheus goes on working out rates from what it has for a while."""
    fleet = Fleet()
    fleet.deployment(replicas=8)
    rates = {"0.5": 4.0, "+Inf": 4.0}
    for number, pod in enumerate(fleet.pods(8)):
        serves = together(vllm(1.0), histogram("vllm:time_to_first_token_seconds", rates, LONG_AGO))
        fleet.scrape(pod, serves, target={"every": 120.0, "until": START + 100 if number < 6 else START + 9000})
    fleet.object(signals=[{"name": "ttft", "type": "timeToFirstToken", "target": 2}], minReplicas=8)
    await fleet.tick(30)
    assert fleet.wish("ttft").state is Freshness.STALE
    await fleet.close()
