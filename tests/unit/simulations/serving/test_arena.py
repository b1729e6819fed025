"""The arena: cold starts, holding, draining, a shared fleet, refused objectives; outcomes and fronts."""

import pytest

from headroom.domain.model import Placement
from simulations.serving.arena import ArenaError, Conditions, Workload, check, initial_replicas, run
from simulations.serving.engine.hardware import bundled_pairs, find_pair
from simulations.serving.engine.replica import Speed
from simulations.serving.engine.request import Request
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import Monitor
from simulations.serving.fleet.placing import FleetError, SharedFleet, uniform_fleet
from simulations.serving.fleet.pods import Phase
from simulations.serving.fleet.served import Served
from simulations.serving.laws.base import Objective
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.laws.knowing import capacity_seconds, needs
from simulations.serving.loads.patterns import generate
from simulations.serving.loads.traces import Trace
from simulations.serving.suite import tuning
from simulations.serving.suite.results import Outcome, outcome, work_bound_gpu_hours
from simulations.serving.suite.tuning import Point
from simulations.virtual_time import Engine

SPEED = Speed(0.01, 0.001, 0.0001, 0.0, 8, 10_000, 1000)
PAIR = find_pair(bundled_pairs(), "llama-3.1-8b", "L40S")
OBJECTIVE = Objective(2.0, 0.1)


class ThreeCards:
    def __init__(self) -> None:
        self.free = 3

    def take(self) -> Placement | None:
        if not self.free:
            return None
        self.free -= 1
        return Placement("n", (self.free,), (1,))

    def give(self, placement: Placement) -> None:
        self.free += 1


def deployment() -> Deployment:
    return Deployment(
        Engine(), SPEED, cards_per_replica=1, cards=ThreeCards(), cold_start_seconds=lambda order, _: 60.0 + order
    )


def test_requests_wait_at_the_router_while_nothing_is_ready() -> None:
    target = deployment()
    target.arrive(Request(0.0, 100, 2))
    target.scale_to(1)
    target.engine.run(60.9)
    assert (len(target.held), target.count(Phase.STARTING), target.cold_starts) == (1, 1, 1)
    target.engine.run(70.0)
    assert target.served.ttft[0] == pytest.approx(61.0 + 0.02)
    assert target.gpu_seconds_until_now() == pytest.approx(70.0)


def test_replicas_without_a_card_wait_for_one_and_cost_nothing() -> None:
    target = deployment()
    target.start_ready(1)
    target.scale_to(5)
    assert (target.count(Phase.STARTING), target.count(Phase.PENDING), target.cards_held) == (2, 2, 3)
    target.engine.run(100.0)
    target.scale_to(2)
    assert (target.replicas, target.cards_held, target.count(Phase.PENDING)) == (2, 2, 0)


def test_a_removed_replica_finishes_what_it_has_and_takes_nothing_new() -> None:
    target = deployment()
    target.start_ready(2)
    for _ in range(3):
        target.arrive(Request(0.0, 100, 100))
    target.scale_to(1)
    assert (target.count(Phase.DRAINING), target.cards_held) == (1, 2)
    target.arrive(Request(0.0, 100, 5))
    draining = next(pod for pod in target.pods if pod.phase is Phase.DRAINING)
    assert draining.load == 1  # the one with fewer requests was chosen, and the new request went elsewhere
    target.engine.run(50.0)
    assert (target.served.finished, target.cards_held, len(target.pods)) == (4, 1, 1)


def test_samples_are_seen_late_and_pods_at_once() -> None:
    target = deployment()
    monitor = Monitor(target, delay_seconds=5.0)
    target.start_ready(1)
    for time in (0.0, 15.0, 30.0):
        target.engine.run(time)
        target.arrive(Request(time, 100, 2))
        monitor.scrape()
    assert monitor.view().latest is not None
    assert (latest := monitor.view().latest) is not None
    assert latest.time == 15.0
    target.engine.run(35.0)
    view = monitor.view()
    assert view.latest is not None
    assert view.latest.time == 30.0
    assert view.rate(lambda sample: sample.arrived, 30.0) == pytest.approx(2 / 30)
    assert view.ttft_quantile(0.9, 30.0) == pytest.approx(0.02)
    target.scale_to(2)
    assert (monitor.view().replicas, monitor.view().ages(Phase.STARTING)) == (2, (0.0,))


