"""The replicas of one model: cold starts, cards, routing, draining, and the record of what was held when.

Cards are held, and GPU seconds counted, from placement to the end of the drain.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from headroom.domain.model import Placement
from simulations.serving.engine.exports import Histograms
from simulations.serving.engine.replica import Speed
from simulations.serving.engine.request import Request
from simulations.serving.fleet.pods import Phase, Pod
from simulations.serving.fleet.routers import Router, least_requests
from simulations.serving.fleet.served import Served
from simulations.virtual_time import Engine


class Cards(Protocol):
    """Where replicas get their cards."""

    def take(self) -> Placement | None:
        """Cards for one more replica, or None when the fleet cannot hold it now."""

    def give(self, placement: Placement) -> None:
        """The cards back."""


class Deployment:
    """Replicas of one model behind a router; requests that find none ready are held there."""

    def __init__(
        self,
        engine: Engine,
        speed: Speed,
        *,
        cards_per_replica: int,
        cards: Cards,
        cold_start_seconds: Callable[[int, Placement], float],
        router: Router | None = None,
        served: Served | None = None,
        slowness: Callable[[int], float] = lambda order: 1.0,
    ) -> None:
        self.engine = engine
        self.speed = speed
        self.router = router or least_requests(0)
        self.served = served or Served()
        self.slowness = slowness
        """Order of the start -> how many times as long as the others this replica takes for everything (another card)."""
        self.observed = False
        """Whether replicas fill histograms, for who reads them."""
        self.on_ready: Callable[[Pod], None] = lambda pod: None
        self.cards_per_replica = cards_per_replica
        self.cards = cards
        self.cold_start_seconds = cold_start_seconds
        """(order of the start, placement) -> seconds until ready."""
        self.pods: list[Pod] = []
        """Pods that are not gone."""
        self.ready: list[Pod] = []
        self.held: deque[Request] = deque()
        self.rejected_count = 0
        self.gpu_seconds = 0.0
        self.cold_starts = 0
        self._starts = 0
        self._counted_until = 0.0
        self._cards_held = 0
        self.inside = 0
        self.request_seconds = 0.0
        """Integral over time of the requests inside (held, waiting, running)."""
        self._inside_until = 0.0

    # --- requests -------------------------------------------------------------------------------------------------------

    def arrive(self, request: Request) -> None:
        """Route a request; one that no replica could ever hold is rejected and counted."""
        if request.prompt_tokens + request.output_tokens > self.speed.kv_tokens:
            self.rejected_count += 1
            return
        self.served.arrived += 1
        self._count_inside(1)
        if self.ready:
            self._send(self.router(self.ready, request), request)
        else:
            self.held.append(request)

    def _count_inside(self, change: int) -> None:
        now = self.engine.now
        self.request_seconds += self.inside * (now - self._inside_until)
        self._inside_until = now
        self.inside += change

    def request_seconds_until_now(self) -> float:
        """The integral of requests inside, up to now."""
        return self.request_seconds + self.inside * (self.engine.now - self._inside_until)

    def _send(self, pod: Pod, request: Request) -> None:
        pod.load += 1
        due = pod.replica.arrive(request, self.engine.now)
        if due is not None:
            self.engine.at(due, self._advance, pod)

    def _advance(self, pod: Pod) -> None:
        now, replica = self.engine.now, pod.replica
        if replica.next_event != now:
            return  # the run was cut short after this event was set
        first, done = replica.advance(now)
        if first:
            self.served.began(first)
        if done:
            self.served.ended(done)
            pod.load -= len(done)
            self._count_inside(-len(done))
        due = replica.next_event
        if due < math.inf:
            self.engine.at(due, self._advance, pod)
        elif pod.phase is Phase.DRAINING:
            self._remove(pod)

    # --- replicas -------------------------------------------------------------------------------------------------------

    def count(self, phase: Phase) -> int:
        """Pods in a phase."""
        return sum(pod.phase is phase for pod in self.pods)

    @property
    def replicas(self) -> int:
        """What the Deployment's spec says: all pods but those draining."""
        return sum(pod.phase is not Phase.DRAINING for pod in self.pods)

    def scale_to(self, replicas: int) -> None:
        """Create or remove replicas; those not ready go first (youngest first), then those with the fewest requests."""
        now = self.engine.now
        kept = [pod for pod in self.pods if pod.phase is not Phase.DRAINING]
        for _ in range(replicas - len(kept)):
            self._create(now)
        if len(kept) > replicas:
            kept.sort(key=lambda pod: (pod.phase, pod.load, -pod.order))
            for pod in kept[: len(kept) - replicas]:
                self._drain(pod)
        self.place_pending()

    def _create(self, now: float) -> Pod:
        self._starts += 1
        factor = self.slowness(self._starts)
        speed = self.speed if factor == 1.0 else self.speed.slower(factor)
        pod = Pod(self._starts, now, speed, self._histograms())
        self.pods.append(pod)
        return pod

    def _histograms(self) -> Histograms | None:
        return Histograms() if self.observed else None

    def start_ready(self, replicas: int) -> None:
        """Put the first replicas in place, warm: the state in which every law takes over."""
        for _ in range(replicas):
            pod = self._create(self.engine.now)
            if self._place(pod):
                self._become_ready(pod)

    def place_pending(self) -> None:
        """Offer cards to the replicas that have none, oldest first; stops at the first that does not fit."""
        for pod in self.pods:
            if pod.phase is Phase.PENDING:
                if not self._place(pod):
                    return
                self.cold_starts += 1
                assert pod.placement is not None
                self.engine.after(self.cold_start_seconds(pod.order, pod.placement), self._started, pod)

    def _place(self, pod: Pod) -> bool:
        placement = self.cards.take()
        if placement is None:
            return False
        self._count_cards(self.cards_per_replica)
        pod.placement = placement
        pod.placed_at = self.engine.now
        pod.phase = Phase.STARTING
        return True

    def _started(self, pod: Pod) -> None:
        if pod.phase is Phase.STARTING:
            self._become_ready(pod)

    def _become_ready(self, pod: Pod) -> None:
        pod.phase = Phase.READY
        pod.ready_at = self.engine.now
        self.ready.append(pod)
        self.on_ready(pod)
        while self.held:
            request = self.held.popleft()
            request.sent = self.engine.now
            self._send(self.router(self.ready, request), request)

    def _drain(self, pod: Pod) -> None:
        if pod.phase is Phase.READY:
            self.ready.remove(pod)
        pod.phase = Phase.DRAINING
        pod.removed_at = self.engine.now
        if pod.load == 0:
            self._remove(pod)

    def _remove(self, pod: Pod) -> None:
        pod.phase = Phase.GONE
        self.pods.remove(pod)
        if pod.placement is not None:
            self._count_cards(-self.cards_per_replica)
            self.cards.give(pod.placement)

    def _count_cards(self, change: int) -> None:
        now = self.engine.now
        self.gpu_seconds += self._cards_held * (now - self._counted_until)
        self._counted_until = now
        self._cards_held += change

    @property
    def cards_held(self) -> int:
        """Cards held now."""
        return self._cards_held

    def gpu_seconds_until_now(self) -> float:
        """Integral of the cards held, up to now."""
        return self.gpu_seconds + self._cards_held * (self.engine.now - self._counted_until)

    def feed(self, requests: Iterable[Request]) -> None:
        """Let requests, ordered by arrival, arrive; each is set as the one before it happens, so that the heap stays small."""
        source = iter(requests)

        def arrive(request: Request) -> None:
            self.arrive(request)
            later = next(source, None)
            if later is not None:
                self.engine.at(later.arrival, arrive, later)

        first = next(source, None)
        if first is not None:
            self.engine.at(first.arrival, arrive, first)
