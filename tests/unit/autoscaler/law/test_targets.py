"""What the target itself does to the law: rollouts that surge, pods that are never made, bounds, answers that are half."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest

from autoscaler.law.budget import Ask, share
from autoscaler.law.decide import Decision, Rule, TargetState, decide
from autoscaler.law.inputs import Capacity, Freshness, Observation, PodFacts, Reading, Rollout, SignalKind, Work
from autoscaler.law.rates import RatePolicy
from autoscaler.law.spec import Objective, Scaling, SignalSpec, TargetSpec

TICK = 15.0
DOWN = Scaling(window_seconds=60.0)
RUNNING = TargetSpec(1, 60, (SignalSpec(SignalKind.RUNNING, 10.0, "s"),), down=DOWN)
KV = TargetSpec(1, 100, (SignalSpec(SignalKind.KV_CACHE, 0.8, "s"),), down=DOWN)
TTFT = TargetSpec(1, 100, (SignalSpec(SignalKind.TIME_TO_FIRST_TOKEN, 1.0, "s"),), down=DOWN)
QUEUE = TargetSpec(1, 100, (SignalSpec(SignalKind.QUEUE, 4.0, "s"),), down=DOWN)
UTILISATION = TargetSpec(1, 100, (SignalSpec(SignalKind.GPU_UTILIZATION, 0.7, "s"),), queueing=False, down=DOWN)
VALUE = TargetSpec(1, 100, (SignalSpec(SignalKind.QUERY, 0.5, "s", query="x", per_replica=False),), down=DOWN)


def observed(replicas: int, value: float, state: Freshness = Freshness.FRESH, **more: object) -> Observation:
    pods = more.pop("pods", PodFacts(ready=replicas))
    return Observation(replicas, pods, (Reading("s", state, value, detail="why"),), **more)  # type: ignore[arg-type]


class Run:
    def __init__(self, spec: TargetSpec, replicas: int) -> None:
        self.spec, self.replicas, self.state, self.now = spec, replicas, TargetState(), 1000.0
        self.decision: Decision

    def tick(self, observe: Callable[[int], Observation], times: int = 1) -> list[int]:
        trail = []
        for _ in range(times):
            self.decision = decide(self.spec, self.state, observe(self.replicas), self.now)
            self.state, self.replicas, self.now = self.decision.state, self.decision.replicas, self.now + TICK
            trail.append(self.replicas)
        return trail

    @property
    def texts(self) -> dict[Rule, str]:
        return {reason.rule: reason.text for reason in self.decision.reasons}


class TestSurge:
    """C01, kubernetes/kubernetes#72775, #84142: the pods of a rollout beside those asked for are no supply to step from."""

    @pytest.mark.parametrize(
        ("spec", "value", "expected"),
        [(KV, 0.92, 5), (TTFT, 3.0, 5), (QUEUE, 400.0, 8), (UTILISATION, 0.9, 6), (VALUE, 1.0, 8)],
        ids=["kvCache", "timeToFirstToken", "queue", "gpuUtilization", "a Value query"],
    )
    def test_a_rollout_with_twice_the_pods_is_stepped_from_what_is_asked_for(
        self, spec: TargetSpec, value: float, expected: int
    ) -> None:
        surging = observed(4, value, pods=PodFacts(ready=8), rollout=Rollout.PROGRESSING)
        settled = observed(4, value)
        assert Run(spec, 4).tick(lambda _: surging) == Run(spec, 4).tick(lambda _: settled) == [expected]

    def test_and_no_second_step_while_its_replicas_start(self) -> None:
        """8, 12, 18, 28, 43, 67, 100 before: each step was reckoned from the pods of both revisions."""
        run = Run(TTFT, 8)
        observe = lambda n: observed(n, 3.0, pods=PodFacts(ready=2 * n), rollout=Rollout.PROGRESSING)  # noqa: E731
        trail = run.tick(observe, times=24)
        assert trail[:9] == [10] * 9  # a start-up time of 120 s
        assert trail[9] == 12
        assert trail[-1] == 15

    @pytest.mark.parametrize("objective", [None, Objective(2.0, 0.1)], ids=["a target of work", "an objective"])
    def test_full_replicas_ask_for_a_step_from_what_is_asked_for(self, objective: Objective | None) -> None:
        """Their batches are full, though the work that they do would fit fewer replicas."""
        spec = TargetSpec(1, 100, (SignalSpec(SignalKind.WORK, 0.8, "work"),), objective=objective, down=DOWN)
        work = Work(
            Freshness.FRESH, (100.0, 100.0), (100.0, 100.0), running=4000.0, full_batch=40.0,
            seconds_per_prompt_token=0.001, seconds_per_output_token=0.001,
        )  # fmt: skip
        surging = Observation(8, PodFacts(ready=16), work=work, rollout=Rollout.PROGRESSING)
        settled = Observation(8, PodFacts(ready=8), work=work)
        assert Run(spec, 8).tick(lambda _: surging) == Run(spec, 8).tick(lambda _: settled) == [10]

    def test_an_old_revision_that_is_whole_is_grown_while_a_new_pod_starts(self) -> None:
        pods = PodFacts(ready=4, starting=(10.0,))
        run = Run(KV, 4)
        assert run.tick(lambda n: observed(n, 0.92, pods=pods, rollout=Rollout.PROGRESSING)) == [5]


