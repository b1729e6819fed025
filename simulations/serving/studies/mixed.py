"""One model on several kinds of card behind one router: the fleet, and Headroom's law with the cheapest mix behind it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from autoscaler.law.decide import TargetState, decide
from autoscaler.law.inputs import Capacity, Observation, PodFacts
from autoscaler.law.sizing import mix, worth
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
        """Requests for the room in its KV cache, as a gateway sees it that spreads by queue and share of the KV cache.

        What a replica does in a second is another number: a fast one has done with a request sooner.
        """
        return (pod.load + 1) / pod.replica.speed.kv_tokens

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
    """`decide` on the whole fleet, asked once in replicas of each kind, and `mix.step` behind it.

    Tokens are the same on every card: their rates are those of all pods, their price is that of the kind in whose replicas is asked. What
    a replica of another kind is worth follows from the price of a request on either, as learned from the pods of each.
    """

    def __init__(self, setting: Setting, kinds: Sequence[Kind]) -> None:
        super().__init__(setting, {})
        self._kinds = kinds
        self._of = [Lessons() for _ in kinds]
        self._worth_of = tuple(kind.capacity for kind in kinds)
        self._states = [TargetState() for _ in kinds]
        self._asked = [0 for _ in kinds]

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
        lengths = self.lessons.lengths
        self._worth_of = worth.learned(self._worth_of, costs, lengths.prompt, lengths.output)
        facts = pods.facts(everyone, wall, self._started)
        self._started = pods.started(everyone, self._started)
        variants = self._variants(fleet)
        wanted = [
            self._wanted(at, variants, observer, facts, worth.price_on(at, self._worth_of, costs), view.now)
            for at in range(len(variants))
        ]
        # What is wanted, not how far the rates let it go now: on the way from one mix to another both are there.
        return mix.step(variants, mix.Need(float(wanted[0]), tuple(wanted)))

    def _wanted(
        self,
        unit: int,
        variants: Sequence[mix.Variant],
        observer: Observer,
        facts: PodFacts,
        cost: Cost | None,
        now: float,
    ) -> int:
        """What the law wants of the whole fleet, asked in replicas of one kind.

        It goes on from what it wanted before, not from what is there: in replicas of this kind that is no whole number, and it changes
        with every exchange and with what the kinds are worth. Rounded, it would be more or less than the law asked for, and steps up and
        the band in which nothing changes start from it.
        """
        times = [variant.capacity / variants[unit].capacity for variant in variants]
        there = sum(v.replicas * n for v, n in zip(variants, times, strict=True))
        replicas = self._asked[unit] or worth.whole(there)
        share = sum(v.ready * n for v, n in zip(variants, times, strict=True)) / max(there, 1e-9)
        ready = worth.whole(replicas * share)
        room = sum((v.room or 0) * n for v, n in zip(variants, times, strict=True))
        observation = Observation(
            replicas=replicas,
            pods=worth.in_units(facts, replicas, ready),
            readings=observer.readings(),
            work=observer.work(self.lessons, cost),
            utilisation=observer.utilisation(),
            capacity=Capacity(math.floor(room)),
        )
        decision = decide(self.target.spec, self._states[unit], observation, now, self.law)
        self._states[unit] = decision.state
        self._asked[unit] = decision.wanted
        return decision.wanted

    def _variants(self, fleet: MixedFleet) -> list[mix.Variant]:
        now = fleet.engine.now
        found = []
        for at, (kind, count) in enumerate(zip(self._kinds, fleet.counts(), strict=True)):
            late = [pod for pod in fleet.of(at, Phase.PENDING) if now - pod.created > _SETTLED_SECONDS]
            room = kind.cards.room(self.setting.max_replicas)
            ready = len(fleet.of(at, Phase.READY))
            found.append(mix.Variant(kind.price, self._worth_of[at], count, ready, room, missing=len(late)))
        return found
