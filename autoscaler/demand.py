"""Demand in GPU seconds, and how long a replica is worth keeping. Pure.

Work law: R = requests/s x (prompt tokens x seconds per prompt token + output tokens x seconds per output token) of a mean
request, the larger of a short and a long mean, the long one with the rise expected until a new pod is ready, plus the work
of the queue spread over a drain time; replicas = (R + k sqrt(R s)) / rho, s the work of one request. The square-root term is
the classical staffing rule for queues (Halfin and Whitt, Operations Research 29(3), 1981): the work of Poisson arrivals in
a second has the deviation sqrt(R s).

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

Rates = tuple[tuple[float, float], ...]
"""(time, GPU seconds per second), oldest first."""

GAP_EDGES_SECONDS: Final = tuple(15.0 * 2 ** (i / 2) for i in range(17))
"""Upper edges of the bins, 15 s to 64 min by factors of sqrt(2); one more bin holds `never again`."""


def arriving_work(work: Work) -> tuple[float, float]:
    """GPU seconds of work that arrive per second, over the short and over the long averaging time. Costs must be known."""
    if work.requests_per_second is not None and work.seconds_per_request > 0:
        short, long = work.requests_per_second
        return short * work.seconds_per_request, long * work.seconds_per_request
    short, long = (
        prompt * work.seconds_per_prompt_token + output * work.seconds_per_output_token
        for prompt, output in zip(work.prompt_tokens_per_second, work.output_tokens_per_second, strict=True)
    )
    return short, long


def offered_work(work: Work, settings: LawSettings, rise: float = 0.0) -> float:
    """GPU seconds per second to provide for: what arrives (the larger mean, the long one with its rise), and the queue."""
    short, long = arriving_work(work)
    queue = max(work.waiting_prompt_tokens * work.seconds_per_prompt_token, work.waiting * work.seconds_per_request)
    return max(short, long + rise) + queue / settings.drain_seconds


def replicas_for_work(
    gpu_seconds_per_second: float, rho: float, settings: LawSettings, seconds_per_request: float = 0.0
) -> float:
    """Replicas, as a real number, for offered work R at a busy share of at most `rho`."""
    grain = seconds_per_request or settings.usual_request_seconds
    return (gpu_seconds_per_second + settings.spread * math.sqrt(gpu_seconds_per_second * grain)) / rho


def note_rate(rates: Rates, now: float, rate: float, settings: LawSettings) -> Rates:
    """Remember the long mean of the arriving work for the trend."""
    return (*(old for old in rates if now - old[0] <= settings.trend_seconds), (now, rate))


def expected_rise(rates: Rates, ahead_seconds: float, settings: LawSettings) -> float:
    """How much the arriving work will have grown by the time that a pod created now is ready; never below 0.

    The smaller of two slopes counts, that of the least-squares line through the last `trend_seconds` and that through the
    newer half of them: a step is no ramp.
    """
    if len(rates) < settings.trend_points or rates[-1][0] - rates[0][0] < settings.trend_seconds / 2:
        return 0.0
    slope = min(_slope(rates), _slope(rates[len(rates) // 2 :]))
    return min(max(slope, 0.0) * ahead_seconds, settings.trend_most * rates[-1][1])


def _slope(rates: Rates) -> float:
    """Of the least-squares line, per second; 0 for a single time."""
    mean_time = sum(time for time, _ in rates) / len(rates)
    mean_rate = sum(rate for _, rate in rates) / len(rates)
    spread = sum((time - mean_time) ** 2 for time, _ in rates)
    return sum((time - mean_time) * (rate - mean_rate) for time, rate in rates) / spread if spread else 0.0


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

    The default until enough gaps are known. Of equal costs the shortest counts: nothing seen speaks for more.
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
        if cost < best_cost or (cost == best_cost and edge < best):
            best, best_cost = edge, cost
    return best


def start_seconds(seen: tuple[float, ...], settings: LawSettings) -> float:
    """The start-up time to reckon with: the median of the latest ones."""
    return median(seen) if seen else settings.start_default_seconds


def start_credit(ages_seconds: Iterable[float], usual_start_seconds: float, settings: LawSettings) -> int:
    """How many starting pods will be there in time: all but those that are long overdue."""
    return sum(age <= settings.overdue_factor * usual_start_seconds for age in ages_seconds)