class TestRollouts:
    def test_a_failed_one_is_lowered_and_said(self) -> None:
        """C13: given up by its controller days ago, with no load."""
        run = Run(RUNNING, 4)
        pods = PodFacts(ready=4, starting=(900.0,))
        observe = lambda n: observed(  # noqa: E731
            n, 0.0, pods=replace(pods, ready=n), rollout=Rollout.FAILED, rollout_detail="ProgressDeadlineExceeded"
        )
        assert run.tick(observe, times=30)[-1] == 1
        assert "ProgressDeadlineExceeded" in run.texts[Rule.ROLLOUT_FAILED]

    @pytest.mark.parametrize("rollout", [Rollout.PROGRESSING, Rollout.PAUSED])
    def test_others_may_grow_and_are_not_cut(self, rollout: Rollout) -> None:
        run = Run(RUNNING, 4)
        assert run.tick(lambda n: observed(n, 0.0, rollout=rollout), times=20)[-1] == 4
        assert run.tick(lambda n: observed(n, 80.0, rollout=rollout)) == [8]


class TestNotCreated:
    """C05, C22, C31, veryfront/veryfront-code#188: a ResourceQuota, and three of six pods are never made."""

    @staticmethod
    def quota(replicas: int, load: float = 200.0) -> Observation:
        pods = PodFacts(ready=3, not_created=max(replicas - 3, 0), why_not_created="exceeded quota: gpu")
        return observed(replicas, load, pods=pods)

    def test_growth_stops_and_what_is_missing_is_unmet_and_named(self) -> None:
        run = Run(RUNNING, 3)
        assert run.tick(self.quota, times=48)[-1] == 7  # one raise, before anybody could know
        assert (run.decision.wanted, run.decision.unmet) == (20, 17)
        assert run.texts[Rule.NOT_CREATED] == "4 of 7 replicas have no pod: exceeded quota: gpu"

    def test_it_is_lowered_as_ever(self) -> None:
        run = Run(RUNNING, 3)
        run.tick(self.quota)
        assert run.tick(lambda n: self.quota(n, 9.0), times=40)[-1] == 1
        assert run.decision.unmet == 0

    def test_a_raised_minimum_is_written_all_the_same(self) -> None:
        run = Run(replace(RUNNING, min_replicas=12), 6)
        assert run.tick(self.quota) == [12]

    def test_they_hold_nothing_of_a_budget(self) -> None:
        assert share(12, [Ask("a", 2, 2, 1.0), Ask("b", 2, 20, 1.0)]) == {"a": 2, "b": 10}


class TestBounds:
    """C07, C07b, C07c: the owner's word holds at once, whatever the rates, the windows and the signals say, as the HPA's."""

    OUTAGE = staticmethod(lambda n: observed(n, 0.0, Freshness.ERROR))
    BUSY = staticmethod(lambda n: observed(n, 100.0))

    def test_a_lowered_maximum(self) -> None:
        assert Run(replace(RUNNING, max_replicas=3), 10).tick(self.BUSY) == [3]

    def test_a_lowered_maximum_with_scale_down_disabled_in_an_outage(self) -> None:
        spec = replace(RUNNING, max_replicas=3, down=Scaling(disabled=True, policies=(RatePolicy(True, 1, 600.0),)))
        assert Run(spec, 10).tick(self.OUTAGE) == [3]

    def test_a_raised_minimum(self) -> None:
        assert Run(replace(RUNNING, min_replicas=12), 2).tick(lambda n: observed(n, 2.0)) == [12]

    def test_a_raised_minimum_with_an_up_window_and_scale_up_disabled_in_an_outage(self) -> None:
        up = Scaling(window_seconds=300.0, disabled=True, policies=(RatePolicy(True, 1, 600.0),))
        run = Run(replace(RUNNING, up=up), 2)
        run.tick(self.OUTAGE, times=3)
        run.spec = replace(run.spec, min_replicas=12)
        assert run.tick(self.OUTAGE) == [12]

    def test_max_gpus(self) -> None:
        spec = replace(RUNNING, max_gpus=6)
        assert Run(spec, 10).tick(lambda n: observed(n, 100.0, gpus_per_replica=2.0)) == [3]

    def test_into_the_bounds_at_once_and_on_by_the_rates(self) -> None:
        run = Run(replace(RUNNING, max_replicas=8, down=replace(DOWN, policies=(RatePolicy(False, 25, 30.0),))), 20)
        assert run.tick(lambda n: observed(n, 300.0)) == [8]
        assert run.texts[Rule.LOWERED] == "lowered from 20 to 8: 8 replicas are the most allowed"
        trail = run.tick(lambda n: observed(n, 10.0), times=12)
        assert trail[0] == 8
        assert trail[-1] < 5
        assert min(before - after for before, after in itertools.pairwise(trail)) >= 0
        assert max(before - after for before, after in itertools.pairwise(trail)) <= 2

    def test_a_raised_minimum_goes_as_far_as_the_cluster_can_hold(self) -> None:
        run = Run(replace(RUNNING, min_replicas=12), 2)
        assert run.tick(lambda n: observed(n, 2.0, capacity=Capacity(5, "no card"))) == [7]
        assert run.decision.unmet == 5