def test_models_share_one_fleet_and_the_second_gets_what_is_left() -> None:
    nodes = uniform_fleet("L40S", 46068, 1, 4)
    one = Workload(generate("steady", rate=4.0, hours=0.1, seed=1), PAIR, OBJECTIVE, initial_replicas=3)
    other = Workload(generate("onoff", rate=4.0, hours=0.1, seed=1), PAIR, OBJECTIVE, initial_replicas=3)
    lanes = run([one, other], LAWS["static"], {"replicas": 3.0}, Conditions(nodes, policy="bestfit"), seed=1)
    assert [lane.deployment.cards_held for lane in lanes] == [3, 1]
    assert [lane.deployment.count(Phase.PENDING) for lane in lanes] == [0, 2]


def test_a_fleet_that_cannot_hold_one_replica_is_refused() -> None:
    qwen = find_pair(bundled_pairs(), "qwen3-32b", "H100-80GB")
    shared = SharedFleet(uniform_fleet("H100-80GB", 81559, 4, 1), "bestfit")
    with pytest.raises(
        FleetError, match="no node of the fleet can hold one replica of qwen3-32b on 2 x H100-80GB: 2 cards"
    ):
        shared.cards_for(qwen)


def test_an_objective_that_an_idle_replica_misses_is_refused() -> None:
    trace = Trace("t", (0.0, 1.0), (4000, 4000), (10, 10))
    with pytest.raises(
        ArenaError, match=r"ttft=0\.1s cannot be met: llama-3.1-8b on L40S needs .* median prompt of 4000 tokens"
    ):
        check(Workload(trace, PAIR, Objective(0.1, 0.1)))
    with pytest.raises(ArenaError, match=r"itl=0\.01s cannot be met"):
        check(Workload(trace, PAIR, Objective(2.0, 0.01)))
    with pytest.raises(ArenaError, match=r"bounds 5\.\.2"):
        check(Workload(trace, PAIR, OBJECTIVE, min_replicas=5, max_replicas=2))
    check(Workload(trace, PAIR, OBJECTIVE))


def test_requests_beyond_the_context_are_counted_as_dropped_not_as_missed() -> None:
    trace = Trace("t", (0.0, 1.0, 2.0), (100, 200_000, 100), (5, 5, 5))
    lane = run(
        [Workload(trace, PAIR, OBJECTIVE)],
        LAWS["static"],
        {"replicas": 1.0},
        Conditions(uniform_fleet("L40S", 46068, 1, 1)),
        seed=1,
    )[0]
    result = outcome(lane, 1.0)
    assert (result.arrived, result.finished, result.dropped, result.attainment) == (2, 2, 1, 1.0)


@pytest.mark.parametrize(
    ("ttft_seconds", "itl_seconds", "met"), [(2.0, 0.1, 1), (0.9, 0.1, 0), (2.0, 0.09, 0), (1.0, 0.1, 1)]
)
def test_a_request_meets_the_objective_when_it_has_finished_within_both(
    ttft_seconds: float, itl_seconds: float, met: int
) -> None:
    served, request = Served(ttft_seconds, itl_seconds), Request(0.0, 10, 11)
    request.first_token = 1.0
    served.began([request])
    assert served.met == 0
    request.finished = 2.0  # ten gaps of 0.1 s
    served.ended([request])
    assert (served.met, served.finished) == (met, 1)


