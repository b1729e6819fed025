"""Makes room for a pod of higher priority that fits nowhere, by evicting pods of lower priority.

kube-scheduler's own preemption does not see GPU memory. `scheduler.placement.victims` chooses the node and the victims; the Preemptor
names the node on the pod, evicts through the API (which keeps disruption budgets), and holds what comes free for the pod.
"""

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Final

from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import Backoff
from headroom.kube import calls
from headroom.kube.client import Conflict, KubeClient, KubeError, NotFound, TooManyRequests
from scheduler.cluster.records import WaitingPod
from scheduler.cluster.state import ClusterState
from scheduler.ledger.fleet import IntArray
from scheduler.metrics import SchedulerMetrics
from scheduler.placement.occupant import Occupant
from scheduler.placement.victims import Plan, plan
from scheduler.settings import SchedulerSettings

_PROTECTED_SECONDS: Final = 60.0  # how long a pod whose disruption budget forbade its eviction is left alone


@dataclass(slots=True)
class Claim:
    """A node being freed for a pod."""

    pod: WaitingPod
    plan: Plan
    deadline: float
    secured: bool = False
    """The room is there and reserved."""
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)


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
    """Carries plans out and keeps each freed node for its pod. Its `claims` are what the state asks about."""

    def __init__(
        self,
        state: ClusterState,
        kube: KubeClient,
        settings: SchedulerSettings,
        metrics: SchedulerMetrics,
        *,
        monotonic: Callable[[], float],
    ) -> None:
        self._state, self._kube, self._settings, self._metrics = state, kube, settings, metrics
        self._monotonic = monotonic
        self._queue: asyncio.Queue[tuple[WaitingPod, list[str]]] = asyncio.Queue()
        self._queued: set[str] = set()
        self._protected: dict[str, float] = {}
        self._tidying: set[asyncio.Task[None]] = set()
        self.claims: dict[str, Claim] = {}
        self._log = get_logger(__name__)

    def node_for(self, uid: str) -> str | None:
        """The node being freed for a pod."""
        claim = self.claims.get(uid)
        return None if claim is None else claim.plan.node

    def consider(self, pod: WaitingPod, rows: IntArray) -> None:
        """Have a refused pod looked at; `rows` are the nodes that kube-scheduler would let it run on."""
        if not self._settings.preemption or not pod.may_preempt or not self._state.outranks_any(pod):
            return
        names = self._state.fleet.names
        self._consider(pod, [names[row] for row in rows.tolist()])

    def _consider(self, pod: WaitingPod, nodes: list[str]) -> None:
        if pod.uid not in self.claims and pod.uid not in self._queued:
            self._queued.add(pod.uid)
            self._queue.put_nowait((pod, nodes))

    def room_freed(self, node: str) -> None:
        """Reserve for the pods that this node is being freed for, before anyone else can be given the room."""
        for claim in self.claims.values():
            if claim.plan.node == node and not claim.secured:
                self._secure(claim)

    def _secure(self, claim: Claim) -> None:
        row = self._state.fleet.row_of.get(claim.plan.node)
        if row is None or not self._state.placer.fits(claim.pod.request, row):
            return
        placement = self._state.placer.placement_at(claim.pod.request, row)
        self._state.reserve(claim.pod, placement, self._monotonic() + self._settings.nomination_seconds)
        self._state.forgive(claim.pod.uid)
        claim.secured = True
        self._state.announce_room(claim.plan.node)

    def pod_ended(self, uid: str, *, bound: bool) -> None:
        """Note that a pod was bound, or is gone."""
        claim = self.claims.pop(uid, None)
        if claim is None:
            return
        if claim.task is not None:
            claim.task.cancel()
        self._metrics.preemptions.labels("completed" if bound else "cancelled").inc()

    def sweep(self, now: float) -> None:
        """Give up what took too long."""
        for uid, claim in list(self.claims.items()):
            if now >= claim.deadline:
                self._give_up(uid, "timed_out")

    def abandon(self) -> None:
        """Leave all that is under way to the extender that decides now; it makes its own plans."""
        for claim in self.claims.values():
            if claim.task is not None:
                claim.task.cancel()
            self._metrics.preemptions.labels("cancelled").inc()
        self.claims.clear()

    def _give_up(self, uid: str, result: str) -> None:
        claim = self.claims.pop(uid, None)
        if claim is None:
            return
        self._metrics.preemptions.labels(result).inc()
        self._log.warning("preemption_given_up", pod=claim.pod.key, node=claim.plan.node, result=result)
        if claim.task is not None and claim.task is not asyncio.current_task():
            claim.task.cancel()
        if claim.secured:
            self._state.release(uid, "expired")
        self._state.announce_room(claim.plan.node)
        task = asyncio.get_running_loop().create_task(self._unname(claim.pod))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    async def _unname(self, pod: WaitingPod) -> None:
        """Take the node's name off a pod again: kube-scheduler would go on trying that node first."""
        try:
            await calls.nominate(self._kube, pod.namespace, pod.name, None)
        except KubeError as error:
            self._log.info("nomination_not_cleared", pod=pod.key, error=str(error))

    async def run(self) -> None:
        """Work through refused pods until cancelled, in the order in which they were refused."""
        try:
            while True:
                pod, nodes = await self._queue.get()
                self._queued.discard(pod.uid)
                if pod.uid in self._state.refused and pod.uid not in self.claims:
                    await self._start(pod, nodes)
        finally:
            for claim in self.claims.values():
                if claim.task is not None:
                    claim.task.cancel()

    async def _start(self, pod: WaitingPod, nodes: list[str]) -> None:
        taken = {claim.plan.node for claim in self.claims.values()}
        row_of = self._state.fleet.row_of
        free = [row_of[node] for node in nodes if node in row_of and node not in taken]
        now = self._monotonic()
        self._protected = {uid: until for uid, until in self._protected.items() if until > now}

        def occupants(row: int) -> list[Occupant]:
            return [other for other in self._state.occupants(row) if other.uid not in self._protected]

        chosen = await _in_turns(plan(self._state.fleet, occupants, pod.request, pod.priority, free))
        # Meanwhile nodes may have gone, and others come in their rows.
        if (
            chosen is None
            or pod.uid not in self._state.refused
            or chosen.node not in row_of
            or chosen.node not in nodes
        ):
            return
        claim = Claim(pod, chosen, now + self._settings.preemption_seconds)
        self.claims[pod.uid] = claim
        victims = [f"{victim.namespace}/{victim.name}" for victim in chosen.victims]
        self._log.info("preemption_started", pod=pod.key, node=chosen.node, victims=victims)
        claim.task = asyncio.get_running_loop().create_task(self._carry_out(claim, nodes))

    async def _carry_out(self, claim: Claim, nodes: list[str]) -> None:
        pod = claim.pod
        try:
            if not await self._all_evictable(claim.plan):
                self._give_up(pod.uid, "refused")
                self._consider(pod, nodes)
                return
            await calls.nominate(self._kube, pod.namespace, pod.name, claim.plan.node)
            for victim in claim.plan.victims:
                await self._evict(victim)
        except NotFound:
            self._give_up(pod.uid, "cancelled")
        except KubeError as error:
            self._log.warning("preemption_failed", pod=pod.key, node=claim.plan.node, error=str(error))
            self._metrics.evictions.labels("failed").inc()
            self._give_up(pod.uid, "failed")

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

    async def _evict(self, victim: Occupant) -> None:
        """Evict one victim. A budget that the victims before it have just used up is waited for, until the claim ends."""
        backoff = Backoff(initial_seconds=0.5, maximum_seconds=10.0)
        while True:
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
