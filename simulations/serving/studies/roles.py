"""Prefill and decode of one model on replicas of their own: one object with two roles against two objects that know nothing of each other.

The loads shift between long prompts with short outputs and the reverse. All contenders meet the same requests and start with the same
replicas, which the first five minutes need.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import click

from headroom.domain.model import Placement
from simulations.serving.arena import most_tokens
from simulations.serving.engine.hardware import Pair, bundled_pairs, find_pair, marginal_work_seconds
from simulations.serving.fleet.disaggregated import Link, disaggregated
from simulations.serving.fleet.observe import Monitor
from simulations.serving.fleet.placing import SharedFleet, uniform_fleet
from simulations.serving.fleet.served import Served
from simulations.serving.laws.base import Objective, Setting
from simulations.serving.laws.roles import OneObject, PairLaw, TwoObjects
from simulations.serving.loads.patterns import parse_pattern
from simulations.serving.loads.traces import Trace
from simulations.serving.suite.tables import markdown
from simulations.virtual_time import Engine

MODEL: Final = ("llama-3.1-8b", "L40S")
KV_BYTES_PER_TOKEN: Final = 131_072.0
"""Of Llama-3.1-8B in 16 bits: 32 layers, 8 heads of 128, keys and values."""
OBJECTIVE: Final = Objective(2.0, 0.1)
LOADS: Final = (
    "steady,rate=4,hours=1.5,lengths=swinging",
    "diurnal,rate=4,hours=1.5,lengths=swinging",
    "steady,rate=4,hours=1.5,lengths=flipping",
)
SCRAPE_SECONDS: Final = 15.0
TICK_SECONDS: Final = 15.0
MOST_REPLICAS: Final = 64
GOAL: Final = 0.10
_SETTLE_SECONDS: Final = 300.0
_BUSY: Final = 0.7
"""Of the replicas that all begin with."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Who scales the two roles."""

    title: str
    make: Callable[[Setting], PairLaw]


def prompt_seconds(pair: Pair) -> float:
    """GPU seconds of a prompt token in full chunks: what a user of the pair would measure and state."""
    return pair.speed.per_prompt_token_seconds + pair.speed.base_seconds / pair.speed.chunk_tokens


ONE: Final = Contender("one object, two roles", OneObject)
TWO: Final = Contender("two objects", TwoObjects)
STATED: Final = Contender(
    "two objects, price of a prompt stated", lambda setting: TwoObjects(setting, prompt_seconds(setting.pair))
)
CONTENDERS: Final = (TWO, STATED, ONE)


@dataclass(frozen=True, slots=True)
class Result:
    """One run."""

    attainment: float
    gpu_hours: tuple[float, float]
    """Of prefill, of decode."""
    late_first: float
    """Share of the requests."""
    late_between: float
    transfer_seconds: float
    """Of the keys and values of a request, waiting for the link included; the mean."""


def run(trace: Trace, contender: Contender, seed: int, *, cards: int, gigabytes_per_second: float) -> Result:
    """One contender on one load, where so many cards are to be had."""
    pair = find_pair(bundled_pairs(), *MODEL)
    engine = Engine()
    free = SharedFleet(uniform_fleet(pair.card, pair.card_vram_mib, cards, pair.cards)).cards_for(pair)

    def cold(role: str, order: int, _: Placement) -> float:
        return pair.cold_start_seconds(random.Random(f"{seed}/{role}/{order}"), new_image=False, new_node=False)

    served = Served(OBJECTIVE.ttft_seconds, OBJECTIVE.itl_seconds)
    link = Link(KV_BYTES_PER_TOKEN, gigabytes_per_second * 1e9)
    model = disaggregated(engine, pair, link, free, cold, served)
    law = contender.make(Setting(pair, OBJECTIVE, 1, MOST_REPLICAS, TICK_SECONDS, SCRAPE_SECONDS, 1, trace, free.room))
    law.watch(model.prefill, model.decode, seed)
    monitors = [Monitor(role, delay_seconds=0.0) for role in model.roles]
    for role, count in zip(model.roles, first_replicas(trace, pair), strict=True):
        role.start_ready(count)
    limit = most_tokens(pair)
    model.feed(trace.requests(limit))
    end = trace.span_seconds + _SETTLE_SECONDS

    def tick(count: int) -> None:
        wishes = law.wishes((monitors[0].view(), monitors[1].view()))
        for role, wish in zip(model.roles, wishes, strict=True):
            role.scale_to(min(max(wish, 1), MOST_REPLICAS))
        if (count + 1) * TICK_SECONDS <= end:
            engine.at((count + 1) * TICK_SECONDS, tick, count + 1)

    engine.at(0.0, tick, 0)
    engine.run(end)
    servable = max(trace.servable(limit), 1)
    return Result(
        served.met / servable,
        (model.prefill.gpu_seconds_until_now() / 3600, model.decode.gpu_seconds_until_now() / 3600),
        1 - sum(seconds <= OBJECTIVE.ttft_seconds for seconds in served.ttft) / servable,
        sum(seconds > OBJECTIVE.itl_seconds for seconds in served.inter_token) / servable,
        model.transfer_seconds / max(len(served.ttft), 1),
    )


