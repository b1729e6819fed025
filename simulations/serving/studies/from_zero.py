"""A model at zero replicas, and forty requests at once in the gateway before it: how many replicas wake, and when the first tokens come.

The gateway holds requests back as llm-d's flow control does: it gives one to the replica with the fewest, unless that one has five that
wait or a KV cache that is four fifths full. All laws read the same scrapes of it. Every start takes the pair's median time, so that
"one cold start" is one number; seeds draw the lengths of the requests and where in the intervals of scrapes and ticks they come.
"""

import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import click

from autoscaler.api.gateway import KNOWN, WAITING, GatewayWire, read_gateway
from autoscaler.law.inputs import Freshness, Observation, Reading
from autoscaler.law.spec import ScaleToZero
from autoscaler.observation.answers import Snapshot
from autoscaler.observation.series import Sample
from simulations.serving.engine.hardware import Pair, bundled_pairs, find_pair
from simulations.serving.engine.request import Request
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import Monitor, View
from simulations.serving.fleet.placing import SharedFleet, uniform_fleet
from simulations.serving.fleet.pods import Pod
from simulations.serving.laws.base import Objective, Parameters, Setting, Watching
from simulations.serving.laws.catalogue import LAWS
from simulations.serving.laws.headroom import EPOCH_SECONDS, HeadroomLaw
from simulations.serving.loads.lengths import LENGTHS
from simulations.serving.loads.traces import Trace
from simulations.serving.suite.tables import markdown
from simulations.virtual_time import Engine

REQUESTS: Final = 40
WITHIN_SECONDS: Final = 30.0
"""After one cold start: the goal."""
SCRAPE_SECONDS: Final = 15.0
TICK_SECONDS: Final = 15.0
DELAY_SECONDS: Final = 1.0
"""From a scrape until laws see it."""
MOST_REPLICAS: Final = 16
_QUEUE_AT_MOST: Final = 5
_KV_SHARE_AT_MOST: Final = 0.8
"""llm-d's saturation detector, by default."""
_LOOK_SECONDS: Final = 0.1
_SERVED_SECONDS: Final = 2400.0
_QUIET_SECONDS: Final = 2400.0
"""Of the law that has served before: so long a load, and so long none, in which it goes to zero."""
_OBJECTIVE: Final = Objective(2.0, 0.1)


class Gate(Deployment):
    """A deployment behind a gateway that holds back what its replicas have no room for."""

    def arrive(self, request: Request) -> None:
        """Queue it, and give out what there is room for."""
        self.served.arrived += 1
        self._count_inside(1)
        self.held.append(request)
        self._give_out()

    def _become_ready(self, pod: Pod) -> None:
        held, self.held = self.held, type(self.held)()
        super()._become_ready(pod)
        self.held = held
        # Replicas that become ready at once are all there when it looks again.
        self.engine.after(_LOOK_SECONDS, self._give_out)

    def _advance(self, pod: Pod) -> None:
        super()._advance(pod)
        self._give_out()

    def _give_out(self) -> None:
        while self.held and self.ready:
            pod = min(self.ready, key=lambda one: one.load)
            full = pod.replica.read(self.engine.now).kv_tokens > _KV_SHARE_AT_MOST * self.speed.kv_tokens
            if full or len(pod.replica.waiting) >= _QUEUE_AT_MOST:
                return
            request = self.held.popleft()
            request.sent = self.engine.now
            self._send(pod, request)


class BehindGateway(HeadroomLaw):
    """Headroom's law with `spec.gateway`: the gateway's queue is one more answer of Prometheus."""

    def __init__(self, setting: Setting, parameters: Parameters) -> None:
        super().__init__(setting, parameters)
        ask = read_gateway(GatewayWire(type="llm-d", pool="model"), self.target.namespace, _refused)
        zero = ScaleToZero(idle_seconds=600.0)
        self.target = replace(self.target, gateway=ask, spec=replace(self.target.spec, scale_to_zero=zero))

    def snapshot(self, view: View, pods: Snapshot) -> Snapshot:
        """With what the gateway's scrapes hold."""
        if (newest := view.latest) is not None:
            for name, value in ((WAITING, newest.held), (KNOWN, 1)):
                pods.custom[self.target.key, name] = Sample(newest.time + EPOCH_SECONDS, float(value))
        return pods

    def observe(self, view: View) -> Observation:
        """As the daemon has it: no activation query, the gateway."""
        return replace(super().observe(view), activation=None)


