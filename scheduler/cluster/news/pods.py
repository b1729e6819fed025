"""What the API server tells of pods, by watch and by list, in its order. The API server wins over everything decided here."""

from collections.abc import Callable, Container
from typing import Final

from headroom import names, wire
from headroom.domain.model import GpuRequest, Mode
from headroom.domain.request import RequestError
from headroom.wire import DELETED
from scheduler.cluster.changes import CardsOverfilled, Changes, PodDisagrees
from scheduler.cluster.news.repelling import Repelling
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.pods.groups import GroupBook
from scheduler.cluster.pods.records import Pods
from scheduler.ledger.holding import ChangeKind, HoldingState, is_finished
from scheduler.ledger.ledger import Ledger
from scheduler.metrics import SchedulerMetrics

_NO_SPEC: Final = wire.PodSpec()
_NO_STATUS: Final = wire.PodStatus()


def identity_of(pod: wire.Pod) -> wire.Pod:
    """All that is needed of a pod once its event has been applied: 40,000 whole pods would take 150 MB."""
    meta = pod.metadata
    return wire.Pod(wire.Meta(name=meta.name, namespace=meta.namespace, uid=meta.uid), _NO_SPEC, _NO_STATUS)


class PodNews:
    """Applies events to the records and the ledger. `observe` is told of the requests of pods that were bound before they were seen."""

    def __init__(
        self,
        pods: Pods,
        ledger: Ledger,
        metrics: SchedulerMetrics,
        groups: GroupBook,
        *,
        observe: Callable[[GpuRequest], None],
    ) -> None:
        self.problems: dict[str, str] = {}
        """What is wrong with pods that cannot be understood, by `namespace/name`."""
        self.repelling = Repelling()
        """What bound pods say by anti-affinity."""
        self._pods, self._ledger, self._metrics, self._observe = pods, ledger, metrics, observe
        self._groups = groups
        self._shown: dict[str, str] = {}
        """UID of the pod that the watch shows under each `namespace/name`."""
        self._missed: dict[str, str] = {}
        """Node by `namespace/name`, of bound pods whose last news could not be taken in."""

    def on_event(self, kind: str, key: str, pod: wire.Pod) -> Changes:
        """Apply an event of the pod watch. The watch shows the pods of a name in their order: a new one ends the one before."""
        uid = pod.metadata.uid
        known = self._shown.get(key)
        changes = Changes()
        if known is not None and known != uid:
            self._groups.forget(known)
            changes += self._pods.end(known)
        if kind == DELETED or is_finished(pod):
            self.repelling.forget(key)
            if kind == DELETED:
                self._groups.forget(uid)
            else:
                self._groups.finish(pod)
            held = self._ledger.holdings.get(uid)
            changes += self._pods.end(uid)
            if held is not None and held.placement.mode is Mode.SLICE:
                changes += self.give_way(held.placement.node)  # the plugin may now pick other cards than foretold
            self.problems.pop(key, None)
            if kind == DELETED and self._shown.get(key) == uid:
                del self._shown[key]
            return changes
        self._shown[key] = uid
        self.repelling.show(key, pod)
        changes += self._groups_told(pod)
        if pod.spec.node_name:
            changes += self._show_bound(pod)
            if known is None:
                self._learn_from(uid)
        else:
            changes += self._show_unbound(pod, seen=True)
        return changes

    def _groups_told(self, pod: wire.Pod) -> Changes:
        """Take in a pod's group; the members that were refused because others were missing must hear when the last one comes."""
        before = self._groups.of(pod.metadata.uid)
        record = self._groups.show(pod)
        nodes = self._ledger.fleet.nodes
        if record is None or record is before or not nodes or record.number() != len(record.present()):
            return []
        return [self._pods.freed(next(iter(nodes)), seen_by_scheduler=False)]

    def listed(self, began: float, untaken: Container[str] = ()) -> Changes:
        """End pods that a complete list does not hold although they were there before it `began`.

        Those that the watch or the list has shown, however old a version, end by its own news; this is about the others, of which
        kube-scheduler alone spoke. Pods under names that are `untaken` stay: the list holds them, and they could not be taken in.
        """
        ghosts = [
            entry.uid
            for entry in self._pods.entries.values()
            if self._shown.get(entry.key) != entry.uid and entry.noted_at < began and entry.key not in untaken
        ]
        for uid in ghosts:
            self._groups.forget(uid)
        return [change for uid in ghosts for change in self._pods.end(uid)]

    def missed(self, key: str, pod: wire.Pod | None) -> Changes:
        """A pod whose last news could not be taken in; None once it was, or the pod is gone.

        While it is bound nothing is placed on its node: it may hold cards there of which the ledger does not know.
        """
        self._missed.pop(key, None)
        if pod is not None and pod.spec.node_name and not is_finished(pod):
            self._missed[key] = pod.spec.node_name
        opened = self._ledger.fleet.set_untold(self._missed.values())
        return [self._pods.freed(node, seen_by_scheduler=False) for node in opened]

    def told(self, entry: PodEntry, pod: wire.Pod) -> Changes:
        """Take in what the API server answered about a pod; the watch, which may be behind, says the same later."""
        if self._pods.entries.get(entry.uid) is not entry:
            return []  # the watch was before the answer
        if pod.metadata.uid != entry.uid or is_finished(pod):
            return self._pods.end(entry.uid)
        if pod.spec.node_name:
            return [*self._pods.note_bound(entry), *self._apply_bound(pod)]
        return self._show_unbound(pod)

    def _show_bound(self, pod: wire.Pod) -> Changes:
        return [*self._pods.shown_bound(pod.metadata.uid), *self._apply_bound(pod)]

    def _apply_bound(self, pod: wire.Pod) -> Changes:
        uid, changes = pod.metadata.uid, Changes()
        if pod.metadata.deletion_timestamp is not None:
            self._pods.leaving.add(uid)
        before = self._ledger.holdings.get(uid)
        change = self._ledger.apply(pod)
        if before is None and change.kind is ChangeKind.HELD:
            changes += self._overfilled(uid)
        if change.problem and self.problems.get(pod.key) != change.problem:
            self._metrics.objects_refused.labels("pod").inc()
            changes.append(PodDisagrees(pod.key, uid, change.problem))
        if change.problem:
            self.problems[pod.key] = change.problem
        else:
            self.problems.pop(pod.key, None)
        changes += [self._pods.freed(node, seen_by_scheduler=True) for node in change.freed]
        changes += [self._pods.freed(node, seen_by_scheduler=False) for node in change.settled]
        return changes + self.give_way(pod.spec.node_name)

    def _overfilled(self, uid: str) -> Changes:
        """The first card that a pod, placed by somebody else, shares with more than there is room for."""
        held, fleet = self._ledger.holdings[uid], self._ledger.fleet
        row = fleet.row_of.get(held.placement.node)
        for at in held.placement.cards if row is not None and held.counted else ():
            total, usable = int(fleet.held_mib[row, at]), int(fleet.usable_mib[row, at])
            if total > usable:
                node = fleet.nodes[held.placement.node]
                return [CardsOverfilled(held.pod, uid, node.cards[at].id, node.name, total, usable)]
        return []

    def _learn_from(self, uid: str) -> None:
        """Count a pod that was bound before it was first seen: after a restart those tell what pods are like here."""
        holding = self._ledger.holdings.get(uid)
        if holding is not None and holding.request.count > 0:
            self._observe(holding.request)

    def give_way(self, node: str) -> Changes:
        """End reservations on cards that bound pods or claims, placed by somebody else, have over-filled."""
        fleet, changes = self._ledger.fleet, Changes()
        row = fleet.row_of.get(node)
        if row is None or not (fleet.over(row).any() or fleet.devices_left(row) < 0):
            return changes
        for held in self._ledger.on_node(node):
            over = fleet.over(row)
            anywhere = held.placement.mode is Mode.SLICE and over.any()  # it may come to be on any of them
            too_many = held.placement.devices > 0 and fleet.devices_left(row) < 0
            too_much = anywhere or any(over[at] for at in held.placement.cards)
            if held.state is HoldingState.RESERVED and (too_many or too_much):
                changes += self._pods.void(self._pods.entries[held.uid], "moved")
        return changes

    def _show_unbound(self, pod: wire.Pod, *, seen: bool = False) -> Changes:
        uid, holding = pod.metadata.uid, self._ledger.holdings.get(pod.metadata.uid)
        if holding is not None and holding.state is HoldingState.BOUND:
            return []  # older than the API server's own answer
        if pod.metadata.deletion_timestamp is not None:
            return self._pods.end(uid)  # it cannot be bound any more
        if names.LABEL_PLACEHOLDER in pod.metadata.labels:
            return self._pods.forget(uid)  # it is never placed
        try:
            _, changes = self._pods.show(pod, seen=seen)
        except RequestError as error:
            self.problems[pod.key] = str(error)
            self._groups.forget(uid)  # nobody can place it: its group is not complete
            self._metrics.objects_refused.labels("pod").inc()
            entry = self._pods.entries.get(uid)
            return [] if entry is not None and entry.stage is Stage.BINDING else self._pods.forget(uid)
        self.problems.pop(pod.key, None)
        return changes
