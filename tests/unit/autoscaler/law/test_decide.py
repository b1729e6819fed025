"""The law, rule by rule, in scenarios."""

import itertools
from dataclasses import replace

import pytest

from autoscaler.law.constants import LawConstants
from autoscaler.law.decide import Rule
from autoscaler.law.inputs import Capacity, Freshness, PodFacts, Rollout, SignalKind, Work
from autoscaler.law.rates import RatePolicy
from autoscaler.law.spec import Scaling, SignalSpec, TargetSpec
from tests.unit.autoscaler.law.runs import FAST_DOWN, RUNNING, Run, in_flight, reading, seen

QUEUE = TargetSpec(1, 50, (SignalSpec(SignalKind.QUEUE, 5.0, "queue"),), down=FAST_DOWN)
KV = TargetSpec(1, 20, (SignalSpec(SignalKind.KV_CACHE, 0.8, "kv"),), down=FAST_DOWN)
TTFT = TargetSpec(1, 20, (SignalSpec(SignalKind.TIME_TO_FIRST_TOKEN, 2.0, "ttft"),), down=FAST_DOWN)
PLAIN = LawConstants(spread=0.6, usual_request_seconds=1.0)
WORK = TargetSpec(1, 50, (SignalSpec(SignalKind.WORK, 0.8, "work"),), down=FAST_DOWN)
TRITON = TargetSpec(
    1, 20, (SignalSpec(SignalKind.GPU_UTILIZATION, 0.7, "util"),), queueing=False, fallback=None, down=FAST_DOWN
)
TWO = replace(RUNNING, signals=(*RUNNING.signals, SignalSpec(SignalKind.QUERY, 100.0, "rps", query="x")))


def work(prompt: float, output: float, *, waiting_tokens: float = 0.0, known: bool = True, **more: object) -> Work:
    costs = (0.00015, 0.0009) if known else (0.0, 0.0)
    return Work(Freshness.FRESH, (prompt, prompt), (output, output), waiting_tokens, 0.0, 10.0, *costs, **more)  # type: ignore[arg-type]


class TestUp:
    def test_a_load_of_four_replicas_raises_one_to_four_at_once(self) -> None:
        assert Run(RUNNING).tick(in_flight(40)) == 4

    def test_within_the_tolerance_nothing_moves(self) -> None:
        assert Run(RUNNING, 10).tick(in_flight(109)) == 10
        assert Run(RUNNING, 10).tick(in_flight(111)) == 12

    def test_never_above_the_maximum(self) -> None:
        run = Run(RUNNING)
        assert run.tick(in_flight(10_000), times=10) == 20
        assert Rule.MAXIMUM in run.rules()

    def test_the_default_rate_doubles_or_adds_four(self) -> None:
        assert Run(RUNNING, 1).tick(in_flight(200)) == 5
        assert Run(RUNNING, 6).tick(in_flight(200)) == 12

    def test_an_up_window_takes_the_lowest_wish_of_it(self) -> None:
        run = Run(replace(RUNNING, up=Scaling(window_seconds=30.0)), 2)
        assert run.tick(in_flight(20), times=2) == 2
        assert run.tick(in_flight(80)) == 2
        assert Rule.UP_WINDOW in run.rules()
        assert run.tick(in_flight(80), times=3) == 8

    def test_a_disabled_direction_does_not_move(self) -> None:
        run = Run(replace(RUNNING, up=Scaling(disabled=True)))
        assert run.tick(in_flight(100)) == 1
        assert Rule.UP_DISABLED in run.rules()

    def test_any_fresh_signal_may_raise_while_another_is_in_error(self) -> None:
        observe = lambda n: seen(n, reading("running", 60), reading("rps", 0, Freshness.ERROR))  # noqa: E731
        assert Run(TWO, 3).tick(observe) == 6


