"""A fleet that serves language models, with memory in MiB: what Headroom's users run. Made by a seeded generator.

Assumptions, all stated here. A replica's memory is its weights (parameters x bytes per parameter of the quantisation), the KV
cache of the tokens it holds (2 x layers x KV heads x head size x 2 bytes each, from the models' published configurations)
and 1.5 GiB per card for the CUDA context and activations, rounded up to whole GiB per card. Models that do not fit one
card of 72 GiB are cut over 2, 4 or 8 cards (tensor parallelism). How popular each combination is, is drawn per seed; small
models are more popular. One pod in twelve asks for a whole card of a model that it names (notebooks, training), drawn as
often as the fleet has such cards; one combination in ten accepts Hopper cards only.
Card sizes are what the drivers report, less 512 MiB of reserve.
"""

import heapq
import math
import random
from dataclasses import dataclass
from typing import Final

import numpy as np

from headroom.domain.model import Card, GpuNode, GpuRequest, Placement
from scheduler.placement.policies.registry import policy_by_name
from scheduler.placement.profile import Profile
from simulations.placement.replay import Meter, Record, Scheduler, build_fleet, replay
from simulations.placement.traces import Pod

_GIB: Final = 1024
_RESERVE_MIB: Final = 512
_OVERHEAD_GIB: Final = 1.5
_LARGEST_SHARE_GIB: Final = 72

# model of card, MiB that the driver reports, cards per node, cores per node, nodes
NODES: Final = (
    ("NVIDIA-L4", 23_034, 4, 48, 40),
    ("NVIDIA-A10", 22_731, 4, 64, 20),
    ("NVIDIA-L40S", 46_068, 4, 64, 20),
    ("NVIDIA-A100-SXM4-40GB", 40_960, 8, 96, 10),
    ("NVIDIA-A100-SXM4-80GB", 81_920, 8, 128, 15),
    ("NVIDIA-H100-80GB-HBM3", 81_559, 8, 192, 15),
    ("NVIDIA-H200", 143_771, 8, 192, 5),
)
# billions of parameters, KiB of KV cache per token, popularity
MODELS: Final = (
    (1.2, 32, 10),  # Llama 3.2 1B
    (3.2, 112, 10),  # Llama 3.2 3B
    (7.2, 128, 14),  # Mistral 7B
    (8.0, 128, 18),  # Llama 3.1 8B
    (14.8, 192, 10),  # Qwen2.5 14B
    (32.8, 256, 7),  # Qwen2.5 32B
    (46.7, 128, 3),  # Mixtral 8x7B
    (70.6, 320, 6),  # Llama 3.1 70B
)
BYTES_PER_PARAMETER: Final = ((2.0, 4), (1.0, 3), (0.56, 5))  # FP16, FP8 or INT8, INT4 with scales; popularity
KV_TOKENS: Final = ((8_192, 5), (32_768, 4), (131_072, 2))
_HOPPER: Final = frozenset({"NVIDIA-H100-80GB-HBM3", "NVIDIA-H200"})
_SHAPES: Final = 60  # combinations in use at one time
_WHOLE_CARD_SHARE: Final = 1 / 12
_HOPPER_SHARE: Final = 0.1
_HOURS: Final = 24
_LIFETIMES_HOURS: Final = ((0.5, 6), (3.0, 3), (12.0, 1))  # mean of an exponential, weight


def nodes() -> list[GpuNode]:
    """The fleet: 125 nodes, 680 cards."""
    made: list[GpuNode] = []
    for model, vram_mib, cards, cores, count in NODES:
        for _ in range(count):
            made.append(
                GpuNode(
                    name=f"node-{len(made):04d}",
                    cards=tuple(Card(str(at), at, model, vram_mib, _RESERVE_MIB) for at in range(cards)),
                    cpu_milli=cores * 1000,
                    memory_mib=cores * 8 * _GIB,
                )
            )
    return made


