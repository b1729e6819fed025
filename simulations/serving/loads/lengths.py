"""Prompt and output tokens of a request, by kind of service: log-normal, cut at both ends."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

Lengths = Callable[[random.Random, float], tuple[int, int]]
"""(random numbers, time of arrival in seconds) -> (prompt tokens, output tokens)."""


@dataclass(frozen=True, slots=True)
class LogNormal:
    """Tokens of one kind."""

    median: float
    sigma: float
    least: int
    most: int

    def draw(self, rng: random.Random) -> int:
        """One number."""
        return min(max(round(self.median * math.exp(self.sigma * rng.gauss(0.0, 1.0))), self.least), self.most)


@dataclass(frozen=True, slots=True)
class Kind:
    """A service."""

    prompt: LogNormal
    output: LogNormal

    def __call__(self, rng: random.Random, _: float = 0.0) -> tuple[int, int]:
        return self.prompt.draw(rng), self.output.draw(rng)


CHAT: Final = Kind(LogNormal(900, 0.75, 1, 8000), LogNormal(140, 0.9, 1, 1000))
"""Medians and means of the public Azure conversation trace (prompts 1,020 and 1,155, outputs 129 and 211 tokens)."""
DOCUMENTS: Final = Kind(LogNormal(28_000, 0.15, 16_000, 60_000), LogNormal(300, 0.5, 20, 1000))
"""Answers from long documents."""
REASONING: Final = Kind(LogNormal(400, 0.6, 20, 4000), LogNormal(8000, 0.5, 500, 30_000))
"""Short questions, long chains of thought."""
AGENTS: Final = Kind(LogNormal(6000, 0.6, 500, 24_000), LogNormal(1200, 0.6, 50, 6000))
"""Tools and histories in the prompt, plans in the output."""
EXTRACTION: Final = Kind(LogNormal(6000, 0.3, 1000, 12_000), LogNormal(100, 0.5, 5, 500))
"""Long prompts, short outputs."""


def _mixed(rng: random.Random, _: float) -> tuple[int, int]:
    """Chat, and one request in twenty with a prompt of some 24,000 tokens."""
    if rng.random() < 0.05:
        return LogNormal(24_000, 0.3, 8000, 60_000).draw(rng), LogNormal(200, 0.5, 10, 1000).draw(rng)
    return CHAT(rng)


def _shifting(rng: random.Random, time: float) -> tuple[int, int]:
    """Chat; from the 30th to the 60th minute extraction; chat again."""
    return EXTRACTION(rng) if 1800 <= time < 3600 else CHAT(rng)


def _flipping(rng: random.Random, time: float) -> tuple[int, int]:
    """Prompts of 4,000 tokens with outputs of 14; from the 45th minute on prompts of 300 with outputs of 500."""
    if time < 2700:
        return LogNormal(4000, 0.3, 500, 8000).draw(rng), LogNormal(14, 0.4, 2, 100).draw(rng)
    return LogNormal(300, 0.5, 10, 2000).draw(rng), LogNormal(500, 0.4, 50, 1500).draw(rng)


_SWING_SECONDS: Final = 2400.0


def _swinging(rng: random.Random, time: float) -> tuple[int, int]:
    """Long prompts with short outputs and the reverse; the share of the first swings between all and none, every 40 minutes."""
    if rng.random() < 0.5 + 0.5 * math.sin(2 * math.pi * time / _SWING_SECONDS):
        return LogNormal(5000, 0.3, 1000, 10_000).draw(rng), LogNormal(120, 0.5, 5, 500).draw(rng)
    return LogNormal(500, 0.6, 20, 4000).draw(rng), LogNormal(1200, 0.4, 100, 4000).draw(rng)


LENGTHS: Final[Mapping[str, Lengths]] = {
    "chat": CHAT,
    "documents": DOCUMENTS,
    "reasoning": REASONING,
    "agents": AGENTS,
    "extraction": EXTRACTION,
    "mixed": _mixed,
    "shifting": _shifting,
    "flipping": _flipping,
    "swinging": _swinging,
}