class TestDown:
    def test_only_after_a_full_window_and_to_its_highest_wish(self) -> None:
        run = Run(RUNNING, 8)
        run.tick(in_flight(80), times=8)
        run.tick(in_flight(50))
        assert run.tick(in_flight(10), times=3) == 8
        assert Rule.WITHIN_WINDOW in run.rules()
        assert run.tick(in_flight(10), times=1) == 6  # 80 has left the window, 50 with its margin has not
        assert run.tick(in_flight(10), times=10) == 2

    def test_after_a_start_a_full_window_must_be_seen_first(self) -> None:
        run = Run(RUNNING, 8)
        assert run.tick(in_flight(10), times=4) == 8
        assert Rule.WINDOW_NOT_FULL in run.rules()

    def test_what_if_the_load_must_fit_fewer_with_a_margin(self) -> None:
        # 79 requests at 10 each would fit 8 replicas, but not with 2.5 % to spare.
        assert Run(RUNNING, 9).tick(in_flight(79), times=12) == 9
        assert Run(RUNNING, 9).tick(in_flight(74), times=12) == 8

    @pytest.mark.parametrize("state", [Freshness.STALE, Freshness.EMPTY, Freshness.ERROR])
    def test_one_signal_that_is_not_fresh_forbids_lowering(self, state: Freshness) -> None:
        run = Run(TWO, 8)
        fresh = lambda n: seen(n, reading("running", 10), reading("rps", 100))  # noqa: E731
        run.tick(lambda n: seen(n, reading("running", 80), reading("rps", 100)), times=8)
        run.tick(fresh, times=2)
        assert run.tick(lambda n: seen(n, reading("running", 10), reading("rps", 0, state)), times=20) == 8
        assert Rule.SIGNALS_NOT_FRESH in run.rules()

    def test_all_must_agree(self) -> None:
        observe = lambda n: seen(n, reading("running", 10), reading("rps", 790))  # noqa: E731
        assert Run(TWO, 8).tick(observe, times=20) == 8

    def test_a_rollout_a_pause_and_a_drain_wait(self) -> None:
        for more, rule in (
            ({"rollout": Rollout.PROGRESSING}, Rule.ROLLOUT),
            ({"rollout": Rollout.PAUSED}, Rule.PAUSED),
            ({"pods": PodFacts(ready=8, terminating=(12.0,))}, Rule.DRAINING),
        ):
            run = Run(RUNNING, 8)
            assert run.tick(lambda n, m=more: seen(n, reading("running", 10), **m), times=20) == 8  # type: ignore[misc]
            assert rule in run.rules()

    def test_a_drain_that_never_ends_is_not_waited_for_for_ever(self) -> None:
        stuck = PodFacts(ready=8, terminating=(301.0,))
        assert Run(RUNNING, 8).tick(lambda n: seen(n, reading("running", 10), pods=stuck), times=6) < 8

    def test_the_rate_bounds_each_step(self) -> None:
        spec = replace(RUNNING, down=Scaling(window_seconds=15.0, policies=(RatePolicy(True, 1, 60.0),)))
        run = Run(spec, 8)
        assert run.tick(in_flight(10), times=2) == 7
        assert run.tick(in_flight(10), times=3) == 7
        assert run.tick(in_flight(10), times=1) == 6

    def test_pods_without_a_metric_count_as_busy_when_lowering_and_as_idle_when_raising(self) -> None:
        observe = lambda n: seen(n, reading("running", 50, missing=3))  # noqa: E731
        assert Run(RUNNING, 10).tick(observe, times=20) == 9  # (50 + 3 x 10) / 10 with the margin
        assert Run(RUNNING, 5).tick(lambda n: seen(n, reading("running", 54, missing=3))) == 5


class TestOutage:
    def test_without_any_fresh_signal_the_count_is_frozen(self) -> None:
        run = Run(RUNNING, 8)
        run.tick(in_flight(80), times=10)
        assert run.tick(lambda n: seen(n, reading("running", 0, Freshness.ERROR)), times=100) == 8
        assert Rule.OUTAGE in run.rules()
        assert run.decision is not None
        assert not run.decision.scaling_active

    def test_pods_that_start_are_no_outage(self) -> None:
        run = Run(RUNNING, 2)
        starting = PodFacts(starting=(10.0, 12.0))
        assert run.tick(lambda n: seen(n, reading("running", 0, Freshness.EMPTY), pods=starting), times=3) == 2
        assert run.rules() == {Rule.NO_READY_POD}

    def test_after_an_outage_a_full_window_must_pass_again(self) -> None:
        run = Run(RUNNING, 8)
        run.tick(in_flight(80), times=10)
        run.tick(lambda n: seen(n, reading("running", 0, Freshness.ERROR)), times=10)
        assert run.tick(in_flight(10), times=4) == 8
        assert Rule.WINDOW_NOT_FULL in run.rules()
        assert run.tick(in_flight(10), times=4) < 8

    def test_one_missed_scrape_does_not_start_the_window_anew(self) -> None:
        run = Run(RUNNING, 8)
        run.tick(in_flight(10), times=3)
        run.tick(lambda n: seen(n, reading("running", 0, Freshness.STALE)))
        assert run.tick(in_flight(10), times=2) < 8