def replica_request(parameters: float, kv_kib: int, bytes_per_parameter: float, tokens: int) -> GpuRequest | None:
    """What one replica asks for; None when not even eight cards hold it."""
    total_gib = parameters * 1e9 * bytes_per_parameter / 2**30 + tokens * kv_kib / 2**20
    for cards in (1, 2, 4, 8):
        share_gib = math.ceil(total_gib / cards + _OVERHEAD_GIB)
        if share_gib <= _LARGEST_SHARE_GIB:
            return GpuRequest(
                count=cards,
                vram_mib=share_gib * _GIB,
                cpu_milli=cards * (2000 if share_gib <= 24 else 4000),
                memory_mib=8 * _GIB,
            )
    return None


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests with their popularity."""

    requests: tuple[GpuRequest, ...]
    weights: tuple[float, ...]

    def draw(self, rng: random.Random) -> GpuRequest:
        """One request at random."""
        return rng.choices(self.requests, self.weights)[0]

    def profile(self) -> Profile:
        """The mix as a workload profile."""
        weights: dict[GpuRequest, float] = {}
        for request, weight in zip(self.requests, self.weights, strict=True):
            weights[_kind(request)] = weights.get(_kind(request), 0.0) + weight
        return Profile.of(weights)


def _kind(request: GpuRequest) -> GpuRequest:
    return GpuRequest(request.count, request.mode, request.vram_mib, cpu_milli=request.cpu_milli, models=request.models)


def make_mix(rng: random.Random) -> Mix:
    """The combinations in use and how popular each is: drawn once per seed."""
    weights: dict[GpuRequest, float] = {}
    for _ in range(_SHAPES):
        parameters, kv_kib, _ = rng.choices(MODELS, [model[2] for model in MODELS])[0]
        width, _ = rng.choices(BYTES_PER_PARAMETER, [each[1] for each in BYTES_PER_PARAMETER])[0]
        tokens, _ = rng.choices(KV_TOKENS, [each[1] for each in KV_TOKENS])[0]
        request = replica_request(parameters, kv_kib, width, tokens)
        if request is None:
            continue
        if rng.random() < _HOPPER_SHARE:
            request = GpuRequest(
                request.count,
                vram_mib=request.vram_mib,
                cpu_milli=request.cpu_milli,
                memory_mib=request.memory_mib,
                models=_HOPPER,
            )
        weights[request] = weights.get(request, 0.0) + rng.paretovariate(1.5)
    whole_weight = sum(weights.values()) * _WHOLE_CARD_SHARE / (1 - _WHOLE_CARD_SHARE)
    fleet_cards = sum(cards * count for _, _, cards, _, count in NODES)
    for model, _, cards, _, count in NODES:
        whole = GpuRequest(count=1, cpu_milli=8000, memory_mib=32 * _GIB, models=frozenset({model}))
        weights[whole] = whole_weight * cards * count / fleet_cards
    return Mix(tuple(weights), tuple(weights.values()))


def asked_mib(request: GpuRequest) -> int:
    """Memory asked in total."""
    if request.vram_mib:
        return request.count * request.vram_mib
    (model,) = request.models
    return next(vram_mib - _RESERVE_MIB for name, vram_mib, *_ in NODES if name == model)


def run_vram(*, policy: str, seed: int, load: float, learned: bool, departures: bool) -> Record:
    """One run: pods arrive until `load` times the fleet's memory was asked for, or live and leave at that offered load."""
    rng = random.Random(seed)
    mix = make_mix(rng)
    fleet = build_fleet(nodes(), rng)
    total_mib = float(fleet.usable_mib.sum())
    profile = mix.profile()
    scheduler = Scheduler(
        fleet, policy_by_name(policy, np.random.default_rng(seed)), None if learned else profile, replan_every=250
    )
    record = Record("vram", policy, seed)
    meter = Meter(fleet, profile)
    if departures:
        _live_and_leave(scheduler, meter, record, mix, rng, load * total_mib)
        return record
    pods: list[Pod] = []
    asked = 0.0
    while asked < load * total_mib:
        request = mix.draw(rng)
        asked += asked_mib(request)
        pods.append(Pod(f"pod-{len(pods)}", request, asked_units=asked_mib(request)))
    replay(pods, scheduler.place, meter, record)
    return record


def _live_and_leave(
    scheduler: Scheduler,
    meter: Meter,
    record: Record,
    mix: Mix,
    rng: random.Random,
    offered_mib: float,
) -> None:
    """Poisson arrivals at a rate that would hold `offered_mib` if nothing were refused; one attempt each."""
    life = sum(hours * weight for hours, weight in _LIFETIMES_HOURS) / sum(weight for _, weight in _LIFETIMES_HOURS)
    mean_mib = sum(asked_mib(r) * w for r, w in zip(mix.requests, mix.weights, strict=True)) / sum(mix.weights)
    rate_per_hour = offered_mib / (mean_mib * life)
    leaving: list[tuple[float, int, GpuRequest, Placement]] = []
    now, next_sample = 0.0, 1.0
    asked_hours = refused_hours = 0.0
    while True:
        now += rng.expovariate(rate_per_hour)
        while next_sample <= _HOURS and next_sample <= now:
            while leaving and leaving[0][0] <= next_sample:
                _, _, request, placement = heapq.heappop(leaving)
                scheduler.leave(request, placement)
            record.timeline[next_sample] = meter.sample()
            next_sample += 1.0
        if now > _HOURS:
            break
        while leaving and leaving[0][0] <= now:
            _, _, request, placement = heapq.heappop(leaving)
            scheduler.leave(request, placement)
        request = mix.draw(rng)
        hours = rng.expovariate(1 / rng.choices([h for h, _ in _LIFETIMES_HOURS], [w for _, w in _LIFETIMES_HOURS])[0])
        placed = scheduler.place(Pod(f"pod-{record.pods}", request))
        record.pods += 1
        weight = asked_mib(request) * hours
        asked_hours += weight
        if placed is None:
            record.failed += 1
            refused_hours += weight
        else:
            heapq.heappush(leaving, (now + hours, record.pods, request, placed))
    record.refused_percent = 100 * refused_hours / asked_hours