class Activated(HeadroomLaw):
    """Headroom's law with an `activationQuery` on the same queue, in place of the gateway."""

    def observe(self, view: View) -> Observation:
        """The query sees what is in the gateway, as of its last scrape."""
        held = view.latest.inside if view.latest is not None else 0
        return replace(super().observe(view), activation=Reading("router", Freshness.FRESH, float(held)))


class FromZero:
    """KEDA: at zero the operator writes one replica; from then on the HPA works on the same external metrics."""

    def __init__(self, law: Any) -> None:
        self._law = law

    def wish(self, view: View) -> int:
        """One decision."""
        if view.replicas:
            return int(self._law.wish(view))
        return int(view.latest is not None and view.latest.inside > 0)


@dataclass(frozen=True, slots=True)
class Contender:
    """A law in the comparison."""

    title: str
    make: Callable[[Setting], Any]
    has_served: bool = False
    """Whether it had a load and a quiet time before."""


def _keda(name: str) -> Callable[[Setting], Any]:
    return lambda setting: FromZero(LAWS[name].make(setting, LAWS[name].defaults))


CONTENDERS: Final = (
    Contender("Headroom, gateway, has served before", lambda setting: BehindGateway(setting, {}), has_served=True),
    Contender("Headroom, gateway, first request ever", lambda setting: BehindGateway(setting, {})),
    Contender("Headroom, activation query", lambda setting: Activated(setting, {}), has_served=True),
    Contender("KEDA on waiting requests", _keda("keda-queue")),
    Contender("KEDA on EPP metrics", _keda("keda-epp")),
)
LOADS: Final = (
    ("llama-3.1-8b", "L40S", "chat"),
    ("llama-3.1-8b", "L40S", "agents"),
    ("llama-3.1-8b", "L40S", "documents"),
)
"""Model, card, lengths of the requests."""


@dataclass(frozen=True, slots=True)
class Result:
    """One run. Seconds count from the first request, less one cold start."""

    woken: int
    """Replicas of the first move."""
    most: int
    """Replicas at most until the last first token."""
    first_seconds: float
    last_seconds: float
    share: float
    """Of the forty, whose first token came within the goal."""


def right_number(pair: Pair, lengths: str, seed: int) -> int:
    """The fewest replicas, started with the first request, that give all forty their first token within the goal."""
    for count in range(1, MOST_REPLICAS):
        if _measure(pair, burst(lengths, seed), partial(_Fixed, count), False, seed, at_once=True).share == 1.0:
            return count
    return MOST_REPLICAS


class _Fixed:
    def __init__(self, count: int, _: Setting) -> None:
        self._count = count

    def wish(self, _: View) -> int:
        return self._count


def burst(lengths: str, seed: int) -> list[tuple[int, int]]:
    """(prompt tokens, output tokens) of the forty."""
    rng = random.Random(f"{seed}/burst/{lengths}")
    return [LENGTHS[lengths](rng, 0.0) for _ in range(REQUESTS)]


def run(pair: Pair, lengths: str, contender: Contender, seed: int) -> Result:
    """One contender on one load."""
    return _measure(pair, burst(lengths, seed), contender.make, contender.has_served, seed, lengths=lengths)


