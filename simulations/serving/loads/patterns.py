"""Generated loads: seeded arrival patterns with the token lengths of a chat service.

A pattern is a rate over time (requests per second); arrivals are a Poisson process of that rate, drawn by thinning. Lengths
are log-normal with the medians and means of the public Azure conversation trace (prompts 1,020 and 1,155, outputs 129 and
211 tokens), cut at 8,000 and 1,000.
"""

import math
import random
from collections.abc import Callable, Mapping
from typing import Final

from simulations.serving.loads.traces import Trace, TraceError

_HOUR: Final = 3600.0
_PROMPT_MEDIAN, _PROMPT_SIGMA, _PROMPT_LONGEST = 900.0, 0.75, 8000
_OUTPUT_MEDIAN, _OUTPUT_SIGMA, _OUTPUT_LONGEST = 140.0, 0.9, 1000

RateAt = Callable[[float], float]


def _steady(rate: float, _: float, __: random.Random) -> RateAt:
    return lambda _time: rate


def _diurnal(rate: float, span: float, _: random.Random) -> RateAt:
    """One day squeezed into the span: night at a fifth of the peak, mean `rate`."""
    return lambda time: rate * (1 - 0.667 * math.cos(2 * math.pi * time / span))


def _ramp(rate: float, span: float, _: random.Random) -> RateAt:
    """From a quarter of the mean rate up to 1.75 times it over two thirds of the span, then back at three times the speed."""

    def at(time: float) -> float:
        share = time / span
        height = share / 0.667 if share < 0.667 else max(1 - (share - 0.667) / 0.222, 0.0)
        return rate * (0.25 + 1.5 * height)

    return at


def _spikes(rate: float, span: float, rng: random.Random) -> RateAt:
    """A steady load with peaks of three times it, 90 to 240 s long, at random about every 15 minutes."""
    peaks: list[tuple[float, float]] = []
    time = rng.expovariate(1 / 600)
    while time < span:
        length = rng.uniform(90, 240)
        peaks.append((time, time + length))
        time += length + rng.expovariate(1 / 750)
    return lambda at: rate * (3.0 if any(start <= at < end for start, end in peaks) else 0.8)


def _onoff(rate: float, span: float, rng: random.Random) -> RateAt:
    """Bursts of 1 to 4 minutes at twice the mean rate, silences of 1 to 5 minutes."""
    bursts: list[tuple[float, float]] = []
    time = 0.0
    while time < span:
        length = rng.uniform(60, 240)
        bursts.append((time, time + length))
        time += length + rng.uniform(60, 300)
    return lambda at: rate * 2.2 if any(start <= at < end for start, end in bursts) else 0.0


PATTERNS: Final[Mapping[str, tuple[Callable[[float, float, random.Random], RateAt], float]]] = {
    "steady": (_steady, 1.0),
    "diurnal": (_diurnal, 1.667),
    "ramp": (_ramp, 1.75),
    "spikes": (_spikes, 3.0),
    "onoff": (_onoff, 2.2),
}
"""Name -> (rate over time, its peak as a multiple of the mean)."""


def generate(name: str, *, rate: float, hours: float, seed: int) -> Trace:
    """A trace of the pattern: `rate` is about the mean in requests per second. Raises TraceError."""
    if name not in PATTERNS:
        raise TraceError(f"unknown pattern {name!r}; there are {', '.join(PATTERNS)}")
    if not (0 < rate <= 10_000 and 0 < hours <= 10_000):
        raise TraceError(f"pattern {name}: rate {rate:g} and hours {hours:g} must be above 0 and at most 10000")
    rng = random.Random(f"{seed}/{name}")
    make, peak_factor = PATTERNS[name]
    span = hours * _HOUR
    rate_at, peak = make(rate, span, rng), rate * peak_factor
    times: list[float] = []
    time = 0.0
    while (time := time + rng.expovariate(peak)) < span:
        if rng.random() * peak < rate_at(time):
            times.append(time)
    if not times:
        raise TraceError(f"pattern {name}: no request arrives in {hours:g} h at {rate:g} requests per second")
    lengths = [
        (
            _length(rng, _PROMPT_MEDIAN, _PROMPT_SIGMA, _PROMPT_LONGEST),
            _length(rng, _OUTPUT_MEDIAN, _OUTPUT_SIGMA, _OUTPUT_LONGEST),
        )
        for _ in times
    ]
    return Trace(
        name=f"pattern:{name}",
        arrival_seconds=tuple(time - times[0] for time in times),
        prompt_tokens=tuple(prompt for prompt, _ in lengths),
        output_tokens=tuple(output for _, output in lengths),
    )


def _length(rng: random.Random, median: float, sigma: float, longest: int) -> int:
    return min(max(round(median * math.exp(sigma * rng.gauss(0.0, 1.0))), 1), longest)


def parse_pattern(text: str, seed: int) -> Trace:
    """`pattern:NAME[,rate=20][,hours=2]`. Raises TraceError."""
    name, *options = text.removeprefix("pattern:").split(",")
    values = {"rate": 20.0, "hours": 2.0}
    for option in options:
        key, _, value = option.partition("=")
        number = _number(value)
        if key not in values or number is None:
            raise TraceError(f"{text}: {option!r} is not rate=NUMBER or hours=NUMBER")
        values[key] = number
    return generate(name, rate=values["rate"], hours=values["hours"], seed=seed)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
