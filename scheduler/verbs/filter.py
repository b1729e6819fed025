"""What the extender answers to filter and prioritize. No HTTP and no waiting: choice and reservation are one step.

Filter chooses, and reserves in the ledger before it answers, so that the next filter, which comes before this pod's bind,
sees what is left. A decisive answer names one node. A pod with soft preferences gets every node that fits, because only
kube-scheduler can weigh those; its reservation stands on the best node and moves at bind.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.domain.model import GpuRequest, Placement
from headroom.domain.request import RequestError, demand_of, project_of, request_of
from headroom.wire import WireError
from scheduler.cluster.decisions import Decision, Decisions
from scheduler.cluster.host_rules import soft_preferences
from scheduler.cluster.records import WaitingPod
from scheduler.cluster.state import ClusterState
from scheduler.ledger.fleet import IntArray
from scheduler.placement.refusals import Reasons
from scheduler.settings import SCORED, SchedulerSettings
from scheduler.verbs import protocol
from scheduler.verbs.offers import Offer, offer_of

TRIED = "given to this pod before and turned down by kube-scheduler"
UNKNOWN_NODE = "no GPU known to Headroom"
NO_SUCH_CARDS = ("no healthy GPU", "node does not offer")


@dataclass(frozen=True, slots=True)
class Answer:
    """Body of an HTTP answer, and how it counts in the metrics."""

    body: bytes
    result: str


class Extender:
    """Filter and prioritize over a ClusterState.

    `on_refused(pod, rows)` is told of every pod that fits nowhere, with the rows that kube-scheduler offered.
    """

    def __init__(
        self,
        state: ClusterState,
        settings: SchedulerSettings,
        decisions: Decisions,
        *,
        monotonic: Callable[[], float],
        on_refused: Callable[[WaitingPod, IntArray], None] | None = None,
    ) -> None:
        self._state, self._settings, self._decisions = state, settings, decisions
        self._monotonic = monotonic
        self._on_refused = on_refused
        self._reasons = Reasons(state.placer)
        self._log = get_logger(__name__)

    def filter(self, args: protocol.ExtenderArgs) -> Answer:
        """The node for a pod, or why there is none. Raises WireError for a message that cannot be understood."""
        offer = offer_of(args)
        pod = args.pod
        if not pod.metadata.uid:
            raise WireError("ExtenderArgs: Pod.metadata.uid is missing")
        waiting = self._state.waiting.get(pod.metadata.uid)
        if waiting is None:
            try:
                request = request_of(pod)
            except RequestError as error:
                self._decisions.add(Decision(pod.key, self._monotonic(), "refused", reasons={str(error): 1}))
                return Answer(offer.answer([], dict.fromkeys(offer.names, str(error))), "refused")
            if request is None or request.count == 0:
                return self._without_gpu(pod, offer)
            waiting = self._state.note_waiting(pod, request, project_of(pod))
        else:
            # What a pod asks for does not change; which node it is nominated to does.
            waiting.nominated = pod.status.nominated_node_name
            if waiting.request.count == 0:
                return self._without_gpu(pod, offer)
        if (held := self._still_good(waiting, offer)) is not None:
            return self._placed(waiting, held, offer)
        if self._settings.plan_every_pods:
            self._state.placer.replan_after(self._settings.plan_every_pods)
        if self._settings.answer == SCORED or soft_preferences(pod):
            return self._all_that_fit(waiting, offer)
        return self._decide(waiting, offer)

    def _without_gpu(self, pod: wire.Pod, offer: Offer) -> Answer:
        """Any node, or with `place_pods_without_gpu` one without cards, else the one whose cards lose least. Never a refusal."""
        if not self._settings.place_pods_without_gpu or soft_preferences(pod):
            return Answer(offer.everything(), "passed")
        cardless = [name for name in offer.names if name not in self._state.fleet.row_of]
        if cardless:
            self._state.release(pod.metadata.uid, "moved")
            return Answer(offer.answer(cardless, {}), "passed")
        waiting = self._state.waiting.get(pod.metadata.uid)
        if waiting is None:
            try:
                demand = demand_of(pod)
            except RequestError:
                return Answer(offer.everything(), "passed")
            waiting = self._state.note_waiting(pod, demand, project_of(pod))
        held = self._still_good(waiting, offer)
        if held is None:
            tried = self._state.attempt(waiting.uid).tried
            row = self._best(waiting.request, offer, tried)
            if row is None:
                tried.clear()
                return Answer(offer.everything(), "passed")
            held = self._state.placer.placement_at(waiting.request, row)
        return self._placed(waiting, held, offer)

    def _still_good(self, pod: WaitingPod, offer: Offer) -> Placement | None:
        """A node held for the pod that kube-scheduler has not been told yet, or cannot be changed any more."""
        holding = self._state.holding(pod.uid)
        if holding is None:
            return None
        node = holding.placement.node
        if self._state.is_bound(pod.uid):
            return holding.placement if offer.has(node) else None
        attempt = self._state.attempt(pod.uid)
        if not attempt.offered and offer.has(node):
            return holding.placement
        if attempt.offered and attempt.decisive:
            # kube-scheduler had this node and did not keep it: something after the filter refused it.
            attempt.tried.add(node)
        self._state.release(pod.uid, "moved", wake=False)
        return None

    def _decide(self, pod: WaitingPod, offer: Offer) -> Answer:
        attempt = self._state.attempt(pod.uid)
        if (claimed := self._state.claimed_node(pod.uid)) is not None:
            # Victims are going for this pod: no other node, or they would go for nothing.
            row = self._state.fleet.row_of.get(claimed)
            rows = np.array([row] if row is not None and offer.has(claimed) else [], np.int64)
            row = self._state.placer.best_among(pod.request, rows)
        else:
            row = self._best(pod.request, offer, attempt.tried)
            if row is None and attempt.tried:
                if offer.names == [pod.nominated] and pod.nominated in attempt.tried:
                    # The node named ahead is offered alone first; refused here, kube-scheduler goes on to offer the rest.
                    return Answer(offer.answer([], {pod.nominated: TRIED}), "refused")
                attempt.tried.clear()
                row = self._best(pod.request, offer, attempt.tried)
        if row is None:
            return self._refuse(pod, offer)
        placement = self._state.placer.placement_at(pod.request, row)
        return self._placed(pod, placement, offer)

    def _best(self, request: GpuRequest, offer: Offer, tried: set[str]) -> int | None:
        placer, fleet = self._state.placer, self._state.fleet
        if offer.short:
            return placer.best_among(request, self._rows(offer, tried))
        names = fleet.names
        excluded = {fleet.row_of[name] for name in tried if name in fleet.row_of}
        return placer.best_row(request, lambda row: offer.has(names[row]), excluded)

    def _rows(self, offer: Offer, tried: set[str] | frozenset[str] = frozenset()) -> IntArray:
        row_of = self._state.fleet.row_of
        return np.array([row_of[name] for name in offer.names if name in row_of and name not in tried], np.int64)

    def _placed(self, pod: WaitingPod, placement: Placement, offer: Offer) -> Answer:
        now = self._monotonic()
        if not self._state.is_bound(pod.uid):
            self._state.reserve(pod, placement, now + self._settings.reservation_seconds)
            attempt = self._state.attempt(pod.uid)
            attempt.offered = attempt.decisive = True
            attempt.scores = {}
            self._state.note_placed(pod.uid)
        self._decisions.add(Decision(pod.key, now, "placed", placement))
        return Answer(offer.only(placement.node), "placed")

    def _refuse(self, pod: WaitingPod, offer: Offer) -> Answer:
        now = self._monotonic()
        refused = self._refusals(pod.request, offer)
        if not offer.names:
            return Answer(offer.answer([], {}), "refused")
        counts: dict[str, int] = {}
        for reason in refused.values():
            counts[reason] = counts.get(reason, 0) + 1
        self._decisions.add(Decision(pod.key, now, "refused", reasons=counts))
        self._state.note_refused(pod, now)
        if self._on_refused is not None:
            self._on_refused(pod, self._rows(offer))
        return Answer(offer.answer([], refused), "refused")

    def _refusals(self, request: GpuRequest, offer: Offer) -> dict[str, str]:
        reasons, row_of, problems = self._reasons.of(request), self._state.fleet.row_of, self._state.node_problems
        refused: dict[str, str] = {}
        for name in offer.names:
            problem = problems.get(name)
            if name not in row_of:
                refused[name] = problem or UNKNOWN_NODE
                continue
            reason = reasons[row_of[name]] or TRIED
            # That a node has no such cards may be because they could not be told.
            refused[name] = f"{reason}: {problem}" if problem and reason.startswith(NO_SUCH_CARDS) else reason
        return refused

    def _all_that_fit(self, pod: WaitingPod, offer: Offer) -> Answer:
        """Every node that fits, the best one reserved; the scores are kept for the prioritize call that follows."""
        rows = self._rows(offer)
        names = self._state.fleet.names
        if (claimed := self._state.claimed_node(pod.uid)) is not None:
            rows = np.array([row for row in rows.tolist() if names[row] == claimed], np.int64)
        best = self._state.placer.best_among(pod.request, rows)
        if best is None:
            return self._refuse(pod, offer)
        scores = {names[row]: score for row, score in self._state.placer.order(pod.request, rows.tolist())}
        refused = {name: why for name, why in self._refusals(pod.request, offer).items() if name not in scores}
        now = self._monotonic()
        placement = self._state.placer.placement_at(pod.request, best)
        self._state.reserve(pod, placement, now + self._settings.reservation_seconds)
        attempt = self._state.attempt(pod.uid)
        attempt.offered, attempt.decisive, attempt.scores = True, False, scores
        self._state.note_placed(pod.uid)
        self._decisions.add(Decision(pod.key, now, "scored", placement))
        return Answer(offer.answer(list(scores), refused), "scored")

    def prioritize(self, args: protocol.ExtenderArgs) -> Answer:
        """0..10 for each node offered. Raises WireError and RequestError."""
        offer = offer_of(args)
        request = request_of(args.pod)
        if request is None or request.count == 0:
            scores: dict[str, int] = {}
        else:
            # The scores of the filter call just before: computed again, the pod's own reservation would spoil them.
            scores = self._state.attempt_scores(args.pod.metadata.uid) or self._fresh_scores(request, offer)
        ranking = [protocol.HostPriority(host=name, score=scores.get(name, 0)) for name in offer.names]
        return Answer(wire.encode(ranking), "scored")

    def _fresh_scores(self, request: GpuRequest, offer: Offer) -> dict[str, int]:
        names = self._state.fleet.names
        return {names[row]: score for row, score in self._state.placer.order(request, self._rows(offer).tolist())}
