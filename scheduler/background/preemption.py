"""Makes room for a pod of higher priority that fits nowhere, by evicting pods of lower priority.

kube-scheduler's own preemption does not see GPU memory. `scheduler.placement.victims` chooses the node and the victims; the Preemptor
names the node on the pod, evicts through the API (which keeps disruption budgets), and holds what comes free for the pod.
"""

import asyncio
from collections.abc import Callable, Generator
from typing import Final

from headroom import wire
from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import Backoff
from headroom.kube import calls
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, TooManyRequests
from scheduler.cluster.changes import Freed, PodBound, PodGone, PodRefused
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import Claim, PodEntry, Stage
from scheduler.cluster.state import ClusterState
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.victims import Occupant, Plan, plan
from scheduler.settings import SchedulerSettings

_PROTECTED_SECONDS: Final = 60.0  # how long a pod whose disruption budget forbade its eviction is left alone


async def _in_turns(planning: Generator[None, None, Plan | None]) -> Plan | None:
    """Work a plan out without keeping calls waiting: it takes most of a second where nodes are many."""
    while True:
        try:
            next(planning)
        except StopIteration as end:
            chosen: Plan | None = end.value
            return chosen
        await asyncio.sleep(0)


class Preemptor:
    """Carries plans out and keeps each freed node for its pod. Run `run` as a task; the changes it must hear of are `listen`ed to."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        effects: Effects,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._metrics = state, kube, settings, metrics
        self._effects, self._monotonic = effects, monotonic
        self._wanted = asyncio.Event()
        self._protected: dict[str, float] = {}
        self._evicting: dict[str, asyncio.Task[None]] = {}
        """By the UID of the pod that room is made for, for as long as it has its claim."""
        self._tidying: set[asyncio.Task[None]] = set()
        self._log = get_logger(__name__)

    def listen(self) -> None:
        """Have the changes told that matter here; before others, for what comes free is reserved at once."""
        self._effects.on(Freed, "preempt", self._room_freed)
        self._effects.on(PodRefused, "preempt", lambda change: self._consider(change.entry))
        self._effects.on(PodBound, "preempt", lambda change: self._end(change.entry, "completed"))
        self._effects.on(PodGone, "preempt", lambda change: self._end(change.entry, "cancelled"))

    def _consider(self, entry: PodEntry) -> None:
        """Have a refused pod looked at, unless nobody could give way to it."""
        may = self._settings.preemption and entry.facts.may_preempt and entry.claim is None
        if self._state.groups.binds(entry.uid):
            return  # room for one of a group helps none of them
        if entry.refusal is not None and entry.refusal.by_quota:
            return  # room is not what it lacks
        if may and self._state.outranks_any(entry):
            entry.wants_room = True
            self._wanted.set()

    def _room_freed(self, change: Freed) -> None:
        """Reserve for the pods that this node is being freed for, before anyone else can be given the room."""
        claiming = [
            entry for entry in self._state.pods.claims.values() if entry.claim and entry.claim.node == change.node
        ]
        for entry in sorted(claiming, key=lambda entry: entry.rank):
            if entry.stage in (Stage.WAITING, Stage.REFUSED):
                self._secure(entry, change.node)

    def _secure(self, entry: PodEntry, node: str) -> None:
        row = self._state.fleet.row_of.get(node)
        if row is None or not self._state.placer.fits(entry.request, row):
            return
        placement = self._state.placer.placement_at(entry.request, row)
        if self._state.quotas.beyond(entry.namespace, entry.uid, placement) is not None:
            return
        expires_at = self._monotonic() + self._settings.nomination_seconds
        self._effects(self._state.pods.secure_claim(entry, placement, expires_at))

    def _end(self, entry: PodEntry, result: str) -> None:
        """A pod was bound, or is gone: nobody is evicted for it any more."""
        task = self._evicting.pop(entry.uid, None)
        if task is not None:
            task.cancel()
            self._metrics.preemptions.labels(result).inc()

    def sweep(self, now: float) -> None:
        """Give up what took too long; a pod that is being bound keeps its room."""
        for entry in list(self._state.pods.claims.values()):
            if entry.claim is not None and now >= entry.claim.deadline and entry.stage is not Stage.BINDING:
                self._give_up(entry, "timed_out")

    def abandon(self) -> None:
        """Leave all that is under way to the extender that decides now; it makes its own plans."""
        for entry in list(self._state.pods.claims.values()):
            self._end(entry, "cancelled")
            self._effects(self._state.pods.end_claim(entry))

    def _give_up(self, entry: PodEntry, result: str) -> None:
        claim, task = entry.claim, self._evicting.pop(entry.uid, None)
        if claim is None:
            return
        self._metrics.preemptions.labels(result).inc()
        self._log.warning("preemption_given_up", pod=entry.key, node=claim.node, result=result)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        self._effects(self._state.pods.end_claim(entry))
        if claim.secured and entry.stage is Stage.NAMED:
            self._effects(self._state.pods.void(entry, "expired"))
        unnaming = asyncio.get_running_loop().create_task(self._unname(entry))
        self._tidying.add(unnaming)
        unnaming.add_done_callback(self._tidying.discard)

    async def _unname(self, entry: PodEntry) -> None:
        """Take the node's name off a pod again: kube-scheduler would go on trying that node first."""
        meta = entry.pod.metadata
        try:
            await calls.nominate(self._kube, meta.namespace, meta.name, entry.uid, None)
        except KubeError as error:
            self._log.info("nomination_not_cleared", pod=entry.key, error=str(error))

    async def run(self) -> None:
        """Make room for refused pods until cancelled, the most important first."""
        try:
            while True:
                entry = self._next()
                if entry is None:
                    await self._wanted.wait()
                    continue
                entry.wants_room = False
                await self._start(entry)
        finally:
            for task in self._evicting.values():
                task.cancel()

    def _next(self) -> PodEntry | None:
        """The most important of the refused pods that want room; of equals the oldest."""
        wanting = (entry for entry in self._state.pods.at(Stage.REFUSED) if entry.wants_room and entry.claim is None)
        first = min(wanting, key=lambda entry: entry.rank, default=None)
        if first is None:
            self._wanted.clear()
        return first

    async def _start(self, entry: PodEntry) -> None:
        fleet, refusal, now = self._state.fleet, entry.refusal, self._monotonic()
        if refusal is None:
            return
        taken = self._state.pods.nodes_being_freed()
        wanted = self._state.pods.kept.rows_open_to(entry, refusal.nodes.rows(fleet))
        rows = [row for row in wanted.tolist() if fleet.names[row] not in taken]
        self._protected = {uid: until for uid, until in self._protected.items() if until > now}

        def occupants(row: int) -> list[Occupant]:
            return [other for other in self._state.occupants(row) if other.uid not in self._protected]

        chosen = await _in_turns(plan(fleet, occupants, entry.request, entry.facts.priority, rows))
        # Meanwhile the pod may have found a place, nodes may have gone, and others come in their rows.
        if chosen is None or entry.stage is not Stage.REFUSED or entry.claim is not None:
            return
        if fleet.row_of.get(chosen.node) not in refusal.nodes.rows(fleet).tolist():
            return
        self._state.pods.claim(entry, Claim(chosen.node, now + self._settings.preemption_seconds))
        victims = [f"{victim.namespace}/{victim.name}" for victim in chosen.victims]
        self._log.info("preemption_started", pod=entry.key, node=chosen.node, victims=victims)
        self._evicting[entry.uid] = asyncio.get_running_loop().create_task(self._carry_out(entry, chosen))

    async def _carry_out(self, entry: PodEntry, chosen: Plan) -> None:
        meta = entry.pod.metadata
        try:
            if not await self._all_evictable(chosen):
                self._give_up(entry, "refused")
                self._consider(entry)
                return
            named = await calls.nominate(self._kube, meta.namespace, meta.name, entry.uid, chosen.node)
            # The API server may know of a binding that is news here.
            self._effects(self._state.news.told(entry, wire.POD.decode(named)))
            for victim in chosen.victims:
                await self._evict(victim, entry)
        except (NotFound, Conflict):
            self._give_up(entry, "cancelled")  # it is gone, or another pod has its name by now
        except (KubeError, wire.WireError) as error:
            self._log.warning("preemption_failed", pod=entry.key, node=chosen.node, error=str(error))
            self._metrics.evictions.labels("failed").inc()
            self._give_up(entry, "failed")

    async def _all_evictable(self, chosen: Plan) -> bool:
        """Whether every victim may be evicted now, asked before the first one is."""
        for victim in chosen.victims:
            try:
                await calls.evict(self._kube, victim.namespace, victim.name, victim.uid, dry_run=True)
            except TooManyRequests:
                self._metrics.evictions.labels("refused").inc()
                self._protected[victim.uid] = self._monotonic() + _PROTECTED_SECONDS
                return False
            except (NotFound, Conflict):
                continue
        return True

    async def _evict(self, victim: Occupant, entry: PodEntry) -> None:
        """Evict one victim for a pod that still lacks room; it may have found some while the API server was asked.

        A budget that the victims before it have just used up is waited for, until the claim ends.
        """
        backoff = Backoff(initial_seconds=0.5, maximum_seconds=10.0)
        while entry.claim is not None and entry.stage in (Stage.WAITING, Stage.REFUSED):
            try:
                await calls.evict(self._kube, victim.namespace, victim.name, victim.uid)
            except TooManyRequests:
                self._metrics.evictions.labels("refused").inc()
                await asyncio.sleep(backoff.next_seconds())
            except (NotFound, Conflict):
                return  # gone, or another pod of the same name: either way this one holds nothing any more
            else:
                self._metrics.evictions.labels("accepted").inc()
                return
