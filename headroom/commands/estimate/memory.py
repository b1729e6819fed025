"""How much of each card a model takes: weights, key-value cache, activations, engine. Pure.

Every part is a stated rule, not a measurement; the result is a size to start from, and `headroom advise` or the agent's
figures correct it later:

    weights      parameters x bits / 8; embeddings stay at 16 bits, as the common quantisations leave them
    KV cache     concurrency x what a request of `context` tokens caches; a window is counted as a window
    activations  prompt chunk x (6 x hidden + 2 x intermediate) x 2 bytes, and logits of 4 + 2 bytes for each sequence of a batch
    engine       CUDA context, graphs, allocator, per card; and 0.5 GiB for communication where the model spans cards

Weights and cache are divided over the cards; a card holds at least one KV head.
"""

import math
from dataclasses import dataclass
from typing import Final

from headroom.commands.estimate.shapes import Shape
from headroom.errors import HeadroomError
from headroom.units import MIB

GIB: Final = 1024
"""MiB in a GiB."""
_MOST_CARDS: Final = 64
_COMMUNICATION_MIB: Final = 512
_SLACK: Final = 0.05
"""Fragmentation of the allocator: this much beside the sum."""
_SEQUENCES_PROFILED: Final = 256
"""vLLM sizes its buffers for so many sequences unless told otherwise."""


class EstimateError(HeadroomError, ValueError):
    """What was asked for cannot be estimated; the text names the value."""


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How weights are stored: `bits` per parameter, with the scales of the group-wise formats."""

    name: str
    bits: float
    embeddings_too: bool = False


QUANTISATIONS: Final = {
    one.name: one
    for one in (
        Quantisation("fp32", 32, embeddings_too=True),
        Quantisation("bf16", 16),
        Quantisation("fp16", 16),
        Quantisation("fp8", 8),
        Quantisation("int8", 8.25),
        Quantisation("awq", 4.25),
        Quantisation("gptq", 4.25),
        Quantisation("int4", 4.25),
        Quantisation("mxfp4", 4.25),
        Quantisation("nf4", 4.5),
        Quantisation("q8_0", 8.5, embeddings_too=True),
        Quantisation("q6_k", 6.5625, embeddings_too=True),
        Quantisation("q5_k_m", 5.7, embeddings_too=True),
        Quantisation("q4_k_m", 4.85, embeddings_too=True),
    )
}
"""Group-wise 4-bit formats carry a 16-bit scale and a 4-bit zero per 128 weights; GGUF's mixtures are averages over layers."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What an inference server takes besides the model, and how it is told its share."""

    name: str
    overhead_mib: int
    chunk_tokens: int
    """Prompt tokens in one step: activations grow with it."""
    flags: tuple[str, ...]
    """Templates: {context}, {concurrency}, {tokens} (both multiplied). The cards' flag is `spans`."""
    spans: str = ""


ENGINES: Final = {
    one.name: one
    for one in (
        Engine(
            "vllm",
            overhead_mib=1024,
            chunk_tokens=2048,
            flags=(
                "--gpu-memory-utilization=$(HEADROOM_VRAM_SHARE)",
                "--max-model-len={context}",
                "--max-num-seqs={concurrency}",
            ),
            spans="--tensor-parallel-size={cards}",
        ),
        Engine(
            "sglang",
            overhead_mib=1536,
            chunk_tokens=8192,
            # Its memory fraction leaves activations out; the size of the cache says the same without arithmetic.
            flags=("--max-total-tokens={tokens}", "--context-length={context}", "--max-running-requests={concurrency}"),
            spans="--tp-size={cards}",
        ),
        Engine(
            "tgi",
            overhead_mib=1024,
            chunk_tokens=4096,
            flags=(
                "--cuda-memory-fraction=$(HEADROOM_VRAM_SHARE)",
                "--max-total-tokens={context}",
                "--max-batch-size={concurrency}",
            ),
            spans="--num-shard={cards}",
        ),
        Engine(
            "llama.cpp",
            overhead_mib=512,
            chunk_tokens=512,
            flags=("--ctx-size={tokens}", "--parallel={concurrency}", "--n-gpu-layers=999"),
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be served, and how."""

    quantisation: Quantisation
    engine: Engine
    context_tokens: int
    concurrency: int
    cards: int = 1
    kv_bits: int = 16


@dataclass(frozen=True, slots=True)
class Estimate:
    """MiB per card, by part."""

    weights_mib: int
    cache_mib: int
    activations_mib: int
    engine_mib: int

    @property
    def total_mib(self) -> int:
        """All parts with the slack, rounded up to whole GiB, as people write sizes."""
        parts = self.weights_mib + self.cache_mib + self.activations_mib + self.engine_mib
        return math.ceil(parts * (1 + _SLACK) / GIB) * GIB


def estimate(shape: Shape, ask: Ask) -> Estimate:
    """Memory of one replica on each of its cards. Raises EstimateError for a context or a number of cards that the model cannot have."""
    if ask.context_tokens > shape.longest_context:
        raise EstimateError(
            f"--context {ask.context_tokens}: {shape.name} is made for at most {shape.longest_context} tokens"
        )
    if shape.heads % ask.cards:
        divisors = [str(count) for count in range(1, min(shape.heads, _MOST_CARDS) + 1) if not shape.heads % count]
        raise EstimateError(
            f"--cards {ask.cards}: engines divide the {shape.heads} attention heads of {shape.name} evenly over the cards;"
            f" possible are {', '.join(divisors)}"
        )
    return Estimate(
        weights_mib=_mib(_weights_bytes(shape, ask.quantisation) / ask.cards),
        cache_mib=_mib(_cache_bytes(shape, ask)),
        activations_mib=_mib(_activation_bytes(shape, ask)),
        engine_mib=ask.engine.overhead_mib + (_COMMUNICATION_MIB if ask.cards > 1 else 0),
    )


def _weights_bytes(shape: Shape, quantisation: Quantisation) -> float:
    kept = 0 if quantisation.embeddings_too else shape.embedding_parameters
    return (shape.parameters - kept) * quantisation.bits / 8 + kept * 2


def _cache_bytes(shape: Shape, ask: Ask) -> float:
    whole = ask.concurrency * shape.kv_bytes(ask.context_tokens, ask.kv_bits / 8)
    # Compressed keys and values are not split over cards; heads are, down to one for each card.
    parts = 1 if shape.low_rank is not None else min(ask.cards, shape.kv_heads)
    return whole / parts


def _activation_bytes(shape: Shape, ask: Ask) -> float:
    chunk = min(ask.engine.chunk_tokens, ask.context_tokens * ask.concurrency)
    widest = shape.mixture.intermediate * shape.mixture.active if shape.mixture else shape.intermediate
    layer = chunk * (6 * shape.hidden + 2 * widest) * 2 / ask.cards
    logits = min(_SEQUENCES_PROFILED, max(ask.concurrency, 1)) * shape.vocabulary * 6
    return layer + logits


def _mib(size_bytes: float) -> int:
    return math.ceil(size_bytes / MIB)
