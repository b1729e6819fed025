"""One model on two card types with prices: the mix against each type alone, on the same loads, with the same law."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import click

from headroom.domain.model import Placement
from headroom.errors import HeadroomError
from simulations.serving.arena import most_tokens
from simulations.serving.engine.hardware import Pair, bundled_pairs, find_pair, marginal_work_seconds, work_seconds
from simulations.serving.engine.request import Request
from simulations.serving.fleet.observe import Monitor
from simulations.serving.fleet.placing import SharedFleet, uniform_fleet
from simulations.serving.fleet.served import Served
from simulations.serving.laws.base import Objective, Setting
from simulations.serving.loads.patterns import parse_pattern
from simulations.serving.loads.traces import Trace
from simulations.serving.studies.mixed import Kind, MixedFleet, MixingLaw
from simulations.serving.suite.tables import markdown
from simulations.virtual_time import Engine

MODEL: Final = "llama-3.1-8b"
PRICES: Final = {"L40S": 1.86, "H100-80GB": 6.88}
"""Dollars for a card hour: on-demand list price of a cloud instance divided by its cards, as in the demo."""
OBJECTIVE: Final = Objective(2.0, 0.1)
LOADS: Final = (
    "diurnal,rate=6,hours=1.5@L40S=2,H100-80GB=8",
    "ramp,rate=6,hours=1.5@L40S=2,H100-80GB=8",
    "growth,rate=6,hours=1.5@L40S=2,H100-80GB=8",
    "diurnal,rate=0.5,hours=1.5,lengths=reasoning@L40S=32,H100-80GB=8",
    "diurnal,rate=1.5,hours=1.5,lengths=agents@L40S=32,H100-80GB=8",
    "diurnal,rate=14,hours=1.5@L40S=4,H100-80GB=8",
    "steps,rate=8,hours=1.5@L40S=3,H100-80GB=8",
    "surprise,rate=3,hours=1@L40S=1,H100-80GB=8",
    "growth,rate=0.4,hours=1.5,lengths=reasoning@L40S=6,H100-80GB=8",
    "onoff,rate=2,hours=1@L40S=2,H100-80GB=8",
    "steps,rate=0.3,hours=1,lengths=reasoning@L40S=16,H100-80GB=8",
    "diurnal,rate=0.5,hours=1,lengths=extraction@L40S=32,H100-80GB=8",
)
"""Each with the cards that are to be had. The last three were first run when the mix was done."""
SCRAPE_SECONDS: Final = 15.0
TICK_SECONDS: Final = 15.0
MOST_REPLICAS: Final = 64
GOAL: Final = 0.15
_SETTLE_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    attainment: float
    dollars: float
    hours: tuple[float, ...]
    """Of each card type."""
    cold_starts: int


def run(trace: Trace, cards: Sequence[str], available: dict[str, int], seed: int) -> Result:
    """The model on these card types, of which so many cards each are to be had."""
    pairs = capable([find_pair(bundled_pairs(), MODEL, card) for card in cards], trace)
    engine = Engine()
    shared = SharedFleet(
        [node for pair in pairs for node in uniform_fleet(pair.card, pair.card_vram_mib, available[pair.card], 1)]
    )
    work = [benchmark_seconds(pair, trace) for pair in pairs]
    able = {pair.card: at for at, pair in enumerate(pairs)}
    kinds = [
        Kind(pair, PRICES[pair.card] * pair.cards, work[0] / own, shared.cards_for(pair))
        for pair, own in zip(pairs, work, strict=True)
    ]

    def cold(order: int, placement: Placement) -> float:
        rng = random.Random(f"{seed}/{trace.name}/{order}")
        pair = next(pair for pair in pairs if placement.node.startswith(pair.card.lower()))
        return pair.cold_start_seconds(rng, new_image=False, new_node=False)

    fleet = MixedFleet(engine, kinds, cold, Served(OBJECTIVE.ttft_seconds, OBJECTIVE.itl_seconds))
    setting = Setting(pairs[0], OBJECTIVE, 1, MOST_REPLICAS, TICK_SECONDS, SCRAPE_SECONDS, 1, trace)
    law = MixingLaw(setting, kinds)
    law.watch(fleet, seed, lambda _order: False)
    monitor = Monitor(fleet, delay_seconds=0.0)
    fleet.scale(_first(trace, kinds), warm=True)
    limit = min(most_tokens(pair) for pair in pairs)
    fleet.feed(trace.requests(limit))
    end = trace.span_seconds + _SETTLE_SECONDS
    held = [0.0] * len(kinds)

    def tick(count: int) -> None:
        fleet.scale(law.counts(monitor.view(), fleet))
        for at, number in enumerate(fleet.counts()):
            held[at] += number * TICK_SECONDS / 3600
        if (count + 1) * TICK_SECONDS <= end:
            engine.at((count + 1) * TICK_SECONDS, tick, count + 1)

    engine.at(0.0, tick, 0)
    engine.run(end)
    attainment = fleet.served.met / max(trace.servable(limit), 1)
    hours = tuple(held[able[card]] if card in able else 0.0 for card in cards)
    return Result(attainment, fleet.spent_until_now(), hours, fleet.cold_starts)


def capable(pairs: Sequence[Pair], trace: Trace) -> list[Pair]:
    """Those that keep the objective when they are next to idle: of another, more replicas would not help. All, where none does."""
    able = []
    for pair in pairs:
        met = sum(pair.idle_ttft_seconds(tokens) <= OBJECTIVE.ttft_seconds for tokens in trace.prompt_tokens)
        if met >= OBJECTIVE.share * len(trace):
            able.append(pair)
    return able or list(pairs)


def benchmark_seconds(pair: Pair, trace: Trace) -> float:
    """GPU seconds of the load's mean request at the largest batch within the objective: what its users would have measured."""
    speed, count = pair.speed, len(trace)
    request = Request(0.0, round(sum(trace.prompt_tokens) / count), round(sum(trace.output_tokens) / count))
    context = request.prompt_tokens + request.output_tokens / 2
    by_time = (OBJECTIVE.itl_seconds - speed.base_seconds) / (
        speed.per_sequence_seconds + speed.per_kv_token_seconds * context
    )
    return work_seconds(speed, request, max(min(speed.slots, speed.kv_tokens / context, by_time), 1.0))


