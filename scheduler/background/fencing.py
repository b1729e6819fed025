"""Makes sure that a binding whose answer never came cannot still happen later.

Each binding names the version of the pod that it was decided on, and the API server refuses it, in the same write, once the pod
has changed. So a mark on the pod (its annotation `headroom.dev/term`) is a fence: the answer to the write that sets it says
whether the pod was bound before, and what was decided before cannot be written after. An extender marks

- every pod that another extender, or a process before it, may have been binding, when it begins to decide;
- a pod whose binding had no answer, after a time in which kube-scheduler's next attempt usually settles that.
"""

import asyncio
import itertools
from collections.abc import Callable
from typing import Final

from headroom import names, wire
from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import Backoff
from headroom.kube import calls
from headroom.kube.client import Forbidden, KubeClient, KubeError, NotFound
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.state import ClusterState
from scheduler.settings import SchedulerSettings

_RETRY_SECONDS: Final = 1.0


class Fence:
    """Marks pods. `kube` writes whoever decides; `term` tells under which term this extender decides, or begins to."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        effects: Effects,
        *,
        term: Callable[[], str],
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._effects = state, kube, settings, effects
        self._term, self._monotonic = term, monotonic
        self._marks = itertools.count(1)
        self._log = get_logger(__name__)

    async def raise_before_deciding(self) -> None:
        """Return once nothing that was decided before can be written any more; failures are waited through.

        Pods that come from now on need no mark: nobody can have decided on them before.
        """
        slots = asyncio.Semaphore(self._settings.naming_ahead_parallel)

        async def mark(entry: PodEntry) -> None:
            async with slots:
                await self._mark_at_last(entry)

        unbound = [
            entry
            for entry in self._state.pods.entries.values()
            if entry.request.count > 0 and entry.stage not in (Stage.GATED, Stage.BOUND)
        ]
        await asyncio.gather(*(mark(entry) for entry in unbound))
        if unbound:
            self._log.info("earlier_decisions_fenced", pods=len(unbound))

    async def _mark_at_last(self, entry: PodEntry) -> None:
        """Mark a pod, and give back what is held for a binding of before: another may have decided since, and given the cards away."""
        backoff = Backoff(initial_seconds=0.1, maximum_seconds=5.0)
        while self._state.pods.entries.get(entry.uid) is entry:
            try:
                await self.mark(entry)
                self._effects(self._state.pods.settle_binding(entry, fenced=True))
            except Forbidden as error:
                # Waiting would help nobody: said loudly, and not fenced.
                self._log.error("pod_not_fenced", pod=entry.key, error=str(error))
            except KubeError as error:
                self._log.info("pod_not_fenced_yet", pod=entry.key, error=str(error))
                await asyncio.sleep(backoff.next_seconds())
                continue
            return

    async def mark(self, entry: PodEntry) -> None:
        """Mark a pod, and take in what the answer says of it. Raises KubeError: then it may be marked or not."""
        meta = entry.pod.metadata
        mark = f"{self._term()}/{next(self._marks)}"  # another one each time: an equal one would change nothing
        patch = {"metadata": {"uid": entry.uid, "annotations": {names.ANNOTATION_TERM: mark}}}
        try:
            raw = await calls.merge_patch(self._kube, f"{calls.pod_path(meta.namespace, meta.name)}/status", patch)
            pod = wire.POD.decode(raw)
        except NotFound:
            self._effects(self._state.pods.end(entry.uid))
        except wire.WireError as error:
            raise KubeError(f"pod {entry.key}: {error}") from error
        else:
            self._effects(self._state.news.told(entry, pod))

    async def run(self) -> None:
        """Settle bindings without an answer, until cancelled."""
        while True:
            done = await self.settle_due()
            await asyncio.sleep(self._settings.sweep_seconds if done else _RETRY_SECONDS)

    async def settle_due(self) -> bool:
        """Settle what is due; false when the API server does not answer."""
        for entry in list(self._state.pods.at(Stage.BINDING)):
            if not self._is_due(entry):
                continue
            try:
                await self.mark(entry)
            except KubeError as error:
                self._log.info("binding_not_settled", pod=entry.key, error=str(error))
                return False
            if self._is_due(entry):
                self._effects(self._state.pods.settle_binding(entry))
            self._log.info("binding_settled", pod=entry.key, stage=entry.stage.value)
        return True

    def _is_due(self, entry: PodEntry) -> bool:
        since = entry.unsure_since
        if entry.awaited or since is None or entry.stage is not Stage.BINDING:
            return False
        return self._monotonic() - since >= self._settings.unsure_seconds
