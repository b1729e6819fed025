"""One inference request and what became of it."""

import math
from collections.abc import Sequence


class Request:
    """Times in seconds, NaN until they happen."""

    __slots__ = (
        "arrival", "blocks", "cached_tokens", "finished", "first_token", "generated", "held_blocks", "output_tokens", "prompt_tokens",
        "scheduled", "sent",
    )  # fmt: skip

    def __init__(self, arrival: float, prompt_tokens: int, output_tokens: int, blocks: Sequence[int] = ()) -> None:
        self.arrival = arrival
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.blocks = blocks
        """Hashes of the prompt's leading blocks; equal hashes mean a prefix that a replica may still have cached."""
        self.cached_tokens = 0
        """Prompt tokens found in the prefix cache when it was admitted first."""
        self.generated = 0
        """Output tokens it had when its memory was taken from it; 0 while that has not happened."""
        self.held_blocks = 0
        """Leading blocks that it uses in its replica's prefix cache."""
        self.sent = arrival
        """When a replica got it: later than the arrival when the router had none to send it to."""
        self.scheduled = math.nan
        """When it entered the batch first."""
        self.first_token = math.nan
        self.finished = math.nan

    @property
    def ttft_seconds(self) -> float:
        """Time to first token."""
        return self.first_token - self.arrival

    @property
    def itl_seconds(self) -> float:
        """Mean time between output tokens; 0 for an output of one token."""
        gaps = self.output_tokens - 1
        return (self.finished - self.first_token) / gaps if gaps else 0.0
