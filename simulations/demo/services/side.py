"""Second chapter of the demo: twelve services under load, on Headroom or on whole cards with an HPA, in virtual time.

Both sides meet the same requests, the same draws of cold start and the same metric delay. They differ in who gives cards to
replicas (`supply`) and in the law that wants replicas. Replicas that share a card share its compute: each is slowed by the
share of time its neighbours kept the card busy in the last tick (time-slicing gives equal turns to whoever has work).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from headroom.domain.model import GpuNode, Placement
from simulations.demo.services.record import ServiceRecord, Share, SideRecord, Track
from simulations.demo.services.scenario import SERVICES, Service, pair_of, promise_of, start_rng, trace_of, what_of
from simulations.embedded.store import CardRef
from simulations.serving.arena import Workload, initial_replicas
from simulations.serving.engine.hardware import Pair
from simulations.serving.engine.replica import Speed
from simulations.serving.engine.request import Request
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import Monitor
from simulations.serving.fleet.pods import Phase, Pod
from simulations.serving.fleet.served import Served
from simulations.serving.laws.base import Entry, Law, Parameters, Setting, Watching
from simulations.virtual_time import Engine

TICK_SECONDS: Final = 15.0
METRIC_DELAY_SECONDS: Final = 5.0
_SETTLE_SECONDS: Final = 120.0
_LATENCY_WINDOW_SECONDS: Final = 60.0
_SLOWDOWN_STEP: Final = 0.05
_SHARE_OF_TURNS: Final = 1.06


class Door:
    """Through which one service's replicas get the cards that the supply found for them."""

    def __init__(self, give: Callable[[Placement], None]) -> None:
        self.bound: list[Placement] = []
        self._give = give

    def take(self) -> Placement | None:
        """See `deployment.Cards`."""
        return self.bound.pop(0) if self.bound else None

    def give(self, placement: Placement) -> None:
        """See `deployment.Cards`."""
        self._give(placement)


@dataclass(slots=True)
class Lane:
    """One service at run time."""

    index: int
    service: Service
    pair: Pair
    requests: list[Request]
    deployment: Deployment
    door: Door
    monitor: Monitor
    law: Law
    initial: int
    """Replicas that are warm at the start: what the first five minutes need; the same on both sides."""
    track: Track = field(default_factory=Track)
    room: int = 0
    """How many more replicas the supply can hold, as it said last."""
    arrived_before: int = 0
    busy: dict[int, float] = field(default_factory=dict)
    """Busy seconds by order of the pod, as of the last tick."""
    nodes_seen: set[str] = field(default_factory=set)


class Supply(Protocol):
    """Who gives cards to replicas."""

    name: str
    whole: bool
    """Whether a replica has its cards for itself."""

    async def find(self, lane: Lane, wanted: int, now: float) -> None:
        """See to it that `wanted` replicas wait for cards, and put the cards that were found into `lane.door.bound`."""
        ...

    def release(self, lane: Lane, placement: Placement) -> None:
        """A replica has ended."""
        ...

    async def room(self, lane: Lane) -> int:
        """How many more replicas fit now."""
        ...

    def pod_name(self, placement: Placement) -> str:
        """What the fleet map calls the holder of a placement."""
        ...


