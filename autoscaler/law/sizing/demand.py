"""Demand in GPU seconds: what arrives, what will arrive by the time a new replica is ready, and the replicas for it. Pure.

Work law: R = requests/s x (prompt tokens x seconds per prompt token + output tokens x seconds per output token) of a mean
request, the larger of a short and a long mean, the long one with the rise expected until a new pod is ready, plus the work
of the queue spread over a drain time; replicas = (R + k sqrt(R s)) / rho, s the work of one request. The square-root term is
the classical staffing rule for queues (Halfin and Whitt, Operations Research 29(3), 1981): the work of Poisson arrivals in
a second has the deviation sqrt(R s).
"""

import math
from typing import Final

from autoscaler.law.constants import LawConstants
from autoscaler.law.inputs import Work

MOST_WORK: Final = 1e9
"""GPU seconds per second beyond any cluster: what is more is no measurement, and would leave the range of numbers."""

Rates = tuple[tuple[float, float], ...]
"""(time, GPU seconds per second), oldest first."""


def arriving_work(work: Work) -> tuple[float, float]:
    """GPU seconds of work that arrive per second, over the short and over the long averaging time. Costs must be known.

    The larger of what the arrivals come to at the mean request and of the tokens done: the first does not stop growing
    when replicas are full, the second follows a change of the lengths at once.
    """
    short, long = (
        prompt * work.seconds_per_prompt_token + output * work.seconds_per_output_token
        for prompt, output in zip(work.prompt_tokens_per_second, work.output_tokens_per_second, strict=True)
    )
    if work.requests_per_second is not None:
        arrivals = work.requests_per_second
        short, long = (
            max(short, arrivals[0] * work.seconds_per_request),
            max(long, arrivals[1] * work.seconds_per_request),
        )
    return _bounded(short), _bounded(long)


def _bounded(work: float) -> float:
    return min(max(work, 0.0), MOST_WORK)


def offered_work(work: Work, law: LawConstants, rise: float = 0.0) -> float:
    """GPU seconds per second to provide for: what arrives (the larger mean, the long one with its rise), and the queue."""
    short, long = arriving_work(work)
    queue = max(work.waiting_prompt_tokens * work.seconds_per_prompt_token, work.waiting * work.seconds_per_request)
    return _bounded(max(short, long + rise) + queue / law.drain_seconds)


def replicas_for_work(
    gpu_seconds_per_second: float, rho: float, law: LawConstants, seconds_per_request: float = 0.0
) -> float:
    """Replicas, as a real number, for offered work R at a busy share of at most `rho`."""
    grain = seconds_per_request or law.usual_request_seconds
    return (gpu_seconds_per_second + law.spread * math.sqrt(gpu_seconds_per_second * grain)) / rho


def note_rate(rates: Rates, now: float, rate: float, law: LawConstants) -> Rates:
    """Remember the long mean of the arriving work for the trend."""
    return (*(old for old in rates if now - old[0] <= law.trend_seconds), (now, rate))


def expected_rise(rates: Rates, ahead_seconds: float, law: LawConstants) -> float:
    """How much the arriving work will have grown by the time that a pod created now is ready; never below 0.

    The smaller of two slopes counts, those of the least-squares lines through the newest third of the last
    `trend_seconds` and through the rest: a step is no ramp.
    """
    if len(rates) < law.trend_points or rates[-1][0] - rates[0][0] < law.trend_seconds / 2:
        return 0.0
    third = len(rates) - len(rates) // 3
    slope = min(_slope(rates[:third]), _slope(rates[third:]))
    return min(max(slope, 0.0) * ahead_seconds, law.trend_most * rates[-1][1])


def _slope(rates: Rates) -> float:
    """Of the least-squares line, per second; 0 for a single time."""
    mean_time = sum(time for time, _ in rates) / len(rates)
    mean_rate = sum(rate for _, rate in rates) / len(rates)
    spread = sum((time - mean_time) ** 2 for time, _ in rates)
    return sum((time - mean_time) * (rate - mean_rate) for time, rate in rates) / spread if spread else 0.0
