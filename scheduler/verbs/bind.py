"""Binds a pod and writes its cards on it, in one API call; idempotent, and undone in the ledger when it fails.

The API server merges the Binding's annotations into the pod in the same write, and checks the UID. No lock is held
meanwhile: the reservation is what keeps the cards.
"""

import re
from collections.abc import Callable
from typing import Final

from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.domain.assignment import annotations_of
from headroom.domain.model import Placement
from headroom.domain.request import RequestError, project_of, request_of
from headroom.errors import HeadroomError
from headroom.kube import calls
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, ServerError, Unreachable
from scheduler.cluster.decisions import Decision, Decisions
from scheduler.cluster.records import WaitingPod
from scheduler.cluster.state import ClusterState
from scheduler.ledger.ledger import LedgerError
from scheduler.settings import SchedulerSettings
from scheduler.verbs import protocol

_ASSIGNED: Final = re.compile(r'already assigned to node "([^"]*)"')

_TIMEOUTS_PER_BIND: Final = 3  # two calls, and time to spare


class BindError(HeadroomError):
    """A pod that cannot be bound where it was asked to be; kube-scheduler shows the text and tries the pod again.

    `unsure` tells that the API server's answer is missing: the pod may have been bound.
    """

    def __init__(self, message: str, *, unsure: bool = False) -> None:
        super().__init__(message)
        self.unsure = unsure


class Binder:
    """Carries out kube-scheduler's bind calls, while `may_write()`."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        decisions: Decisions,
        *,
        may_write: Callable[[], bool],
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._decisions = state, kube, settings, decisions
        self._may_write, self._monotonic = may_write, monotonic
        self._log = get_logger(__name__)

    async def bind(self, args: protocol.BindingArgs) -> None:
        """Bind as asked; returns once the pod is bound to that node. Raises BindError."""
        if not (args.pod_uid and args.pod_name and args.pod_namespace and args.node):
            raise BindError("PodName, PodNamespace, PodUID and Node must all be given")
        if self._state.bound_node(args.pod_uid) == args.node:
            return
        pod = self._state.waiting.get(args.pod_uid) or await self._look_up(args)
        if pod is None or (pod.request.count == 0 and args.node not in self._state.fleet.row_of):
            self._state.release(args.pod_uid, "moved")
            await self._post(args, {})
            return
        placement = self._reserve(pod, args)
        try:
            await self._post(args, annotations_of(self._state.fleet.nodes[args.node], placement))
        except BindError as error:
            # Not the node's fault: it may be offered to this pod again.
            self._state.forgive(args.pod_uid)
            if error.unsure:
                self._keep(pod, placement)
            else:
                self._state.release(args.pod_uid, "bind_failed")
            self._decisions.add(Decision(pod.key, self._monotonic(), "bind_failed", placement, {str(error): 1}))
            self._log.warning("bind_failed", pod=pod.key, node=args.node, error=str(error))
            raise
        self._state.confirm(args.pod_uid, args.node)
        self._decisions.add(Decision(pod.key, self._monotonic(), "bound", placement))
        cards = ",".join(str(card) for card in placement.cards)
        self._log.info("pod_bound", pod=pod.key, node=args.node, cards=cards, mode=placement.mode.value)

    def _keep(self, pod: WaitingPod, placement: Placement) -> None:
        """Hold the cards until a watch event tells whether the pod was bound; it may have told already."""
        if pod.uid not in self._state.waiting:
            return
        try:
            self._state.reserve(pod, placement, self._monotonic() + self._settings.nomination_seconds)
        except LedgerError as error:
            self._log.info("reservation_not_prolonged", pod=pod.key, error=str(error))

    async def _look_up(self, args: protocol.BindingArgs) -> WaitingPod | None:
        """A pod that no filter call and no watch event has shown yet; None for one that asks for no GPU."""
        path = calls.pod_path(args.pod_namespace, args.pod_name)
        try:
            pod = wire.POD.decode(
                await self._kube.request("GET", path, timeout_seconds=self._settings.bind_timeout_seconds)
            )
            if pod.metadata.uid != args.pod_uid:
                raise BindError(f"pod {pod.key} is another one now: its UID is {pod.metadata.uid}, not {args.pod_uid}")
            if pod.spec.node_name not in ("", args.node):
                raise BindError(f"pod {pod.key} is bound to node {pod.spec.node_name} already")
            request = request_of(pod)
        except (KubeError, wire.WireError, RequestError) as error:
            raise BindError(f"pod {args.pod_namespace}/{args.pod_name} cannot be bound: {error}") from error
        if request is None or request.count == 0:
            return None
        return self._state.note_waiting(pod, request, project_of(pod))

    def _reserve(self, pod: WaitingPod, args: protocol.BindingArgs) -> Placement:
        """The reservation for the asked node: the one that filter made, or a new one where kube-scheduler chose otherwise."""
        if pod.key != f"{args.pod_namespace}/{args.pod_name}":
            raise BindError(f"UID {args.pod_uid} belongs to pod {pod.key}, not to {args.pod_namespace}/{args.pod_name}")
        row = self._state.fleet.row_of.get(args.node)
        if row is None:
            raise BindError(f"node {args.node} is not known, or has no GPU")
        # Whatever the setting: the binding and the question whether it happened must both end first.
        longest = max(self._settings.reservation_seconds, _TIMEOUTS_PER_BIND * self._settings.bind_timeout_seconds)
        deadline = self._monotonic() + longest
        holding = self._state.holding(pod.uid)
        kept = holding is not None and holding.placement.node == args.node
        if holding is not None and not kept:
            self._state.release(pod.uid, "moved")
        reason = None if kept else self._state.placer.refusal(pod.request, row)
        if reason is not None:
            raise BindError(f"node {args.node} cannot take pod {pod.key}: {reason}")
        placement = (
            holding.placement if holding is not None and kept else self._state.placer.placement_at(pod.request, row)
        )
        try:
            self._state.reserve(pod, placement, deadline)
        except LedgerError as error:
            raise BindError(f"node {args.node} cannot take pod {pod.key}: {error}") from error
        return placement

    async def _post(self, args: protocol.BindingArgs, annotations: dict[str, str]) -> None:
        if not self._may_write():
            raise BindError("another extender decides by now")
        try:
            await calls.bind(
                self._kube, args.pod_namespace, args.pod_name, args.pod_uid, args.node, annotations,
                timeout_seconds=self._settings.bind_timeout_seconds,
            )  # fmt: skip
        except Conflict as error:
            assigned = _ASSIGNED.search(str(error))
            if assigned is None or assigned.group(1) != args.node or not await self._is_bound(args, error):
                raise BindError(str(error)) from error
        except (Unreachable, ServerError) as error:
            # The write may have happened although its answer did not arrive.
            if not await self._is_bound(args, error):
                raise BindError(str(error)) from error
        except KubeError as error:
            raise BindError(str(error)) from error

    async def _is_bound(self, args: protocol.BindingArgs, cause: KubeError) -> bool:
        """Whether the pod is bound to the asked node. Raises BindError, unsure, when that cannot be learned."""
        path = calls.pod_path(args.pod_namespace, args.pod_name)
        try:
            pod = wire.POD.decode(
                await self._kube.request("GET", path, timeout_seconds=self._settings.bind_timeout_seconds)
            )
        except NotFound:
            return False
        except (KubeError, wire.WireError) as error:
            raise BindError(f"{cause}; and whether it was bound cannot be read: {error}", unsure=True) from error
        return pod.metadata.uid == args.pod_uid and pod.spec.node_name == args.node
