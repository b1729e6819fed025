"""The shape of a language model, read from its `config.json` as Hugging Face publishes it. Pure.

Parameters are counted from the shape, so that a configuration is all that is needed:

    attention  hidden x (heads + 2 x KV heads) x head size + heads x head size x hidden, or DeepSeek's low-rank form
    MLP        3 x hidden x intermediate (gated), for each expert of a mixture
    embedding  vocabulary x hidden, twice unless input and output share it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from headroom.errors import HeadroomError

_TIED_UNLESS_SAID: Final = frozenset({"gemma", "gemma2", "gemma3", "gemma3_text", "gpt2"})
"""Model types whose published configurations leave `tie_word_embeddings` out and mean true."""
_NOT_GATED: Final = frozenset({"gpt2", "gpt_neox", "falcon", "opt", "phi", "bloom", "mpt"})
"""Model types whose MLP has two matrices instead of three."""


class ShapeError(HeadroomError, ValueError):
    """A configuration that does not describe a language model; the text names the field."""


@dataclass(frozen=True, slots=True)
class LowRank:
    """Attention with compressed keys and values (multi-head latent attention, DeepSeek-V2, arXiv 2405.04434)."""

    query_rank: int
    """0 where queries are not compressed."""
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """Experts of a mixture: `dense_layers` at the start have an ordinary MLP instead."""

    experts: int
    active: int
    intermediate: int
    shared_intermediate: int = 0
    dense_layers: int = 0


@dataclass(frozen=True, slots=True)
class Shape:
    """What memory depends on. `windowed_layers` of the layers look back `window_tokens` only."""

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    longest_context: int
    tied: bool = False
    gated: bool = True
    windowed_layers: int = 0
    window_tokens: int = 0
    low_rank: LowRank | None = None
    mixture: Mixture | None = None

    @property
    def embedding_parameters(self) -> int:
        """Input and output embeddings, which most quantisations leave at 16 bits."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters, norms and biases aside (under 0.1 %)."""
        return self.embedding_parameters + self.layers * self._attention + self._mlps(active=False)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token passes through, embeddings included."""
        return self.embedding_parameters + self.layers * self._attention + self._mlps(active=True)

    @property
    def _attention(self) -> int:
        if (low := self.low_rank) is not None:
            query_dim = self.heads * (low.nope_dim + low.rope_dim)
            query = low.query_rank * (self.hidden + query_dim) if low.query_rank else self.hidden * query_dim
            keys = self.hidden * (low.kv_rank + low.rope_dim)
            expanded = low.kv_rank * self.heads * (low.nope_dim + low.value_dim)
            return query + keys + expanded + self.heads * low.value_dim * self.hidden
        return self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)

    def _mlps(self, *, active: bool) -> int:
        matrices = 3 if self.gated else 2
        if (mix := self.mixture) is None:
            return self.layers * matrices * self.hidden * self.intermediate
        experts = mix.active if active else mix.experts
        sparse = matrices * self.hidden * (experts * mix.intermediate + mix.shared_intermediate)
        router = self.hidden * mix.experts
        dense = mix.dense_layers * matrices * self.hidden * self.intermediate
        return dense + (self.layers - mix.dense_layers) * (sparse + router)

    def kv_bytes(self, tokens: int, bytes_per_value: float) -> float:
        """Key-value cache of one sequence of so many tokens, all layers."""
        if self.low_rank is not None:
            return self.layers * (self.low_rank.kv_rank + self.low_rank.rope_dim) * tokens * bytes_per_value
        per_layer = 2 * self.kv_heads * self.head_dim * bytes_per_value
        inside = min(tokens, self.window_tokens) if self.window_tokens else tokens
        return per_layer * ((self.layers - self.windowed_layers) * tokens + self.windowed_layers * inside)


def read_shape(config: Mapping[str, Any], name: str) -> Shape:
    """The shape in a `config.json`. Models of several parts (vision and text) are read by their text part. Raises ShapeError."""
    text = config.get("text_config") or config.get("llm_config")
    if isinstance(text, Mapping):
        config = {**config, **text}
    of = _Fields(config, name)
    kind = str(config.get("model_type", ""))
    layers, hidden, heads = (
        of.count("num_hidden_layers", "n_layer"), of.count("hidden_size", "n_embd"), of.count("num_attention_heads", "n_head"),
    )  # fmt: skip
    windowed, window = _window(config, of, kind, layers)
    return Shape(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=of.count("num_key_value_heads", default=heads),
        head_dim=of.count("head_dim", default=hidden // heads),
        intermediate=of.count("intermediate_size", "n_inner", default=4 * hidden),
        vocabulary=of.count("vocab_size"),
        longest_context=of.count("max_position_embeddings", "n_positions", default=2048),
        tied=bool(config.get("tie_word_embeddings", kind in _TIED_UNLESS_SAID)),
        gated=kind not in _NOT_GATED,
        windowed_layers=windowed,
        window_tokens=window,
        low_rank=_low_rank(config, of),
        mixture=_mixture(config, of),
    )


class _Fields:
    """Whole numbers of a configuration, by the names that model families use."""

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        self._config, self._name = config, name

    def count(self, *keys: str, default: int | None = None) -> int:
        for key in keys:
            value = self._config.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ShapeError(f"{self._name}: {key}: {value!r} is not a whole number above 0")
            return value
        if default is None:
            raise ShapeError(f"{self._name}: {keys[0]} is missing: not the configuration of a language model")
        return default


def _window(config: Mapping[str, Any], of: _Fields, kind: str, layers: int) -> tuple[int, int]:
    """Layers with a sliding window, and its tokens."""
    if not config.get("sliding_window") or config.get("use_sliding_window") is False:
        return 0, 0
    window = of.count("sliding_window")
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return sum(one == "sliding_attention" for one in kinds), window
    if config.get("sliding_window_pattern"):
        return layers - layers // of.count("sliding_window_pattern"), window
    if kind in {"gemma2", "gpt_oss"}:
        return layers // 2, window
    if kind.startswith("gemma3"):
        return layers - layers // 6, window
    return layers, window


def _low_rank(config: Mapping[str, Any], of: _Fields) -> LowRank | None:
    if not config.get("kv_lora_rank"):
        return None
    return LowRank(
        query_rank=of.count("q_lora_rank", default=0) if config.get("q_lora_rank") else 0,
        kv_rank=of.count("kv_lora_rank"),
        nope_dim=of.count("qk_nope_head_dim"),
        rope_dim=of.count("qk_rope_head_dim"),
        value_dim=of.count("v_head_dim"),
    )


def _mixture(config: Mapping[str, Any], of: _Fields) -> Mixture | None:
    experts = next((key for key in ("num_local_experts", "num_experts", "n_routed_experts") if config.get(key)), None)
    if experts is None:
        return None
    intermediate = of.count("moe_intermediate_size", "intermediate_size")
    shared = (
        of.count("shared_expert_intermediate_size", default=0) if config.get("shared_expert_intermediate_size") else 0
    )
    if config.get("n_shared_experts"):
        shared = of.count("n_shared_experts") * intermediate
    return Mixture(
        experts=of.count(experts),
        active=of.count("num_experts_per_tok", "experts_per_token", default=1),
        intermediate=intermediate,
        shared_intermediate=shared,
        dense_layers=of.count("first_k_dense_replace") if config.get("first_k_dense_replace") else 0,
    )