class Side:
    """One run of the scenario."""

    def __init__(
        self,
        nodes: Sequence[GpuNode],
        supply: Supply,
        entry: Entry,
        parameters: Mapping[str, Parameters],
        *,
        seed: int,
        hours: float,
    ) -> None:
        """`parameters` of the law by service; where there are none its defaults hold."""
        self.nodes = list(nodes)
        self.supply = supply
        self.seed = seed
        self.engine = Engine()
        self.shares: list[Share] = []
        self.times: list[float] = []
        self.busy: dict[CardRef, list[float]] = {(node.name, card.index): [] for node in nodes for card in node.cards}
        """Share of each tick that a card ran kernels."""
        self.held: dict[CardRef, list[bool]] = {ref: [] for ref in self.busy}
        self._open: dict[int, list[Share]] = {}
        self.end = hours * 3600 + _SETTLE_SECONDS
        self.lanes = [
            self._lane(index, service, entry, {**entry.defaults, **parameters.get(service.name, {})}, hours)
            for index, service in enumerate(SERVICES)
        ]

    def _lane(self, index: int, service: Service, entry: Entry, parameters: Parameters, hours: float) -> Lane:
        pair = pair_of(service, whole=self.supply.whole)
        trace = trace_of(service, self.seed, hours)
        door = Door(lambda placement: self._given(index, placement))
        deployment = Deployment(
            self.engine,
            pair.speed,
            cards_per_replica=pair.cards,
            cards=door,
            cold_start_seconds=lambda order, placement: self._cold_start(index, order, placement),
            served=Served(service.objective.ttft_seconds, service.objective.itl_seconds),
        )
        initial = initial_replicas(
            Workload(trace, pair_of(service, whole=True), service.objective, service.min_replicas, service.max_replicas)
        )
        setting = Setting(
            pair=pair,
            objective=service.objective,
            min_replicas=service.min_replicas,
            max_replicas=service.max_replicas,
            tick_seconds=TICK_SECONDS,
            scrape_seconds=TICK_SECONDS,
            initial_replicas=initial,
            trace=trace,
            room=lambda limit: min(limit, self.lanes[index].room),
        )
        monitor = Monitor(deployment, delay_seconds=METRIC_DELAY_SECONDS)
        law = entry.make(setting, parameters)
        if isinstance(law, Watching):
            law.watch(deployment, self.seed, lambda order: False)
        return Lane(index, service, pair, list(trace.requests()), deployment, door, monitor, law, initial)

    def _cold_start(self, index: int, order: int, placement: Placement) -> float:
        lane = self.lanes[index]
        new_image = placement.node not in lane.nodes_seen
        lane.nodes_seen.add(placement.node)
        return lane.pair.cold_start_seconds(
            start_rng(self.seed, lane.service, order), new_image=new_image, new_node=False
        )

    def _given(self, index: int, placement: Placement) -> None:
        for share in self._open.pop(id(placement), ()):
            share.end = self.engine.now
        self.supply.release(self.lanes[index], placement)

    def record(self, title: str) -> SideRecord:
        """The finished run as plain values."""
        services = []
        for lane in self.lanes:
            met, requests = attainment(lane)
            services.append(
                ServiceRecord(
                    name=lane.service.name,
                    model=lane.service.model,
                    what=what_of(lane.service),
                    promise=promise_of(lane.service),
                    ttft_seconds=lane.service.objective.ttft_seconds,
                    track=lane.track,
                    met=met,
                    requests=requests,
                    starts=lane.deployment.cold_starts,
                )
            )
        return SideRecord(
            title, self.nodes, TICK_SECONDS, self.end, self.times, self.shares, self.held, self.busy, services
        )

    def open_shares(self) -> list[Share]:
        """Who holds what now."""
        return [share for shares in self._open.values() for share in shares]

    async def run(self, progress: Callable[["Side", float], None]) -> None:
        """From the warm start to the settling time after the last request."""
        for lane in self.lanes:
            await self.supply.find(lane, lane.initial, 0.0)
            self._note_found(lane, warm=True)
            lane.deployment.start_ready(lane.initial)
            lane.deployment.feed(lane.requests)
        tick = 0
        while self.engine.now < self.end:
            tick += 1
            self.engine.run(min(tick * TICK_SECONDS, self.end))
            self._measure()
            for lane in self.lanes:
                await self._decide(lane)
            progress(self, min(self.engine.now / self.end, 1.0))

    async def _decide(self, lane: Lane) -> None:
        lane.room = await self.supply.room(lane)
        wish = lane.law.wish(lane.monitor.view())
        wish = max(lane.service.min_replicas, min(wish, lane.service.max_replicas))
        if wish != lane.deployment.replicas:
            lane.deployment.scale_to(wish)
        await self.supply.find(lane, lane.deployment.count(Phase.PENDING), self.engine.now)
        self._note_found(lane)
        lane.deployment.place_pending()

    def _note_found(self, lane: Lane, *, warm: bool = False) -> None:
        for placement in lane.door.bound:
            if id(placement) in self._open:
                continue
            name = self.supply.pod_name(placement)
            shares = [
                Share(lane.index, name, (placement.node, card), mib, self.engine.now, ready=0.0 if warm else None)
                for card, mib in zip(placement.cards, placement.share_mib, strict=True)
            ]
            self.shares += shares
            self._open[id(placement)] = shares
            lane.nodes_seen |= {placement.node} if warm else set()

    # --- what happened in the tick ---------------------------------------------------------------------------------------

    def _measure(self) -> None:
        now = self.engine.now
        self.times.append(now)
        busy_of: dict[CardRef, list[tuple[Pod, float]]] = {}
        for lane in self.lanes:
            lane.monitor.scrape()
            self._record(lane, now)
            for pod in lane.deployment.pods:
                if pod.placement is None or pod.phase < Phase.READY:
                    continue
                for share in self._open.get(id(pod.placement), ()):
                    share.ready = pod.ready_at if share.ready is None else share.ready
                total = pod.replica.read(now).busy_seconds
                share_busy = (total - lane.busy.get(pod.order, 0.0)) / TICK_SECONDS
                lane.busy[pod.order] = total
                for card in pod.placement.cards:
                    busy_of.setdefault((pod.placement.node, card), []).append((pod, min(max(share_busy, 0.0), 1.0)))
        holders = {share.card for share in self.open_shares()}
        for ref, series in self.busy.items():
            pods = busy_of.get(ref, [])
            series.append(min(sum(busy / slowdown(pod, pods) for pod, busy in pods), 1.0))
            self.held[ref].append(ref in holders)
        for pods in busy_of.values():
            if len(pods) > 1:
                for pod, _ in pods:
                    pod.replica.speed = self._slowed(pod, slowdown(pod, pods))
            elif not self.supply.whole:
                pod = pods[0][0]
                pod.replica.speed = self._slowed(pod, 1.0)

    def _slowed(self, pod: Pod, factor: float) -> Speed:
        lane = next(lane for lane in self.lanes if pod in lane.deployment.pods)
        speed, factor = lane.pair.speed, round(factor / _SLOWDOWN_STEP) * _SLOWDOWN_STEP
        if abs(factor - 1) < _SLOWDOWN_STEP / 2:
            return speed
        return speed.slower(factor)

    def _record(self, lane: Lane, now: float) -> None:
        deployment, track = lane.deployment, lane.track
        arrived = deployment.served.arrived
        track.demand.append((arrived - lane.arrived_before) / TICK_SECONDS)
        lane.arrived_before = arrived
        track.replicas.append(deployment.replicas)
        track.ready.append(len(deployment.ready))
        track.queue.append(len(deployment.held) + sum(len(pod.replica.waiting) for pod in deployment.pods))
        track.ttft.append(lane.monitor.newest().ttft_quantile(0.95, _LATENCY_WINDOW_SECONDS))


def slowdown(pod: Pod, pods: Iterable[tuple[Pod, float]]) -> float:
    """How many times longer everything takes a replica: once, plus its neighbours' busy shares and what switching costs.

    Measured on one H200 (2026-11-27): two, three and four engines that never pause take 2.10, 3.15 and 4.19 times as long each.
    """
    return 1.0 + _SHARE_OF_TURNS * sum(busy for other, busy in pods if other is not pod)


def attainment(lane: Lane) -> tuple[int, int]:
    """(requests that met both objectives, requests); what did not finish in time counts as missed."""
    return lane.deployment.served.met, len(lane.requests)
