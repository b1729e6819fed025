"""Prefill and decode on replicas of their own: the way of a request, the link, and what each side counts."""

import pytest

from headroom.domain.model import Placement
from simulations.serving.engine.hardware import bundled_pairs, find_pair
from simulations.serving.engine.replica import Speed
from simulations.serving.engine.request import Request
from simulations.serving.fleet.disaggregated import Disaggregated, FetchingReplica, Link, disaggregated
from simulations.serving.fleet.placing import SharedFleet, uniform_fleet
from simulations.serving.fleet.served import Served
from simulations.virtual_time import Engine

PAIR = find_pair(bundled_pairs(), "llama-3.1-8b", "H100-80GB")


def model(engine: Engine, link: Link, prefill: int = 1, decode: int = 1) -> Disaggregated:
    cards = SharedFleet(uniform_fleet(PAIR.card, PAIR.card_vram_mib, 8, 1)).cards_for(PAIR)

    def cold(_role: str, _order: int, _placement: Placement) -> float:
        return 60.0

    made = disaggregated(engine, PAIR, link, cards, cold, Served(2.0, 0.1))
    made.prefill.start_ready(prefill)
    made.decode.start_ready(decode)
    return made


def test_the_first_token_comes_after_prefill_transfer_and_one_step_of_decode() -> None:
    engine = Engine()
    pair = model(engine, Link(bytes_per_token=100_000, bytes_per_second=1e9, setup_seconds=0.01))
    request = Request(0.0, 1000, 11)
    pair.feed([request])
    engine.run(60.0)
    speed = PAIR.speed
    prefill = speed.iteration_seconds(0, 1000, 0, 1000 * 500)
    last_token = speed.iteration_seconds(0, 1, 0, 999.5)
    assert request.first_token == pytest.approx(prefill + 0.01 + 0.1 + last_token)
    assert request.finished == pytest.approx(
        request.first_token + sum(speed.iteration_seconds(1, 0, 1000 + done) for done in range(10))
    )
    assert (pair.served.met, pair.transferred_bytes) == (1, 100_000_000)


def test_one_link_sends_one_prompt_after_another() -> None:
    engine = Engine()
    pair = model(engine, Link(bytes_per_token=1_000_000, bytes_per_second=1e9, setup_seconds=0.0))
    requests = [Request(0.0, 500, 2), Request(0.0, 500, 2)]  # computed in one iteration
    pair.feed(requests)
    engine.run(60.0)
    first, second = sorted(request.first_token for request in requests)
    assert second - first == pytest.approx(0.5, abs=0.02)


def test_each_side_counts_what_it_does() -> None:
    """As vLLM does: decode counts the prompt too, and as cached what came over (`vllm:prompt_tokens_cached_total`)."""
    engine = Engine()
    pair = model(engine, Link(131_072, 25e9), prefill=2, decode=2)
    pair.feed([Request(0.1 * at, 700, 20) for at in range(50)])
    engine.run(120.0)
    prefill, decode = (
        [sum(getattr(pod.replica, name) for pod in role.pods) for name in ("prompt_tokens_done", "cached_tokens_done", "gaps_done")]
        for role in pair.roles
    )  # fmt: skip
    assert prefill == [50 * 700, 0, 0]
    assert decode == [50 * 700, 50 * 699, 50 * 19]
    assert pair.served.finished == 50


def test_requests_wait_where_no_decode_replica_is_ready() -> None:
    engine = Engine()
    pair = model(engine, Link(131_072, 25e9), decode=0)
    request = Request(0.0, 500, 5)
    pair.feed([request])
    pair.decode.scale_to(1)
    engine.run(30.0)
    assert len(pair.decode.held) == 1
    engine.run(70.0)
    assert request.first_token == pytest.approx(60.0, abs=0.1)


def test_what_decode_had_to_forget_it_computes_itself() -> None:
    speed = Speed(0.01, 0.0, 0.001, 0.0, slots=8, kv_tokens=250, chunk_tokens=512)
    replica = FetchingReplica(speed)
    requests = [Request(0.0, 100, 80), Request(0.0, 100, 80)]
    for request in requests:
        replica.arrive(request, 0.0)
    while replica.next_event < 1e9:
        replica.advance(replica.next_event)
    assert replica.preemptions >= 1
    assert replica.computed_tokens > 100  # one token of each prompt, and one prompt with its output once more
    assert replica.finished_count == 2
    assert replica.taken == 0
