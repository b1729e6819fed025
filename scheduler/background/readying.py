"""Brings what the next filter call will need up to date before kube-scheduler makes it: the keys of the next pod's kind.

kube-scheduler asks about one pod after another and waits for each answer; between two calls the event loop has time. Every
reservation and binding changes a row or two, and looking at those again is most of what a filter call would have to do.
"""

import asyncio

from headroom.daemon.guard import Guard
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.state import ClusterState


class Readier:
    """Call it when a pod begins to wait, and after each answer."""

    def __init__(self, state: ClusterState, guard: Guard) -> None:
        self._state, self._guard = state, guard
        self._next: PodEntry | None = None
        self._due = False

    def pod_waits(self, entry: PodEntry) -> None:
        """kube-scheduler hears of the pod now, too, and asks as soon as it has looked at the nodes itself."""
        self._next = entry
        self._soon()

    def answered(self) -> None:
        """The pod that has waited longest is likely to be next."""
        self._next = next(iter(self._state.pods.at(Stage.WAITING)), None)
        if self._next is not None:
            self._soon()

    def _soon(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._guard.attempt, "ready", self._get_ready)

    def _get_ready(self) -> None:
        self._due = False
        entry = self._next
        if entry is not None and entry.stage is Stage.WAITING:
            self._state.placer.get_ready(entry.request)
