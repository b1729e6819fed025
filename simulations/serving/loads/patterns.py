"""Generated loads: seeded arrival patterns with the token lengths of a kind of service.

A pattern is a rate over time (requests per second); arrivals are a Poisson process of that rate, drawn by thinning.
"""

import math
import random
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from simulations.serving.loads.lengths import LENGTHS, Lengths
from simulations.serving.loads.traces import Trace, TraceError

_HOUR: Final = 3600.0
_DAY: Final = 86_400.0

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


def _growth(rate: float, span: float, _: random.Random) -> RateAt:
    """From half the mean rate to 1.5 times it, in a straight line."""
    return lambda time: rate * (0.5 + time / span)


def _steps(rate: float, span: float, rng: random.Random) -> RateAt:
    """A new level between 0.3 and 1.8 times the mean every 10 to 30 minutes, at once."""
    levels: list[tuple[float, float]] = []
    time = 0.0
    while time < span:
        levels.append((time, rng.uniform(0.3, 1.8)))
        time += rng.uniform(600, 1800)
    starts = [start for start, _ in levels]
    return lambda at: rate * levels[_last(starts, at)][1]


def _last(starts: list[float], at: float) -> int:
    """Index of the last start that is not after `at`."""
    low, high = 0, len(starts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if starts[middle] <= at else (low, middle)
    return low


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


def _surprise(rate: float, span: float, rng: random.Random) -> RateAt:
    """A steady load and one burst of four times it for five minutes, in the second half: the first burst, which nobody foresees."""
    start = rng.uniform(0.5, 0.8) * span
    return lambda at: rate * (4.0 if start <= at < start + 300 else 0.8)


def _week(rate: float, span: float, rng: random.Random) -> RateAt:
    """Days with a night at a fifth of the noon, weekends at half, some growth, and about one burst a day of up to three times."""
    bursts = [
        (rng.uniform(day, day + 1) * _DAY, rng.uniform(300, 1200), rng.uniform(1.5, 3.0))
        for day in range(math.ceil(span / _DAY))
    ]

    def at(time: float) -> float:
        day = time / _DAY
        level = 1 - 0.667 * math.cos(2 * math.pi * (day - 0.15))
        level *= (0.5 if int(day) % 7 >= 5 else 1.15) * (1 + 0.02 * day)
        sizes = [size for start, length, size in bursts if start <= time < start + length]
        return rate * level * max(sizes, default=1.0)

    return at


@dataclass(frozen=True, slots=True)
class Pattern:
    """A shape of load."""

    rate_at: Callable[[float, float, random.Random], RateAt]
    """(mean rate, span in seconds, random numbers) -> rate over time."""
    peak: float
    """Its highest rate as a multiple of the mean."""


PATTERNS: Final[Mapping[str, Pattern]] = {
    "steady": Pattern(_steady, 1.0),
    "diurnal": Pattern(_diurnal, 1.667),
    "ramp": Pattern(_ramp, 1.75),
    "growth": Pattern(_growth, 1.5),
    "steps": Pattern(_steps, 1.8),
    "spikes": Pattern(_spikes, 3.0),
    "onoff": Pattern(_onoff, 2.2),
    "surprise": Pattern(_surprise, 4.0),
    "week": Pattern(_week, 8.0),
}


def generate(name: str, *, rate: float, hours: float, seed: int, lengths: str = "chat") -> Trace:
    """A trace of the pattern: `rate` is about the mean in requests per second. Raises TraceError."""
    if name not in PATTERNS:
        raise TraceError(f"unknown pattern {name!r}; there are {', '.join(PATTERNS)}")
    if lengths not in LENGTHS:
        raise TraceError(f"unknown lengths {lengths!r}; there are {', '.join(LENGTHS)}")
    if not (0 < rate <= 10_000 and 0 < hours <= 10_000):
        raise TraceError(f"pattern {name}: rate {rate:g} and hours {hours:g} must be above 0 and at most 10000")
    span = hours * _HOUR
    trace = draw(f"pattern:{name}", PATTERNS[name], rate, span, LENGTHS[lengths], random.Random(f"{seed}/{name}"))
    if trace is None:
        raise TraceError(f"pattern {name}: no request arrives in {hours:g} h at {rate:g} requests per second")
    return trace


def draw(
    name: str, pattern: Pattern, rate: float, span_seconds: float, lengths: Lengths, rng: random.Random
) -> Trace | None:
    """Arrivals of a pattern with lengths of a kind; None when nothing arrives."""
    rate_at, peak = pattern.rate_at(rate, span_seconds, rng), rate * pattern.peak
    times = array("d")
    time = 0.0
    while (time := time + rng.expovariate(peak)) < span_seconds:
        if rng.random() * peak < rate_at(time):
            times.append(time)
    if not times:
        return None
    prompts, outputs = array("l"), array("l")
    for time in times:
        prompt, output = lengths(rng, time)
        prompts.append(prompt)
        outputs.append(output)
    first = times[0]
    return Trace(name, array("d", [time - first for time in times]), prompts, outputs)


def parse_pattern(text: str, seed: int) -> Trace:
    """`pattern:NAME[,rate=20][,hours=2][,lengths=chat]`. Raises TraceError."""
    name, *options = text.removeprefix("pattern:").split(",")
    values = {"rate": 20.0, "hours": 2.0}
    lengths = "chat"
    for option in options:
        key, _, value = option.partition("=")
        number = _number(value)
        if key == "lengths":
            lengths = value
        elif key not in values or number is None:
            raise TraceError(f"{text}: {option!r} is not rate=NUMBER, hours=NUMBER or lengths=NAME")
        else:
            values[key] = number
    return generate(name, rate=values["rate"], hours=values["hours"], seed=seed, lengths=lengths)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
