"""One law on one load: by default and, for rivals, at the setting that a fixed budget of runs finds; what is there is not run again."""

import gc
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from simulations.serving.arena import Workload, run
from simulations.serving.laws.base import Parameters
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.suite import results
from simulations.serving.suite.results import Outcome
from simulations.serving.suite.scenarios import LOADS, SCORED_ON, SHARE, TUNED_ON
from simulations.serving.suite.search import Judged, cost, search
from simulations.serving.suite.store import Store

HINDSIGHT: Final = ("static", "clairvoyant")
"""Yardsticks that know the load; their one number is picked with few runs."""
HINDSIGHT_BUDGET: Final = 8
CANDIDATES: Final = 5
"""At most so many (one for each twenty settings tried, at least three) of the best settings on the seed of tuning are scored in
turn until one reaches the share on the others too."""
FIRST: Final = "first"
"""Part of a load on which settings are picked, where it is not the whole."""


@dataclass(frozen=True, slots=True)
class Study:
    """What is measured, and where it is kept."""

    traces: Path
    out: Path
    budget: int = 100
    """Settings per law and load."""
    seeds: tuple[int, ...] = SCORED_ON


@dataclass(frozen=True, slots=True)
class Scored:
    """A setting over the seeds that it was not picked on."""

    parameters: Parameters
    outcomes: tuple[Outcome, ...]

    @property
    def mean(self) -> Outcome:
        """Over the seeds."""
        return results.mean(self.outcomes)


class _NotThereError(Exception):
    """A run that the store does not have."""


class Bench:
    """Measures settings of one law on one load."""

    def __init__(self, study: Study, load: str, law: str) -> None:
        self.study, self.load, self.entry = study, LOADS[load], LAWS[law]
        self.store = Store(study.out, load, law)

    def once(self, parameters: Parameters, seed: int, *, tuning: bool = False) -> Outcome:
        """One run, from the store where it is there."""
        part = FIRST if tuning and self.load.tuned_hours else ""
        found = self.store.get(parameters, seed, part)
        if found is None:
            workload = _workload(self.load.name, seed, self.study.traces, bool(part))
            lanes = run([workload], self.entry, parameters, self.load.conditions(), seed=seed)
            found = results.outcome(lanes[0], lanes[0].deployment.engine.now)
            self.store.put(parameters, seed, found, part)
            del lanes
            gc.collect()
        return found

    def scored(self, parameters: Parameters) -> Scored:
        """A setting on all seeds of scoring."""
        return Scored(parameters, tuple(self.once(parameters, seed) for seed in self.study.seeds))

    def known(self, parameters: Parameters) -> Scored | None:
        """The same, if all of it is there."""
        found = [self.store.get(parameters, seed) for seed in self.study.seeds]
        there = [outcome for outcome in found if outcome is not None]
        return Scored(parameters, tuple(there)) if len(there) == len(found) else None

    def on_tuning(self, parameters: Parameters) -> Outcome | None:
        """A setting on the seed of tuning, if it is there."""
        return self.store.get(parameters, TUNED_ON, FIRST if self.load.tuned_hours else "")

    @property
    def budget(self) -> int:
        """Settings that may be tried."""
        return min(self.study.budget, HINDSIGHT_BUDGET) if self.entry.name in HINDSIGHT else self.study.budget

    def tried(self) -> list[Judged]:
        """The whole search on the seed of tuning."""
        return search(self.entry, self.budget, SHARE, lambda setting: self.once(setting, TUNED_ON, tuning=True))

    def tried_so_far(self) -> list[Judged]:
        """As much of the search as is in the store."""
        so_far: list[Judged] = []

        def known(setting: Parameters) -> Outcome:
            found = self.on_tuning(setting)
            if found is None:
                raise _NotThereError
            so_far.append((setting, found))
            return found

        with suppress(_NotThereError):
            search(self.entry, self.budget, SHARE, known)
        return so_far

    def tuned(self, tried: Sequence[Judged]) -> Scored:
        """The cheapest setting whose mean over the other seeds reaches the share, of the best ones on the seed of tuning."""
        scores = [self.scored(setting) for setting in candidates(tried)]
        return min(scores, key=lambda score: cost(score.mean, SHARE))


def candidates(tried: Sequence[Judged]) -> list[Parameters]:
    """Settings worth scoring: the cheapest that reach the share, each safer than the one before, else those that come nearest."""
    chosen: list[Judged] = []
    for judged in sorted(tried, key=lambda one: cost(one[1], SHARE)):
        if not chosen or judged[1].attainment > chosen[-1][1].attainment or judged[1].attainment < SHARE:
            chosen.append(judged)
        if len(chosen) == max(min(CANDIDATES, len(tried) // 20), 3):
            break
    return [setting for setting, _ in chosen]


@lru_cache(maxsize=3)
def _workload(load: str, seed: int, traces: Path, tuning: bool) -> Workload:
    return LOADS[load].workload(seed, traces, tuning=tuning)


def work(study: Study, load: str, law: str, *, tune: bool) -> str:
    """All runs of one law on one load. Returns what was done, for the log."""
    gc.disable()  # what a run makes is freed as it goes; a collection would only walk the trace
    bench = Bench(study, load, law)
    before = len(bench.store)
    bench.scored(bench.entry.defaults)
    bench.once(bench.entry.defaults, TUNED_ON, tuning=True)
    if tune:
        bench.tuned(bench.tried())
    return f"{load}, {law}: {len(bench.store) - before} runs"