class TestQueue:
    def test_a_queue_asks_for_twice_what_is_ready_at_most(self) -> None:
        assert Run(QUEUE, 3).tick(lambda n: seen(n, reading("queue", 500))) == 6

    def test_it_does_not_run_away_while_replicas_start(self) -> None:
        run = Run(QUEUE, 3)
        starting = lambda n: seen(n, reading("queue", 500), pods=PodFacts(ready=3, starting=(60.0,) * (n - 3)))  # noqa: E731
        assert run.tick(starting, times=20) == 6

    def test_an_empty_queue_agrees_to_one_less_per_window(self) -> None:
        run = Run(QUEUE, 8)
        empty = lambda n: seen(n, reading("queue", 0))  # noqa: E731
        assert run.tick(empty, times=5) == 7
        assert run.tick(empty, times=3) == 7
        assert run.tick(empty, times=20) < 7

    def test_an_engine_that_hangs_is_not_given_more_replicas(self) -> None:
        run = Run(QUEUE, 2)
        hung = lambda n: seen(n, reading("queue", 100), utilisation=reading("u", 0.01))  # noqa: E731
        run.state = replace(run.state, hung_since=run.now - 100)
        assert run.tick(hung, times=10) == 2
        assert Rule.HUNG in run.rules()

    def test_nor_is_it_given_fewer(self) -> None:
        """vllm#22545: what the requests inside need is not known."""
        run = Run(WORK, 4)
        still = lambda n: seen(n, work=work(0, 0), stalled=True)  # noqa: E731
        assert run.tick(still, times=20) == 4
        assert Rule.HUNG in run.rules()

    def test_an_engine_that_does_tokens_does_not_hang(self) -> None:
        """dcgm-exporter#568, #662: the exporter names the idle card, or reads 0 of a busy one (L22, L22b, L19b)."""
        run = Run(replace(QUEUE, signals=(*QUEUE.signals, *WORK.signals)), 2)
        busy = lambda n: seen(n, reading("queue", 100), work=work(900, 900), utilisation=reading("u", 0.0))  # noqa: E731
        assert run.tick(busy, times=10) > 2
        assert Rule.HUNG not in run.rules()

    def test_a_busy_engine_with_the_same_queue_is(self) -> None:
        assert Run(QUEUE, 2).tick(lambda n: seen(n, reading("queue", 100), utilisation=reading("u", 0.9))) > 2


class TestCappedGauges:
    def test_a_full_cache_asks_for_one_step_not_for_a_ratio(self) -> None:
        assert Run(KV, 4).tick(lambda n: seen(n, reading("kv", 1.0))) == 5

    def test_and_for_no_second_one_while_the_first_is_on_its_way(self) -> None:
        on_the_way = lambda n: seen(n, reading("kv", 1.0), pods=PodFacts(ready=4, starting=(60.0,) * (n - 4)))  # noqa: E731
        assert Run(KV, 4).tick(on_the_way, times=20) == 5

    def test_credit_ends_for_a_pod_long_overdue(self) -> None:
        stuck = lambda n: seen(n, reading("kv", 1.0), pods=PodFacts(ready=4, starting=(400.0,)))  # noqa: E731
        run = Run(KV, 5)
        assert run.tick(stuck) == 6  # four ready, a step, and one in the place of the pod that does not come

    @pytest.mark.parametrize(("age", "replicas"), [(59.0, 3), (61.0, 4)])
    def test_a_start_in_seconds_does_not_make_the_next_one_overdue_at_once(self, age: float, replicas: int) -> None:
        """The first pod had its model in the page cache; the next ones pull it, or share its processor with the load."""
        run = Run(RUNNING, 1)
        target = RUNNING.signals[0].target
        seen_first = lambda n: seen(  # noqa: E731
            n, reading("running", 3 * target), pods=PodFacts(ready=1, started_seconds=(3.0,) if n == 1 else ())
        )
        assert run.tick(seen_first) == 3
        slow = lambda n: seen(n, reading("running", 3 * target), pods=PodFacts(ready=1, starting=(age, age)))  # noqa: E731
        assert run.tick(slow) == replicas
        assert run.decision is not None
        replaced = "raised from 3 to 4: pods that are long overdue or crash-looping: 2"
        assert (replaced in [reason.text for reason in run.decision.reasons]) == (replicas == 4)

    def test_lowering_asks_whether_the_share_fits_fewer(self) -> None:
        assert Run(KV, 4).tick(lambda n: seen(n, reading("kv", 0.7)), times=20) == 4
        assert Run(KV, 4).tick(lambda n: seen(n, reading("kv", 0.5)), times=6) == 3

    def test_a_capped_query_takes_steps_too(self) -> None:
        spec = replace(
            RUNNING, signals=(SignalSpec(SignalKind.QUERY, 0.5, "slots", query="x", per_replica=False, capped=True),)
        )
        assert Run(spec, 4).tick(lambda n: seen(n, reading("slots", 1.0))) == 5

    def test_utilisation_of_an_engine_that_queues_is_no_ratio_either(self) -> None:
        spec = replace(TRITON, queueing=True)
        assert Run(spec, 4).tick(lambda n: seen(n, reading("util", 0.99))) == 5

    def test_utilisation_is_the_load_of_engines_without_a_queue(self) -> None:
        assert Run(TRITON, 4).tick(lambda n: seen(n, reading("util", 0.9))) == 6  # 3.6 busy cards at 0.7
        assert Run(TRITON, 4).tick(lambda n: seen(n, reading("util", 0.3)), times=6) < 4

    def test_a_saturated_one_takes_a_step_when_its_ratio_says_no_more(self) -> None:
        assert (
            Run(replace(TRITON, signals=(SignalSpec(SignalKind.GPU_UTILIZATION, 1.0, "util"),)), 4).tick(
                lambda n: seen(n, reading("util", 1.0))
            )
            == 5
        )


