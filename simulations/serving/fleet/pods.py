"""One replica and its place in the world."""

import math
from enum import IntEnum

from headroom.domain.model import Placement
from simulations.serving.engine.exports import Counters, Histograms
from simulations.serving.engine.replica import Replica, Speed


class Phase(IntEnum):
    """Where a replica is in its life; in the order in which a scale-down prefers to take it."""

    PENDING = 0
    STARTING = 1
    READY = 2
    DRAINING = 3
    GONE = 4


class Pod:
    """One replica: pending (no cards yet), starting (cards held), ready, or draining (takes no new requests, ends its own)."""

    __slots__ = (
        "created", "last_counters", "load", "order", "phase", "placed_at", "placement", "ready_at", "removed_at", "replica",
    )  # fmt: skip

    def __init__(self, order: int, created: float, speed: Speed, histograms: Histograms | None = None) -> None:
        self.order = order
        self.created = created
        self.phase = Phase.PENDING
        self.placement: Placement | None = None
        self.placed_at = math.inf
        self.ready_at = math.inf
        self.removed_at = math.inf
        """When its drain began."""
        self.replica = Replica(speed, histograms)
        self.load = 0
        self.last_counters: Counters | None = None
        """As of the last scrape."""
