"""One model on several kinds of card behind one router: the fleet, and Headroom's law with the cheapest mix behind it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from autoscaler.law.decide import decide
from autoscaler.law.inputs import Capacity, Observation, PodFacts
from autoscaler.law.sizing import mix
from autoscaler.law.sizing.prices import Cost
from autoscaler.observation.cluster import pods
from autoscaler.observation.lessons import Lessons, engine_costs
from autoscaler.observation.observer import Observer
from headroom.domain.model import Placement
from simulations.serving.engine.hardware import Pair
from simulations.serving.fleet.deployment import Deployment
from simulations.serving.fleet.observe import View
from simulations.serving.fleet.placing import PairCards
from simulations.serving.fleet.pods import Phase, Pod
from simulations.serving.fleet.served import Served
from simulations.serving.laws.base import Setting
from simulations.serving.laws.headroom import EPOCH_SECONDS, HeadroomLaw, pod_key, pod_view
from simulations.virtual_time import Engine

_SLOWLY: Final = 0.025
"""Of what is learned newly of a kind's worth, a tick: a mean of ten minutes. A mix that follows noise starts replicas for nothing."""
_SETTLED_SECONDS: Final = 120.0
"""A pod without cards for so long: the card is not to be had."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One variant: the model on a card, its price, and what its user knows of its speed."""

    pair: Pair
    price: float
    """Of a replica in an hour."""
    capacity: float
    """Stated, as a multiple of the first variant; what is learned replaces it."""
    cards: PairCards


class MixedFleet(Deployment):
    """Replicas of several kinds behind one router. Counts are one for each kind."""

    def __init__(
        self,
        engine: Engine,
        kinds: Sequence[Kind],
        cold_start_seconds: Callable[[int, Placement], float],
        served: Served,
    ) -> None:
        first = kinds[0]
        super().__init__(
            engine,
            first.pair.speed,
            cards_per_replica=1,
            cards=first.cards,
            cold_start_seconds=cold_start_seconds,
            served=served,
        )
        self.kinds = kinds
        self.router = lambda ready, _request: min(ready, key=self._fullness)
        self._kind_of: dict[int, int] = {}
        self.spent = 0.0
        """Money, up to the last change."""
        self._price_now = 0.0
        self._spent_until = 0.0

    def _fullness(self, pod: Pod) -> float:
        """Requests for what it can do, as a gateway sees it that spreads by queue and share of the KV cache."""
        return (pod.load + 1) / self.kinds[self._kind_of[pod.order]].capacity

    def kind_of(self, pod: Pod) -> int:
        """Which kind it is."""
        return self._kind_of[pod.order]

    def of(self, kind: int, *phases: Phase) -> list[Pod]:
        """Its pods that are in one of the phases."""
        return [pod for pod in self.pods if self._kind_of[pod.order] == kind and pod.phase in phases]

    def counts(self) -> tuple[int, ...]:
        """Replicas asked for."""
        return tuple(len(self.of(at, Phase.PENDING, Phase.STARTING, Phase.READY)) for at in range(len(self.kinds)))

    def scale(self, counts: Sequence[int], *, warm: bool = False) -> None:
        """Create or remove replicas of each kind, those that are not ready and have fewest requests first."""
        for at, (before, wanted) in enumerate(zip(self.counts(), counts, strict=True)):
            for _ in range(wanted - before):
                self._starts += 1
                pod = Pod(self._starts, self.engine.now, self.kinds[at].pair.speed, self._histograms())
                self._kind_of[pod.order] = at
                self.pods.append(pod)
                if warm and self._place(pod):
                    self._become_ready(pod)
            kept = self.of(at, Phase.PENDING, Phase.STARTING, Phase.READY)
            kept.sort(key=lambda pod: (pod.phase, pod.load, -pod.order))
            for pod in kept[: max(before - wanted, 0)]:
                self._drain(pod)
        self.place_pending()

    def place_pending(self) -> None:
        """Each kind asks for cards by itself."""
        full: set[int] = set()
        for pod in self.pods:
            kind = self._kind_of[pod.order]
            if pod.phase is not Phase.PENDING or kind in full:
                continue
            if not self._place(pod):
                full.add(kind)
                continue
            self.cold_starts += 1
            assert pod.placement is not None
            self.engine.after(self.cold_start_seconds(pod.order, pod.placement), self._started, pod)

    def _place(self, pod: Pod) -> bool:
        kind = self.kinds[self._kind_of[pod.order]]
        self.cards = kind.cards
        if not super()._place(pod):
            return False
        self._pay(kind.price)
        return True

    def _remove(self, pod: Pod) -> None:
        kind = self.kinds[self._kind_of[pod.order]]
        self.cards = kind.cards
        super()._remove(pod)
        if pod.placement is not None:
            self._pay(-kind.price)

    def _pay(self, change: float) -> None:
        self.spent = self.spent_until_now()
        self._spent_until = self.engine.now
        self._price_now += change

    def spent_until_now(self) -> float:
        """Money for the cards held, from placement to the end of the drain."""
        return self.spent + self._price_now * (self.engine.now - self._spent_until) / 3600


