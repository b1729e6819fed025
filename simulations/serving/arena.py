"""The arena: models with their traces on one fleet, each under a law, in virtual time.

All laws meet the same requests, the same draws of cold start (by model, seed and order of the start), the same samples with the
same delay, the same bounds and the same placement. The clock runs until the last arrival plus a settling time; what is not
finished by then counts as missed.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from headroom.domain.model import GpuNode, Placement
from headroom.errors import HeadroomError
from simulations.serving.engine.hardware import Pair, marginal_work_seconds
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import Monitor
from simulations.serving.fleet.placing import PairCards, SharedFleet
from simulations.serving.fleet.routers import ROUTERS
from simulations.serving.fleet.served import Served
from simulations.serving.laws.base import Entry, Law, Objective, Parameters, Setting, Watching
from simulations.serving.laws.knowing import Static
from simulations.serving.loads.traces import Trace
from simulations.virtual_time import Engine


class ArenaError(HeadroomError):
    """A run that makes no sense; the text names the value."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One model, its load, and its bounds."""

    trace: Trace
    pair: Pair
    objective: Objective
    min_replicas: int = 1
    max_replicas: int = 64
    initial_replicas: int = 0
    """0: what the first five minutes of the trace need at 80 % busy; the same for every law."""

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.pair.model} ({self.trace.name})"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for all laws."""

    nodes: Sequence[GpuNode]
    policy: str = "headroom"
    scrape_seconds: float = 15.0
    delay_seconds: float = 5.0
    """From a scrape until a law sees it."""
    tick_seconds: float = 15.0
    settle_seconds: float = 300.0
    cold_nodes: bool = False
    router: str = "least-requests"
    """`random` (a Service), `least-requests` or `prefix-aware` (gateways)."""
    silent_share: float = 0.0
    """Of the pods, that never report a metric."""
    slow_every: int = 0
    """Every so manieth pod runs on a slower card; 0: none."""
    slow_factor: float = 1.0
    """How many times as long it takes for everything."""


@dataclass(slots=True)
class Sight:
    """State over time, one entry per scrape: for plots."""

    time: list[float] = field(default_factory=list)
    replicas: list[int] = field(default_factory=list)
    ready: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    inside: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Lane:
    """One workload at run time."""

    workload: Workload
    deployment: Deployment
    monitor: Monitor
    law: Law
    total: int
    """Requests that the model can serve."""
    unservable: int
    """Requests beyond the model's context or KV room: refused at the door."""
    moves: list[tuple[float, int, int]] = field(default_factory=list)
    """(time, from, to)."""
    sight: Sight = field(default_factory=Sight)


def initial_replicas(workload: Workload, seconds: float = 300.0) -> int:
    """Replicas that the first five minutes need at 80 % of what one can do within the objective, at least one."""
    speed = workload.pair.speed
    work = sum(
        marginal_work_seconds(speed, request) for request in workload.trace.requests() if request.arrival < seconds
    )
    share = 1 - speed.base_seconds / workload.objective.itl_seconds
    return min(max(math.ceil(work / seconds / share / 0.8), workload.min_replicas, 1), workload.max_replicas)