class TestPartialAnswers:
    """Q10, kedacore/keda#6839: a store is down, the sum of the others comes with status 200."""

    @pytest.mark.parametrize("spec", [RUNNING, KV, TTFT, QUEUE, UTILISATION, VALUE])
    def test_they_never_lower(self, spec: TargetSpec) -> None:
        run = Run(spec, 8)
        assert run.tick(lambda n: observed(n, 0.0, Freshness.PARTIAL), times=60) == [8] * 60
        assert "s is partial" in run.texts.get(Rule.SIGNALS_NOT_FRESH, "s is partial")

    def test_they_raise_what_is_seen_alone(self) -> None:
        assert Run(RUNNING, 4).tick(lambda n: observed(n, 80.0, Freshness.PARTIAL)) == [8]

    def test_work_too(self) -> None:
        spec = TargetSpec(1, 50, (SignalSpec(SignalKind.WORK, 0.8, "work"),), down=DOWN)

        def seen(n: int, output: float) -> Observation:
            work = Work(
                Freshness.PARTIAL, (0.0, 0.0), (output, output), seconds_per_prompt_token=0.001,
                seconds_per_output_token=0.001, detail="a store is down",
            )  # fmt: skip
            return Observation(n, PodFacts(ready=n), work=work)

        assert Run(spec, 5).tick(lambda n: seen(n, 10.0), times=40)[-1] == 5
        assert Run(spec, 5).tick(lambda n: seen(n, 6000.0))[-1] > 7

    @pytest.mark.parametrize("whole_at_first", [True, False])
    def test_work_with_an_objective_too(self, whole_at_first: bool) -> None:
        """It lowered by half an answer, and failed where the first one after a start was half."""
        spec = TargetSpec(1, 50, (SignalSpec(SignalKind.WORK, 0.8, "work"),), objective=Objective(2.0, 0.1), down=DOWN)

        def seen(n: int, output: float, state: Freshness) -> Observation:
            work = Work(
                state, (0.0, 0.0), (output, output), seconds_per_prompt_token=0.001, seconds_per_output_token=0.001,
                detail="" if state is Freshness.FRESH else "a store is down",
            )  # fmt: skip
            return Observation(n, PodFacts(ready=n), work=work)

        run = Run(spec, 5)
        if whole_at_first:
            run.tick(lambda n: seen(n, 3000.0, Freshness.FRESH), times=20)
        stands = run.replicas
        assert run.tick(lambda n: seen(n, 10.0, Freshness.PARTIAL), times=60) == [stands] * 60
        assert run.decision.wishes[0].state is Freshness.PARTIAL
        assert "a store is down" in run.decision.wishes[0].detail
        assert run.tick(lambda n: seen(n, 20000.0, Freshness.PARTIAL))[-1] > stands
        assert run.tick(lambda n: seen(n, 10.0, Freshness.FRESH), times=60)[-1] < stands

    def test_a_window_must_be_full_of_whole_answers(self) -> None:
        run = Run(RUNNING, 8)
        run.tick(lambda n: observed(n, 10.0, Freshness.PARTIAL), times=10)
        assert run.tick(lambda n: observed(n, 10.0), times=4) == [8] * 4
        assert run.tick(lambda n: observed(n, 10.0), times=8)[-1] < 8


@pytest.mark.parametrize("objective", [None, Objective(2.0, 0.1)], ids=["a target of work", "an objective"])
def test_silent_pods_count_as_full_when_lowering_by_work(objective: Objective | None) -> None:
    """Three of eight do all the work and are not scraped any more: by the mean of the others one replica was enough, or none."""
    spec = TargetSpec(0, 8, (SignalSpec(SignalKind.WORK, 0.8, "work"),), objective=objective, down=DOWN)
    work = Work(Freshness.FRESH, missing=3, seconds_per_prompt_token=0.001, seconds_per_output_token=0.001)
    seen = lambda n: Observation(n, PodFacts(ready=8), work=work)  # noqa: E731
    assert 3 <= Run(spec, 8).tick(seen, times=60)[-1] < 8


def test_an_outage_says_what_the_first_signal_met() -> None:
    run = Run(RUNNING, 4)
    run.tick(lambda n: observed(n, 0.0, Freshness.ERROR))
    assert run.texts == {Rule.OUTAGE: "no signal is fresh: replicas are frozen (s: why)"}
