"""Demand in GPU seconds, and how long a replica is worth keeping. Pure.

Work law: R = prompt tokens/s x seconds per prompt token + output tokens/s x seconds per output token, the larger of a
short and a long mean, plus the waiting prompts' work spread over a drain time; replicas = (R + k sqrt(R)) / rho. The
square-root term is the classical staffing rule for queues (Halfin and Whitt, Operations Research 29(3), 1981).

Hold time: a replica that is not needed can be kept (its GPU time is lost) or let go (if it is needed again, a cold
start is lost): the ski-rental problem. With the distribution of gaps known the best fixed time minimises
E[min(gap, t)] + P(gap > t) x cost (Karlin, Manasse, McGeoch, Owicki, Algorithmica 11, 1994).
"""

import bisect
import math
from collections.abc import Iterable
from statistics import median
from typing import Final

from autoscaler.signals import Work
from autoscaler.spec import GapHistogram, LawSettings
from autoscaler.window import Gap

GAP_EDGES_SECONDS: Final = tuple(15.0 * 2 ** (i / 2) for i in range(17))
"""Upper edges of the bins, 15 s to 64 min by factors of sqrt(2); one more bin holds `never again`."""


def offered_work(work: Work, settings: LawSettings) -> float:
    """GPU seconds of work that arrive per second, waiting prompts included. Costs must be known."""
    rate = max(
        prompt * work.seconds_per_prompt_token + output * work.seconds_per_output_token
        for prompt, output in zip(work.prompt_tokens_per_second, work.output_tokens_per_second, strict=True)
    )
    return rate + work.waiting_prompt_tokens * work.seconds_per_prompt_token / settings.drain_seconds


def replicas_for_work(gpu_seconds_per_second: float, rho: float, spread: float) -> float:
    """Replicas, as a real number, for offered work R at a busy share of at most `rho`."""
    return (gpu_seconds_per_second + spread * math.sqrt(gpu_seconds_per_second)) / rho


def note_gaps(histogram: GapHistogram, gaps: Iterable[Gap], settings: LawSettings) -> GapHistogram:
    """Add gaps to what is known of them. Gaps that any hold time would bridge are left out."""
    weights = list(histogram.weights) or [0.0] * (len(GAP_EDGES_SECONDS) + 1)
    replicas = histogram.replicas
    changed = False
    for gap in gaps:
        if gap.seconds <= settings.hold_minimum_seconds / 4 or gap.replicas <= 0:
            continue
        changed = True
        # n replicas that sat out the same gap are one experience seen n times; the square root keeps one large burst
        # from outweighing all others.
        weight = math.sqrt(gap.replicas)
        weights = [w * settings.gap_decay**weight for w in weights]
        weights[bisect.bisect_left(GAP_EDGES_SECONDS, gap.seconds)] += weight
        replicas = replicas * settings.gap_decay**weight + (weight if math.isfinite(gap.seconds) else 0.0)
    return GapHistogram(tuple(weights), replicas) if changed else histogram


def hold_seconds(histogram: GapHistogram, start_seconds: float, settings: LawSettings) -> float:
    """How long to keep a replica that is not needed, given the gaps seen and the time a new one takes to start.

    The default until enough gaps are known; ties go to the longer time.
    """
    if histogram.replicas < settings.gaps_needed:
        return settings.hold_default_seconds
    cost_of_return = start_seconds * settings.miss_weight
    best, best_cost = settings.hold_minimum_seconds, math.inf
    for edge in (*GAP_EDGES_SECONDS, settings.hold_minimum_seconds, settings.hold_maximum_seconds):
        if not settings.hold_minimum_seconds <= edge <= settings.hold_maximum_seconds:
            continue
        cost = (
            sum(
                weight * (min(upper, edge) if upper <= edge else edge + cost_of_return)
                for weight, upper in zip(histogram.weights, GAP_EDGES_SECONDS, strict=False)
            )
            + histogram.weights[-1] * edge
        )
        if cost < best_cost or (cost == best_cost and edge > best):
            best, best_cost = edge, cost
    return best


def start_seconds(seen: tuple[float, ...], settings: LawSettings) -> float:
    """The start-up time to reckon with: the median of the latest ones."""
    return median(seen) if seen else settings.start_default_seconds


def start_credit(ages_seconds: Iterable[float], usual_start_seconds: float, settings: LawSettings) -> int:
    """How many starting pods will be there in time: all but those that are long overdue."""
    return sum(age <= settings.overdue_factor * usual_start_seconds for age in ages_seconds)
