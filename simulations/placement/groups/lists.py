"""Lists of pods and groups that come and go on a mixed fleet: seeded, and like Alibaba's openb traces.

Machines and what pods of one card ask for follow the published node list and default pod list (cluster-trace-gpu-v2023): their
counts are rounded, and the long tail of rare kinds is left out. The traces know no groups and few pods of several cards, so those are
assumptions: half of what pods of several cards ask for comes in groups, of 2 to 8 pods, each on a node of its own.
"""

import math
import random
from dataclasses import dataclass
from typing import Final

from headroom.domain.model import Card, GpuNode

# model, cards, cores, GiB of host memory, nodes of a hundred
MACHINES: Final = (
    ("G2", 8, 96, 384, 45),
    ("T4", 2, 96, 512, 32),
    ("P100", 2, 16, 120, 9),
    ("P100", 2, 64, 256, 2),
    ("G3", 8, 128, 768, 4),
    ("V100M16", 4, 32, 128, 4),
    ("V100M32", 8, 96, 768, 2),
    ("V100M32", 4, 48, 370, 2),
)
CARD_MIB: Final = 16_000
"""Of every card: the lists know shares of a card alone."""

# thousandths of a card, cores, GiB of host memory, pods of a hundred of those with one card
ONE_CARD: Final = (
    (1000, 11, 48, 22), (1000, 3, 6, 12), (1000, 12, 24, 14), (1000, 18, 64, 7), (810, 3, 6, 15), (470, 12, 46, 6), (470, 8, 30, 5),
    (650, 12, 46, 4), (320, 4, 22, 5), (460, 8, 30, 2), (230, 4, 30, 2), (590, 8, 30, 2), (550, 8, 30, 2), (160, 4, 16, 2),
)  # fmt: skip
SEVERAL_CARDS: Final = ((2, 24), (4, 24), (8, 52))
"""Cards of a pod, and pods of a hundred of those with several, as in the published lists with more of them (multigpu40)."""
GROUP_SIZES: Final = ((2, 35), (3, 15), (4, 30), (6, 10), (8, 10))
MEMBER_CARDS: Final = ((1, 15), (2, 30), (4, 30), (8, 25))
_CORES_PER_CARD: Final = 8
_GIB_PER_CARD: Final = 32
_HOUR: Final = 3600.0
_DAY: Final = 24 * _HOUR
_SWING: Final = 0.25
"""How far the load of the busiest hour is above that of the mean."""
# Seconds that pods run: median, deviation of the logarithm.
_ONE_CARD_SECONDS: Final = (3.0 * _HOUR, 1.3)
_SEVERAL_SECONDS: Final = (5.0 * _HOUR, 1.0)
_SHORTEST, _LONGEST = 300.0, 2 * _DAY


@dataclass(frozen=True, slots=True)
class Ask:
    """What one pod asks for; `milli` is of each card."""

    cards: int
    milli: int
    cores: int
    memory_gib: int

    @property
    def units(self) -> int:
        """Thousandths of cards in all."""
        return self.cards * self.milli


@dataclass(frozen=True, slots=True)
class Arrival:
    """Pods that are created together: one, or all of a group, which ask for the same."""

    name: str
    at: float
    """Seconds."""
    ask: Ask
    size: int
    """How many pods; 1 is a pod without a group."""
    seconds: float
    """How long it runs once all are bound."""

    @property
    def is_group(self) -> bool:
        """Whether the pods are a group."""
        return self.size > 1


def nodes(count: int) -> list[GpuNode]:
    """About so many nodes, in the proportions of `MACHINES`; at least one of each kind."""
    made: list[GpuNode] = []
    for model, cards, cores, gib, share in MACHINES:
        for _ in range(max(round(count * share / 100), 1)):
            name = f"n{len(made):04d}"
            held = tuple(Card(f"{name}-{at}", at, model, CARD_MIB) for at in range(cards))
            made.append(GpuNode(name=name, cards=held, cpu_milli=cores * 1000, memory_mib=gib * 1024))
    return made


class Generator:
    """Draws arrivals. `load` is the mean demand over the fleet's cards, `several` the part of it that comes from pods of several cards."""

    def __init__(self, seed: int, cards: int, *, load: float, several: float) -> None:
        self._rng = random.Random(seed)
        one = self._mean(_ONE_CARD_SECONDS) * _mean([(milli, share) for milli, _, _, share in ONE_CARD])
        many_seconds = self._mean(_SEVERAL_SECONDS)
        many = many_seconds * 1000 * _mean(SEVERAL_CARDS)
        group = many_seconds * 1000 * _mean(MEMBER_CARDS) * _mean(GROUP_SIZES)
        demand = load * cards * 1000  # thousandths of cards that are in use at any time
        rates = [(1 - several) * demand / one, several / 2 * demand / many, several / 2 * demand / group]
        self._rates = rates
        self._rate = sum(rates)

    @staticmethod
    def _mean(seconds: tuple[float, float]) -> float:
        """The mean of the clipped distribution, by its quantiles."""
        median, sigma = seconds
        normal = random.Random(1)
        draws = [_clipped(median * math.exp(sigma * normal.gauss(0, 1))) for _ in range(20_000)]
        return sum(draws) / len(draws)

    def arrivals(self, hours: float) -> list[Arrival]:
        """All that come within so many hours, in their order."""
        rng, now, made = self._rng, 0.0, list[Arrival]()
        while True:
            now += rng.expovariate(self._rate * (1 + _SWING))
            if now >= hours * _HOUR:
                return made
            wave = 1 + _SWING * math.sin(2 * math.pi * now / _DAY)
            if rng.random() < wave / (1 + _SWING):
                made.append(self._draw(f"p{len(made)}", now))

    def _draw(self, name: str, now: float) -> Arrival:
        rng = self._rng
        kind = rng.choices(("one", "several", "group"), self._rates)[0]
        if kind == "one":
            milli, cores, gib, _ = rng.choices(ONE_CARD, [each[3] for each in ONE_CARD])[0]
            return Arrival(name, now, Ask(1, milli, cores, gib), 1, self._seconds(_ONE_CARD_SECONDS))
        cards = _drawn(rng, MEMBER_CARDS if kind == "group" else SEVERAL_CARDS)
        size = _drawn(rng, GROUP_SIZES) if kind == "group" else 1
        ask = Ask(cards, 1000, _CORES_PER_CARD * cards, _GIB_PER_CARD * cards)
        return Arrival(name, now, ask, size, self._seconds(_SEVERAL_SECONDS))

    def _seconds(self, seconds: tuple[float, float]) -> float:
        median, sigma = seconds
        return _clipped(median * math.exp(sigma * self._rng.gauss(0, 1)))


def _clipped(seconds: float) -> float:
    return min(max(seconds, _SHORTEST), _LONGEST)


def _mean(shares: list[tuple[int, int]] | tuple[tuple[int, int], ...]) -> float:
    return sum(value * share for value, share in shares) / sum(share for _, share in shares)


def _drawn(rng: random.Random, shares: tuple[tuple[int, int], ...]) -> int:
    return rng.choices([value for value, _ in shares], [share for _, share in shares])[0]
