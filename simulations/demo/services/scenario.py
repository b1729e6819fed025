"""The scenario of the demo's second chapter: models, engines, loads and a fleet, all from one seed.

Speeds are not measured on these pairs; they follow from data sheets by the rules of `simulations/serving/engine/pairs.yaml`:

    seconds per iteration     weights on the card / (80 % of its memory bandwidth)
    seconds per prompt token  2 x parameters / (52.7 % of the card's dense 16-bit peak)
    seconds per cached token  bytes of its keys and values / (80 % of the bandwidth)
"""

import math
import random
from dataclasses import dataclass, replace
from typing import Final

from headroom import names
from simulations.demo.fleet import CARD_TYPES, LABEL_POOL, SHARED_POOL, SLICED_POOL, WHOLE_POOL, NodeGroup
from simulations.demo.models import ENGINE_MIB, FP8, FP16, INT4, MODELS, SERVER_MIB, Quantisation
from simulations.embedded.store import Object
from simulations.serving.engine.hardware import Pair, StartPhase
from simulations.serving.engine.replica import Speed
from simulations.serving.laws.base import Objective
from simulations.serving.loads.patterns import generate
from simulations.serving.loads.traces import Trace

STORY_HOURS: Final = 1.5
STORY_FLEET: Final = (
    NodeGroup("T4", 3, 2, slices=4, cpu_milli=48_000, pool=SLICED_POOL),
    NodeGroup("A10", 8, 2),
    NodeGroup("L40S", 7, 2),
    NodeGroup("A100-80", 6, 2),
    NodeGroup("H100", 2, 4, pool=WHOLE_POOL),
)
"""56 cards on 26 nodes: as many of each type as whole-card serving wants at its busiest, so that neither side starves."""

_BANDWIDTH: Final = {
    "T4": 320e9,
    "A10": 600e9,
    "L40S": 864e9,
    "A100-80": 2039e9,
    "H100": 3350e9,
}  # bytes/s, data sheets
_PEAK: Final = {"T4": 65e12, "A10": 125e12, "L40S": 362e12, "A100-80": 312e12, "H100": 989e12}  # dense 16-bit FLOP/s
_BANDWIDTH_SHARE, _PEAK_SHARE = 0.8, 0.527
_WHOLE_CARD_SHARE: Final = 0.9  # vLLM's default --gpu-memory-utilization
_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Service:
    """One model in production: how it is served, what it is asked, what is promised."""

    name: str
    model: str
    quantisation: Quantisation
    engine: str
    card: str
    context_tokens: int
    """KV cache that a replica is given when it shares a card, in tokens."""
    pattern: str
    rate: float
    """Mean requests per second."""
    shift: float
    """The load pattern begins at this share of its span, so that models peak at different times."""
    objective: Objective
    project: str
    cards: int = 1
    prompt_scale: float = 1.0
    """Prompt lengths relative to the chat lengths of `simulations.serving.loads.patterns`."""
    output_scale: float = 1.0
    sliced: bool = False
    """Asks for time slices, where the device plugin deals the card."""
    min_replicas: int = 1
    max_replicas: int = 12


SERVICES: Final = (
    Service("chat", "llama-3.1-8b", INT4, "vLLM", "A10", 80_000, "diurnal", 4.0, 0.1, Objective(2.0, 0.1), "support", max_replicas=8),
    Service("code", "mistral-7b", INT4, "vLLM", "L40S", 200_000, "onoff", 4.0, 0.0, Objective(2.0, 0.08), "coding",
            prompt_scale=1.5, output_scale=0.4, min_replicas=3, max_replicas=6),
    Service("documents", "qwen2.5-14b", INT4, "SGLang", "L40S", 115_000, "ramp", 2.0, 0.0, Objective(4.0, 0.1), "documents",
            prompt_scale=2.0, max_replicas=6),
    Service("agents", "qwen2.5-32b", INT4, "SGLang", "A100-80", 120_000, "ramp", 1.2, 0.5, Objective(4.0, 0.1), "coding",
            max_replicas=6),
    Service("assistant", "llama-3.1-8b", FP16, "TGI", "A100-80", 200_000, "diurnal", 3.0, 0.6, Objective(2.0, 0.08), "support",
            max_replicas=6),
    Service("expert", "llama-3.1-70b", FP8, "vLLM", "H100", 160_000, "diurnal", 1.5, 0.35, Objective(3.0, 0.08), "documents",
            cards=2, max_replicas=4),
    Service("mail", "phi-3.5-mini", INT4, "FastChat", "A10", 16_000, "spikes", 0.25, 0.3, Objective(4.0, 0.1), "support",
            prompt_scale=0.6, max_replicas=4),
    Service("translate", "gemma-2-9b", FP8, "vLLM", "L40S", 20_000, "steady", 0.15, 0.0, Objective(3.0, 0.1), "documents", max_replicas=3),
    Service("contracts", "qwen2.5-14b", INT4, "TGI", "L40S", 42_000, "onoff", 0.1, 0.5, Objective(5.0, 0.1), "documents",
            prompt_scale=2.0, max_replicas=3),
    Service("speech", "whisper-large-v3", FP16, "TensorFlow Serving", "A10", 0, "steady", 0.6, 0.0, Objective(3.0, 0.1), "media",
            prompt_scale=1.2, output_scale=0.3, max_replicas=3),
    Service("search", "bge-m3", FP16, "Triton", "T4", 0, "diurnal", 8.0, 0.8, Objective(1.0, 1.0), "search",
            prompt_scale=0.4, output_scale=0.0, sliced=True, max_replicas=3),
    Service("moderation", "bge-m3", FP16, "TorchServe", "T4", 0, "diurnal", 4.0, 0.2, Objective(1.0, 1.0), "support",
            prompt_scale=0.3, output_scale=0.0, sliced=True, max_replicas=3),
)  # fmt: skip
"""Twelve services, a few busy and many quiet, as fleets are. Models without a key-value cache answer in one pass, or decode a short text
from their own small state."""


