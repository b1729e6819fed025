"""The extender's own parts in virtual time: what the daemon puts together, on a state that is fed by hand.

Nothing of it is written anew: filter and bind calls, the book of groups, their seating, the ledger, the nodes kept for those who have
waited for long and the look for pods that must be woken are the daemon's. The API server is a few lines that say yes.
"""

import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from prometheus_client import CollectorRegistry

from headroom import names, wire
from headroom.daemon.guard import Guard
from headroom.domain.model import GpuNode
from headroom.errors import HeadroomError
from headroom.kube.client import JSON, Query, Unprocessable
from headroom.wire import ADDED, DELETED, MODIFIED
from scheduler.background.keeping import KeepingNodes
from scheduler.background.room_of_use import node_of_use
from scheduler.cluster.changes import Freed
from scheduler.cluster.decisions import Decisions
from scheduler.cluster.effects import Effects
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.policies.registry import policy_by_name
from scheduler.settings import SchedulerSettings
from scheduler.verbs import protocol
from scheduler.verbs.bind import Binder, BindError
from scheduler.verbs.filter import Extender
from simulations.kwok.nodes import node_manifest

Object = dict[str, Any]
_PLAN_EVERY_PODS: Final = 500
_FOREVER_SECONDS: Final = 1e9


class BrokenError(HeadroomError):
    """Something that must hold does not."""


class _Answer(msgspec.Struct, rename="pascal"):
    node_names: list[str]


_ANSWER: Final = msgspec.json.Decoder(_Answer)


class _Server:
    """Binds, but for the few bindings that it refuses."""

    def __init__(self, rng: random.Random, refuses: float) -> None:
        self._rng, self._refuses = rng, refuses
        self.binding: Object = {}
        """The last one asked for."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = JSON,
        timeout_seconds: float = 10.0,
    ) -> bytes:
        """One call, which must be a binding."""
        del query, content_type, timeout_seconds
        if method != "POST" or not path.endswith("/binding"):
            raise BrokenError(f"unexpected call {method} {path}")
        if self._rng.random() < self._refuses:
            raise Unprocessable("refused by chance", code=422)
        self.binding = body
        return b"{}"

    def watch(self, path: str, resource_version: str, *, query: Query = ()) -> Any:
        """Not served."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to do."""


