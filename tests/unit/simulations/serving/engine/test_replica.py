"""One replica: times of single requests by hand, caps, order, prefix reuse."""

import math
from dataclasses import replace
from typing import Any

import pytest

from simulations.serving.engine.replica import Replica, Speed
from simulations.serving.engine.request import Request
from simulations.virtual_time import Engine

SPEED = Speed(
    base_seconds=0.01,
    per_sequence_seconds=0.001,
    per_prompt_token_seconds=0.0001,
    per_kv_token_seconds=0.0,
    slots=2,
    kv_tokens=1000,
    chunk_tokens=100,
)


def drain(replica: Replica) -> None:
    while replica.next_event < math.inf:
        replica.advance(replica.next_event)


def test_a_request_alone_takes_its_chunks_then_one_iteration_per_token() -> None:
    replica, request = Replica(SPEED), Request(0.0, 150, 3)
    replica.arrive(request, 0.0)
    drain(replica)
    # chunks of 100 and 50 prompt tokens: 10 + 10 ms and 10 + 5 ms; then two iterations of a batch of one: 11 ms each
    assert request.ttft_seconds == pytest.approx(0.035)
    assert request.itl_seconds == pytest.approx(0.011)
    assert request.finished == pytest.approx(0.057)


def test_the_cache_makes_later_iterations_longer() -> None:
    speed = Speed(0.01, 0.0, 0.0001, 0.00001, 2, 1000, 100)
    replica, request = Replica(speed), Request(0.0, 100, 3)
    replica.arrive(request, 0.0)
    drain(replica)
    assert request.finished - request.first_token == pytest.approx(0.01 + 0.001 + 0.01 + 0.00101)


def test_a_request_joins_at_the_next_boundary_between_iterations() -> None:
    replica, first, second = Replica(SPEED), Request(0.0, 100, 100), Request(0.0255, 10, 1)
    replica.arrive(first, 0.0)  # first token at 20 ms, then iterations of 11 ms
    replica.advance(0.02)
    due = replica.arrive(second, 0.0255)
    assert due == pytest.approx(0.031)
    assert due is not None
    replica.advance(due)
    drain(replica)
    assert second.finished == pytest.approx(0.031 + 0.012)


def test_slots_and_cache_room_hold_prompts_back_in_order_of_arrival() -> None:
    replica = Replica(SPEED)
    big, bigger, small = Request(0.0, 500, 50), Request(0.0, 600, 50), Request(0.0, 10, 5)
    for request in (big, bigger, small):
        replica.arrive(request, 0.0)
    assert (replica.running_count, len(replica.waiting)) == (1, 2)  # 500 + 600 tokens do not fit; small waits its turn
    drain(replica)
    assert big.finished < bigger.first_token < small.first_token


def test_admission_asks_for_room_for_the_prompt_and_not_for_the_output() -> None:
    replica = Replica(SPEED)
    for _ in range(2):
        replica.arrive(Request(0.0, 300, 600), 0.0)
    for _ in range(3):  # chunks of 100 tokens: the second prompt waits until the first one leaves room in an iteration
        assert (replica.running_count, len(replica.waiting)) == (1, 1)
        replica.advance(replica.next_event)
    assert (replica.running_count, len(replica.waiting)) == (2, 0)  # 1800 tokens in the end, of a room of 1000
    drain(replica)
    assert replica.preemptions > 0
    assert replica.finished_count == 2


def test_long_prompts_cost_more_than_their_length() -> None:
    speed = replace(SPEED, kv_tokens=100_000, per_prompt_pair_seconds=1e-8)
    replica, request = Replica(speed), Request(0.0, 10_000, 1)
    replica.arrive(request, 0.0)
    drain(replica)
    assert request.ttft_seconds == pytest.approx(100 * 0.01 + 10_000 * 0.0001 + 1e-8 * 10_000**2 / 2)


def test_a_known_prefix_is_not_computed_again() -> None:
    speed = Speed(0.01, 0.0, 0.0001, 0.0, 4, 10_000, 4096)
    replica = Replica(speed)
    replica.arrive(Request(0.0, 2000, 1, (1, 2, 3)), 0.0)
    drain(replica)
    again, other = Request(1.0, 2000, 1, (1, 2, 9)), Request(2.0, 2000, 1, (7, 2, 3))
    replica.arrive(again, 1.0)
    drain(replica)
    replica.arrive(other, 2.0)
    drain(replica)
    assert (again.cached_tokens, other.cached_tokens) == (1024, 0)
    assert again.ttft_seconds == pytest.approx(0.01 + 976 * 0.0001)
    assert (replica.cached_tokens_done, replica.prompt_tokens_done, replica.computed_tokens) == (
        1024,
        6000,
        6000 - 1024,
    )


def test_the_clock_refuses_to_run_backwards_and_keeps_the_order_of_equal_times() -> None:
    engine = Engine()
    seen: list[Any] = []
    engine.at(2.0, seen.append, "a")
    engine.at(1.0, seen.append, "b")
    engine.at(2.0, seen.append, "c")
    engine.run(1.5)
    assert (seen, engine.now, engine.next_time, len(engine)) == (["b"], 1.5, 2.0, 2)
    with pytest.raises(ValueError, match=r"1\.0 s cannot be set at 1\.5 s"):
        engine.at(1.0, seen.append, "d")
    engine.after(0.5, seen.append, "e")
    engine.run(3.0)
    assert seen == ["b", "a", "c", "e"]
    assert engine.next_time is None


def test_requests_with_one_prefix_hold_it_once() -> None:
    speed = Speed(0.01, 0.0, 0.0001, 0.0, 8, 10_000, 4096)
    replica = Replica(speed)
    replica.arrive(Request(0.0, 2048, 50, (1, 2, 3, 4)), 0.0)
    replica.advance(replica.next_event)
    held = replica.taken
    for _ in range(3):
        replica.arrive(Request(0.1, 2100, 50, (1, 2, 3, 4)), 0.1)
        replica.advance(replica.next_event)
    assert replica.taken < held + 3 * (2100 - 2048) + 4 * 50
    drain(replica)
    assert (replica.taken, replica.context, replica.load) == (0, 0, 0)
    assert replica.cached_blocks((1, 2, 3, 4)) == 4


def test_prefixes_leave_when_their_memory_is_needed_the_oldest_first() -> None:
    speed = Speed(0.01, 0.0, 0.0001, 0.0, 8, 4096, 4096)
    replica = Replica(speed)
    for start in (0, 10, 20):
        replica.arrive(Request(float(start), 2000, 1, (start, start + 1, start + 2)), float(start))
        drain(replica)
    assert [replica.cached_blocks((start, start + 1, start + 2)) for start in (0, 10, 20)] == [0, 3, 3]