def _first(trace: Trace, kinds: Sequence[Kind]) -> list[int]:
    """Replicas that the first five minutes need at 80 % busy, of the first kind as far as there are cards; the same for every run."""
    speed = kinds[0].pair.speed
    work = sum(marginal_work_seconds(speed, request) for request in trace.requests() if request.arrival < 300.0)
    lacking, counts = work / 300 / 0.8 / (1 - speed.base_seconds / OBJECTIVE.itl_seconds), []
    for kind in kinds:
        count = min(max(round(lacking / kind.capacity + 0.499), 0), kind.cards.room(MOST_REPLICAS))
        counts.append(count)
        lacking -= count * kind.capacity
    return counts


HEAD: Final = ("load", "to be had", *(f"{card} alone" for card in PRICES), "both", "against the best single type")


@dataclass(frozen=True, slots=True)
class Mean:
    """Of one load on some card types, over the seeds."""

    attainment: float
    dollars: float

    def __str__(self) -> str:
        return f"{100 * self.attainment:.2f} %, ${self.dollars:.2f}"


def table(cases: Sequence[tuple[str, dict[str, int]]], seeds: Sequence[int], wanted: float) -> str:
    """(load, cards to be had) each. The best single type is the cheapest one that serves as many within the objective as is wanted."""
    rows, found = [], []
    for load, available in cases:
        traces = [parse_pattern(f"pattern:{load}", seed) for seed in seeds]
        singles = [_mean(traces, [card], available, seeds) for card in PRICES]
        mixed = _mean(traces, list(PRICES), available, seeds)
        best = min((one.dollars for one in singles if one.attainment >= wanted), default=None)
        there = ", ".join(f"{count} {card}" for card, count in available.items())
        against = f"{100 * (mixed.dollars / best - 1):+.1f} %" if best is not None else "none serves enough"
        rows.append([load, there, *map(str, singles), str(mixed), against])
        replica = min(PRICES.values()) * (max(trace.span_seconds for trace in traces) + _SETTLE_SECONDS) / 3600
        found.append(f"{load}: {verdict(mixed, best, wanted, replica)}")
    return "\n".join([markdown(HEAD, rows), "", *found])


