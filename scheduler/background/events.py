"""Events on pods: with live figures on those that fit nowhere, on words without effect, on annotations that disagree, and on
cards that kube-scheduler gave away twice.

They are rare enough to be no load for the API server.

The reason in a pod's condition must not change with the fleet (a changed text wakes the pod); an Event may.
"""

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from headroom import names
from headroom.daemon.logs import get_logger
from headroom.kube import calls
from headroom.kube.client import KubeClient, KubeError
from scheduler.cluster.changes import CardClaimed, CardsOverfilled, PodDisagrees
from scheduler.cluster.decisions import Decisions, live_figures
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.state import ClusterState
from scheduler.settings import SchedulerSettings

_SPACING_SECONDS: Final = 0.2  # at most five Events a second in all
_QUEUE_PODS: Final = 1000
_NODES_NAMED: Final = 3


def refusal_note(state: ClusterState, entry: PodEntry, decisions: Decisions) -> str:
    """Why the pod waits, and how near the nearest nodes are, in figures of this moment."""
    decision = decisions.get(entry.key)
    reasons = sorted(decision.reasons.items(), key=lambda item: (-item[1], item[0])) if decision else []
    text = "; ".join(f"{count} node{'s' if count > 1 else ''}: {reason}" for reason, count in reasons)
    fleet = state.fleet
    rows = np.flatnonzero(fleet.alive)
    nearest = rows[np.argsort(-fleet.free_mib[rows].max(axis=1, initial=0), kind="stable")][:_NODES_NAMED].tolist()
    now = "; ".join(f"{fleet.names[row]}: {live_figures(fleet, row)}" for row in nearest)
    return f"{text}. Right now {now}" if now else text


@dataclass(frozen=True, slots=True)
class _Ignored:
    """A pod with words that have no effect."""

    entry: PodEntry
    words: tuple[str, ...]


_OfBoundPod = PodDisagrees | CardClaimed | CardsOverfilled


class Reporter:
    """Writes the Events; run `run` as a task."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        decisions: Decisions,
        *,
        instance: str,
        monotonic: Callable[[], float],
        wall_clock: Callable[[], datetime.datetime],
    ) -> None:
        self._state, self._kube, self._settings, self._decisions = state, kube, settings, decisions
        self._instance, self._monotonic, self._wall_clock = instance, monotonic, wall_clock
        self._queue: asyncio.Queue[PodEntry | _OfBoundPod | _Ignored] = asyncio.Queue(_QUEUE_PODS)
        self._log = get_logger(__name__)

    def refused(self, entry: PodEntry) -> None:
        """Note a refused pod; its Event is written unless it had one lately or too many wait."""
        now, last = self._monotonic(), entry.reported_at
        if last is not None and now - last < self._settings.event_every_seconds:
            return
        if not self._queue.full():
            entry.reported_at = now
            self._queue.put_nowait(entry)

    def of_bound(self, change: _OfBoundPod) -> None:
        """Note what is wrong with what a bound pod holds; its Event is written unless too many wait."""
        if not self._queue.full():
            self._queue.put_nowait(change)

    def waits(self, entry: PodEntry) -> None:
        """Note a pod that waits: what it says without effect is told once, unless too many wait."""
        if entry.facts.ignored and not self._queue.full():
            self._queue.put_nowait(_Ignored(entry, entry.facts.ignored))

    async def run(self) -> None:
        """Write Events until cancelled."""
        while True:
            about = await self._queue.get()
            if isinstance(about, PodDisagrees):
                note = f"{about.problem}; the larger of what is written and what is asked for counts"
                await self._write(about.key, about.uid, "AssignmentDisagrees", "Accounting", note)
            elif isinstance(about, CardClaimed):
                note = f"kube-scheduler has given card {about.card} of node {about.node} to resource claim {about.claim} as well"
                await self._write(about.key, about.uid, "CardClaimed", "Accounting", note)
            elif isinstance(about, CardsOverfilled):
                note = f"card {about.card} of node {about.node} holds {about.held_mib} of {about.usable_mib} MiB with this pod"
                note += "; another scheduler put it there, which does not know of the others: see docs/install.md"
                await self._write(about.key, about.uid, "CardsOverfilled", "Accounting", note)
            elif isinstance(about, _Ignored):
                note = f"without effect: {'; '.join(about.words)}"
                await self._write(about.entry.key, about.entry.uid, "RequestPartlyIgnored", "Filtering", note)
            elif about.stage is Stage.REFUSED:
                note = refusal_note(self._state, about, self._decisions)
                await self._write(about.key, about.uid, "NoGpuMemory", "Filtering", note)
            await asyncio.sleep(_SPACING_SECONDS)

    async def _write(self, key: str, uid: str, reason: str, action: str, note: str) -> None:
        namespace, name = key.split("/", 1)
        try:
            await calls.record_event(
                self._kube,
                calls.Event(
                    regarding={
                        "apiVersion": "v1",
                        "kind": "Pod",
                        "namespace": namespace,
                        "name": name,
                        "uid": uid,
                    },
                    reason=reason,
                    note=note,
                    action=action,
                    controller=f"{names.DOMAIN}/scheduler",
                    instance=self._instance,
                    now=self._wall_clock(),
                    warning=True,
                ),
            )
        except KubeError as error:
            self._log.info("event_not_written", pod=key, error=str(error))
