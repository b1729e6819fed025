"""What became of the requests of one deployment: counts, and latencies in compact arrays, so that a week fits in memory."""

import math
from array import array

from simulations.serving.engine.request import Request


class Served:
    """Latencies are in the order in which they were known: first tokens as they came, the rest as requests ended."""

    __slots__ = ("arrived", "inter_token", "met", "objective_itl", "objective_ttft", "ttft")

    def __init__(self, ttft_seconds: float = math.inf, itl_seconds: float = math.inf) -> None:
        self.objective_ttft = ttft_seconds
        self.objective_itl = itl_seconds
        self.arrived = 0
        self.ttft = array("f")
        """Seconds to first token."""
        self.inter_token = array("f")
        """Mean seconds between tokens of each request that ended."""
        self.met = 0
        """Requests that ended within both objectives."""

    def began(self, requests: list[Request]) -> None:
        """Requests got their first token."""
        self.ttft.extend([request.first_token - request.arrival for request in requests])

    def ended(self, requests: list[Request]) -> None:
        """Requests got their last token."""
        for request in requests:
            between = request.itl_seconds
            self.inter_token.append(between)
            if request.ttft_seconds <= self.objective_ttft and between <= self.objective_itl:
                self.met += 1

    @property
    def finished(self) -> int:
        """Requests that ended."""
        return len(self.inter_token)
