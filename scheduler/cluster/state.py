"""What the extender knows of the cluster: fed by list and watch, changed by its own decisions, never by waiting.

The ledger is the only owner of who holds what. Everything here runs on one event loop, in the order of the events, so
nothing needs a lock.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from headroom import names, wire
from headroom.daemon.logs import get_logger
from headroom.domain.model import GpuNode, GpuRequest, Placement
from headroom.domain.node_cards import InventoryError, node_of, without_cards
from headroom.domain.request import RequestError, project_of, request_of
from headroom.wire import DELETED
from scheduler.cluster.host_rules import soft_preferences, wholly_judged
from scheduler.cluster.measured import MeasuredVram
from scheduler.cluster.records import Attempt, Freed, RefusedPod, WaitingPod
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import is_finished
from scheduler.ledger.ledger import Holding, HoldingState, Ledger
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.occupant import Occupant
from scheduler.placement.placer import Placer
from scheduler.placement.scoring import Policy

_UNSEEN_SECONDS: Final = 60.0


@dataclass(slots=True)
class Hooks:
    """Who is told of what; set by the parts that care."""

    room_freed: Callable[[str], None] = lambda _: None
    """First of all, with the node: the preemptor takes the room for the pods that it was made for."""
    freed: Callable[[Freed], None] = lambda _: None
    pod_ended: Callable[[str, bool], None] = lambda _uid, _bound: None
    pod_waits: Callable[[], None] = lambda: None
    claimed_node: Callable[[str], str | None] = lambda _: None


class ClusterState:
    """Nodes, pods, ledger and fleet as of the last event. `monotonic` is the clock of reservations."""

    def __init__(
        self,
        policy: Policy,
        metrics: SchedulerMetrics,
        *,
        scheduler_names: tuple[str, ...] = (names.SCHEDULER_NAME,),
        monotonic: Callable[[], float],
    ) -> None:
        self.fleet = Fleet()
        self.ledger = Ledger(self.fleet)
        self.placer = Placer(self.fleet, policy)
        self.hooks = Hooks()
        self.nodes: dict[str, wire.Node] = {}
        self.nodes_version = 0
        """Grows when a node's labels, taints or cordon changed, or a node came or went."""
        self.node_problems: dict[str, str] = {}
        self.pod_problems: dict[str, str] = {}
        self.measured_cards: int | None = None
        """Cards whose measured use is fresh; None where nothing is measured."""
        self.waiting: dict[str, WaitingPod] = {}
        self.refused: dict[str, RefusedPod] = {}
        self._metrics, self._scheduler_names, self._monotonic = metrics, frozenset(scheduler_names), monotonic
        self._attempts: dict[str, Attempt] = {}
        self._uid_of: dict[str, str] = {}
        self._leaving: set[str] = set()
        self._changes = 0
        self._arrivals = 0
        self._log = get_logger(__name__)

    # Events of the API server

    def on_node(self, kind: str, name: str, node: wire.Node) -> None:
        """Apply an event of the node watch."""
        self._metrics.events_read.labels("node").inc()
        self.node_problems.pop(name, None)
        if kind == DELETED:
            self.nodes.pop(name, None)
            self.nodes_version += 1
            self.ledger.forget_node(name)
            return
        known = self.nodes.get(name)
        self.nodes[name] = node
        if known is None or known.spec != node.spec or known.metadata.labels != node.metadata.labels:
            self.nodes_version += 1
        gpu_node = self._described(name, node)
        if gpu_node is None or (not gpu_node.cards and name not in self.fleet.nodes):
            return
        if gpu_node != self.fleet.nodes.get(name):
            self.ledger.apply_node(gpu_node)
            self._room(name, seen_by_scheduler=True)

    def _described(self, name: str, node: wire.Node) -> GpuNode | None:
        try:
            gpu_node = node_of(node)
        except InventoryError as error:
            self.node_problems[name] = f"{error.field}: {error.reason}"
            self._metrics.objects_refused.labels("node").inc()
            self._log.warning("node_not_understood", node=name, error=str(error))
        else:
            if gpu_node.problems:
                self.node_problems[name] = "; ".join(gpu_node.problems)
            return gpu_node
        try:
            return without_cards(node)
        except InventoryError:
            return None

    def on_pod(self, kind: str, key: str, pod: wire.Pod) -> None:
        """Apply an event of the pod watch."""
        self._metrics.events_read.labels("pod").inc()
        uid = pod.metadata.uid
        known = self._uid_of.get(key)
        if known is not None and known != uid:
            self._gone(known)  # deleted and created again under the same name while nobody watched
        if kind == DELETED or is_finished(pod):
            self._gone(uid)
            self.pod_problems.pop(key, None)
            if kind == DELETED and self._uid_of.get(key) == uid:
                del self._uid_of[key]
            return
        self._uid_of[key] = uid
        if pod.spec.node_name:
            self._note_bound(pod)
            if known is None:
                self._learn_from(uid)
        else:
            self._note_unbound(pod)

    def _note_bound(self, pod: wire.Pod) -> None:
        self._stop_waiting(pod.metadata.uid, bound=True)
        if pod.metadata.deletion_timestamp is not None:
            self._leaving.add(pod.metadata.uid)
        change = self.ledger.apply(pod)
        if change.problem:
            self.pod_problems[pod.key] = change.problem
            self._metrics.objects_refused.labels("pod").inc()
        else:
            self.pod_problems.pop(pod.key, None)
        for node in change.freed:
            self._room(node, seen_by_scheduler=True)
        self._give_way(pod.spec.node_name)

    def _learn_from(self, uid: str) -> None:
        """Count a pod that was bound before it was first seen: after a restart those tell what pods are like here."""
        holding = self.ledger.holdings.get(uid)
        if holding is not None and holding.request.count > 0:
            self.placer.observe(holding.request, self._monotonic())

    def _give_way(self, node: str) -> None:
        """End reservations on cards that bound pods, placed by somebody else, have over-filled."""
        row = self.fleet.row_of.get(node)
        if row is None or not (self.fleet.held_mib[row] > self.fleet.usable_mib[row]).any():
            return
        for held in self.ledger.on_node(node):
            over = self.fleet.held_mib[row] > self.fleet.usable_mib[row]
            if held.state is HoldingState.RESERVED and any(over[at] for at in held.placement.cards):
                self.release(held.uid, "moved")
                self.forgive(held.uid)

    def _note_unbound(self, pod: wire.Pod) -> None:
        known = self.waiting.get(pod.metadata.uid)
        if known is not None and pod.metadata.deletion_timestamp is None:
            known.nominated, known.pod = pod.status.nominated_node_name, pod
            return
        try:
            request = request_of(pod)
        except RequestError as error:
            self.pod_problems[pod.key] = str(error)
            self._metrics.objects_refused.labels("pod").inc()
            return
        self.pod_problems.pop(pod.key, None)
        if request is not None and request.count > 0 and pod.metadata.deletion_timestamp is None:
            self.note_waiting(pod, request, project_of(pod))

    def _gone(self, uid: str) -> None:
        """A pod was deleted, replaced or has finished: everything it held is free."""
        self._stop_waiting(uid, bound=False)
        self._leaving.discard(uid)
        holding = self.ledger.release(uid)
        if holding is None:
            return
        was_bound = holding.state is HoldingState.BOUND
        if not was_bound:
            self._metrics.reservations_ended.labels("deleted").inc()
        self._room(holding.placement.node, seen_by_scheduler=was_bound)

    def _stop_waiting(self, uid: str, *, bound: bool) -> None:
        self.waiting.pop(uid, None)
        self.refused.pop(uid, None)
        self._attempts.pop(uid, None)
        self.hooks.pod_ended(uid, bound)

    # Decisions of the extender

    def note_waiting(self, pod: wire.Pod, request: GpuRequest, project: str) -> WaitingPod:
        """Remember an unbound pod."""
        uid, meta, spec = pod.metadata.uid, pod.metadata, pod.spec
        ours = spec.scheduler_name in self._scheduler_names
        self._arrivals += 1
        fresh = self.waiting[uid] = WaitingPod(
            uid=uid,
            namespace=meta.namespace,
            name=meta.name,
            request=request,
            project=project,
            priority=spec.priority,
            created_at=meta.creation_timestamp or "",
            may_preempt=ours and spec.preemption_policy != "Never",
            can_be_named=ours and wholly_judged(pod) and not soft_preferences(pod),
            nominated=pod.status.nominated_node_name,
            pod=pod,
            arrival=self._arrivals,
            noted_at=self._monotonic(),
        )
        self.placer.observe(request, fresh.noted_at)
        self.hooks.pod_waits()
        return fresh

    def note_refused(self, pod: WaitingPod, now: float) -> None:
        """Remember a pod that fitted nowhere, so that it can be woken."""
        self.refused[pod.uid] = RefusedPod(pod.uid, pod.key, pod.request, now, self._changes)

    def note_placed(self, uid: str) -> None:
        """Note that kube-scheduler was given a node for the pod."""
        self.refused.pop(uid, None)

    def attempt(self, uid: str) -> Attempt:
        """What was answered about a pod so far; kept until it is bound or gone."""
        found = self._attempts.get(uid)
        if found is None:
            found = self._attempts[uid] = Attempt()
        return found

    def forgive(self, uid: str) -> None:
        """Let the node last given for the pod count as not tried: that it was not bound there was no fault of the node."""
        if uid in self._attempts:
            self._attempts[uid].offered = False

    def was_offered(self, uid: str) -> bool:
        """Whether kube-scheduler was given a node for the pod that it has not turned down yet."""
        attempt = self._attempts.get(uid)
        return attempt is not None and attempt.offered

    def attempt_scores(self, uid: str) -> dict[str, int]:
        """Scores kept from the filter call on a pod with preferences."""
        attempt = self._attempts.get(uid)
        return {} if attempt is None else attempt.scores

    def reserve(self, pod: WaitingPod, placement: Placement, expires_at: float) -> None:
        """Hold a placement for a pod, in place of what was reserved for it. Raises LedgerError."""
        before = self.ledger.holdings.get(pod.uid)
        self.ledger.reserve(
            pod.uid, pod.key, pod.request, placement,
            expires_at=expires_at, project=pod.project, priority=pod.priority, created=pod.created_at,
        )  # fmt: skip
        if before is not None and before.placement.node != placement.node:
            self._room(before.placement.node, seen_by_scheduler=False)

    def confirm(self, uid: str, node: str) -> None:
        """Note that the API server bound the pod; its watch event says the same later."""
        if self.ledger.confirm(uid, node) is not None:
            self._metrics.reservations_ended.labels("bound").inc()
            self._stop_waiting(uid, bound=True)

    def release(self, uid: str, end: str, *, wake: bool = True) -> None:
        """Give a reservation back. Bound pods are left alone: only their end frees what they hold."""
        holding = self.ledger.holdings.get(uid)
        if holding is None or holding.state is HoldingState.BOUND:
            return
        self.ledger.release(uid)
        self._metrics.reservations_ended.labels(end).inc()
        self._room(holding.placement.node, seen_by_scheduler=not wake)

    def drop_promises(self) -> None:
        """Forget what was promised or refused: another extender decides now, and makes promises of its own."""
        for holding in self.ledger.reservations():
            self.ledger.release(holding.uid)
            self._metrics.reservations_ended.labels("handed_over").inc()
        self.refused.clear()
        self._attempts.clear()

    def set_measured(self, name: str, reading: MeasuredVram) -> int:
        """Take in what a node's cards were measured to use; returns how many of them have a fresh measurement."""
        node = self.fleet.nodes.get(name)
        if node is None:
            return 0
        row, width = self.fleet.row_of[name], len(node.cards)
        measured = reading.of_node(node)
        if measured != self.fleet.measured_mib[row, :width].tolist():
            before = self.fleet.free_mib[row].copy()
            self.fleet.set_measured(row, measured)
            if (self.fleet.free_mib[row] > before).any():
                self._room(name, seen_by_scheduler=False)
        return sum((name, card.id) in reading.used_mib for card in node.cards)

    def sweep(self, now: float) -> None:
        """Give back expired reservations; forget pods that only a filter call spoke of and no watch event confirmed."""
        for holding in self.ledger.expire(now):
            self._metrics.reservations_ended.labels("expired").inc()
            self._log.info("reservation_expired", pod=holding.pod, node=holding.placement.node)
            self.forgive(holding.uid)
            if (waiting := self.waiting.get(holding.uid)) is not None:
                waiting.can_be_named = False  # nobody came for it: it must not hold memory again and again
            self._room(holding.placement.node, seen_by_scheduler=False)
        for uid, pod in list(self.waiting.items()):
            if (
                self._uid_of.get(pod.key) != uid
                and now - pod.noted_at > _UNSEEN_SECONDS
                and self.ledger.holdings.get(uid) is None
            ):
                self._stop_waiting(uid, bound=False)

    def _room(self, node: str, *, seen_by_scheduler: bool) -> None:
        self.hooks.room_freed(node)
        self.announce_room(node, seen_by_scheduler=seen_by_scheduler)

    def announce_room(self, node: str, *, seen_by_scheduler: bool = False) -> None:
        """Have pods that were refused before tried again if the node is of use to them now."""
        self._changes += 1
        self.hooks.freed(Freed(node, self._changes, self._monotonic(), seen_by_scheduler))

    # Questions

    def holding(self, uid: str) -> Holding | None:
        """What the pod holds or has reserved."""
        return self.ledger.holdings.get(uid)

    def is_bound(self, uid: str) -> bool:
        """Whether the pod is known to be bound."""
        holding = self.ledger.holdings.get(uid)
        return holding is not None and holding.state is HoldingState.BOUND

    def bound_node(self, uid: str) -> str | None:
        """The node that the pod is bound to."""
        holding = self.ledger.holdings.get(uid)
        return holding.placement.node if holding is not None and holding.state is HoldingState.BOUND else None

    def claimed_node(self, uid: str) -> str | None:
        """The node being freed for a pod by preemption."""
        return self.hooks.claimed_node(uid)

    def outranks_any(self, pod: WaitingPod) -> bool:
        """Whether some pod that holds cards must give way to this one, or is leaving anyway."""
        return bool(self._leaving) or any(priority < pod.priority for priority in self.ledger.priorities)

    def occupants(self, row: int) -> list[Occupant]:
        """Bound pods that hold cards of a row."""
        found = []
        for held in self.ledger.on_node(self.fleet.names[row]):
            if held.state is HoldingState.BOUND and held.placement.cards:
                namespace, name = held.pod.split("/", 1)
                leaving = held.uid in self._leaving
                found.append(Occupant(held.uid, namespace, name, held.priority, held.placement, leaving))
        return found

    def reservations(self, now: float) -> list[dict[str, Any]]:
        """Placements that wait for their binding, as plain values."""
        return [
            {
                "pod": held.pod,
                "node": held.placement.node,
                "cards": held.placement.cards,
                "seconds_left": held.expires_at - now,
            }
            for held in self.ledger.reservations()
        ]

    def breaches(self) -> list[str]:
        """Cards on which more is held than there is, and disagreements within the ledger."""
        return [f"over-committed: {entry}" for entry in self.ledger.overcommitted()] + self.ledger.check()

    def figures(self) -> dict[str, float]:
        """Counts for the metrics page."""
        reserved = len(self.ledger.reservations())
        return {
            "reservations": reserved,
            "bound_pods": len(self.ledger.holdings) - reserved,
            "waiting_pods": len(self.waiting),
            "refused_pods": len(self.refused),
            "nodes": len(self.fleet.nodes),
            "nodes_not_understood": len(self.node_problems),
            "over_committed_cards": int((self.fleet.held_mib > self.fleet.usable_mib).sum()),
        }