class TestLatency:
    def test_past_the_objective_takes_a_step_with_credit(self) -> None:
        assert Run(TTFT, 8).tick(lambda n: seen(n, reading("ttft", 2.5))) == 10
        on_the_way = lambda n: seen(n, reading("ttft", 9.0), pods=PodFacts(ready=8, starting=(30.0,) * (n - 8)))  # noqa: E731
        assert Run(TTFT, 8).tick(on_the_way, times=10) == 10

    def test_well_below_it_agrees_to_one_less(self) -> None:
        assert Run(TTFT, 8).tick(lambda n: seen(n, reading("ttft", 1.9)), times=20) == 8
        assert Run(TTFT, 8).tick(lambda n: seen(n, reading("ttft", 0.5)), times=5) == 7


class TestWork:
    def test_replicas_follow_the_gpu_seconds(self) -> None:
        # R = 8000 x 0.00015 + 2000 x 0.0009 = 3.0; (3 + 0.6 sqrt 3) / 0.8 = 5.05
        run = Run(WORK, 3, PLAIN)
        assert run.tick(lambda n: seen(n, work=work(8000, 2000))) == 6

    def test_the_larger_of_the_two_means_counts(self) -> None:
        burst = replace(work(100, 100), prompt_tokens_per_second=(20_000.0, 2_000.0))
        assert Run(WORK, 4, PLAIN).tick(lambda n: seen(n, work=burst)) == 6

    def test_waiting_prompts_are_to_be_drained(self) -> None:
        calm, backed_up = work(2000, 500), work(2000, 500, waiting_tokens=400_000)
        assert Run(WORK, 2, PLAIN).tick(lambda n: seen(n, work=calm)) == 2
        assert Run(WORK, 2, PLAIN).tick(lambda n: seen(n, work=backed_up)) == 4

    def test_until_tokens_have_a_price_requests_are_counted(self) -> None:
        unknown = work(8000, 2000, known=False)
        # Four by the target, but at most twice what is ready.
        assert Run(WORK, 1, PLAIN).tick(lambda n: seen(n, reading("running", 64), work=unknown)) == 2

    @pytest.mark.parametrize(("direction", "load", "tolerant"), [("up", 8000, 3), ("down", 4000, 8)])
    def test_the_tolerance_that_an_object_states_holds_for_work_too(
        self, direction: str, load: int, tolerant: int
    ) -> None:
        spec = replace(WORK, **{direction: replace(getattr(WORK, direction), tolerance=0.9)})
        assert Run(WORK, tolerant, PLAIN).tick(lambda n: seen(n, work=work(load, 2000)), times=10) != tolerant
        assert Run(spec, tolerant, PLAIN).tick(lambda n: seen(n, work=work(load, 2000)), times=10) == tolerant

    def test_pods_that_do_not_report_are_as_busy_as_the_rest_when_lowering(self) -> None:
        load = work(6000, 1000)  # R = 1.8: three replicas with the margin
        assert Run(WORK, 5, PLAIN).tick(lambda n: seen(n, work=load), times=20) == 4
        assert Run(WORK, 5, PLAIN).tick(lambda n: seen(n, work=replace(load, missing=2)), times=20) == 5