def share_vram_mib(service: Service) -> int:
    """MiB per card of a replica that asks for what it needs."""
    model = MODELS[service.model]
    need = (_weight_bytes(service) + service.context_tokens * model.kv_bytes_per_token) / service.cards / _MIB
    return -int(-(need + _overhead_mib(service)) // 256) * 256


def what_of(service: Service) -> str:
    """Model, engine, memory and card in words."""
    cards = f"{service.cards} × {service.card}" if service.cards > 1 else service.card
    return f"{service.model} {service.quantisation.name}, {service.engine}, {share_vram_mib(service) / 1024:.1f} GiB on {cards}"


def promise_of(service: Service) -> str:
    """The objective in words."""
    objective = service.objective
    return f"Objective: first token in {objective.ttft_seconds:g} s, then one per {objective.itl_seconds:g} s"


def pair_of(service: Service, *, whole: bool) -> Pair:
    """Speed and memory of a replica that shares its card, or of one that has it `whole` (and so a larger cache)."""
    model, card = MODELS[service.model], CARD_TYPES[service.card]
    bandwidth = _BANDWIDTH_SHARE * _BANDWIDTH[service.card] * service.cards
    vram_mib = share_vram_mib(service)
    kv_tokens = service.context_tokens
    if whole:
        vram_mib = card.vram_mib - card.reserve_mib
        room = (_WHOLE_CARD_SHARE * vram_mib - _overhead_mib(service)) * service.cards * _MIB - _weight_bytes(service)
        kv_tokens = int(room / model.kv_bytes_per_token) if model.kv_bytes_per_token else 0
    return Pair(
        model=service.model,
        card=card.product,
        cards=service.cards,
        vram_mib=vram_mib,
        card_vram_mib=card.vram_mib,
        context_tokens=16_000,
        speed=Speed(
            base_seconds=_weight_bytes(service) / bandwidth + 0.001,
            per_sequence_seconds=0.00005,
            per_prompt_token_seconds=2e9
            * model.parameters_billion
            / (_PEAK_SHARE * _PEAK[service.card] * service.cards),
            per_kv_token_seconds=model.kv_bytes_per_token / bandwidth,
            slots=64,
            kv_tokens=kv_tokens or 64 * 4096,
            chunk_tokens=2048,
        ),
        cold_start=_cold_start(service),
    )


def _weight_bytes(service: Service) -> float:
    return MODELS[service.model].parameters_billion * 1e9 * service.quantisation.bits / 8


def _overhead_mib(service: Service) -> int:
    return ENGINE_MIB if MODELS[service.model].layers else SERVER_MIB


def _cold_start(service: Service) -> tuple[StartPhase, ...]:
    """Image (first start on a node), weights at 1 GB/s from the node's disk, engine start; medians after llm-d's benchmarks."""
    engine = 45.0 if MODELS[service.model].layers else 12.0
    return (
        StartPhase("image", 60.0, 0.4),
        StartPhase("weights", max(_weight_bytes(service) / service.cards / 1e9, 1.0), 0.3),
        StartPhase("engine", engine, 0.3),
    )


def trace_of(service: Service, seed: int, hours: float) -> Trace:
    """The service's requests: its pattern, begun at its shift, with its lengths."""
    number = [other.name for other in SERVICES].index(service.name)
    trace = generate(service.pattern, rate=service.rate, hours=hours, seed=seed * 100 + number)
    span = hours * 3600
    order = sorted(((at + span * (1 - service.shift)) % span, index) for index, at in enumerate(trace.arrival_seconds))
    return replace(
        trace,
        name=service.name,
        arrival_seconds=tuple(at for at, _ in order),
        prompt_tokens=tuple(max(round(trace.prompt_tokens[index] * service.prompt_scale), 1) for _, index in order),
        output_tokens=tuple(max(math.ceil(trace.output_tokens[index] * service.output_scale), 1) for _, index in order),
    )


def template_of(service: Service) -> Object:
    """The pod template: memory by `headroom.dev/vram`, the card model by affinity, one replica of a model per node."""
    limits = {"cpu": "2", "memory": "16Gi", names.RESOURCE_VRAM: f"{share_vram_mib(service)}Mi"}
    if service.sliced or service.cards > 1:
        limits[names.RESOURCE_NVIDIA_GPU] = str(service.cards)
    product = CARD_TYPES[service.card].product
    values = [product, f"{product}-SHARED"]
    term = {"matchExpressions": [{"key": names.LABEL_GPU_PRODUCT, "operator": "In", "values": values}]}
    affinity: Object = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    }
    if service.cards == 1:
        spread = {"labelSelector": {"matchLabels": {"app": service.name}}, "topologyKey": "kubernetes.io/hostname"}
        affinity["podAntiAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": [spread]}
    image = service.engine.lower().replace(" ", "-")
    return {
        "metadata": {"labels": {"app": service.name, names.LABEL_PROJECT: service.project}},
        "spec": {
            "schedulerName": names.SCHEDULER_NAME,
            "nodeSelector": {
                LABEL_POOL: WHOLE_POOL if service.cards > 1 else SLICED_POOL if service.sliced else SHARED_POOL
            },
            "affinity": affinity,
            "containers": [
                {
                    "name": "engine",
                    "image": image,
                    "resources": {"limits": limits, "requests": limits},
                }
            ],
        },
    }


def start_rng(seed: int, service: Service, order: int) -> random.Random:
    """The random numbers of one start: the same for the n-th start of a model on every side of the comparison."""
    return random.Random(f"{seed}/{service.name}/{order}")