def _measure(
    pair: Pair,
    requests: Sequence[tuple[int, int]],
    make: Callable[[Setting], Any],
    has_served: bool,
    seed: int,
    *,
    lengths: str = "chat",
    at_once: bool = False,
) -> Result:
    engine = Engine()
    shared = SharedFleet(uniform_fleet(pair.card, pair.card_vram_mib, 2, MOST_REPLICAS // 2 * pair.cards))
    cards = shared.cards_for(pair)
    cold = pair.median_start_seconds
    gate = Gate(
        engine,
        pair.speed,
        cards_per_replica=pair.cards,
        cards=cards,
        cold_start_seconds=lambda _order, _placement: cold,
    )
    law = make(Setting(pair, _OBJECTIVE, 0, MOST_REPLICAS, TICK_SECONDS, SCRAPE_SECONDS, 0, _NOTHING, cards.room))
    if isinstance(law, Watching):
        law.watch(gate, seed, lambda _order: False)
    monitor = Monitor(gate, delay_seconds=DELAY_SECONDS)
    begin = 0.0
    if has_served:
        begin = _SERVED_SECONDS + _QUIET_SECONDS
        gate.start_ready(2)
        gate.feed(_usual(pair, lengths, seed))
    rng = random.Random(f"{seed}/phase")
    begin += SCRAPE_SECONDS + rng.random() * 240
    forty = [Request(begin + 0.02 * at, *tokens) for at, tokens in enumerate(requests)]
    moves: list[tuple[float, int, int]] = []

    def tick() -> None:
        before, wish = gate.replicas, min(max(law.wish(monitor.view()), 0), MOST_REPLICAS)
        if wish != before:
            moves.append((engine.now, before, wish))
            gate.scale_to(wish)
        gate.place_pending()

    end = begin + cold + 900.0
    _every(engine, SCRAPE_SECONDS, rng.random() * SCRAPE_SECONDS, monitor.scrape, end)
    if at_once:
        engine.at(begin, tick)
    else:
        _every(engine, TICK_SECONDS, rng.random() * TICK_SECONDS, tick, end)
    engine.at(begin, lambda: gate.feed(forty))
    engine.run(end)
    first = sorted(request.first_token - begin - cold for request in forty)
    woken = next((after for at, before, after in moves if at >= begin and before == 0), 0)
    until = begin + cold + first[-1]
    most = max((after for at, _, after in moves if begin <= at <= until), default=0)
    share = sum(seconds <= WITHIN_SECONDS for seconds in first) / len(first)
    return Result(woken, most, first[0], first[-1], share)


def _usual(pair: Pair, lengths: str, seed: int) -> Sequence[Request]:
    """A load of about one replica and a half, before the quiet time."""
    rng = random.Random(f"{seed}/usual/{lengths}")
    drawn = [LENGTHS[lengths](rng, 0.0) for _ in range(400)]
    speed = pair.speed
    work = sum(
        speed.prompt_seconds(p) + o * (speed.base_seconds / 32 + speed.per_sequence_seconds) for p, o in drawn
    ) / len(drawn)
    found, time = [], 0.0
    while (time := time + rng.expovariate(1.2 / work)) < _SERVED_SECONDS:
        found.append(Request(time, *LENGTHS[lengths](rng, time)))
    return found


_NOTHING: Final = Trace("nothing", array("d", [0.0]), array("l", [1]), array("l", [1]))


def _every(engine: Engine, seconds: float, first: float, action: Callable[[], None], end: float) -> None:
    def again(count: int) -> None:
        action()
        if (due := first + (count + 1) * seconds) <= end:
            engine.at(due, again, count + 1)

    engine.at(first, again, 0)


def _refused(field: str, value: object, fault: str) -> Exception:
    return AssertionError(f"{field}: {value!r} {fault}")


HEAD: Final = (
    "load", "law", "right number", "woken at once", "most", "first token of the first", "of the last of 40", "of 40 within the goal",
)  # fmt: skip


def table(loads: Sequence[tuple[str, str, str]], seeds: Sequence[int]) -> str:
    """The comparison; seconds are the worst of the seeds, after one cold start."""
    pairs, rows = bundled_pairs(), []
    holds: list[str] = []
    for model, card, lengths in loads:
        pair = find_pair(pairs, model, card)
        right = [right_number(pair, lengths, seed) for seed in seeds]
        for contender in CONTENDERS:
            results = [run(pair, lengths, contender, seed) for seed in seeds]
            share = sum(result.share for result in results) / len(results)
            rows.append(
                [
                    f"{lengths}, {pair.name}", contender.title, _span(right), _span([r.woken for r in results]),
                    _span([r.most for r in results]), f"{max(r.first_seconds for r in results):+.1f} s",
                    f"{max(r.last_seconds for r in results):+.1f} s", f"{100 * share:.1f} %",
                ]
            )  # fmt: skip
            if contender is CONTENDERS[0]:
                enough = sum(r.woken >= n for r, n in zip(results, right, strict=True))
                first = sum(r.first_seconds <= WITHIN_SECONDS for r in results)
                every = sum(r.share == 1.0 for r in results)
                holds.append(
                    f"{lengths}: the right number or more at once in {enough} of {len(seeds)} runs; first token within the goal in {first};"
                    f" all {REQUESTS} first tokens in {every}"
                )
    return "\n".join([markdown(HEAD, rows), "", *holds])


def _span(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


@click.command()
@click.option(
    "--seeds", default=10, show_default=True, type=click.IntRange(1, 1000), help="Draws of lengths and of the moment."
)
def main(seeds: int) -> None:
    """Forty requests in the gateway's queue of a model at zero: who wakes how many, and when the first tokens come."""
    click.echo(table(LOADS, range(1, seeds + 1)))
