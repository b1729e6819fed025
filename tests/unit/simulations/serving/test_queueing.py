"""Replicas and routers against formulas of queueing theory, where there are any.

A replica with one slot that takes a second per thousand prompt tokens and gives one output token is a single server.
"""

import math
import random
from collections.abc import Callable

import pytest

from headroom.domain.model import Placement
from simulations.serving.engine.replica import Speed
from simulations.serving.engine.request import Request
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.routers import ROUTERS
from simulations.virtual_time import Engine

SERVER = Speed(1e-12, 0.0, 1e-3, 0.0, slots=1, kv_tokens=10**9, chunk_tokens=10**7)
COUNT = 60_000


class Endless:
    def take(self) -> Placement:
        return Placement("n", (), ())

    def give(self, placement: Placement) -> None:
        pass


def mean_wait(
    utilisation: float, tokens: Callable[[random.Random], int], servers: int = 1, router: str = "least-requests"
) -> float:
    rng = random.Random(7)
    engine = Engine()
    pool = Deployment(
        engine,
        SERVER,
        cards_per_replica=1,
        cards=Endless(),
        cold_start_seconds=lambda *_: 0.0,
        router=ROUTERS[router](1),
    )
    pool.start_ready(servers)
    time, made = 0.0, []
    for _ in range(COUNT):
        time += rng.expovariate(utilisation * servers)
        made.append(Request(time, tokens(rng), 1))
    pool.feed(made)
    engine.run(time + 1e6)
    return sum(r.ttft_seconds - r.prompt_tokens / 1000 for r in made) / COUNT


def fixed(_: random.Random) -> int:
    return 1000


def exponential(rng: random.Random) -> int:
    return max(1, round(1000 * rng.expovariate(1)))


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_equal_requests_wait_as_in_m_d_1(rho: float) -> None:
    assert mean_wait(rho, fixed) == pytest.approx(rho / (2 * (1 - rho)), rel=0.06)


@pytest.mark.parametrize("rho", [0.5, 0.8])
def test_unequal_requests_wait_as_in_m_m_1(rho: float) -> None:
    assert mean_wait(rho, exponential) == pytest.approx(rho / (1 - rho), rel=0.1)


def test_a_service_splits_at_random_so_that_each_replica_is_a_queue_of_its_own() -> None:
    assert mean_wait(0.8, fixed, 4, "random") == pytest.approx(0.8 / (2 * 0.2), rel=0.1)


def test_the_shortest_queue_is_worse_than_one_common_queue_and_far_better_than_chance() -> None:
    servers, rho = 4, 0.8
    offered = servers * rho
    states = [offered**k / math.factorial(k) for k in range(servers)]
    busy = offered**servers / math.factorial(servers) / (1 - rho)
    erlang_c = busy / (sum(states) + busy)
    common = erlang_c / (servers * (1 - rho)) / 2  # M/D/c after Allen and Cunneen
    shortest = mean_wait(rho, fixed, servers)
    assert common < shortest < 0.5 * rho / (2 * (1 - rho))
