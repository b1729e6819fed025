"""What the extender answers to filter and prioritize. No HTTP and no waiting: choice and reservation are one step.

Filter chooses, and reserves in the ledger before it answers, so that the next filter, which comes before this pod's bind,
sees what is left. A decisive answer names one node. A pod with soft preferences gets every node that fits, because only
kube-scheduler can weigh those; its reservation stands on the best node and moves at bind.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from headroom import names, wire
from headroom.domain.model import GpuRequest, Placement
from headroom.domain.request import RequestError, request_of
from headroom.wire import WireError
from scheduler.cluster.changes import Changes
from scheduler.cluster.decisions import Decision, Decisions
from scheduler.cluster.effects import Effects
from scheduler.cluster.giving_way import reservations_in_the_way
from scheduler.cluster.host_rules import soft_preferences
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.room.seating import NotSeated, Seating
from scheduler.cluster.state import ClusterState
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.holding import HoldingState
from scheduler.placement.refusals import Reasons
from scheduler.settings import SCORED, SchedulerSettings
from scheduler.verbs import protocol
from scheduler.verbs.explain import KEPT
from scheduler.verbs.offers import Offer, offer_of

TRIED = "given to this pod before and turned down by kube-scheduler"
UNKNOWN_NODE = "no GPU known to Headroom"
NO_SUCH_CARDS = ("no healthy GPU", "node does not offer")
BEING_BOUND = "the pod's binding to another node is under way"
BOUND_ALREADY = "the pod is bound to another node already"
ENDED = "the pod has ended"
PLACEHOLDER = "a placeholder: it asks for a node and is never placed"


@dataclass(frozen=True, slots=True)
class Answer:
    """Body of an HTTP answer, and how it counts in the metrics."""

    body: bytes
    result: str


class Extender:
    """Filter and prioritize over a ClusterState; what a call changes is handed to `effects` before it is answered."""

    def __init__(
        self,
        state: ClusterState,
        settings: SchedulerSettings,
        decisions: Decisions,
        effects: Effects,
        seating: Seating,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._settings, self._decisions, self._effects = state, settings, decisions, effects
        self._seating = seating
        self._pods = state.pods
        self._did = Changes()
        """What the call under way has changed so far."""
        self._monotonic = monotonic
        self._reasons = Reasons(state.placer.fleet, check_host=state.placer.check_host)

    def filter(self, args: protocol.ExtenderArgs) -> Answer:
        """The node for a pod, or why there is none. Raises WireError for a message that cannot be understood."""
        self._did = Changes()
        try:
            return self._answer(args)
        finally:
            # Only now: what is given back on the way to a decision must not be given away before it.
            self._effects(self._did)

    def _answer(self, args: protocol.ExtenderArgs) -> Answer:
        offer = offer_of(args)
        pod = args.pod
        if not pod.metadata.uid:
            raise WireError("ExtenderArgs: Pod.metadata.uid is missing")
        if names.LABEL_PLACEHOLDER in pod.metadata.labels:
            return Answer(offer.answer([], dict.fromkeys(offer.names, PLACEHOLDER)), "refused")
        if (settled := self._settled(pod.metadata.uid, offer)) is not None:
            return settled
        try:
            entry, changes = self._pods.show(pod)
        except RequestError as error:
            self._decisions.add(Decision(pod.key, self._monotonic(), "refused", reasons={str(error): 1}))
            return Answer(offer.answer([], dict.fromkeys(offer.names, str(error))), "refused")
        if changes:
            self._did += self._seating.settle(changes)
        if entry is None or entry.request.count == 0:
            return self._with_claims(pod, offer) or self._without_gpu(pod, offer)
        if entry.facts.group is not None and (answer := self._in_group(entry, offer)) is not None:
            return answer
        if (held := self._still_good(entry, offer)) is not None:
            return self._placed(entry, held, offer)
        budget = self._state.quotas.budget(entry.namespace, entry.uid)
        if budget is not None and (words := budget.refusal_of(entry.request)) is not None:
            return self._refuse(entry, offer, words)
        if self._settings.plan_every_pods:
            self._state.placer.replan_after(self._settings.plan_every_pods)
        if self._settings.answer == SCORED or soft_preferences(pod):
            return self._all_that_fit(entry, offer)
        return self._decide(entry, offer)

    def _in_group(self, entry: PodEntry, offer: Offer) -> Answer | None:
        """The answer about a pod that must be placed together with others; None for one that need not."""
        found = self._seating.ask(entry, offer.has, lambda: self._rows(offer))
        if found is None:
            return None
        self._did += found.changes
        if isinstance(found, NotSeated):
            refused = dict.fromkeys(offer.names, found.words)
            if refused:
                self._decisions.add(
                    Decision(entry.key, self._monotonic(), "refused", reasons={found.words: len(refused)})
                )
            if refused and not found.trial:
                self._did += self._pods.refuse(entry, self._rows(offer), by_quota=not found.lacks_room)
            return Answer(offer.answer([], refused), "refused")
        if found.trial:
            return Answer(offer.only(found.placement.node), "placed")
        return self._placed(entry, found.placement, offer, found.expires_at)

    def _settled(self, uid: str, offer: Offer) -> Answer | None:
        """The answer about a pod that cannot be given another node any more; kube-scheduler's view of it is an old one."""
        if self._pods.has_ended(uid):
            return Answer(offer.answer([], dict.fromkeys(offer.names, ENDED)), "refused")
        holding = self._state.holding(uid)
        if holding is None or holding.state is HoldingState.RESERVED:
            return None
        node = holding.placement.node
        if offer.has(node):
            return Answer(offer.only(node), "placed")
        entry = self._pods.entries.get(uid)
        if entry is not None and entry.stage is Stage.BINDING:
            self._pods.rest(entry)
        why = BEING_BOUND if holding.state is HoldingState.BINDING else BOUND_ALREADY
        return Answer(offer.answer([], dict.fromkeys(offer.names, why)), "refused")

    def _with_claims(self, pod: wire.Pod, offer: Offer) -> Answer | None:
        """The node whose cards lose least by what a pod's claims ask for; None for a pod without claims on cards.

        kube-scheduler has made sure that it could allocate them on every node that it offers. Never a refusal.
        """
        wanted = self._state.devices.request_of(pod) if pod.spec.resource_claims else None
        if wanted is None or not self._settings.place_pods_without_gpu:
            return None
        best = self._state.placer.best_among(wanted, self._rows(offer))
        if best is None or self._settings.answer == SCORED or soft_preferences(pod):
            return Answer(offer.everything(), "passed")
        return Answer(offer.only(self._state.fleet.names[best]), "passed")

    def _without_gpu(self, pod: wire.Pod, offer: Offer) -> Answer:
        """Any node, or with `place_pods_without_gpu` one without cards, else the one whose cards lose least. Never a refusal."""
        if not self._settings.place_pods_without_gpu or soft_preferences(pod):
            return Answer(offer.everything(), "passed")
        cardless = [name for name in offer.names if name not in self._state.fleet.row_of]
        if cardless:
            if (known := self._pods.entries.get(pod.metadata.uid)) is not None:
                self._did += self._pods.void(known, "moved")
            return Answer(offer.answer(cardless, {}), "passed")
        entry, changes = self._pods.show(pod, without_gpu=True)
        self._did += changes
        assert entry is not None
        held = self._still_good(entry, offer)
        if held is None:
            row = self._best(entry, offer)
            if row is None:
                entry.tried.clear()
                return Answer(offer.everything(), "passed")
            held = self._state.placer.placement_at(entry.request, row)
        return self._placed(entry, held, offer)

    def _still_good(self, entry: PodEntry, offer: Offer) -> Placement | None:
        """A node held for the pod that kube-scheduler has not been given yet; what else is held is given back."""
        holding = self._state.holding(entry.uid)
        if holding is None:
            return None
        if entry.stage is Stage.NAMED and offer.has(holding.placement.node):
            return holding.placement
        self._did += self._pods.turn_down(entry)
        return None

    def _decide(self, entry: PodEntry, offer: Offer) -> Answer:
        placer = self._state.placer
        if entry.claim is not None:
            # Victims are going for this pod: no other node, or they would go for nothing.
            row = self._state.fleet.row_of.get(entry.claim.node)
            rows = np.array([row] if row is not None and offer.has(entry.claim.node) else [], np.int64)
            row = placer.best_among(entry.request, rows)
        else:
            row = self._best(entry, offer)
            if row is None and entry.tried:
                nominated = entry.facts.nominated
                if offer.names == [nominated] and nominated in entry.tried:
                    # The node named ahead is offered alone first; refused here, kube-scheduler goes on to offer the rest.
                    return Answer(offer.answer([], {nominated: TRIED}), "refused")
                entry.tried.clear()
                row = self._best(entry, offer)
            if row is None:
                row = self._have_reservations_give_way(entry, offer)
        if row is None:
            return self._refuse(entry, offer)
        return self._placed(entry, placer.placement_at(entry.request, row), offer)

    def _have_reservations_give_way(self, entry: PodEntry, offer: Offer) -> int | None:
        """A row for a pod for which less important ones, that kube-scheduler was not given a node for yet, have to wait again."""
        within, names = self._state.quotas.rows(entry.namespace, entry.uid, entry.request), self._state.fleet.names
        kept = self._pods.kept.rows_closed_to(entry)

        def may_run_on(row: int) -> bool:
            return offer.has(names[row]) and row not in kept and (within is None or bool(within[row]))

        found = reservations_in_the_way(self._state, entry, may_run_on)
        if found is None:
            return None
        row, others = found
        for other in others:
            self._did += self._pods.void(other, "displaced")
        return row

    def _best(self, entry: PodEntry, offer: Offer) -> int | None:
        placer, fleet, tried = self._state.placer, self._state.fleet, entry.tried
        within = self._state.quotas.rows(entry.namespace, entry.uid, entry.request)
        if offer.short:
            rows = self._pods.kept.rows_open_to(entry, self._rows(offer, tried))
            return placer.best_among(entry.request, rows if within is None else rows[within[rows]])
        names = fleet.names
        excluded = {fleet.row_of[name] for name in tried if name in fleet.row_of}
        excluded.update(self._pods.kept.rows_closed_to(entry))
        if within is None:
            return placer.best_row(entry.request, lambda row: offer.has(names[row]), excluded)
        return placer.best_row(entry.request, lambda row: bool(within[row]) and offer.has(names[row]), excluded)

    def _rows(self, offer: Offer, tried: set[str] | frozenset[str] = frozenset()) -> IntArray:
        row_of = self._state.fleet.row_of
        return np.array([row_of[name] for name in offer.names if name in row_of and name not in tried], np.int64)

    def _placed(self, entry: PodEntry, placement: Placement, offer: Offer, expires_at: float | None = None) -> Answer:
        now = self._monotonic()
        if expires_at is None:
            expires_at = now + self._settings.reservation_seconds
        self._did += self._pods.offer(entry, placement, expires_at)
        self._decisions.add(Decision(entry.key, now, "placed", placement))
        return Answer(offer.only(placement.node), "placed")

    def _refuse(self, entry: PodEntry, offer: Offer, by_quota: str = "") -> Answer:
        """Why each node does not take the pod; `by_quota` is why none of them may, if so."""
        rows = self._rows(offer)
        if by_quota:
            refused, rows = dict.fromkeys(offer.names, by_quota), rows[:0]
        else:
            refused, rows, by_quota = self._refusals(entry, offer, rows)
        if not offer.names:
            return Answer(offer.answer([], {}), "refused")
        counts: dict[str, int] = {}
        for reason in refused.values():
            counts[reason] = counts.get(reason, 0) + 1
        self._decisions.add(Decision(entry.key, self._monotonic(), "refused", reasons=counts))
        self._did += self._pods.refuse(entry, rows, by_quota=bool(by_quota))
        return Answer(offer.answer([], refused), "refused")

    def _refusals(self, entry: PodEntry, offer: Offer, rows: IntArray) -> tuple[dict[str, str], IntArray, str]:
        """Why each node does not take the pod; the rows that would if they had room; and the quota's words where it is of use."""
        reasons, row_of, problems = self._reasons.of(entry.request), self._state.fleet.row_of, self._state.node_problems
        budget = self._state.quotas.budget(entry.namespace, entry.uid)
        within = None if budget is None else budget.rows(self._state.fleet, entry.request)
        beyond = "" if budget is None or within is None else budget.vram_words
        if within is not None:
            rows = rows[within[rows]]
        refused: dict[str, str] = {}
        by_quota = ""
        for name in offer.names:
            problem = problems.get(name)
            if name not in row_of:
                refused[name] = problem or UNKNOWN_NODE
                continue
            reason = reasons[row_of[name]]
            if reason is None and within is not None and not within[row_of[name]]:
                reason = by_quota = beyond
            if reason is None and self._pods.kept.is_closed_to(entry, name):
                reason = KEPT
            reason = reason or TRIED
            # That a node has no such cards may be because they could not be told.
            refused[name] = f"{reason}: {problem}" if problem and reason.startswith(NO_SUCH_CARDS) else reason
        return refused, rows, by_quota

    def _all_that_fit(self, entry: PodEntry, offer: Offer) -> Answer:
        """Every node that fits, the best one reserved; the scores are kept for the prioritize call that follows."""
        rows, placer, request = self._rows(offer), self._state.placer, entry.request
        names = self._state.fleet.names
        if (claim := entry.claim) is not None:
            rows = np.array([row for row in rows.tolist() if names[row] == claim.node], np.int64)
        if (within := self._state.quotas.rows(entry.namespace, entry.uid, request)) is not None:
            rows = rows[within[rows]]
        rows = self._pods.kept.rows_open_to(entry, rows)
        best = placer.best_among(request, rows)
        if best is None and claim is None:
            best = self._have_reservations_give_way(entry, offer)
        if best is None:
            return self._refuse(entry, offer)
        scores = {names[row]: score for row, score in placer.order(request, rows.tolist())}
        refused = {name: why for name, why in self._refusals(entry, offer, rows)[0].items() if name not in scores}
        now = self._monotonic()
        placement = placer.placement_at(request, best)
        self._did += self._pods.offer(entry, placement, now + self._settings.reservation_seconds, scores)
        self._decisions.add(Decision(entry.key, now, "scored", placement))
        return Answer(offer.answer(list(scores), refused), "scored")

    def prioritize(self, args: protocol.ExtenderArgs) -> Answer:
        """0..10 for each node offered. Raises WireError and RequestError."""
        offer = offer_of(args)
        request = request_of(args.pod, self._state.customs)
        if request is None or request.count == 0:
            wanted = self._state.devices.request_of(args.pod) if args.pod.spec.resource_claims else None
            scores = {} if wanted is None else self._fresh_scores(wanted, offer)
        else:
            # The scores of the filter call just before: computed again, the pod's own reservation would spoil them.
            entry = self._pods.entries.get(args.pod.metadata.uid)
            scores = (entry.scores if entry is not None else {}) or self._fresh_scores(request, offer)
        ranking = [protocol.HostPriority(host=name, score=scores.get(name, 0)) for name in offer.names]
        return Answer(wire.encode(ranking), "scored")

    def _fresh_scores(self, request: GpuRequest, offer: Offer) -> dict[str, int]:
        names = self._state.fleet.names
        return {names[row]: score for row, score in self._state.placer.order(request, self._rows(offer).tolist())}
