"""A pod list through kube-scheduler and the extender takes the same cards as in one process."""

import random
from typing import Any

import pytest

from headroom.domain.model import Card, GpuNode, GpuRequest
from simulations.placement.on_kwok import run_on_kwok
from simulations.placement.replay import Record, run_published
from simulations.placement.traces import CARD_UNITS, Pod

MODELS = ("A", "B")


def small_cluster() -> list[GpuNode]:
    """12 nodes of 2, 4 or 8 cards of two models, 56 cards."""
    return [
        GpuNode(
            f"n{at}",
            tuple(Card(str(index), index, MODELS[at % 2], CARD_UNITS) for index in range((2, 4, 8)[at % 3])),
            cpu_milli=24_000 * (1, 2, 3)[at % 3],
            memory_mib=262_144,
        )
        for at in range(12)
    ]


def mixed_pods() -> list[Pod]:
    """Parts of cards, whole cards, several cards, one model only, and pods without a GPU."""
    rng = random.Random(7)
    shapes = [
        GpuRequest(1, milli=300, cpu_milli=2_000, memory_mib=4096),
        GpuRequest(1, milli=460, cpu_milli=6_000, memory_mib=8192),
        GpuRequest(1, milli=700, cpu_milli=8_000, memory_mib=8192, models=frozenset("B")),
        GpuRequest(1, milli=1000, cpu_milli=4_000, memory_mib=8192),
        GpuRequest(2, milli=1000, cpu_milli=8_000, memory_mib=16_384),
        GpuRequest(4, milli=1000, cpu_milli=12_000, memory_mib=16_384, models=frozenset("A")),
        GpuRequest(0, cpu_milli=6_000, memory_mib=4096),
    ]
    weights = (6, 5, 4, 4, 2, 1, 4)
    return [Pod(f"p{at:03d}", request) for at, request in enumerate(rng.choices(shapes, weights, k=60))]


@pytest.mark.parametrize("policy", ["bestfit"])
def test_a_real_scheduler_places_a_list_like_the_replay_in_one_process(policy: str) -> None:
    def taken(record: Record) -> tuple[object, ...]:
        return record.pods, record.failed, record.alloc_at, record.frag_at, record.frag_of_idle_at

    terms: dict[str, Any] = {"trace": "small", "policy": policy, "seed": 3, "load": 1.2}
    here = run_published(small_cluster(), mixed_pods(), **terms)
    there = run_on_kwok(small_cluster(), mixed_pods(), **terms)
    assert here.failed > 0
    assert taken(there) == taken(here)
