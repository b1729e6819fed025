"""The model catalogue of the demo: sizes of published models, and the memory one replica needs.

Memory of a replica = weights + key-value cache of its context budget + what the engine needs besides:

    weights  = parameters x bits / 8
    KV cache = tokens x 2 (key and value) x layers x KV heads x head size x 2 bytes
    engine   = 1.25 GiB for an LLM engine (CUDA context, activations, graphs), 0.75 GiB for a plain model server

Shapes are those of the models' published configuration files. A model split over n cards needs a n-th of weights and cache on each.
"""

from dataclasses import dataclass
from typing import Final

_MIB: Final = 2**20


@dataclass(frozen=True, slots=True)
class Model:
    """A model as published. `layers`, `kv_heads` and `head_dim` are 0 for models without a key-value cache."""

    name: str
    parameters_billion: float
    layers: int = 0
    kv_heads: int = 0
    head_dim: int = 0

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of key-value cache per token of context, at 16 bits."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


@dataclass(frozen=True, slots=True)
class Quantisation:
    """How weights are stored; `bits` per parameter include the scales of the group-wise formats."""

    name: str
    bits: float


FP16: Final = Quantisation("fp16", 16.0)
FP8: Final = Quantisation("fp8", 8.0)
INT4: Final = Quantisation(
    "int4", 4.25
)  # AWQ and GPTQ with groups of 128: a 16-bit scale and a 4-bit zero per group, some layers kept larger

MODELS: Final = {
    model.name: model
    for model in (
        Model("bge-m3", 0.57),
        Model("whisper-large-v3", 1.54),
        Model("sdxl", 3.5),
        Model("qwen2.5-1.5b", 1.54, 28, 2, 128),
        Model("phi-3.5-mini", 3.82, 32, 32, 96),
        Model("mistral-7b", 7.25, 32, 8, 128),
        Model("llama-3.1-8b", 8.03, 32, 8, 128),
        Model("gemma-2-9b", 9.24, 42, 8, 256),
        Model("qwen2.5-14b", 14.8, 48, 8, 128),
        Model("qwen2.5-32b", 32.8, 64, 8, 128),
        Model("mixtral-8x7b", 46.7, 32, 8, 128),
        Model("llama-3.1-70b", 70.6, 80, 8, 128),
    )
}

ENGINE_MIB: Final = 1280
SERVER_MIB: Final = 768
_ROUND_MIB: Final = 256


def replica_vram_mib(model: Model, quantisation: Quantisation, *, context_tokens: int = 0, cards: int = 1) -> int:
    """MiB that a replica needs on each of its cards, rounded up to 256 MiB as people write such figures."""
    weights = model.parameters_billion * 1e9 * quantisation.bits / 8
    cache = context_tokens * model.kv_bytes_per_token
    overhead = ENGINE_MIB if model.layers else SERVER_MIB
    need = (weights + cache) / cards / _MIB + overhead
    return -int(-need // _ROUND_MIB) * _ROUND_MIB
