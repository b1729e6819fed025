"""Binds a pod and writes its cards on it, in one API call; idempotent, and undone in the ledger when it fails.

The API server merges the Binding's annotations into the pod in the same write, and checks the UID. No lock is held
meanwhile: from just before the call until its outcome is certain the cards are the binder's, and nothing else ends that. A
call without an answer is not certain: the API server may carry it out later. Then the pod keeps its cards, and may be bound to
the same node again, until `scheduler.background.fencing` has made sure of what became of it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from headroom import names, wire
from headroom.daemon.logs import get_logger
from headroom.domain.assignment import annotations_of
from headroom.domain.model import Placement
from headroom.domain.request import RequestError
from headroom.errors import HeadroomError
from headroom.kube import calls
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, ServerError, Unreachable
from scheduler.cluster.decisions import Decision, Decisions
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.room.seating import Seating
from scheduler.cluster.state import ClusterState
from scheduler.ledger.holding import LedgerError
from scheduler.settings import SchedulerSettings
from scheduler.verbs import protocol

_VERSION: Final = "ResourceVersion in precondition"
_TRIES: Final = 3


class BindError(HeadroomError):
    """A pod that cannot be bound where it was asked to be; kube-scheduler shows the text and tries the pod again.

    `unsure` tells that the API server's answer is missing: the pod may have been bound.
    """

    def __init__(self, message: str, *, unsure: bool = False) -> None:
        super().__init__(message)
        self.unsure = unsure


class Binder:
    """Carries out kube-scheduler's bind calls. `kube` must refuse to write once another extender decides.

    That cannot help a process that is stopped between its last look at the lease and its write. So a binding names the version of
    the pod; whoever takes over changes all pods that may be under way (`scheduler.background.fencing`), and `term` tells its marks, and
    our own of a later term, from those that were there.
    """

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        decisions: Decisions,
        effects: Effects,
        seating: Seating,
        *,
        term: Callable[[], str],
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._decisions = state, kube, settings, decisions
        self._effects, self._term, self._monotonic = effects, term, monotonic
        self._seating = seating
        self._calls: dict[str, tuple[str, asyncio.Task[None]]] = {}
        """Node and work of the bindings under way, by the pod's UID."""
        self._log = get_logger(__name__)

    async def bind(self, args: protocol.BindingArgs) -> None:
        """Bind as asked; returns once the pod is bound to that node. Raises BindError.

        kube-scheduler gives a call up after its httpTimeout and asks again: the second call waits for the first one's outcome.
        """
        uid = args.pod_uid
        if not (uid and args.pod_name and args.pod_namespace and args.node):
            raise BindError("PodName, PodNamespace, PodUID and Node must all be given")
        bound_to = self._state.bound_node(uid)
        if bound_to == args.node:
            return
        if bound_to is not None:
            raise BindError(f"pod {args.pod_namespace}/{args.pod_name} is bound to node {bound_to} already")
        node, task = self._calls.get(uid, ("", None))
        if task is None:
            task = asyncio.get_running_loop().create_task(self._bind(args))
            self._calls[uid] = args.node, task
            task.add_done_callback(lambda done: self._ended(uid, done))
        elif node != args.node:
            raise BindError(f"the binding of pod {args.pod_namespace}/{args.pod_name} to node {node} is under way")
        await asyncio.shield(task)

    def _ended(self, uid: str, task: asyncio.Task[None]) -> None:
        del self._calls[uid]
        if not task.cancelled():
            task.exception()  # whoever asked may have gone

    async def _bind(self, args: protocol.BindingArgs) -> None:
        term = self._term()  # a call may outlast it: what is decided under the next one is decided anew
        entry = self._state.pods.entries.get(args.pod_uid) or await self._look_up(args)
        if entry is None or (entry.request.count == 0 and args.node not in self._state.fleet.row_of):
            if entry is not None:
                self._effects(self._state.pods.void(entry, "moved"))
            await self._post(args, {}, None, term)
            return
        placement = self._take(entry, args)
        try:
            notes = annotations_of(self._state.fleet.nodes[args.node], placement, entry.request)
            await self._post(args, notes, entry, term)
        except BindError as error:
            if error.unsure:
                self._state.pods.binding_unsure(entry)
            else:
                self._effects(self._state.pods.fail_binding(entry))
            self._decisions.add(Decision(entry.key, self._monotonic(), "bind_failed", placement, {str(error): 1}))
            self._log.warning("bind_failed", pod=entry.key, node=args.node, unsure=error.unsure, error=str(error))
            raise
        except asyncio.CancelledError:
            self._state.pods.binding_unsure(entry)
            raise
        self._effects(self._state.pods.confirm_binding(entry, args.node))
        self._decisions.add(Decision(entry.key, self._monotonic(), "bound", placement))
        cards = ",".join(str(card) for card in placement.cards)
        self._log.info("pod_bound", pod=entry.key, node=args.node, cards=cards, mode=placement.mode.value)

    async def _look_up(self, args: protocol.BindingArgs) -> PodEntry | None:
        """A pod that no filter call and no watch event has shown yet; None for one that asks for no GPU."""
        try:
            pod = await self._read(args)
            if pod.metadata.uid != args.pod_uid:
                raise BindError(f"pod {pod.key} is another one now: its UID is {pod.metadata.uid}, not {args.pod_uid}")
            if pod.spec.node_name not in ("", args.node):
                raise BindError(f"pod {pod.key} is bound to node {pod.spec.node_name} already")
            entry, changes = self._state.pods.show(pod)
        except (KubeError, wire.WireError, RequestError) as error:
            raise BindError(f"pod {args.pod_namespace}/{args.pod_name} cannot be bound: {error}") from error
        self._effects(changes)
        return entry

    async def _read(self, args: protocol.BindingArgs) -> wire.Pod:
        path = calls.pod_path(args.pod_namespace, args.pod_name)
        return wire.POD.decode(
            await self._kube.request("GET", path, timeout_seconds=self._settings.bind_timeout_seconds)
        )

    def _take(self, entry: PodEntry, args: protocol.BindingArgs) -> Placement:
        """Make the cards for the asked node the binder's: those reserved there, or others where kube-scheduler chose otherwise."""
        if entry.key != f"{args.pod_namespace}/{args.pod_name}":
            raise BindError(
                f"UID {args.pod_uid} belongs to pod {entry.key}, not to {args.pod_namespace}/{args.pod_name}"
            )
        row = self._state.fleet.row_of.get(args.node)
        if row is None:
            raise BindError(f"node {args.node} is not known, or has no GPU")
        if (words := self._seating.may_bind(entry, args.node)) is not None:
            raise BindError(f"node {args.node} cannot take pod {entry.key}: {words}")
        holding = self._state.holding(entry.uid)
        if holding is not None and holding.placement.node != args.node and entry.stage is not Stage.BINDING:
            self._effects(self._seating.move(entry, args.node))
            holding = self._state.holding(entry.uid)
        if holding is not None and holding.placement.node != args.node:
            if entry.stage is Stage.BINDING:
                raise BindError(f"whether pod {entry.key} was bound to node {holding.placement.node} is not known yet")
            if self._state.groups.seated_with(entry.uid) is None:
                self._effects(self._state.pods.void(entry, "moved"))
            holding = None
        if holding is not None and holding.placement.shares != entry.request.count:
            # An attempt is under way, and the node cannot be read or has lost a card since: nothing may be bound without its cards.
            raise BindError(f"the cards of pod {entry.key} on node {args.node} are not known now")
        if holding is not None:
            placement = holding.placement
        else:
            reason = self._state.placer.refusal(entry.request, row)
            if reason is not None:
                raise BindError(f"node {args.node} cannot take pod {entry.key}: {reason}")
            placement = self._state.placer.placement_at(entry.request, row)
        try:
            self._effects(self._state.pods.begin_binding(entry, placement))
        except LedgerError as error:
            raise BindError(f"node {args.node} cannot take pod {entry.key}: {error}") from error
        return placement

    async def _post(
        self, args: protocol.BindingArgs, annotations: dict[str, str], entry: PodEntry | None, term: str
    ) -> None:
        """Have the API server bind the pod as decided under `term`; returns when it is bound to the asked node. Raises BindError."""
        for _ in range(_TRIES):
            if self._term() != term:
                raise BindError("another extender may have decided since the binding was asked for")
            version = str(entry.version) if entry is not None and entry.version else ""
            try:
                pod = args.pod_namespace, args.pod_name, args.pod_uid
                binding = calls.Binding(*pod, args.node, annotations, version)
                await calls.bind(self._kube, binding, timeout_seconds=self._settings.bind_timeout_seconds)
            except Conflict as error:
                if await self._is_bound(args, error, (entry, version, term)):
                    return
                if not version or _VERSION not in str(error):
                    raise BindError(str(error)) from error
                conflict = error  # the pod changed meanwhile in a way that does not matter: once more
            except (Unreachable, ServerError) as error:
                # The write may have happened although its answer did not arrive, and it may happen yet.
                if not await self._is_bound(args, error, (entry, version, term)):
                    raise BindError(str(error), unsure=True) from error
                return
            except KubeError as error:
                raise BindError(str(error)) from error
            else:
                return
        raise BindError(str(conflict)) from conflict

    async def _is_bound(
        self, args: protocol.BindingArgs, cause: KubeError, tried: tuple[PodEntry | None, str, str]
    ) -> bool:
        """Whether the pod is bound to the asked node now, after a binding that was `tried`; takes its present version in.

        `tried` is the pod's record, the version that was named, and the term under which that was decided. Raises BindError: unsure when
        it cannot be learned, else for a pod that is gone, bound elsewhere, or in other hands since.
        """
        entry, version, term = tried
        try:
            pod = await self._read(args)
        except NotFound as error:
            raise BindError(str(error)) from cause
        except (KubeError, wire.WireError) as error:
            raise BindError(f"{cause}; and whether it was bound cannot be read: {error}", unsure=True) from error
        if pod.metadata.uid != args.pod_uid or pod.spec.node_name not in ("", args.node):
            raise BindError(str(cause)) from cause
        if entry is not None:
            self._effects(self._state.news.told(entry, pod))
        mark = pod.metadata.annotations.get(names.ANNOTATION_TERM, "")
        if mark and not pod.spec.node_name and not mark.startswith(f"{term}/"):
            words = f"another extender has decided since: pod {pod.key} carries the mark {mark}"
            # A pod that carried it before is no other than the one that the binding may yet reach.
            may_come = not isinstance(cause, Conflict) and version == pod.metadata.resource_version
            raise BindError(words, unsure=may_come) from cause
        return pod.spec.node_name == args.node
