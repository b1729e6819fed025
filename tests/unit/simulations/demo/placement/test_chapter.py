"""The demo's fleet, stream and baselines: small cases worked by hand."""

import random

import pytest

from headroom.domain.model import Card, GpuNode
from simulations.demo.fleet import CARD_TYPES, PLACEMENT_FLEET, build_fleet
from simulations.demo.models import FP16, INT4, MODELS, replica_vram_mib
from simulations.demo.placement.baselines import Pod, slicing_risk, time_slicing, whole_cards
from simulations.demo.placement.workload import Dialect, InferenceDeployment, Offer, draw_stream, pod_template

L40S = CARD_TYPES["L40S"]


def node(name: str, kind: str, cards: int) -> GpuNode:
    card = CARD_TYPES[kind]
    return GpuNode(
        name, tuple(Card(f"{name}-{i}", i, card.product, card.vram_mib, card.reserve_mib) for i in range(cards))
    )


def pod(name: str, vram_mib: int, *, cards: int = 1, only: tuple[str, ...] = ()) -> Pod:
    offer = Offer("llama-3.1-8b", FP16, "vLLM", 1.0, cards=cards, only=only)
    return Pod(name, InferenceDeployment(name, offer, "p", 1, vram_mib, Dialect.VRAM, 0.0))


def test_memory_of_a_replica_is_weights_cache_and_overhead() -> None:
    # 8.03e9 x 2 bytes = 15,316 MiB; 32,000 tokens x 131,072 bytes = 4,000 MiB; engine 1,280; up to the next 256
    assert MODELS["llama-3.1-8b"].kv_bytes_per_token == 131_072
    assert replica_vram_mib(MODELS["llama-3.1-8b"], FP16, context_tokens=32_000) == 20_736
    half = replica_vram_mib(MODELS["llama-3.1-8b"], FP16, context_tokens=32_000, cards=2)
    assert half == 11_008  # (15,316 + 4,000) / 2 + 1,280, up


def test_whole_cards_take_the_smallest_card_that_holds_the_pod() -> None:
    nodes = [node("l40s", "L40S", 1), node("a10", "A10", 1)]
    outcome = whole_cards(nodes, [pod("small", 8_000), pod("large", 30_000), pod("late", 8_000)])
    assert outcome.placed == {"small": (("a10", 0),), "large": (("l40s", 0),)}
    assert outcome.unplaced == ["late"]


def test_a_pod_over_two_cards_stays_on_one_node() -> None:
    nodes = [node("one", "A10", 1), node("two", "A10", 2)]
    outcome = whole_cards(nodes, [pod("pair", 20_000, cards=2)])
    assert outcome.placed["pair"] == (("two", 0), ("two", 1))


def test_time_slicing_overbooks_memory_and_the_later_pod_dies() -> None:
    nodes = [node("a10", "A10", 1)]
    pods = [pod("first", 15_000), pod("second", 15_000), pod("tiny", 2_000)]
    outcome = time_slicing(nodes, pods, slices=4, packed=False, rng=random.Random(1))
    assert outcome.crashed == ["second"]
    assert outcome.overbooked == {("a10", 0)}
    assert outcome.exposed() == ["first", "second", "tiny"]


def test_time_slicing_spreads_over_nodes_unless_told_to_pack() -> None:
    nodes = [node("a", "A10", 1), node("b", "A10", 1)]
    pods = [pod("x", 5_000), pod("y", 5_000)]
    spread = time_slicing(nodes, pods, slices=2, packed=False, rng=random.Random(1))
    packed = time_slicing(nodes, pods, slices=2, packed=True, rng=random.Random(1))
    assert len(spread.cards_in_use) == 2
    assert len(packed.cards_in_use) == 1


def test_slices_run_out() -> None:
    outcome = time_slicing(
        [node("a", "A10", 1)], [pod(str(i), 1_000) for i in range(3)], slices=2, packed=True, rng=random.Random(1)
    )
    assert outcome.unplaced == ["2"]


def test_risk_is_the_same_for_the_same_seed_and_counts_every_pod() -> None:
    rng = random.Random(3)
    nodes = build_fleet(PLACEMENT_FLEET, rng)
    stream = draw_stream(rng, 40)
    pods = [Pod(f"{d.name}-{i}", d) for d in stream for i in range(d.replicas)]
    first, second = (slicing_risk(nodes, pods, slices=4, packed=True, runs=8, rng=random.Random(5)) for _ in range(2))
    assert first == second
    assert first.crashed_low <= first.crashed_mean <= first.crashed_high
    assert first.crashed_mean <= first.exposed_mean <= len(pods)


def test_the_stream_is_seeded_and_every_pod_fits_some_card() -> None:
    nodes = build_fleet(PLACEMENT_FLEET, random.Random(1))
    cards = [card for n in nodes for card in n.cards]
    stream = draw_stream(random.Random(1), 200)
    assert stream == draw_stream(random.Random(1), 200)
    for deployment in stream:
        assert any(deployment.fits(card.model, card.usable_mib) for card in cards), deployment.name
    assert {deployment.dialect for deployment in stream} == set(Dialect)


@pytest.mark.parametrize(
    ("dialect", "resources"),
    [
        (Dialect.VRAM, {"headroom.dev/vram": "49664Mi"}),
        (Dialect.MILLI, {"headroom.dev/gpu-milli": "612"}),  # 49,664 / (81,920 - 700), rounded up
        (Dialect.SLICE, {"headroom.dev/vram": "49664Mi", "nvidia.com/gpu": "1"}),
        (Dialect.CARDS, {"headroom.dev/vram": "49664Mi", "nvidia.com/gpu": "2"}),
    ],
)
def test_each_dialect_asks_in_its_own_words(dialect: Dialect, resources: dict[str, str]) -> None:
    offer = Offer("llama-3.1-70b", INT4, "TGI", 1.0, cards=2 if dialect is Dialect.CARDS else 1)
    deployment = InferenceDeployment("d", offer, "p", 1, 49_664, dialect, 0.0)
    limits = pod_template(deployment)["spec"]["containers"][0]["resources"]["limits"]
    assert {name: value for name, value in limits.items() if "/" in name} == resources
