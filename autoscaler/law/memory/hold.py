"""How long a replica that is not needed is worth keeping. Pure.

It can be kept (its GPU time is lost) or let go (if it is needed again, a cold start is lost): the ski-rental problem. With the
distribution of gaps known the best fixed time minimises E[min(gap, t)] + P(gap > t) x cost (Karlin, Manasse, McGeoch, Owicki,
Algorithmica 11, 1994); see `hold_seconds`.
"""

import bisect
import math
from collections.abc import Iterable
from typing import Final

from autoscaler.law.constants import LawConstants
from autoscaler.law.memory.learned import GapHistogram
from autoscaler.law.memory.window import Gap

GAP_EDGES_SECONDS: Final = tuple(15.0 * 2 ** (i / 2) for i in range(17))
"""Upper edges of the bins, 15 s to 64 min by factors of sqrt(2); one more bin holds `never again`."""


def note_gaps(histogram: GapHistogram, gaps: Iterable[Gap], law: LawConstants) -> GapHistogram:
    """Add gaps to what is known of them. Gaps that any hold time would bridge are left out."""
    empty = [0.0] * (len(GAP_EDGES_SECONDS) + 1)
    weights, returns = list(histogram.weights) or empty, list(histogram.returns) or list(empty)
    replicas = histogram.replicas
    known = [gap for gap in gaps if gap.seconds > law.hold_minimum_seconds / 4 and gap.replicas > 0]
    back = sum(gap.replicas for gap in known if math.isfinite(gap.seconds))
    for gap in known:
        keep = law.gap_decay**gap.replicas
        weights = [weight * keep for weight in weights]
        returns = [weight * keep for weight in returns]
        at = bisect.bisect_left(GAP_EDGES_SECONDS, gap.seconds)
        weights[at] += gap.replicas
        replicas *= keep
        if math.isfinite(gap.seconds):
            replicas += gap.replicas
            returns[at] += gap.replicas * (back / gap.level) ** 2
    return GapHistogram(tuple(weights), tuple(returns), replicas) if known else histogram


def hold_seconds(histogram: GapHistogram, start_seconds: float, law: LawConstants, price: float = 0.0) -> float:
    """How long to keep a replica that is not needed, given the gaps seen and the time a new one takes to start.

    Kept for t, a replica costs min(gap, t); let go too early, it is missed for a start-up time, which hurts by the share of
    the level that is missing: one of ten is made up for by the margin of the other nine, all ten are an outage.
    The default until enough gaps are known. Of equal costs the shortest time counts: nothing seen speaks for more.
    """
    if histogram.replicas < law.gaps_needed:
        return law.hold_default_seconds
    best, best_cost = law.hold_minimum_seconds, math.inf
    for edge in (law.hold_minimum_seconds, *GAP_EDGES_SECONDS, law.hold_maximum_seconds):
        if not law.hold_minimum_seconds <= edge <= law.hold_maximum_seconds:
            continue
        idle = sum(
            weight * min(upper, edge)
            for weight, upper in zip(histogram.weights, (*GAP_EDGES_SECONDS, math.inf), strict=True)
        )
        missed = sum(
            weight
            for weight, upper in zip(histogram.returns, (*GAP_EDGES_SECONDS, math.inf), strict=True)
            if upper > edge
        )
        cost = idle + missed * start_seconds * (price or law.miss_weight)
        if cost < best_cost:
            best, best_cost = edge, cost
    return best
