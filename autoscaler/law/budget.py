"""GPU budgets of projects: who may grow when not all can. Pure."""

import heapq
from collections.abc import Sequence
from typing import NamedTuple


class Ask(NamedTuple):
    """One object's wish."""

    key: str
    current: int
    wanted: int
    gpus_each: float


def share(limit_gpus: float, asks: Sequence[Ask]) -> dict[str, int]:
    """Replicas each object may have within the budget.

    Growth is granted one replica at a time to the object that has least of what it wants; equal ones go by name. Who
    shrinks gives its GPUs to the others only once they are gone. A budget never forces anyone down.
    """
    used = sum(ask.current * ask.gpus_each for ask in asks)
    allowed = {ask.key: min(ask.current, ask.wanted) for ask in asks}
    heap = [(ask.current / ask.wanted, ask.key, ask) for ask in asks if ask.wanted > ask.current]
    heapq.heapify(heap)
    while heap:
        _, key, ask = heapq.heappop(heap)
        if used + ask.gpus_each > limit_gpus + 1e-9:
            continue
        used += ask.gpus_each
        allowed[key] += 1
        if allowed[key] < ask.wanted:
            heapq.heappush(heap, (allowed[key] / ask.wanted, key, ask))
    return allowed