def first_replicas(trace: Trace, pair: Pair) -> tuple[int, int]:
    """Of each role, what the first five minutes need; the same for every run."""
    speed, early = pair.speed, [request for request in trace.requests() if request.arrival < 300.0]
    each = speed.base_seconds / speed.chunk_tokens
    prompts = [speed.prompt_seconds(request.prompt_tokens) for request in early]
    prefill = sum(prompts) + each * sum(request.prompt_tokens for request in early)
    decode = sum(marginal_work_seconds(speed, request) for request in early) - sum(prompts)
    share = 1 - speed.base_seconds / OBJECTIVE.itl_seconds
    return max(math.ceil(prefill / 300 / _BUSY), 1), max(math.ceil(decode / 300 / share / _BUSY), 1)


HEAD: Final = (
    "load", "scaled by", "within objective", "worst seed", "first token late", "GPU hours", "prefill", "decode", "against two objects",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mean:
    """Of the seeds."""

    attainment: float
    worst: float
    late_first: float
    prefill: float
    decode: float

    @property
    def hours(self) -> float:
        return self.prefill + self.decode


def mean(results: Sequence[Result]) -> Mean:
    """Of runs of one contender on one load."""
    count = len(results)
    return Mean(
        sum(one.attainment for one in results) / count,
        min(one.attainment for one in results),
        sum(one.late_first for one in results) / count,
        sum(one.gpu_hours[0] for one in results) / count,
        sum(one.gpu_hours[1] for one in results) / count,
    )


def table(loads: Sequence[str], seeds: Sequence[int], cards: int, gigabytes_per_second: float) -> str:
    """The comparison, and whether the goal holds against each pair of objects."""
    rows, verdicts = [], []
    for load in loads:
        means = {}
        for contender in CONTENDERS:
            results = []
            for seed in seeds:
                trace = parse_pattern(f"pattern:{load}", seed)
                results.append(run(trace, contender, seed, cards=cards, gigabytes_per_second=gigabytes_per_second))
            means[contender.title] = mean(results)
        for title, one in means.items():
            rows.append(
                [
                    load, title, percent(one.attainment), percent(one.worst), percent(one.late_first), f"{one.hours:.2f}",
                    f"{one.prefill:.2f}", f"{one.decode:.2f}", f"{100 * (one.hours / means[TWO.title].hours - 1):+.1f} %",
                ]
            )  # fmt: skip
        verdicts += [verdict(load, means[ONE.title], title, means[title]) for title in (TWO.title, STATED.title)]
    return "\n".join([markdown(HEAD, rows), "", *verdicts])


def verdict(load: str, one: Mean, title: str, other: Mean) -> str:
    """Whether one object serves as many within the objective for at least a tenth fewer GPU hours.

    As many are those of the other, or what the objective asks for where the other does more than that.
    """
    same = one.attainment >= min(other.attainment, OBJECTIVE.share)
    less = 1 - one.hours / other.hours
    words = f"{100 * abs(less):.1f} % {'fewer' if less >= 0 else 'more'} GPU hours than {title}"
    served = f"{percent(one.attainment)} within the objective against {percent(other.attainment)}"
    return f"{load}: {words}, {served}; the goal is {'reached' if same and less >= GOAL else 'missed'}"


def percent(share: float) -> str:
    """For tables."""
    return f"{100 * share:.2f} %"


@click.command()
@click.option(
    "--load",
    "loads",
    multiple=True,
    help=f"PATTERN,rate=..,hours=..,lengths=.. of `simulate serving`.  [default: {'; '.join(LOADS)}]",
)
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(1, 100))
@click.option(
    "--cards",
    default=64,
    show_default=True,
    type=click.IntRange(2, 1000),
    help="L40S that are to be had, for both roles.",
)
@click.option(
    "--gigabytes-per-second",
    default=25.0,
    show_default=True,
    type=click.FloatRange(0.1, 1000),
    help="At which a prefill replica sends keys and values (25: a network card of 200 Gbit/s).",
)
def main(loads: tuple[str, ...], seeds: int, cards: int, gigabytes_per_second: float) -> None:
    """Prefill and decode of one model: one object with two roles against two objects."""
    click.echo(table(loads or LOADS, range(1, seeds + 1), cards, gigabytes_per_second))