def test_every_so_manieth_pod_can_be_slower_and_some_can_be_silent() -> None:
    workload = Workload(generate("steady", rate=4.0, hours=0.05, seed=1), PAIR, OBJECTIVE)
    conditions = Conditions(uniform_fleet("L40S", 46068, 1, 8), slow_every=2, slow_factor=3.0, silent_share=0.5)
    lane = run([workload], LAWS["static"], {"replicas": 8.0}, conditions, seed=1)[0]
    assert [round(pod.replica.speed.base_seconds / PAIR.speed.base_seconds) for pod in lane.deployment.pods] == [
        1,
        3,
    ] * 4
    assert 0 < len(lane.monitor.samples[-1].pods) < 8


def test_a_prefix_aware_router_sends_a_prompt_where_its_prefix_is() -> None:
    shared = Trace(
        "t",
        tuple(float(at) for at in range(60)),
        (4096,) * 60,
        (10,) * 60,
        [tuple(range(8 * (at % 3), 8 * (at % 3) + 8)) for at in range(60)],
    )
    cached = {}
    for router in ("least-requests", "prefix-aware"):
        conditions = Conditions(uniform_fleet("L40S", 46068, 1, 8), router=router)
        lane = run([Workload(shared, PAIR, OBJECTIVE)], LAWS["static"], {"replicas": 3.0}, conditions, seed=1)[0]
        cached[router] = sum(pod.replica.cached_tokens_done for pod in lane.deployment.pods)
    assert cached["prefix-aware"] > 0.9 * 57 * 7 * 512
    assert cached["prefix-aware"] >= cached["least-requests"]


def test_initial_replicas_follow_the_first_minutes() -> None:
    calm = generate("steady", rate=1.0, hours=0.2, seed=1)
    busy = generate("steady", rate=20.0, hours=0.2, seed=1)
    assert initial_replicas(Workload(calm, PAIR, OBJECTIVE)) == 1
    assert 4 <= initial_replicas(Workload(busy, PAIR, OBJECTIVE)) <= 12
    assert initial_replicas(Workload(busy, PAIR, OBJECTIVE, max_replicas=2)) == 2


def test_what_a_request_takes_of_a_replica_is_the_larger_of_its_two_bounds() -> None:
    # 1000 prompt tokens: 84.2 ms and 1.4 ms of attention, over 1 - 22.6/100; or with 1000/512 iterations of 22.6 ms
    prompt = 0.0842 + 2.75e-9 * 1000**2 / 2
    assert capacity_seconds(PAIR, OBJECTIVE, 1000, 1) == pytest.approx(
        max(prompt / 0.774, prompt + 1000 / 512 * 0.0226)
    )
    trace = Trace("t", tuple(0.1 * at for at in range(100)), (1000,) * 100, (1,) * 100)
    assert max(needs(trace, PAIR, OBJECTIVE)) == pytest.approx(
        100 * capacity_seconds(PAIR, OBJECTIVE, 1000, 1) / 12, rel=0.05
    )


def test_no_law_beats_the_work_bound() -> None:
    trace = generate("diurnal", rate=6.0, hours=0.4, seed=1)
    workload = Workload(trace, PAIR, OBJECTIVE, max_replicas=8)
    bound = work_bound_gpu_hours(trace, PAIR, OBJECTIVE)
    for name in ("clairvoyant", "headroom", "headroom-ahead", "kpa"):
        lane = run([workload], LAWS[name], {}, Conditions(uniform_fleet("L40S", 46068, 2, 4)), seed=1)[0]
        result = outcome(lane, 1.0)
        assert result.gpu_hours > bound * result.attainment > 0


def point(hours: float, attainment: float, law: str = "a") -> Point:
    values = dict.fromkeys(Outcome.__dataclass_fields__, 0.0) | {"gpu_hours": hours, "attainment": attainment}
    total = Outcome(**values)
    return Point(law, {"x": hours}, total, {"w": total})


def test_the_front_keeps_what_nothing_beats() -> None:
    points = [point(10, 0.9), point(12, 0.88), point(14, 0.99), point(9, 0.5), point(20, 0.99)]
    assert [p.total.gpu_hours for p in tuning.front(points)] == [9, 10, 14]
    assert tuning.best_setting(points, 0.98).total.gpu_hours == 14
    assert tuning.best_setting(points, 0.999).total.gpu_hours == 14
