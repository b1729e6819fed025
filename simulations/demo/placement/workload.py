"""The demo's stream of inference Deployments: seeded draws of model x quantisation x engine, as pod manifests."""

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from headroom import names
from simulations.demo.fleet import CARD_TYPES, LABEL_POOL, SHARED_POOL, SLICED_POOL, WHOLE_POOL
from simulations.demo.models import FP8, FP16, INT4, MODELS, Quantisation, replica_vram_mib


class Dialect(StrEnum):
    """In which words a Deployment asks for its memory."""

    VRAM = "vram"  # headroom.dev/vram: Headroom picks the cards
    MILLI = "milli"  # headroom.dev/gpu-milli on one card model
    SLICE = "slice"  # nvidia.com/gpu time slices plus headroom.dev/vram: kubelet picks the card
    CARDS = "cards"  # several nvidia.com/gpu plus headroom.dev/vram per card, on nodes kept for whole cards


@dataclass(frozen=True, slots=True)
class Offer:
    """A way of serving a model that teams choose; `weight` is how often, relative to the others."""

    model: str
    quantisation: Quantisation
    engine: str
    weight: float
    context_tokens: int = 0
    cards: int = 1
    only: tuple[str, ...] = ()
    """Card types it runs on (short names); empty means any with the memory."""
    most_replicas: int = 4


@dataclass(frozen=True, slots=True)
class InferenceDeployment:
    """One Deployment of the stream."""

    name: str
    offer: Offer
    project: str
    replicas: int
    vram_mib: int
    """Per card."""
    dialect: Dialect
    arrival_seconds: float

    @property
    def label(self) -> str:
        """Model and quantisation, as the report calls it."""
        return f"{self.offer.model} {self.offer.quantisation.name}"

    def fits(self, product: str, usable_mib: int) -> bool:
        """Whether one share fits a card of this model when the card is empty."""
        allowed = not self.offer.only or any(CARD_TYPES[short].product == product for short in self.offer.only)
        return allowed and self.vram_mib <= usable_mib

    @property
    def pool(self) -> str:
        """The nodes it may use."""
        return {Dialect.CARDS: WHOLE_POOL, Dialect.SLICE: SLICED_POOL}.get(self.dialect, SHARED_POOL)


OFFERS: Final = (
    Offer("bge-m3", FP16, "Triton", 2.0, most_replicas=6),
    Offer("whisper-large-v3", FP16, "TensorFlow Serving", 1.4, most_replicas=4),
    Offer("sdxl", FP16, "TorchServe", 0.8, most_replicas=3),
    Offer("qwen2.5-1.5b", FP16, "vLLM", 1.2, context_tokens=32_000),
    Offer("phi-3.5-mini", INT4, "FastChat", 1.2, context_tokens=8_000),
    Offer("mistral-7b", INT4, "vLLM", 2.0, context_tokens=16_000, most_replicas=5),
    Offer("llama-3.1-8b", INT4, "vLLM", 2.2, context_tokens=24_000, most_replicas=5),
    Offer("llama-3.1-8b", FP16, "SGLang", 1.6, context_tokens=32_000, most_replicas=5),
    Offer("gemma-2-9b", FP8, "vLLM", 1.0, context_tokens=16_000, only=("L40S",)),
    Offer("qwen2.5-14b", INT4, "vLLM", 1.4, context_tokens=24_000, most_replicas=4),
    Offer("qwen2.5-32b", INT4, "SGLang", 1.0, context_tokens=32_000, most_replicas=3),
    Offer("mixtral-8x7b", INT4, "FastChat", 0.6, context_tokens=32_000, most_replicas=2),
    Offer("llama-3.1-70b", INT4, "TGI", 0.5, context_tokens=40_000, most_replicas=2),
    Offer("llama-3.1-70b", FP8, "vLLM", 0.35, context_tokens=64_000, cards=2, only=("H100",), most_replicas=2),
    Offer("llama-3.1-70b", FP16, "vLLM", 0.15, context_tokens=96_000, cards=4, only=("H100",), most_replicas=1),
)
PROJECTS: Final = ("search", "support", "coding", "documents", "media")
_MILLI_CARD: Final = "A100-80"
_SLICE_LARGEST_MIB: Final = 9 * 1024  # two to four of these share a time-sliced T4 or A10


def draw_stream(rng: random.Random, count: int, *, mean_gap_seconds: float = 20.0) -> list[InferenceDeployment]:
    """The first `count` Deployments of the stream, in order of arrival (exponential gaps)."""
    weights = [offer.weight for offer in OFFERS]
    arrival = 0.0
    stream = []
    for index in range(count):
        offer = rng.choices(OFFERS, weights)[0]
        arrival += rng.expovariate(1 / mean_gap_seconds)
        vram_mib = replica_vram_mib(
            MODELS[offer.model], offer.quantisation, context_tokens=offer.context_tokens, cards=offer.cards
        )
        stream.append(
            InferenceDeployment(
                name=f"{offer.model.replace('.', '-')}-{offer.quantisation.name}-{index:02d}",
                offer=offer,
                project=rng.choice(PROJECTS),
                replicas=rng.randint(1, offer.most_replicas),
                vram_mib=vram_mib,
                dialect=_dialect(rng, offer, vram_mib),
                arrival_seconds=arrival,
            )
        )
    return stream


def _dialect(rng: random.Random, offer: Offer, vram_mib: int) -> Dialect:
    draw = rng.random()
    if offer.cards > 1:
        return Dialect.CARDS
    if vram_mib <= _SLICE_LARGEST_MIB and draw < 0.4:
        return Dialect.SLICE
    if vram_mib > _SLICE_LARGEST_MIB and not offer.only and draw < 0.1:
        return Dialect.MILLI
    return Dialect.VRAM


def pod_template(deployment: InferenceDeployment) -> dict[str, Any]:
    """The pod template of a Deployment: labels and spec."""
    offer = deployment.offer
    limits: dict[str, str] = {"cpu": "2", "memory": "12Gi"}
    spec: dict[str, Any] = {"schedulerName": names.SCHEDULER_NAME, "nodeSelector": {LABEL_POOL: deployment.pool}}
    if deployment.dialect is Dialect.MILLI:
        card = CARD_TYPES[_MILLI_CARD]
        usable = card.vram_mib - card.reserve_mib
        limits[names.RESOURCE_GPU_MILLI] = str(-(-deployment.vram_mib * 1000 // usable))
        spec["nodeSelector"][names.LABEL_GPU_PRODUCT] = card.product
    else:
        limits[names.RESOURCE_VRAM] = f"{deployment.vram_mib}Mi"
    if deployment.dialect is Dialect.SLICE:
        limits[names.RESOURCE_NVIDIA_GPU] = "1"
    elif deployment.dialect is Dialect.CARDS:
        limits[names.RESOURCE_NVIDIA_GPU] = str(offer.cards)
    if offer.only:
        products = [CARD_TYPES[short].product for short in offer.only]
        term = {"matchExpressions": [{"key": names.LABEL_GPU_PRODUCT, "operator": "In", "values": products}]}
        required = {"nodeSelectorTerms": [term]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    image = offer.engine.lower().replace(" ", "-")
    spec["containers"] = [{"name": "engine", "image": image, "resources": {"limits": limits, "requests": limits}}]
    return {
        "metadata": {"labels": {"app": deployment.name, names.LABEL_PROJECT: deployment.project}},
        "spec": spec,
    }