class Daemon:
    """One extender. With `waits_at_permit` what is reserved for a pod stays until it is given back."""

    def __init__(
        self, nodes: Sequence[GpuNode], seed: int, *, waits_at_permit: bool, refuses: float, fair_wait_seconds: float
    ) -> None:
        self.now = 0.0
        settings = SchedulerSettings(
            port=1, plan_every_pods=_PLAN_EVERY_PODS, fair_wait_seconds=fair_wait_seconds, preemption=False, naming_ahead=False
        )  # fmt: skip
        if waits_at_permit:
            settings = SchedulerSettings(
                port=1, plan_every_pods=_PLAN_EVERY_PODS, fair_wait_seconds=fair_wait_seconds, preemption=False,
                naming_ahead=False, reservation_seconds=_FOREVER_SECONDS,
            )  # fmt: skip
        self._failures: list[str] = []
        self.state = ClusterState(
            policy_by_name(settings.policy), SchedulerMetrics(CollectorRegistry()), monotonic=self._monotonic
        )
        self._effects = Effects(Guard(self._failures.append))
        self.seating = Seating(self.state, hold_seconds=settings.group_hold_seconds, monotonic=self._monotonic)
        self.seating.listen(self._effects)
        self._freed: dict[str, Freed] = {}
        self._effects.on(Freed, "wake", self._note_freed)
        decisions = Decisions()
        self._extender = Extender(
            self.state, settings, decisions, self._effects, self.seating, monotonic=self._monotonic
        )
        self._server = _Server(random.Random(seed), refuses)
        self._binder = Binder(
            self.state, self._server, settings, decisions, self._effects, self.seating,
            term=lambda: "", monotonic=self._monotonic,
        )  # fmt: skip
        self._keeping = KeepingNodes(self.state, self.seating, wait_seconds=fair_wait_seconds)
        self._pods: dict[str, Object] = {}
        self._shown: dict[str, wire.Pod] = {}
        self._version = 0
        for node in nodes:
            shown = wire.NODE.decode(wire.encode(node_manifest(node)))
            self._effects(self.state.on_node(ADDED, node.name, shown))
        self.state.placer.replan()

    def _monotonic(self) -> float:
        return self.now

    def _note_freed(self, change: Freed) -> None:
        """As `scheduler.background.waking` does."""
        known = self._freed.get(change.node)
        hidden = not change.seen_by_scheduler or (known is not None and not known.seen_by_scheduler)
        self._freed[change.node] = Freed(change.node, change.number, change.at, seen_by_scheduler=not hidden)

    # What the API server and kube-scheduler tell

    def create(self, pod: Object) -> None:
        """A pod comes."""
        self._version += 1
        pod["metadata"]["resourceVersion"] = str(self._version)
        self._pods[pod["metadata"]["uid"]] = pod
        self._show(pod, ADDED)

    def _show(self, pod: Object, kind: str) -> None:
        shown = wire.POD.decode(wire.encode(pod))
        self._shown[pod["metadata"]["uid"]] = shown
        self._effects(self.state.on_pod(kind, shown.key, shown))

    def delete(self, uid: str) -> None:
        """A pod ends and is deleted."""
        del self._pods[uid]
        shown = self._shown.pop(uid)
        self._effects(self.state.on_pod(DELETED, shown.key, shown))

    def filter(self, uid: str, nodes: Sequence[str]) -> str | None:
        """The node for a pod among those that kube-scheduler offers."""
        args = protocol.ExtenderArgs(pod=self._shown[uid], node_names=msgspec.Raw(msgspec.json.encode(nodes)))
        found = _ANSWER.decode(self._extender.filter(args).body).node_names
        return found[0] if found else None

    async def bind(self, uid: str, node: str) -> list[tuple[int, int]] | None:
        """Cards and MiB on each that a pod is bound to; None where the binding failed."""
        meta = self._pods[uid]["metadata"]
        args = protocol.BindingArgs(pod_name=meta["name"], pod_namespace=meta["namespace"], pod_uid=uid, node=node)
        try:
            await self._binder.bind(args)
        except BindError:
            return None
        held = self.state.ledger.holdings[uid]
        pod = self._pods[uid]
        pod["spec"]["nodeName"] = node
        pod["metadata"]["annotations"] |= self._server.binding["metadata"]["annotations"]
        self._version += 1
        meta["resourceVersion"] = str(self._version)
        self._show(pod, MODIFIED)
        said = pod["metadata"]["annotations"][names.ANNOTATION_ASSIGNED_CARDS].split(",")
        return [
            (int(card.rpartition("-")[2]), share) for card, share in zip(said, held.placement.share_mib, strict=True)
        ]

    def give_back(self, uid: str) -> None:
        """What is reserved for a pod is given back: kube-scheduler rejected it at Permit."""
        self._effects(self.state.pods.void(self.state.pods.entries[uid], "moved", seen_by_scheduler=True))

    # What it does by itself

    async def sweep(self) -> bool:
        """What the daemon does every second; whether pods that were refused must be woken."""
        self._effects(self.state.pods.sweep(self.now))
        self._effects(self.seating.rested(self.now))
        self._effects(self._keeping.sweep(self.now))
        freed, self._freed = self._freed, {}
        return bool(freed) and await node_of_use(self.state, self.seating, freed) is not None

    def held(self, uid: str) -> bool:
        """Whether a pod holds cards, bound or reserved."""
        return uid in self.state.ledger.holdings

    def fits_nowhere(self, uid: str, pods: int) -> bool:
        """Whether so many pods like this, each on a node of its own, surely find no room: then the filter call need not be made."""
        request, placer = self.state.pods.entries[uid].request, self.state.placer
        if pods == 1:
            return placer.best_row(request) is None
        return len(placer.order(request, range(len(self.state.fleet.names)))) < pods

    def keeps_a_node(self, uid: str) -> bool:
        """Whether a node is kept for a pod."""
        entry = self.state.pods.entries.get(uid)
        return entry is not None and bool(entry.kept_node)

    def check(self, *, whole: bool) -> None:
        """Raise BrokenError where the books contradict themselves; `whole` also looks for pods and ledger that disagree."""
        found = self._failures + (self.state.breaches() if whole else self.state.ledger.overcommitted())
        if found:
            raise BrokenError(f"at {self.now:.0f} s: {found[:3]}")
