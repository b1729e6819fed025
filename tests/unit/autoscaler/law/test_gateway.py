"""Requests that wait in a gateway: they wake a target by their number and add to what waits in its pods."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from autoscaler.law.decide import Rule
from autoscaler.law.inputs import NO_WORKERS, Capacity, Freshness, Gateway, Observation, PodFacts, Reading, SignalKind
from autoscaler.law.rates import RatePolicy
from autoscaler.law.spec import ScaleToZero, Scaling, SignalSpec
from tests.unit.autoscaler.law.runs import RUNNING, Run, reading, seen
from tests.unit.autoscaler.law.test_decide import QUEUE, WORK, work

ASLEEP = replace(RUNNING, min_replicas=0, scale_to_zero=ScaleToZero(idle_seconds=120.0))
AWAY = Gateway(Freshness.EMPTY, reason="GatewayAway", detail="no llm-d gateway is seen")


def held(
    waiting: float, state: Freshness = Freshness.FRESH, seconds_per_request: float = 0.0, full_batch: float = 0.0
) -> Gateway:
    return Gateway(state, waiting, seconds_per_request, full_batch)


def long_outputs(waiting: float, prompt_seconds: float, decode_seconds: float, full_batch: float) -> Gateway:
    whole = prompt_seconds + decode_seconds
    return Gateway(Freshness.FRESH, waiting, whole, full_batch, decode_seconds_per_request=decode_seconds)


def behind(gateway: Gateway, *readings: Reading, **more: object) -> Callable[[int], Observation]:
    return lambda n: seen(n, *(readings if n else ()), gateway=gateway, **more)  # type: ignore[arg-type]


class TestFromZero:
    @pytest.mark.parametrize(
        ("gateway", "replicas"),
        [
            pytest.param(held(0), 0, id="nothing waits"),
            pytest.param(held(1), 1, id="one waits"),
            pytest.param(held(40), 4, id="by the running target of ten each"),
            pytest.param(held(1000), 20, id="no more than maxReplicas"),
            pytest.param(held(40, seconds_per_request=3.0), 4, id="40 of 3 GPU s, begun within 30 s"),
            pytest.param(held(40, seconds_per_request=0.1), 1, id="40 short ones"),
            pytest.param(held(40, seconds_per_request=0.1, full_batch=8.0), 5, id="eight fill a replica"),
            pytest.param(held(40, seconds_per_request=500.0), 20, id="each takes minutes"),
            pytest.param(
                long_outputs(40, 0.6, 3.0, 60.0), 2, id="of 3 GPU s of decoding half a second falls into the 30 s"
            ),
            pytest.param(long_outputs(40, 0.6, 0.1, 60.0), 1, id="short outputs count as they are"),
            pytest.param(long_outputs(40, 0.6, 300.0, 20.0), 3, id="a place in the batch for each"),
            pytest.param(long_outputs(40, 0.6, 3.0, 0.0), 5, id="the batch is not known"),
            pytest.param(AWAY, 0, id="the gateway is away"),
        ],
    )
    def test_as_many_as_the_queue_needs_at_once(self, gateway: Gateway, replicas: int) -> None:
        assert Run(ASLEEP, 0).tick(behind(gateway)) == replicas

    def test_it_says_why(self) -> None:
        run = Run(ASLEEP, 0)
        run.tick(behind(held(40)))
        assert run.decision is not None
        assert run.decision.reasons[0].rule is Rule.WOKEN
        assert "40 requests wait in the gateway: 4 at once" in run.decision.reasons[0].text

    def test_a_rate_that_the_owner_wrote_holds(self) -> None:
        slow = replace(ASLEEP, up=Scaling(window_seconds=0.0, policies=(RatePolicy(True, 2, 60.0),)))
        assert Run(slow, 0).tick(behind(held(100))) == 2

    def test_only_as_many_as_there_is_room_for(self) -> None:
        run = Run(ASLEEP, 0)
        assert run.tick(behind(held(40), capacity=Capacity(3))) == 3
        assert run.decision is not None
        assert run.decision.unmet == 1

    def test_gpus_are_limited(self) -> None:
        assert Run(replace(ASLEEP, max_gpus=2.0), 0).tick(behind(held(40))) == 2

    def test_an_outage_is_told(self) -> None:
        run = Run(ASLEEP, 0)
        run.tick(behind(AWAY))
        assert run.rules() == {Rule.OUTAGE}

    def test_a_gateway_that_keeps_nothing_at_zero_is_no_outage(self) -> None:
        spec = replace(ASLEEP, scale_to_zero=ScaleToZero(idle_seconds=120.0, query="q"))
        quiet = Gateway(Freshness.EMPTY, reason=NO_WORKERS, detail="no workers")
        run = Run(spec, 0)
        assert run.tick(behind(quiet, activation=reading("activation", 0))) == 0
        assert run.rules() == {Rule.STEADY}
        assert run.tick(behind(quiet, activation=reading("activation", 3))) == 1

    def test_while_the_woken_pods_start_the_queue_asks_for_nothing_twice(self) -> None:
        run = Run(ASLEEP, 0)
        starting = lambda n: seen(n, pods=PodFacts(starting=(30.0,) * n), gateway=held(40))  # noqa: E731
        assert run.tick(starting, times=6) == 4

    def test_what_comes_while_they_start_is_asked_for(self) -> None:
        run = Run(ASLEEP, 0)
        run.tick(behind(held(40)))
        assert run.tick(lambda n: seen(n, pods=PodFacts(starting=(30.0,) * n), gateway=held(80)), times=2) == 8


class TestAboveZero:
    @pytest.mark.parametrize(
        ("spec", "readings", "alone", "with_forty"),
        [
            pytest.param(RUNNING, (reading("running", 40),), 4, 8, id="running"),
            pytest.param(QUEUE, (reading("queue", 0),), 4, 8, id="queue"),
            pytest.param(
                replace(RUNNING, signals=(SignalSpec(SignalKind.KV_CACHE, 0.8, "kv"),)), (reading("kv", 0.5),), 4, 4,
                id="a signal that counts no requests: 40 at 16 each fit",
            ),
        ],
    )  # fmt: skip
    def test_they_add_to_what_is_in_the_pods(
        self, spec: object, readings: tuple[Reading, ...], alone: int, with_forty: int
    ) -> None:
        assert Run(spec, 4).tick(behind(held(0), *readings)) == alone  # type: ignore[arg-type]
        assert Run(spec, 4).tick(behind(held(40), *readings)) == with_forty  # type: ignore[arg-type]

    def test_they_are_work_of_the_learned_price(self) -> None:
        lengths: dict[str, Any] = {"prompt_tokens_per_request": 4000.0, "output_tokens_per_request": 500.0}
        few = Run(WORK, 2).tick(lambda n: seen(n, work=work(2000.0, 300.0, **lengths), gateway=held(0)))
        many = Run(WORK, 2).tick(lambda n: seen(n, work=work(2000.0, 300.0, **lengths), gateway=held(60)))
        assert many > few

    def test_a_gateway_that_is_not_known_lowers_nothing(self) -> None:
        for gateway in (AWAY, held(0, Freshness.PARTIAL), Gateway(Freshness.ERROR, detail="502")):
            assert Run(RUNNING, 8).tick(behind(gateway, reading("running", 10)), times=40) == 8

    def test_and_raises_nothing_while_the_pods_may(self) -> None:
        assert Run(RUNNING, 4).tick(behind(AWAY, reading("running", 40))) == 4
        assert Run(RUNNING, 4).tick(behind(AWAY, reading("running", 80))) == 8

    def test_while_one_waits_for_each_replica_none_may_go(self) -> None:
        assert Run(RUNNING, 8).tick(behind(held(8), reading("running", 1)), times=40) == 8

    def test_after_a_restart_of_the_gateway_a_whole_window_passes_before_a_cut(self) -> None:
        run = Run(RUNNING, 8)
        run.tick(behind(held(40), reading("running", 40)), times=8)
        run.tick(behind(AWAY, reading("running", 40)), times=8)
        assert run.tick(behind(held(0), reading("running", 40)), times=4) == 8
        assert run.tick(behind(held(0), reading("running", 40)), times=30) == 5

    def test_pods_that_are_not_given_any_do_not_hang(self) -> None:
        """They idle while the gateway holds requests back: nothing of that is the engine's fault."""
        idle = {"utilisation": reading("gpuUtilization", 0.0)}
        run = Run(QUEUE, 2)
        run.tick(behind(held(9), reading("queue", 0), **idle), times=20)
        assert Rule.HUNG not in run.rules()

    def test_nothing_swings(self) -> None:
        run = Run(RUNNING, 2)
        run.tick(behind(held(30), reading("running", 20)), times=10)
        assert {run.tick(behind(held(30), reading("running", 20))) for _ in range(20)} == {5}


def test_the_last_replica_stays_while_requests_wait() -> None:
    run = Run(ASLEEP, 1)
    assert run.tick(behind(held(1), reading("running", 0)), times=40) == 1
    assert run.tick(behind(AWAY, reading("running", 0)), times=40) == 1
    assert run.tick(behind(held(0), reading("running", 0)), times=40) == 0
