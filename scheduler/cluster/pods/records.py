"""The pods: a record for each that is not known to be bound, kept in step with what the ledger holds for it.

Every method that changes something returns what it changed, for `scheduler.cluster.effects`; nothing is called from inside a
change. What bound pods hold is in the ledger alone.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final

from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.domain.dialects.customs import Customs
from headroom.domain.model import GpuRequest, Placement
from headroom.domain.request import RequestError
from scheduler.cluster.changes import Changes, PodBound, PodGone, PodRefused, PodWaits, seat_lost
from scheduler.cluster.pod_entry import (
    HOLDING,
    Claim,
    FactsReader,
    PodEntry,
    PodFacts,
    Refusal,
    Stage,
    Step,
    of_cards_alone,
    version_of,
)
from scheduler.cluster.pods import checks
from scheduler.cluster.pods.ended import EndedLately
from scheduler.cluster.pods.kept_nodes import FreedRoom, KeptNodes
from scheduler.cluster.row_set import RowSet
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.holding import Holding, HoldingState
from scheduler.ledger.ledger import Ledger
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.quota import Quotas

_UNSEEN_SECONDS: Final = 60.0  # after which a pod that only a filter call spoke of is forgotten
_NEVER: Final = float("inf")


class Pods:
    """Records by UID. `observe` is told of every request that comes to be placed; `monotonic` is the clock of reservations."""

    def __init__(
        self,
        ledger: Ledger,
        metrics: SchedulerMetrics,
        *,
        quotas: Quotas,
        scheduler_names: Iterable[str],
        observe: Callable[[GpuRequest], None],
        monotonic: Callable[[], float],
    ) -> None:
        self.entries: dict[str, PodEntry] = {}
        """Read only."""
        self.claims: dict[str, PodEntry] = {}
        """Those for which a node is being freed; read only."""
        self.freed = FreedRoom(monotonic)
        """Numbers the facts that room came free."""
        self.kept = KeptNodes(ledger.fleet, self.freed, monotonic)
        """Nodes that are closed to all who come after the pod that they are kept for."""
        self.leaving: set[str] = set()
        """UIDs of bound pods that are being deleted."""
        self.names_ahead = 0
        """Pods that carry the name of their node and that kube-scheduler has not taken up yet."""
        self._ledger, self._metrics, self._observe, self._monotonic = ledger, metrics, observe, monotonic
        self._quotas, self._facts = quotas, FactsReader(scheduler_names)
        self._at: dict[Stage, dict[str, PodEntry]] = {stage: {} for stage in Stage}
        self._ended = EndedLately()
        self._arrivals = 0
        self._log = get_logger(__name__)

    # Questions

    def at(self, stage: Stage) -> Collection[PodEntry]:
        """The records at a stage."""
        return self._at[stage].values()

    def find(self, key: str) -> PodEntry | None:
        """The latest record under a `namespace/name`; None for a pod that is bound, and for a name that nobody has."""
        found = [entry for entry in self.entries.values() if entry.key == key and entry.stage is not Stage.BOUND]
        return max(found, key=lambda entry: entry.arrival, default=None)

    def has_ended(self, uid: str) -> bool:
        """Whether the pod is known to be gone; kube-scheduler may hear of it later."""
        return uid in self._ended

    # What is shown of them

    def show(self, pod: wire.Pod, *, seen: bool = False, without_gpu: bool = False) -> tuple[PodEntry | None, Changes]:
        """Take in a version of an unbound pod, from the watch (`seen`) or from kube-scheduler; older ones change nothing.

        Gives its record: None for a pod that asks for no GPU, unless it shall be placed, too (`without_gpu`). Raises
        RequestError for a pod whose demand cannot be understood; nothing is changed then.
        """
        entry, version = self.entries.get(pod.metadata.uid), version_of(pod)
        if entry is not None:
            entry.seen = entry.seen or seen
            if entry.stage is Stage.BOUND or (version and version <= entry.version):
                return entry, []
            return entry, self._update(entry, pod, version)
        facts = self._facts.of(pod)
        if facts.request.count == 0 and not without_gpu:
            return None, []
        self._arrivals += 1
        entry = PodEntry(
            pod.metadata.uid, pod.key, pod, facts, self._arrivals, self._monotonic(),
            stage=Stage.GATED if facts.gated else Stage.WAITING, version=version, seen=seen,
        )  # fmt: skip
        self.entries[entry.uid] = self._at[entry.stage][entry.uid] = entry
        return entry, [] if facts.gated else self._waits(entry)

    def read_anew(self, customs: Customs) -> tuple[Changes, dict[str, str]]:
        """Judge every pod by other customs. Also gives what is wrong with those that cannot be understood by them, by key."""
        self._facts.customs = customs
        changes, problems = Changes(), dict[str, str]()
        for entry in list(self.entries.values()):
            if entry.stage in (Stage.BINDING, Stage.BOUND):
                continue  # what it holds is the binder's, or in the ledger
            try:
                changes += self._update(entry, entry.pod, entry.version)
            except RequestError as error:
                problems[entry.key] = str(error)
                changes += self.forget(entry.uid)
        return changes, problems

    def _waits(self, entry: PodEntry) -> Changes:
        self._observe(entry.request)
        return [PodWaits(entry)]

    def _update(self, entry: PodEntry, pod: wire.Pod, version: int) -> Changes:
        """Judge a pod by what it is now."""
        old, facts, changes = entry.facts, self._facts.of(pod), Changes()
        entry.pod, entry.facts, entry.version = pod, facts, version
        if facts == old:
            return changes
        entry.left_group = entry.left_group or (old.group is not None and facts.group != old.group)
        if facts.request != old.request or facts.gated:
            entry.refused_since = None
            changes += self.kept.open(entry)
        if entry.stage in (Stage.NAMED, Stage.OFFERED):
            changes += self._judge_reservation(entry, old)
        if facts.gated and entry.stage in (Stage.WAITING, Stage.REFUSED):
            entry.refusal = None
            self._move(entry, Step.GATE)
        elif not facts.gated and entry.stage is Stage.GATED:
            self._move(entry, Step.OPEN)
            changes += self._waits(entry)
        return changes

    def _judge_reservation(self, entry: PodEntry, old: PodFacts) -> Changes:
        """Keep a reservation whose pod changed if the cards still suit it."""
        facts, holding = entry.facts, self._ledger.holdings[entry.uid]
        if facts.group != old.group:
            return self.void(entry, "moved")
        if (facts.request, facts.priority, facts.project) == (old.request, old.priority, old.project):
            return []
        if of_cards_alone(facts.request) == of_cards_alone(old.request):
            self._reserve(entry, holding.placement, holding.expires_at)
            return []
        return self.void(entry, "moved")

    # Decisions of the extender

    def name(self, entry: PodEntry, placement: Placement, expires_at: float) -> Changes:
        """Reserve cards for a pod before kube-scheduler asks about it. Raises LedgerError; nothing is changed then."""
        entry.after(Step.NAME)
        changes = self._reserve(entry, placement, expires_at)
        self._move(entry, Step.NAME)
        return changes

    def landed(self, entry: PodEntry) -> None:
        """Note that the name of its node is written on a pod."""
        if entry.stage is Stage.NAMED and not entry.name_landed:
            entry.name_landed = True
            self.names_ahead += 1

    def offer(
        self, entry: PodEntry, placement: Placement, expires_at: float, scores: dict[str, int] | None = None
    ) -> Changes:
        """Reserve cards and give kube-scheduler their node, or with `scores` a choice of which that node is the best one.

        Raises LedgerError; nothing is changed then.
        """
        entry.after(Step.OFFER)
        changes = self._reserve(entry, placement, expires_at)
        self._move(entry, Step.OFFER)
        entry.decisive, entry.scores, entry.refusal = scores is None, scores or {}, None
        entry.refused_since = None
        return changes

    def refuse(self, entry: PodEntry, rows: IntArray, *, by_quota: bool = False) -> Changes:
        """Note that a pod fits on none of the rows; what it had reserved must have been given back before."""
        self._move(entry, Step.REFUSE)
        nodes = RowSet.of(self._ledger.fleet, rows)
        entry.refusal = Refusal(self._monotonic(), self.freed.count, nodes, by_quota)
        if by_quota:
            entry.refused_since = None  # room is not what it waits for
        elif entry.refused_since is None:
            entry.refused_since = entry.refusal.at
        return [PodRefused(entry)]

    def rest(self, entry: PodEntry) -> None:
        """Note that kube-scheduler was given no node for a pod whose binding is under way: it must hear if that fails."""
        entry.refusal = Refusal(self._monotonic(), self.freed.count, RowSet())

    def void(self, entry: PodEntry, end: str, *, seen_by_scheduler: bool = False) -> Changes:
        """Give back what is reserved for a pod; `end` says why, for the metrics. A binding under way is left alone."""
        if entry.stage not in (Stage.NAMED, Stage.OFFERED):
            return []
        holding = self._ledger.release(entry.uid)
        assert holding is not None
        return self._voided(entry, holding, end, seen_by_scheduler=seen_by_scheduler)

    def _voided(self, entry: PodEntry, holding: Holding, end: str, *, seen_by_scheduler: bool = False) -> Changes:
        self._metrics.reservations_ended.labels(end).inc()
        entry.ended = end
        self._move(entry, Step.VOID)
        self._rest_again(entry)
        freed = self.freed(holding.placement.node, seen_by_scheduler=seen_by_scheduler)
        return [*seat_lost(entry, holding.placement, end), freed]

    def _rest_again(self, entry: PodEntry) -> None:
        if entry.refusal is not None:
            self._move(entry, Step.REFUSE)

    def turn_down(self, entry: PodEntry) -> Changes:
        """Take note that kube-scheduler asks again: it did not keep the node that it was given, something else refused it."""
        holding = self._ledger.holdings[entry.uid]
        if entry.stage is Stage.OFFERED and entry.decisive:
            entry.tried.add(holding.placement.node)
        return self.void(entry, "moved", seen_by_scheduler=True)

    def drop_promises(self) -> Changes:
        """Forget what was promised or refused: another extender decides now. What is being bound stays until that has ended."""
        changes = Changes()
        for entry in self.entries.values():
            entry.refusal = entry.refused_since = None
            entry.tried.clear()
            changes += self.kept.open(entry)
            changes += self.void(entry, "handed_over")
            if entry.stage is Stage.REFUSED:
                self._move(entry, Step.VOID)
        return changes

    # Bindings

    def begin_binding(self, entry: PodEntry, placement: Placement) -> Changes:
        """Hold the cards until it is known what became of a binding that is about to be asked for.

        They are reserved (again) where they are not. Raises LedgerError; nothing is changed then.
        """
        entry.after(Step.BIND)
        holding, changes = self._ledger.holdings.get(entry.uid), Changes()
        if holding is None or holding.state is HoldingState.RESERVED:
            changes += self._reserve(entry, placement, _NEVER)
            self._ledger.begin_binding(entry.uid)
        self._move(entry, Step.BIND)
        entry.awaited = True
        return changes

    def confirm_binding(self, entry: PodEntry, node: str) -> Changes:
        """Note that the API server said that it bound the pod; the watch may have said so before."""
        if self.entries.get(entry.uid) is not entry or entry.stage is Stage.BOUND:
            return []
        self._ledger.confirm(entry.uid, node)
        return self.note_bound(entry)

    def fail_binding(self, entry: PodEntry) -> Changes:
        """Give the cards back: the binding did not happen, and will not.

        An earlier attempt without an answer may still happen: then the cards stay (see `settle_binding`).
        """
        entry.awaited = False
        return [] if entry.unsure_since is not None else self.settle_binding(entry)

    def settle_binding(self, entry: PodEntry, *, fenced: bool = False) -> Changes:
        """Give the cards back: no attempt to bind the pod happened, and none will; if `fenced`, not even one whose answer is awaited."""
        if entry.stage is not Stage.BINDING or (entry.awaited and not fenced):
            return []
        entry.awaited, entry.unsure_since = False, None
        holding = self._ledger.release(entry.uid)
        assert holding is not None
        self._metrics.reservations_ended.labels("bind_failed").inc()
        self._move(entry, Step.FAIL)
        self._rest_again(entry)
        freed = self.freed(holding.placement.node, seen_by_scheduler=False)
        return [*seat_lost(entry, holding.placement, "bind_failed"), freed]

    def binding_unsure(self, entry: PodEntry) -> None:
        """Note that the outcome of a binding is not known: it may have been written, or may be written yet."""
        if entry.stage is Stage.BINDING:
            entry.awaited, entry.unsure_since = False, self._monotonic()

    def shown_bound(self, uid: str) -> Changes:
        """Take in that the watch shows a pod bound: its record goes, the ledger knows the rest."""
        entry = self.entries.get(uid)
        if entry is None:
            return []
        changes = self.note_bound(entry)
        self._remove(entry)
        return changes

    def note_bound(self, entry: PodEntry) -> Changes:
        """Take in that a pod is bound; its record stays until the watch shows it so. What it holds is the ledger's to know."""
        told = entry.stage is Stage.BOUND
        if entry.stage in HOLDING:
            self._metrics.reservations_ended.labels("bound").inc()
        self._move(entry, Step.BOUND)
        return [] if told else [PodBound(entry), *self.end_claim(entry), *self.kept.open(entry)]

    # Claims on nodes that are being freed

    def claim(self, entry: PodEntry, claim: Claim) -> None:
        """Note that a node is being freed for a pod."""
        entry.claim = claim
        self.claims[entry.uid] = entry

    def secure_claim(self, entry: PodEntry, placement: Placement, expires_at: float) -> Changes:
        """Reserve what came free for the pod that it was freed for. Raises LedgerError; nothing is changed then."""
        assert entry.claim is not None
        changes = self.name(entry, placement, expires_at)
        entry.claim.secured = True
        return [*changes, self.freed(placement.node, seen_by_scheduler=False)]

    def end_claim(self, entry: PodEntry) -> Changes:
        """Note that no node is being freed for a pod any more; others may have the room."""
        claim, entry.claim = entry.claim, None
        if claim is None:
            return []
        del self.claims[entry.uid]
        return [self.freed(claim.node, seen_by_scheduler=False)]

    def nodes_being_freed(self) -> set[str]:
        """Nodes that are being freed, for whichever pod."""
        return {entry.claim.node for entry in self.claims.values() if entry.claim is not None}

    # Ends

    def sweep(self, now: float) -> Changes:
        """Give back expired reservations; forget pods that only a filter call spoke of and no watch event confirmed."""
        changes = Changes()
        for holding in self._ledger.expire(now):
            self._log.info("reservation_expired", pod=holding.pod, node=holding.placement.node)
            entry = self.entries[holding.uid]
            entry.may_be_named = False  # nobody came for it: it must not hold memory again and again
            changes += self._voided(entry, holding, "expired")
        changes += [self.freed(node, seen_by_scheduler=False) for node in self._ledger.trust()]
        for entry in list(self.entries.values()):
            held = entry.stage in HOLDING or entry.stage is Stage.BOUND
            if not entry.seen and not held and now - entry.noted_at > _UNSEEN_SECONDS:
                changes += self.forget(entry.uid)
        return changes

    def ended_with_node(self, holdings: Iterable[Holding]) -> Changes:
        """Take note of reservations that the ledger ended because their node, or its cards, went."""
        return [
            change
            for holding in holdings
            for change in self._voided(self.entries[holding.uid], holding, "node_changed", seen_by_scheduler=True)
        ]

    def end(self, uid: str) -> Changes:
        """A pod was deleted, replaced or has finished: everything it held is free, and it will not come back."""
        self._ended.add(uid)
        return self.forget(uid)

    def forget(self, uid: str) -> Changes:
        """Give back everything a pod holds, and drop its record; it may be shown again."""
        changes = Changes()
        entry = self.entries.get(uid)
        if entry is not None:
            if entry.stage is not Stage.BOUND:
                changes.append(PodGone(entry))
            self._move(entry, Step.END)
            self._remove(entry)
            changes += [*self.end_claim(entry), *self.kept.open(entry)]
        self.leaving.discard(uid)
        holding = self._ledger.release(uid)
        if holding is None:
            return changes
        was_bound = holding.state is HoldingState.BOUND
        if not was_bound:
            self._metrics.reservations_ended.labels("deleted").inc()
        return [*changes, self.freed(holding.placement.node, seen_by_scheduler=was_bound)]

    def checks(self) -> Iterator[list[str]]:
        """Where the records and the ledger disagree, in small steps; no breach at all unless there is a bug."""
        return checks.of(self, self._ledger)

    def check(self) -> list[str]:
        """`checks` at once. For tests."""
        return [breach for found in self.checks() for breach in found]

    # Small steps

    def _reserve(self, entry: PodEntry, placement: Placement, expires_at: float) -> Changes:
        before, facts = self._ledger.holdings.get(entry.uid), entry.facts
        self._quotas.check(entry.namespace, entry.uid, placement)
        self._ledger.reserve(
            entry.uid, entry.key, facts.request, placement,
            expires_at=expires_at, project=facts.project, priority=facts.priority,
        )  # fmt: skip
        moved = before is not None and before.placement.node != placement.node
        return [self.freed(before.placement.node, seen_by_scheduler=False)] if before is not None and moved else []

    def _move(self, entry: PodEntry, step: Step) -> None:
        stage = entry.after(step)
        if stage in HOLDING:
            entry.ended = ""
        if entry.name_landed and stage is not entry.stage:
            entry.name_landed = False
            self.names_ahead -= 1
        del self._at[entry.stage][entry.uid]
        self._at[stage][entry.uid] = entry
        entry.stage = stage

    def _remove(self, entry: PodEntry) -> None:
        del self.entries[entry.uid], self._at[entry.stage][entry.uid]