class TestLearnedHold:
    def bursts(self, run: Run, gap_ticks: int, rounds: int) -> None:
        for _ in range(rounds):
            run.tick(in_flight(100), times=4)
            run.tick(in_flight(10), times=gap_ticks)

    def test_bursts_closer_than_a_cold_start_is_worth_are_bridged(self) -> None:
        run = Run(replace(RUNNING, down=Scaling()), 10, LawConstants(hold_default_seconds=120.0))
        self.bursts(run, gap_ticks=20, rounds=8)  # 300 s
        assert run.state.hold_seconds is not None
        assert run.state.hold_seconds >= 300.0

    def test_bursts_far_apart_are_not_waited_for(self) -> None:
        run = Run(replace(RUNNING, down=Scaling()), 10, LawConstants())
        self.bursts(run, gap_ticks=200, rounds=6)  # 50 min
        assert run.state.hold_seconds == LawConstants().hold_minimum_seconds

    def test_a_stated_window_is_kept_to(self) -> None:
        run = Run(RUNNING, 10)
        self.bursts(run, gap_ticks=20, rounds=4)
        assert run.decision is not None
        assert run.decision.hold_seconds == 60.0


class TestNumbers:
    @pytest.mark.parametrize("kind", list(SignalKind))
    @pytest.mark.parametrize("value", [1.7e308, 1e300, 1e20, 0.0, -5.0, -1.7e308])
    def test_no_number_is_too_large_or_too_small(self, kind: SignalKind, value: float) -> None:
        """KEDA#7475 (Q04, Q05, C25, S01): the result is a count that a scale can say, or an error of the signal."""
        for target in (1e-9, 0.01, 0.9, 1e9):
            for per_replica, capped_, queueing in itertools.product((True, False), repeat=3):
                signal = SignalSpec(kind, target, "s", per_replica=per_replica, capped=capped_)
                spec = TargetSpec(signals=(signal,), queueing=queueing, fallback=None, max_replicas=9, down=FAST_DOWN)
                load = Work(Freshness.FRESH, (value, value), (1.0, 1.0), 0.0, 0.0, 0.0, 1.0, 1.0)
                run = Run(spec, 4)
                observe = lambda n: seen(n, reading("s", value), work=load)  # noqa: B023, E731
                replicas = run.tick(observe, times=8)
                assert run.decision is not None
                (wish,) = [wish for wish in run.decision.wishes if wish.name == "s"]
                assert 0 <= wish.low <= 2**31 - 1
                assert 0 <= wish.up <= 2**31 - 1
                assert 1 <= replicas <= 9
                if value < 0 and kind is not SignalKind.WORK:
                    assert (wish.state, replicas) == (Freshness.ERROR, 4)


class TestWithoutPrice:
    def test_no_replica_goes_while_requests_wait_on_each(self) -> None:
        """llm-d-autoscaling#736 (T09): a prefill server is full with two requests inside."""
        load = lambda waiting: replace(work(900, 5, known=False, unpriced="no gaps"), running=8.0, waiting=waiting)  # noqa: E731
        run = Run(WORK, 4)
        assert run.tick(lambda n: seen(n, work=load(4.0)), times=20) == 4
        assert run.tick(lambda n: seen(n, work=load(40.0))) == 8
        assert run.decision is not None
        assert run.decision.wishes[0].detail == "no gaps: requests are counted instead"

    def test_one_that_waits_now_and_then_keeps_none(self) -> None:
        few = lambda n: seen(n, work=replace(work(900, 5, known=False), running=8.0, waiting=1.0))  # noqa: E731
        assert Run(WORK, 4).tick(few, times=20) == 1


class TestWords:
    def test_pods_that_report_requests_and_are_not_ready_are_overloaded(self) -> None:
        """kubernetes#64088 (T10)."""
        run = Run(RUNNING, 4)
        pods = PodFacts(starting=(9000.0,) * 3, unready_in_flight=240.0)
        run.tick(lambda n: seen(n, reading("running", 0, Freshness.EMPTY), pods=pods))
        assert run.decision is not None
        assert run.decision.reasons[0].text == (
            "no pod is ready, 3 have had a node for 9000 s or more and are not ready, 240 requests are inside: "
            "they are overloaded: replicas are frozen"
        )

    def test_a_full_cluster_names_the_switch_for_node_autoscalers(self) -> None:
        """C11."""
        run = Run(RUNNING, 1)
        run.tick(lambda n: seen(n, reading("running", 90), capacity=Capacity(0, "no node fits")))
        assert run.decision is not None
        assert "capacityCheck: Off" in run.decision.reasons[0].text


def test_pods_whose_latency_is_not_known_count_as_being_at_the_objective() -> None:
    fast = lambda missing: lambda n: seen(n, reading("ttft", 0.2, missing=missing))  # noqa: E731
    assert Run(TTFT, 4).tick(fast(0), times=8) < 4
    assert Run(TTFT, 4).tick(fast(2), times=8) == 4
