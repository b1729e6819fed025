"""What stands in the way of a decision: sick pods, limits, zero."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from autoscaler.law.decide import Rule, TargetState, capped, decide
from autoscaler.law.inputs import Capacity, Freshness, Observation, PodFacts, Rollout
from autoscaler.law.spec import ScaleToZero
from tests.unit.autoscaler.law.runs import RUNNING, Run, in_flight, reading, seen


class TestPods:
    @pytest.mark.parametrize(("ready", "crashing"), [(0, 1), (2, 2), (1, 2), (3, 9)])
    def test_a_target_whose_pods_crash_loop_does_not_grow(self, ready: int, crashing: int) -> None:
        run, total = Run(RUNNING, ready + crashing), ready + crashing
        pods = PodFacts(ready=ready, crash_looping=crashing)
        assert run.tick(lambda n: seen(n, reading("running", 500), pods=pods), times=10) == total
        assert Rule.CRASH_LOOP in run.rules()

    @pytest.mark.parametrize(("ready", "crashing"), [(1, 1), (2, 1), (9, 1)])
    def test_one_sick_pod_does_not_stop_the_healthy_and_is_stood_in_for(self, ready: int, crashing: int) -> None:
        """C09: one bad card of three, and the load triples."""
        pods = PodFacts(ready=ready, crash_looping=crashing)
        replicas = ready + crashing
        wanted = replicas + 2
        observe = lambda n: seen(n, reading("running", 10.0 * wanted), pods=pods)  # noqa: E731
        assert Run(RUNNING, replicas).tick(observe) == wanted + 1

    def test_a_bad_pod_beside_the_old_ones_of_a_rollout_does_not_stop_them(self) -> None:
        """C08, kubernetes/kubernetes#87199 mirrored: a bad image in a rollout with maxSurge 1."""
        for replicas in (1, 3):
            pods = PodFacts(ready=replicas, crash_looping=1)
            observe = lambda n: seen(n, reading("running", 50.0), pods=pods, rollout=Rollout.PROGRESSING)  # noqa: B023, E731
            assert Run(RUNNING, replicas).tick(observe) == 5

    def test_a_cut_leaves_enough_beside_a_sick_pod(self) -> None:
        """A StatefulSet keeps its sick pod and loses its highest one."""
        run = Run(RUNNING, 6)
        observe = lambda n: seen(n, reading("running", 19.0), pods=PodFacts(ready=n - 1, crash_looping=1))  # noqa: E731
        assert run.tick(observe, times=40) == 3
        assert run.tick(observe, times=20) == 3

    def test_pods_without_a_node_stop_growth_when_capacity_is_not_known(self) -> None:
        run = Run(RUNNING, 4)
        waiting = PodFacts(ready=3, unschedulable=(30.0,))
        assert run.tick(lambda n: seen(n, reading("running", 100), pods=waiting), times=5) == 4
        assert Rule.UNSCHEDULABLE in run.rules()
        assert run.decision is not None
        assert run.decision.unmet > 0

    def test_and_are_given_back_in_the_end(self) -> None:
        waiting = PodFacts(ready=3, unschedulable=(700.0,))
        assert Run(RUNNING, 4).tick(lambda n: seen(n, reading("running", 100), pods=waiting)) == 3

    def test_a_node_autoscaler_is_left_to_do_its_work(self) -> None:
        spec = replace(RUNNING, enforce_capacity=False)
        waiting = PodFacts(ready=3, unschedulable=(700.0,))
        assert Run(spec, 4).tick(lambda n: seen(n, reading("running", 80), pods=waiting)) == 8

    def test_start_up_times_are_learned_by_their_median(self) -> None:
        run = Run(RUNNING, 2)
        run.tick(lambda n: seen(n, reading("running", 20), pods=PodFacts(ready=2, started_seconds=(80.0, 300.0, 90.0))))
        run.tick(in_flight(20))
        assert run.decision is not None
        assert run.decision.start_seconds == 90.0


