"""What holds of every run in the arena, whatever the law: nothing lost, cards and seconds accounted for, repeatable."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.serving.arena import Conditions, Lane, Workload, run
from simulations.serving.engine.hardware import bundled_pairs, find_pair
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.placing import uniform_fleet
from simulations.serving.laws.base import Objective
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.loads.patterns import generate
from simulations.serving.loads.traces import Trace
from simulations.serving.suite.results import Outcome, outcome

LLAMA = find_pair(bundled_pairs(), "llama-3.1-8b", "L40S")
QWEN = find_pair(bundled_pairs(), "qwen3-32b", "H100-80GB")
FLEET = [*uniform_fleet("L40S", 46068, 1, 4), *uniform_fleet("H100-80GB", 81559, 2, 4)]
OBJECTIVE = Objective(2.0, 0.1)

loads = st.lists(
    st.tuples(st.floats(0, 400), st.integers(1, 9000), st.integers(1, 300)),
    min_size=1,
    max_size=120,
    unique_by=lambda row: row[0],
).map(sorted)


def trace(name: str, rows: list[tuple[float, int, int]]) -> Trace:
    first = rows[0][0]
    return Trace(name, tuple(r[0] - first for r in rows), tuple(r[1] for r in rows), tuple(r[2] for r in rows))


def both(one: list[tuple[float, int, int]], other: list[tuple[float, int, int]], most: int) -> list[Workload]:
    return [
        Workload(trace("one", one), LLAMA, OBJECTIVE, max_replicas=most),
        Workload(trace("other", other), QWEN, OBJECTIVE, min_replicas=0, max_replicas=most),
    ]


@settings(max_examples=15, deadline=None)
@given(loads, loads, st.sampled_from(sorted(LAWS)), st.integers(1, 12), st.integers(0, 5))
def test_every_request_finishes_is_refused_or_is_still_inside(
    one: list[Any], other: list[Any], law: str, most: int, seed: int
) -> None:
    lanes = run(
        both(one, other, most), LAWS[law], {}, Conditions(FLEET, policy="bestfit", settle_seconds=200.0), seed=seed
    )
    for lane in lanes:
        deployment = lane.deployment
        served = deployment.served
        assert lane.total + lane.unservable == len(lane.workload.trace)
        assert lane.total == served.arrived == served.finished + deployment.inside
        assert served.met <= served.finished <= len(served.ttft) <= served.arrived
        assert deployment.inside == len(deployment.held) + sum(pod.replica.load for pod in deployment.pods)
        assert all(pod.load == pod.replica.load for pod in deployment.pods)
        assert deployment.cards_held == lane.workload.pair.cards * sum(
            pod.placement is not None for pod in deployment.pods
        )
    assert lanes[0].deployment.cards_held <= 4
    assert lanes[1].deployment.cards_held <= 8


@settings(max_examples=8, deadline=None)
@given(loads, st.sampled_from(["headroom", "kpa", "llmd-slo"]), st.integers(0, 5))
def test_gpu_seconds_are_the_integral_of_the_cards_held(one: list[Any], law: str, seed: int) -> None:
    lane, integral = watched(Workload(trace("one", one), LLAMA, OBJECTIVE, max_replicas=6), law, seed)
    assert lane.deployment.gpu_seconds_until_now() == pytest.approx(integral, abs=1e-6)


def watched(workload: Workload, law: str, seed: int) -> tuple[Lane, float]:
    """A run whose cards are counted from outside, at each change."""
    changes: list[tuple[float, int]] = []
    place, remove = Deployment._place, Deployment._remove
    with pytest.MonkeyPatch.context() as patch:

        def spy_place(self: Deployment, pod: Any) -> bool:
            placed = place(self, pod)
            if placed:
                changes.append((self.engine.now, self.cards_per_replica))
            return placed

        def spy_remove(self: Deployment, pod: Any) -> None:
            if pod.placement is not None:
                changes.append((self.engine.now, -self.cards_per_replica))
            remove(self, pod)

        patch.setattr(Deployment, "_place", spy_place)
        patch.setattr(Deployment, "_remove", spy_remove)
        lane = run([workload], LAWS[law], {}, Conditions(FLEET, policy="bestfit", settle_seconds=100.0), seed=seed)[0]
    end = lane.deployment.engine.now
    return lane, sum(cards * (end - at) for at, cards in changes)


@pytest.mark.parametrize("law", sorted(LAWS))
def test_a_seed_decides_a_run(law: str) -> None:
    def once(seed: int) -> Outcome:
        workload = Workload(
            generate("spikes", rate=6.0, hours=0.25, seed=2), LLAMA, OBJECTIVE, max_replicas=4, initial_replicas=1
        )
        lane = run([workload], LAWS[law], {}, Conditions(FLEET, policy="bestfit"), seed=seed)[0]
        return outcome(lane, lane.deployment.engine.now)

    assert once(1) == once(1)


def test_another_seed_draws_other_cold_starts() -> None:
    def hours(seed: int) -> float:
        workload = Workload(
            generate("ramp", rate=8.0, hours=0.3, seed=2), LLAMA, OBJECTIVE, max_replicas=4, initial_replicas=1
        )
        lane = run([workload], LAWS["keda-running"], {}, Conditions(FLEET, policy="bestfit"), seed=seed)[0]
        return outcome(lane, lane.deployment.engine.now).ttft_p99_seconds

    assert len({hours(seed) for seed in range(4)}) == 4
