"""What a model server exports about itself: counters and histograms, as vLLM does."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final, NamedTuple

from simulations.serving.engine.request import Request


class Histogram:
    """Counts by upper edge (the last one of everything above), and the sum of the values."""

    __slots__ = ("counts", "edges", "total")

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges = edges
        self.counts = [0.0] * (len(edges) + 1)
        self.total = 0.0

    def add(self, value: float, count: float = 1.0) -> None:
        self.counts[bisect_left(self.edges, value)] += count
        self.total += value * count


class Counters(NamedTuple):
    """What an engine exports, at one moment."""

    busy_seconds: float
    prompt_tokens: float
    """Of whole prompts, those found in the prefix cache included."""
    cached_tokens: float
    output_tokens: float
    iterations: float
    gap_seconds: float
    gaps: float
    kv_tokens: float
    """A gauge: KV tokens in use."""
    finished: float
    ended_prompt_tokens: float
    ended_output_tokens: float


_LATENCY_EDGES: Final = (
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_FIRST_TOKEN_EDGES: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0,
    2560.0,
)  # fmt: skip
_REQUEST_EDGES: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_TOKEN_EDGES: Final = tuple(float(step * 10**power) for power in range(6) for step in (1, 2, 5))


class Histograms:
    """vLLM's, with its edges (vllm 0.33.0, `vllm/v1/metrics/loggers.py`). Times are of the engine, which knows of no router."""

    __slots__ = ("first_token", "inter_token", "per_output_token", "prefill", "prompt_tokens", "request")

    def __init__(self) -> None:
        self.first_token = Histogram(_FIRST_TOKEN_EDGES)
        self.inter_token = Histogram(_LATENCY_EDGES)
        self.per_output_token = Histogram(_LATENCY_EDGES)
        """Mean gap of a request that ended."""
        self.request = Histogram(_REQUEST_EDGES)
        self.prefill = Histogram(_REQUEST_EDGES)
        self.prompt_tokens = Histogram(_TOKEN_EDGES)
        """Computed tokens of a request that ended, those found in the prefix cache left out."""

    def began(self, request: Request) -> None:
        """A request has its first token."""
        self.first_token.add(request.first_token - request.sent)

    def ended(self, request: Request) -> None:
        """A request has its last token."""
        self.request.add(request.finished - request.sent)
        self.prefill.add(request.first_token - request.scheduled)
        self.prompt_tokens.add(request.prompt_tokens - request.cached_tokens)
        if request.output_tokens > 1:
            self.per_output_token.add(request.itl_seconds)
