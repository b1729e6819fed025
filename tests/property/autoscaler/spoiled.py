"""A Prometheus with faults, and which seeds are played against it."""

import os
import random
import re
from collections.abc import Iterator

from headroom.errors import HeadroomError
from headroom.prometheus.answer import Series
from headroom.prometheus.errors import PrometheusAnswerError, PrometheusTimeoutError, PrometheusUnreachableError
from tests.fakes.fleet import START, Fleet
from tests.fakes.scraping import (
    Answered,
    ScrapedPrometheus,
    refused,
)

FRESH = os.environ.get("HYPOTHESIS_PROFILE") == "fresh"
TICKS = 2000 if FRESH else 500
SEEDS = [int(seed) for seed in os.environ.get("FUZZ_SEEDS", "").split(",") if seed] or (
    [random.SystemRandom().randrange(10**9) for _ in range(20)] if FRESH else list(range(10))
)
"""Ten seeds of 500 ticks for each of the two tests: 10,000 ticks."""
FAULTS: list[HeadroomError] = [
    PrometheusUnreachableError("gone"), PrometheusTimeoutError("slow"), PrometheusAnswerError("status 502"), refused("too many samples"),
]  # fmt: skip


class Broken(Answered):
    """An answer that breaks off while it is read."""

    def __iter__(self) -> Iterator[Series]:
        for number, series in enumerate(list.__iter__(self)):
            if number > len(self) // 2:
                raise PrometheusAnswerError("no query result")
            yield series


class SpoiledPrometheus(ScrapedPrometheus):
    """Loses, repeats and breaks answers, as often as `spoil` says; each holds no more than `share` of its series, and says so."""

    dice: random.Random
    spoil = 0.0
    share = 1.0
    parted = False
    """Whether an answer about pods has lacked a part since this was last set to False."""

    async def ask(self, promql: str, timeout_seconds: float | None = None) -> Answered:
        answer = await super().ask(promql)
        if self.share < 1 and not promql.startswith("vector"):
            return self._part(answer, self.share, promql)
        if self.dice.random() >= self.spoil:
            return answer
        kind = self.dice.randrange(5)
        if kind == 0:
            raise self.dice.choice(FAULTS)
        if kind == 1 and not promql.startswith("vector"):
            return Broken(answer)
        if kind == 2:
            return self._part(answer, 0.7, promql)
        if kind == 3:
            return Answered(self.dice.sample(answer, len(answer)))
        return answer

    def _part(self, answer: Answered, share: float, promql: str) -> Answered:
        self.parted |= re.match(r"\{__name__=~.*\[\d+s\]$", promql) is not None and not promql.endswith("[300s]")
        return Answered([series for series in answer if self.dice.random() < share], ["a store is down"])


def fleet_of(seed: int, spoil: float) -> tuple[Fleet, SpoiledPrometheus, random.Random]:
    dice = random.Random(seed)
    prometheus = SpoiledPrometheus(START)
    prometheus.dice, prometheus.spoil = dice, spoil
    return Fleet(prometheus=prometheus), prometheus, dice