class MixingLaw(HeadroomLaw):
    """`decide` on the whole fleet in units of the first kind, and `mix.step` behind it.

    Tokens are the same on every card: their rates are those of all pods, their price is that of the first kind. What a replica of another
    kind is worth follows from the price of a request on either, as learned from the pods of each.
    """

    def __init__(self, setting: Setting, kinds: Sequence[Kind]) -> None:
        super().__init__(setting, {})
        self._kinds = kinds
        self._of = [Lessons() for _ in kinds]
        self._worth_of = [kind.capacity for kind in kinds]

    def counts(self, view: View, fleet: MixedFleet) -> tuple[int, ...]:
        """One decision."""
        assert self._scrapes is not None, "nothing is watched"
        wall = view.now + EPOCH_SECONDS
        snapshot = self._scrapes.snapshot(wall, self._windows, pod_key)
        costs = []
        for at in range(len(self._kinds)):
            own = [pod_view(pod) for pod in fleet.pods if fleet.kind_of(pod) == at]
            self._of[at] = Observer(self.target, own, snapshot, wall, self._observing).learn(self._of[at], self.costs)
            costs.append(engine_costs(self.target, self._of[at], self.costs))
        everyone = [pod_view(pod) for pod in fleet.pods]
        observer = Observer(self.target, everyone, snapshot, wall, self._observing)
        self.lessons = observer.learn(self.lessons, self.costs)
        capacity, cost = self._worth(costs)
        facts = pods.facts(everyone, wall, self._started)
        self._started = pods.started(everyone, self._started)
        variants = self._variants(fleet, capacity)
        replicas = _whole(sum(v.replicas * v.capacity for v in variants))
        room = sum((v.room or 0) * v.capacity for v in variants)
        observation = Observation(
            replicas=replicas,
            pods=_in_units(facts, replicas, _whole(sum(v.ready * v.capacity for v in variants))),
            readings=observer.readings(),
            work=observer.work(self.lessons, cost),
            utilisation=observer.utilisation(),
            capacity=Capacity(math.floor(room)),
        )
        decision = decide(self.target.spec, self.state, observation, view.now, self.law)
        self.state = decision.state
        # What is wanted, not how far the rates let it go now: on the way from one mix to another both are there.
        return mix.step(variants, float(decision.wanted))

    def _worth(self, costs: Sequence[Cost | None]) -> tuple[list[float], Cost | None]:
        """What a replica of each kind is worth, and the price of a token on the first: learned, else as stated."""
        lengths = self.lessons.lengths
        seconds = [cost.of_request(lengths.prompt, lengths.output) if cost is not None else 0.0 for cost in costs]
        for at, own in enumerate(seconds):
            if own > 0 and seconds[0] > 0:
                self._worth_of[at] += _SLOWLY * (seconds[0] / own - self._worth_of[at])
        worth = list(self._worth_of)
        for cost, kind in zip(costs, self._kinds, strict=True):
            if cost is not None:
                slower = kind.capacity if cost is not costs[0] else 1.0
                return worth, cost._replace(
                    per_prompt_token=cost.per_prompt_token * slower, per_output_token=cost.per_output_token * slower
                )
        return worth, None

    def _variants(self, fleet: MixedFleet, capacity: Sequence[float]) -> list[mix.Variant]:
        now = fleet.engine.now
        found = []
        for at, (kind, count) in enumerate(zip(self._kinds, fleet.counts(), strict=True)):
            late = [pod for pod in fleet.of(at, Phase.PENDING) if now - pod.created > _SETTLED_SECONDS]
            room = kind.cards.room(self.setting.max_replicas)
            ready = len(fleet.of(at, Phase.READY))
            found.append(mix.Variant(kind.price, capacity[at], count, ready, room, missing=len(late)))
        return found


def _whole(units: float) -> int:
    return max(math.floor(units + 0.01), 1)


def _in_units(facts: PodFacts, replicas: int, ready: int) -> PodFacts:
    """The pods as so many replicas of the first kind."""
    ready = min(ready, replicas) if facts.ready else 0
    ages = facts.starting or facts.unschedulable or (0.0,)
    starting = tuple(ages[at % len(ages)] for at in range(replicas - ready))
    return replace(facts, ready=ready, starting=starting, unschedulable=())
