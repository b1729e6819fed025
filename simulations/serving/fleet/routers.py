"""Who sends a request to which ready replica: a Service, a gateway that counts, a gateway that knows prefixes."""

import random
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Final

from simulations.serving.engine.request import Request
from simulations.serving.fleet.pods import Pod

Router = Callable[[Sequence[Pod], Request], Pod]

_LOAD: Final = attrgetter("load")
_PREFIX_WEIGHT: Final = 3.0
_LOAD_WEIGHT: Final = 2.0
"""Weights of the two scores, after the default profile of llm-d's endpoint picker."""


def least_requests(_: int) -> Router:
    """The replica with the fewest requests inside."""
    return lambda ready, _request: min(ready, key=_LOAD)


def at_random(seed: int) -> Router:
    """Any replica, as a Kubernetes Service does."""
    rng = random.Random(f"{seed}/router")
    return lambda ready, _request: ready[int(rng.random() * len(ready))]


def prefix_aware(_: int) -> Router:
    """The best sum of two scores: how much of the prompt is cached there, and how few requests are inside."""

    def choose(ready: Sequence[Pod], request: Request) -> Pod:
        least, most = min(ready, key=_LOAD).load, max(ready, key=_LOAD).load
        if not request.blocks:
            return min(ready, key=_LOAD)
        spread = max(most - least, 1)

        def score(pod: Pod) -> float:
            cached = pod.replica.cached_blocks(request.blocks) / len(request.blocks)
            return _PREFIX_WEIGHT * cached - _LOAD_WEIGHT * (pod.load - least) / spread

        return max(ready, key=score)

    return choose


ROUTERS: Final[Mapping[str, Callable[[int], Router]]] = {
    "least-requests": least_requests,
    "random": at_random,
    "prefix-aware": prefix_aware,
}
"""Name -> router from the seed of the run."""
