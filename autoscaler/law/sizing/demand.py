"""Demand in GPU seconds, and how long a replica is worth keeping. Pure.

Work law: R = requests/s x (prompt tokens x seconds per prompt token + output tokens x seconds per output token) of a mean
request, the larger of a short and a long mean, the long one with the rise expected until a new pod is ready, plus the work
of the queue spread over a drain time; replicas = (R + k sqrt(R s)) / rho, s the work of one request. The square-root term is
the classical staffing rule for queues (Halfin and Whitt, Operations Research 29(3), 1981): the work of Poisson arrivals in
a second has the deviation sqrt(R s).

Hold time: a replica that is not needed can be kept (its GPU time is lost) or let go (if it is needed again, a cold
start is lost): the ski-rental problem. With the distribution of gaps known the best fixed time minimises
E[min(gap, t)] + P(gap > t) x cost (Karlin, Manasse, McGeoch, Owicki, Algorithmica 11, 1994); see `hold_seconds`.
"""

import bisect
import math
from collections.abc import Iterable
from statistics import median
from typing import Final

from autoscaler.law.inputs import Work
from autoscaler.law.memory.learned import GapHistogram
from autoscaler.law.memory.window import Gap
from autoscaler.law.spec import LawSettings

Rates = tuple[tuple[float, float], ...]
"""(time, GPU seconds per second), oldest first."""

GAP_EDGES_SECONDS: Final = tuple(15.0 * 2 ** (i / 2) for i in range(17))
"""Upper edges of the bins, 15 s to 64 min by factors of sqrt(2); one more bin holds `never again`."""


def arriving_work(work: Work) -> tuple[float, float]:
    """GPU seconds of work that arrive per second, over the short and over the long averaging time. Costs must be known.

    The larger of what the arrivals come to at the mean request and of the tokens done: the first does not stop growing
    when replicas are full, the second follows a change of the lengths at once.
    """
    short, long = (
        prompt * work.seconds_per_prompt_token + output * work.seconds_per_output_token
        for prompt, output in zip(work.prompt_tokens_per_second, work.output_tokens_per_second, strict=True)
    )
    if work.requests_per_second is None:
        return short, long
    arrivals = work.requests_per_second
    return max(short, arrivals[0] * work.seconds_per_request), max(long, arrivals[1] * work.seconds_per_request)


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

    The smaller of two slopes counts, those of the least-squares lines through the newest third of the last
    `trend_seconds` and through the rest: a step is no ramp.
    """
    if len(rates) < settings.trend_points or rates[-1][0] - rates[0][0] < settings.trend_seconds / 2:
        return 0.0
    third = len(rates) - len(rates) // 3
    slope = min(_slope(rates[:third]), _slope(rates[third:]))
    return min(max(slope, 0.0) * ahead_seconds, settings.trend_most * rates[-1][1])


def _slope(rates: Rates) -> float:
    """Of the least-squares line, per second; 0 for a single time."""
    mean_time = sum(time for time, _ in rates) / len(rates)
    mean_rate = sum(rate for _, rate in rates) / len(rates)
    spread = sum((time - mean_time) ** 2 for time, _ in rates)
    return sum((time - mean_time) * (rate - mean_rate) for time, rate in rates) / spread if spread else 0.0


def note_gaps(histogram: GapHistogram, gaps: Iterable[Gap], settings: LawSettings) -> GapHistogram:
    """Add gaps to what is known of them. Gaps that any hold time would bridge are left out."""
    empty = [0.0] * (len(GAP_EDGES_SECONDS) + 1)
    weights, returns = list(histogram.weights) or empty, list(histogram.returns) or list(empty)
    replicas = histogram.replicas
    known = [gap for gap in gaps if gap.seconds > settings.hold_minimum_seconds / 4 and gap.replicas > 0]
    back = sum(gap.replicas for gap in known if math.isfinite(gap.seconds))
    for gap in known:
        keep = settings.gap_decay**gap.replicas
        weights = [weight * keep for weight in weights]
        returns = [weight * keep for weight in returns]
        at = bisect.bisect_left(GAP_EDGES_SECONDS, gap.seconds)
        weights[at] += gap.replicas
        replicas *= keep
        if math.isfinite(gap.seconds):
            replicas += gap.replicas
            returns[at] += gap.replicas * (back / gap.level) ** 2
    return GapHistogram(tuple(weights), tuple(returns), replicas) if known else histogram


def hold_seconds(histogram: GapHistogram, start_seconds: float, settings: LawSettings) -> float:
    """How long to keep a replica that is not needed, given the gaps seen and the time a new one takes to start.

    Kept for t, a replica costs min(gap, t); let go too early, it is missed for a start-up time, which hurts by the share of
    the level that is missing: one of ten is made up for by the margin of the other nine, all ten are an outage.
    The default until enough gaps are known. Of equal costs the shortest time counts: nothing seen speaks for more.
    """
    if histogram.replicas < settings.gaps_needed:
        return settings.hold_default_seconds
    best, best_cost = settings.hold_minimum_seconds, math.inf
    for edge in (settings.hold_minimum_seconds, *GAP_EDGES_SECONDS, settings.hold_maximum_seconds):
        if not settings.hold_minimum_seconds <= edge <= settings.hold_maximum_seconds:
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
        cost = idle + missed * start_seconds * settings.miss_weight
        if cost < best_cost:
            best, best_cost = edge, cost
    return best


def start_seconds(seen: tuple[float, ...], settings: LawSettings) -> float:
    """The start-up time to reckon with: the median of the latest ones."""
    return median(seen) if seen else settings.start_default_seconds


def start_credit(ages_seconds: Iterable[float], usual_start_seconds: float, settings: LawSettings) -> int:
    """How many starting pods will be there in time: all but those that are long overdue."""
    return sum(age <= settings.overdue_factor * usual_start_seconds for age in ages_seconds)