def _mean(traces: Sequence[Trace], on: Sequence[str], available: dict[str, int], seeds: Sequence[int]) -> Mean:
    runs = [run(trace, on, available, seed) for trace, seed in zip(traces, seeds, strict=True)]
    return Mean(sum(one.attainment for one in runs) / len(runs), sum(one.dollars for one in runs) / len(runs))


def verdict(mixed: Mean, best: float | None, wanted: float, replica: float) -> str:
    """What the mix reaches against the best single type; `replica`: dollars of one of the cheaper cards all through the run."""
    if best is None:
        return f"no single type serves {100 * wanted:g} %; the mix serves {100 * mixed.attainment:.2f} %"
    serves = mixed.attainment >= wanted
    than = f"{100 * abs(1 - mixed.dollars / best):.1f} % {'dearer' if mixed.dollars > best else 'cheaper'}"
    goal = "reached" if mixed.dollars <= (1 - GOAL) * best and serves else "missed"
    if not serves:
        worse = f"too few within the objective ({100 * mixed.attainment:.2f} % of {100 * wanted:g} %)"
    elif mixed.dollars <= best:
        worse = "never worse: holds"
    elif mixed.dollars <= best + replica:
        worse = f"never worse: holds but for ${mixed.dollars - best:.2f}, less than one replica (${replica:.2f})"
    else:
        worse = "never worse: missed"
    return f"{than} than the best single type; 15 % cheaper: {goal}; {worse}"


class VariantsUsageError(HeadroomError):
    """A flag whose value cannot be used."""


def parse_cards(text: str) -> dict[str, int]:
    """`L40S=6,H100-80GB=8`. Raises VariantsUsageError."""
    found: dict[str, int] = {}
    for part in text.split(","):
        card, _, count = part.partition("=")
        if card not in PRICES or not count.isdecimal() or not 1 <= int(count) <= 1000:
            raise VariantsUsageError(f"--cards: {part!r} is not CARD=COUNT with a card of {', '.join(PRICES)}")
        found[card] = int(count)
    if missing := [card for card in PRICES if card not in found]:
        raise VariantsUsageError(f"--cards: {', '.join(missing)} is missing")
    return found


def parse_case(text: str, cards: str) -> tuple[str, dict[str, int]]:
    """`LOAD` or `LOAD@CARDS`. Raises VariantsUsageError."""
    load, _, there = text.partition("@")
    return load, parse_cards(there or cards)


@click.command()
@click.option(
    "--load",
    "loads",
    multiple=True,
    help="PATTERN,rate=..,hours=.. of `simulate serving`, with @CARDS behind it where they differ from --cards.  [default: twelve loads]",
)
@click.option(
    "--cards", default="L40S=2,H100-80GB=8", show_default=True, help="How many cards of each type are to be had."
)
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--attainment",
    default=0.98,
    show_default=True,
    help="Share within the objective that a single type must reach to count.",
)
def main(loads: tuple[str, ...], cards: str, seeds: int, attainment: float) -> None:
    """One model on two card types with prices: both mixed against each alone, under the same law."""
    cases = [parse_case(load, cards) for load in loads or LOADS]
    click.echo(table(cases, range(1, seeds + 1), attainment))
