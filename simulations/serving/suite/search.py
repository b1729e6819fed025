"""Finding a law's best setting with a fixed budget of runs: all its fields at once, one half drawn, one half refined.

The first setting is the default, then come those that did well before. The next ones are spread evenly over all fields (a Halton
sequence with a shift that depends on the law's name alone, so that every load meets the same ones: what one setting does on all of them
can be read off). The second half
starts from the best seen so far and changes some fields at a time, in steps that shrink.
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from simulations.serving.laws.base import Entry, Parameters
from simulations.serving.suite.results import Outcome

_PRIMES: Final = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43)
_WIDEST, _NARROWEST = 0.3, 0.04

Judged = tuple[Parameters, Outcome]


def spread(entry: Entry, count: int) -> Iterator[dict[str, float]]:
    """`count` settings: the default, what did well before, then an even spread over all fields."""
    yield dict(entry.defaults)
    rng = random.Random(f"spread/{entry.name}")
    shifts = {name: rng.random() for name in entry.space}
    known = entry.did_well[: max(count - 1, 0)]
    for setting in known:
        yield {**entry.defaults, **setting}
    for index in range(1, count - len(known)):
        shares = {
            name: (_halton(index, prime) + shifts[name]) % 1.0
            for name, prime in zip(entry.space, _PRIMES, strict=False)
        }
        yield _setting(entry, shares)


def search(entry: Entry, budget: int, share: float, judge: Callable[[Parameters], Outcome]) -> list[Judged]:
    """All settings tried, `budget` of them, the default first."""
    tried: list[Judged] = [(setting, judge(setting)) for setting in spread(entry, max(budget // 2, 1))]
    while len(tried) < budget:
        setting = _refined(entry, tried, budget, share)
        tried.append((setting, judge(setting)))
    return tried


def best(tried: Sequence[Judged], share: float) -> Judged:
    """The cheapest that reaches the share, else the one that comes nearest."""
    return min(tried, key=lambda judged: cost(judged[1], share))


def cost(outcome: Outcome, share: float) -> tuple[float, float]:
    """What is minimised: first the share that lacks, then the GPU hours."""
    return max(share - outcome.attainment, 0.0), outcome.gpu_hours


def _refined(entry: Entry, tried: Sequence[Judged], budget: int, share: float) -> dict[str, float]:
    """A neighbour of the best, or now and then of one that misses the share by little and is cheaper."""
    number = len(tried)
    rng = random.Random(f"refine/{entry.name}/{number}")
    ranked = sorted(tried, key=lambda judged: cost(judged[1], share))
    near = [judged for judged in tried if share - 0.01 <= judged[1].attainment < share]
    base = ranked[0][0]
    if near and rng.random() < 0.3:
        base = min(near, key=lambda judged: judged[1].gpu_hours)[0]
    progress = (number - budget / 2) / max(budget / 2, 1)
    width = _WIDEST * (_NARROWEST / _WIDEST) ** progress
    names = list(entry.space)
    chosen = [name for name in names if rng.random() < max(0.3, 2 / len(names))] or [rng.choice(names)]
    shares = {name: entry.space[name].share_of(base.get(name, entry.space[name].at(0.5))) for name in names}
    for name in chosen:
        shares[name] = min(max(shares[name] + rng.gauss(0.0, width), 0.0), 0.999)
    return {**base, **_setting(entry, {name: shares[name] for name in chosen})}


def _setting(entry: Entry, shares: Mapping[str, float]) -> dict[str, float]:
    return {**entry.defaults, **{name: entry.space[name].at(share) for name, share in shares.items()}}


def _halton(index: int, base: int) -> float:
    """The index-th number of the van der Corput sequence in a base, 0-1."""
    result, factor = 0.0, 1.0
    while index > 0:
        factor /= base
        result += factor * (index % base)
        index //= base
    return result if math.isfinite(result) else 0.0
