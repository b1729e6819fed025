"""What load to expect when a replica asked for now is ready, and how far such forecasts were off. Pure.

Two forecasts are made side by side: the mean of the last minute, and a level with a trend (Holt's linear smoothing). Each is
compared with the load that then came; the one with the smaller error of late is used. So a load that only fluctuates is not
followed into every turn, and one that climbs for an hour is met on its way.
"""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from autoscaler.law.constants import LawConstants

LEVEL_SECONDS: Final = 90.0
TREND_SECONDS: Final = 750.0
"""Over which level and trend of the smoothing forget."""


class Made(NamedTuple):
    """Two forecasts made at a time, for one lead later."""

    at_seconds: float
    steady: float
    """That the mean of the last minute stays."""
    trend: float


class Smoothed(NamedTuple):
    """Level (GPU seconds per second) and trend (per second)."""

    at_seconds: float
    level: float
    trend: float = 0.0


class Errors(NamedTuple):
    """Mean squares of the relative errors of the two forecasts, without the chance of which requests fall into a minute."""

    steady: float = 0.01
    trend: float = 0.01


Rates = tuple[tuple[float, float], ...]
"""(time, GPU seconds per second that arrived lately), oldest first."""


def mean(rates: Rates, now: float, seconds: float) -> float:
    """Of what arrived in the last `seconds`."""
    recent = [rate for at, rate in rates if now - at < seconds]
    return sum(recent) / len(recent) if recent else 0.0


def smoothed(before: Smoothed | None, now: float, rate: float) -> Smoothed:
    """Level and trend after one more rate."""
    if before is None or now - before.at_seconds > 4 * LEVEL_SECONDS:
        return Smoothed(now, rate)
    seconds = max(now - before.at_seconds, 1e-3)
    gain, trend_gain = 1 - math.exp(-seconds / LEVEL_SECONDS), 1 - math.exp(-seconds / TREND_SECONDS)
    foretold = before.level + before.trend * seconds
    error = rate - foretold
    return Smoothed(now, foretold + gain * error, before.trend + gain * trend_gain * error / seconds)


def ahead(state: Smoothed, seconds: float, law: LawConstants) -> float:
    """The trend's forecast; it may at most double the level."""
    rise = min(state.trend * seconds, law.trend_most * state.level)
    return max(state.level + rise, 0.0)


def due(made: Sequence[Made], now: float, lead_seconds: float) -> Made | None:
    """The forecasts made for now; None while there are none so old."""
    return next((one for one in reversed(made) if now - one.at_seconds >= lead_seconds), None)


def judged(
    errors: Errors, came: float, foretold: Made, grain: float, usual: float, seconds: float, law: LawConstants
) -> Errors:
    """Errors after one more pair of forecasts could be judged. `grain` is the work of a mean request."""

    def after(known: float, forecast: float) -> float:
        if forecast <= 0:
            return known
        # A forecast of next to nothing says nothing of the load that replicas are for.
        keep = math.exp(-seconds / law.forecast_memory_seconds * min(forecast / usual, 1.0)) if usual > 0 else 1.0
        relative = min(max(came / forecast - 1, 0.0), law.forecast_error_most)
        chance = 2 * grain / (law.long_mean_seconds * forecast)
        return keep * known + (1 - keep) * max(2 * relative**2 - chance, 0.0)

    return Errors(after(errors.steady, foretold.steady), after(errors.trend, foretold.trend))