def check(workload: Workload) -> None:
    """Refuse an objective that an idle replica misses on a typical request. Raises ArenaError."""
    trace, pair, objective = workload.trace, workload.pair, workload.objective
    middle = sorted(trace.prompt_tokens)[len(trace) // 2]
    output = sorted(trace.output_tokens)[len(trace) // 2]
    ttft, itl = pair.idle_ttft_seconds(middle), pair.idle_itl_seconds(middle, output)
    if ttft > objective.ttft_seconds:
        raise ArenaError(
            f"objective ttft={objective.ttft_seconds:g}s cannot be met: {pair.name} needs {ttft:.3g} s for the trace's median prompt "
            f"of {middle} tokens when idle"
        )
    if itl > objective.itl_seconds:
        raise ArenaError(
            f"objective itl={objective.itl_seconds:g}s cannot be met: {pair.name} needs {itl:.3g} s per token when idle"
        )
    if not 0 <= workload.min_replicas <= workload.max_replicas or workload.max_replicas < 1:
        raise ArenaError(f"bounds {workload.min_replicas}..{workload.max_replicas} are not 0 <= min <= max, max >= 1")


def run(
    workloads: Sequence[Workload],
    entry: Entry,
    parameters: Parameters,
    conditions: Conditions,
    *,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> list[Lane]:
    """Run all workloads under one law. Returns the lanes at the end of the run."""
    engine = Engine()
    shared = SharedFleet(conditions.nodes, conditions.policy)
    lanes = [
        _lane(engine, shared, workload, entry, {**entry.defaults, **parameters}, conditions, seed)
        for workload in workloads
    ]
    end = max(workload.trace.span_seconds for workload in workloads) + conditions.settle_seconds
    for lane in lanes:
        lane.deployment.feed(lane.workload.trace.requests(most_tokens(lane.workload.pair)))
    _every(engine, conditions.scrape_seconds, lambda: _scrape(engine, lanes), end)
    _every(engine, conditions.tick_seconds, lambda: _tick(engine, lanes), end)
    if progress is not None:
        _every(engine, end / 20, lambda: progress(engine.now / end), end)
    engine.run(end)
    return lanes


def _lane(
    engine: Engine,
    shared: SharedFleet,
    workload: Workload,
    entry: Entry,
    parameters: Mapping[str, float],
    conditions: Conditions,
    seed: int,
) -> Lane:
    pair = workload.pair
    cards = shared.cards_for(pair)
    objective = workload.objective
    deployment = Deployment(
        engine,
        pair.speed,
        cards_per_replica=pair.cards,
        cards=cards,
        cold_start_seconds=_cold_start(pair, cards, workload.name, conditions, seed),
        router=ROUTERS[conditions.router](seed),
        served=Served(objective.ttft_seconds, objective.itl_seconds),
        slowness=lambda order: (
            conditions.slow_factor if conditions.slow_every and not order % conditions.slow_every else 1.0
        ),
    )
    initial = workload.initial_replicas or initial_replicas(workload)
    law = entry.make(
        Setting(
            pair=pair,
            objective=workload.objective,
            min_replicas=workload.min_replicas,
            max_replicas=workload.max_replicas,
            tick_seconds=conditions.tick_seconds,
            scrape_seconds=conditions.scrape_seconds,
            initial_replicas=initial,
            trace=workload.trace,
            room=cards.room,
        ),
        parameters,
    )

    def silent(order: int) -> bool:
        return (
            conditions.silent_share > 0 and random.Random(f"{seed}/silent/{order}").random() < conditions.silent_share
        )

    if isinstance(law, Watching):
        law.watch(deployment, seed, silent)
    deployment.start_ready(law.replicas if isinstance(law, Static) else initial)
    for pod in deployment.pods:
        if pod.placement is not None:
            cards.new_on(pod.placement.node)
    servable = workload.trace.servable(most_tokens(pair))
    monitor = Monitor(deployment, delay_seconds=conditions.delay_seconds, silent=silent)
    return Lane(workload, deployment, monitor, law, servable, len(workload.trace) - servable)


def most_tokens(pair: Pair) -> int:
    """Longest prompt plus output that a replica takes; longer requests are refused at the door."""
    return min(pair.context_tokens, pair.speed.kv_tokens)


def _cold_start(
    pair: Pair, cards: PairCards, name: str, conditions: Conditions, seed: int
) -> Callable[[int, Placement], float]:
    nodes_up: set[str] = set()

    def draw(order: int, placement: Placement) -> float:
        rng = random.Random(f"{seed}/{name}/{order}")
        new_image = cards.new_on(placement.node)
        new_node = conditions.cold_nodes and new_image and placement.node not in nodes_up
        nodes_up.add(placement.node)
        return pair.cold_start_seconds(rng, new_image=new_image, new_node=new_node)

    return draw


def _every(engine: Engine, seconds: float, action: Callable[[], None], end: float) -> None:
    def again(count: int) -> None:
        action()
        if (count + 1) * seconds <= end:
            engine.at((count + 1) * seconds, again, count + 1)

    engine.at(0.0, again, 0)


def _scrape(engine: Engine, lanes: list[Lane]) -> None:
    for lane in lanes:
        lane.monitor.scrape()
        sample, sight = lane.monitor.samples[-1], lane.sight
        sight.time.append(engine.now)
        sight.replicas.append(lane.deployment.replicas)
        sight.ready.append(len(lane.deployment.ready))
        sight.waiting.append(sample.held + sum(pod.waiting for pod in sample.pods))
        sight.inside.append(sample.inside)


def _tick(engine: Engine, lanes: list[Lane]) -> None:
    for lane in lanes:
        deployment, workload = lane.deployment, lane.workload
        wish = lane.law.wish(lane.monitor.view())
        wish = min(max(wish, workload.min_replicas), workload.max_replicas)
        before = deployment.replicas
        if wish != before:
            lane.moves.append((engine.now, before, wish))
            deployment.scale_to(wish)
    for lane in lanes:
        lane.deployment.place_pending()