class TestLimits:
    def test_a_raise_goes_as_far_as_the_cluster_can_hold(self) -> None:
        run = Run(RUNNING, 2)
        full = lambda n: seen(n, reading("running", 60), capacity=Capacity(1, "no card with 20480 MiB free on 3 nodes"))  # noqa: E731
        assert run.tick(full) == 3
        assert run.decision is not None
        assert (run.decision.wanted, run.decision.unmet) == (6, 3)
        assert Rule.CAPACITY in run.rules()

    def test_and_is_finished_when_there_is_room_again(self) -> None:
        run = Run(RUNNING, 2)
        run.tick(lambda n: seen(n, reading("running", 60), capacity=Capacity(0)), times=3)
        assert run.replicas == 2
        assert run.tick(lambda n: seen(n, reading("running", 60), capacity=Capacity(9))) == 6
        assert run.decision is not None
        assert run.decision.unmet == 0

    def test_unknown_capacity_is_not_zero(self) -> None:
        assert Run(RUNNING, 2).tick(lambda n: seen(n, reading("running", 60), capacity=None)) == 6

    def test_max_gpus(self) -> None:
        run = Run(replace(RUNNING, max_gpus=8.0), 2)
        assert run.tick(lambda n: seen(n, reading("running", 60), gpus_per_replica=2.0)) == 4
        assert run.decision is not None
        assert run.decision.unmet == 2
        assert Rule.MAX_GPUS in run.rules()

    def test_a_share_of_the_budget_caps_a_raise_and_its_move(self) -> None:
        decision = decide(RUNNING, TargetState(), seen(2, reading("running", 60)), 0.0)
        cut = capped(decision, 2, 3, Rule.BUDGET, "project a has a budget of 3 GPUs")
        assert (cut.replicas, cut.unmet, cut.state.moves[-1].delta) == (3, 3, 1)
        held = capped(decision, 2, 2, Rule.BUDGET, "project a has a budget of 2 GPUs")
        assert (held.replicas, held.state.moves) == (2, ())
        assert held.reasons[0].rule is Rule.BUDGET


class TestZero:
    SPEC = replace(RUNNING, min_replicas=0, scale_to_zero=ScaleToZero(idle_seconds=120.0, query="q"))

    def observe(self, load: float, demand: float, state: Freshness = Freshness.FRESH) -> Callable[[int], Observation]:
        return lambda n: seen(
            n, *([reading("running", load)] if n else []), activation=reading("activation", demand, state)
        )

    def test_to_zero_after_the_idle_time_and_back_on_demand(self) -> None:
        run = Run(self.SPEC, 2)
        run.tick(self.observe(20, 1), times=6)
        assert run.tick(self.observe(0, 0), times=7) == 1
        assert run.tick(self.observe(0, 0), times=10) == 0
        assert run.tick(self.observe(0, 0), times=5) == 0
        assert run.tick(self.observe(0, 3)) == 1
        assert Rule.WOKEN in run.rules()

    def test_not_while_the_activation_signal_sees_demand(self) -> None:
        run = Run(self.SPEC, 1)
        assert run.tick(self.observe(0, 1), times=60) == 1

    @pytest.mark.parametrize("state", [Freshness.STALE, Freshness.EMPTY, Freshness.ERROR])
    def test_not_on_an_activation_signal_that_is_not_fresh(self, state: Freshness) -> None:
        assert Run(self.SPEC, 1).tick(self.observe(0, 0, state), times=60) == 1

    def test_an_outage_at_zero_is_reported(self) -> None:
        run = Run(self.SPEC, 0)
        assert run.tick(self.observe(0, 9, Freshness.ERROR), times=5) == 0
        assert Rule.OUTAGE in run.rules()

    def test_a_raised_minimum_wakes_what_the_law_put_to_sleep(self) -> None:
        run = Run(self.SPEC, 1)
        assert run.tick(self.observe(0, 0), times=20) == 0
        run.spec = replace(self.SPEC, min_replicas=2)
        assert run.tick(self.observe(0, 0)) == 2

    def test_a_zero_by_hand_switches_scaling_off(self) -> None:
        """C29, kedacore/keda#3052: as with the HPA, where minReplicas is 1 or more; any other count switches it on again."""
        run = Run(RUNNING, 3)
        run.tick(in_flight(30), times=6)
        run.replicas = 0
        assert run.tick(seen, times=10) == 0
        assert run.rules() == {Rule.OFF}
        assert run.decision is not None
        assert not run.decision.scaling_active
        run.replicas = 1
        assert run.tick(in_flight(30)) == 3

    def test_an_objects_own_zero_is_woken_whoever_wrote_it(self) -> None:
        assert Run(self.SPEC, 0).tick(self.observe(0, 3)) == 1

    def test_waking_asks_for_room_like_any_raise(self) -> None:
        run = Run(self.SPEC, 0)
        asleep = seen(0, activation=reading("activation", 1), capacity=Capacity(0, "no free slice on 4 nodes"))
        assert run.tick(lambda n: asleep) == 0
        assert run.decision is not None
        assert run.decision.unmet == 1
