"""kube-scheduler in virtual time, with a Permit plugin like coscheduling's where a mode has one.

Modelled: pods in the order of their age; nodes with enough CPU and host memory left, and without a member of the same group; the
extender's filter over those; a pod that was refused rests until a pod ends or the extender wakes it, and for a back-off of 1 to 10 s.
A cycle and a binding take no time. Once a pod was refused, it is asked about again only where the answer may be another one: not
while its like, older than it, was just refused, and not while too few nodes have room for pods like it.

Permit: a member that has a node waits with what is reserved for it until all members have one; then all are bound. After
`Permit.seconds`, counted from the first that waits, all are rejected together and try again after their back-off.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from headroom import names
from headroom.domain.model import GpuNode
from simulations.placement.groups.daemon import BrokenError, Daemon
from simulations.placement.groups.lists import CARD_MIB, Arrival

_FIRST_BACKOFF_SECONDS: Final = 1.0
_LONGEST_BACKOFF_SECONDS: Final = 10.0
_PERMIT_GAP: Final = 0.1  # of a group's members: with fewer missing, coscheduling goes on trying
_EPOCH_DAYS_IN_A_MONTH: Final = 28


@dataclass(frozen=True, slots=True)
class Permit:
    """How long members wait for one another, and whether all are rejected as soon as one finds no place (PostFilter)."""

    seconds: float
    at_once: bool = False


@dataclass(slots=True, eq=False)
class Job:
    """The pods of one arrival, and how far they have come."""

    arrival: Arrival
    number: int
    uids: list[str]
    placed: dict[str, str] = field(default_factory=dict)
    """By UID, the node that a pod waits for at Permit, or is bound to."""
    bound: set[str] = field(default_factory=set)
    deadline: float = 0.0
    """When those that wait at Permit are rejected."""
    apart: Counter[str] = field(default_factory=Counter)
    """Nodes with a member, which the others keep off."""

    @property
    def waits_at_permit(self) -> bool:
        """Whether some members have a node and others have none."""
        return len(self.placed) > len(self.bound)


@dataclass(slots=True, eq=False)
class _Waiting:
    uid: str
    job: Job
    attempts: int = 0
    ready_at: float = 0.0
    resting: bool = False


@dataclass(slots=True)
class Truth:
    """What is bound where: [node, card] MiB, and CPU and host memory left by node, what waits at Permit included."""

    nodes: Sequence[GpuNode]
    held_mib: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    cores: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    memory_gib: np.ndarray[Any, np.dtype[np.int64]] = field(init=False)
    at: dict[str, int] = field(init=False)
    units: int = field(init=False)

    def __post_init__(self) -> None:
        width = max(len(node.cards) for node in self.nodes)
        self.held_mib = np.zeros((len(self.nodes), width), np.int64)
        self.cores = np.array([node.cpu_milli // 1000 for node in self.nodes], np.int64)
        self.memory_gib = np.array([node.memory_mib // 1024 for node in self.nodes], np.int64)
        self.at = {node.name: at for at, node in enumerate(self.nodes)}
        self.units = sum(len(node.cards) for node in self.nodes) * CARD_MIB

    def host(self, node: str, arrival: Arrival, sign: int) -> None:
        """Take a pod's CPU and host memory, or give it back with sign 1."""
        at = self.at[node]
        self.cores[at] += sign * arrival.ask.cores
        self.memory_gib[at] += sign * arrival.ask.memory_gib


class KubeScheduler:
    """Schedules jobs. `grouped`: pods say which group they belong to; else groups are held together by `permit` alone, or not at all."""

    def __init__(
        self, daemon: Daemon, nodes: Sequence[GpuNode], *, grouped: bool, permit: Permit | None,
        on_bound: Callable[[Job, str], None],
    ) -> None:  # fmt: skip
        self.truth = Truth(nodes)
        self.waiting: dict[str, _Waiting] = {}
        self.jobs: dict[int, Job] = {}
        """Those that have not ended."""
        self.timeouts = self.deadlocks = 0
        self._names = [node.name for node in nodes]
        self._daemon, self._grouped, self._permit, self._on_bound = daemon, grouped, permit, on_bound
        self._cards: dict[str, tuple[str, list[tuple[int, int]]]] = {}

    # What comes and goes

    def submit(self, arrival: Arrival, number: int) -> Job:
        """Create the pods of an arrival."""
        job = Job(arrival, number, [f"{arrival.name}-{at}" for at in range(arrival.size)])
        self.jobs[number] = job
        for uid in job.uids:
            self._daemon.create(_pod(uid, arrival, grouped=self._grouped))
            self.waiting[uid] = _Waiting(uid, job)
        return job

    def end(self, job: Job, uids: Sequence[str]) -> None:
        """Bound pods of a job end."""
        for uid in uids:
            node, cards = self._cards.pop(uid)
            for card, mib in cards:
                self.truth.held_mib[self.truth.at[node], card] -= mib
            self.truth.host(node, job.arrival, 1)
            job.apart[node] -= 1
            job.uids.remove(uid)
            self._daemon.delete(uid)
        if not job.uids:
            del self.jobs[job.number]
        self.wake()

    def wake(self) -> None:
        """Room may have come free: refused pods are tried again once their back-off is over."""
        for one in self.waiting.values():
            one.resting = False

    @property
    def next_at(self) -> float | None:
        """When a back-off or a wait at Permit ends next."""
        ready = [one.ready_at for one in self.waiting.values() if not one.resting]
        if self._permit is not None:
            ready += [job.deadline for job in self.jobs.values() if job.waits_at_permit and not job.bound]
        return min(ready, default=None)

    # Its cycles

    async def run(self) -> None:
        """Try every pod that may be tried now."""
        now = self._daemon.now
        if self._permit is not None:
            self._reject_late(now)
        due = [one for one in self.waiting.values() if not one.resting and one.ready_at <= now]
        due.sort(key=lambda one: (one.job.number, one.uid))
        refused: set[object] = set()
        changes = self._daemon.state.pods.freed.count
        for one in due:
            if one.uid not in self.waiting or one.resting or one.ready_at > now:
                continue  # rejected or bound with others of its group meanwhile
            if self._daemon.state.pods.freed.count != changes:
                refused, changes = set(), self._daemon.state.pods.freed.count
            kind = one.job if one.job.arrival.is_group else one.job.arrival.ask
            known = kind in refused and not self._daemon.keeps_a_node(one.uid)
            if one.attempts and (known or self._is_in_vain(one)):
                self._rest(one)
                self._post_filter(one.job)
                refused.add(kind)
            elif not await self._try(one):
                refused.add(kind)

    def _is_in_vain(self, one: _Waiting) -> bool:
        together = one.job.arrival.size - len(one.job.placed) if self._grouped else 1
        return not self._daemon.held(one.uid) and self._daemon.fits_nowhere(one.uid, together)

    async def _try(self, one: _Waiting) -> bool:
        job, offered = one.job, self._offered(one.job)
        node = self._daemon.filter(one.uid, offered) if offered else None
        if node is None:
            self._rest(one)
            self._post_filter(job)
            return False
        if self._permit is None or not job.arrival.is_group:
            await self._bind(one, node)
            return True
        job.placed[one.uid] = node
        job.apart[node] += 1
        self.truth.host(node, job.arrival, -1)
        del self.waiting[one.uid]
        if len(job.placed) == job.arrival.size:
            for uid in [uid for uid in job.placed if uid not in job.bound]:
                await self._bind_from_permit(job, uid)
        elif len(job.placed) - len(job.bound) == 1:
            job.deadline = self._daemon.now + self._permit.seconds
        return True

    def _offered(self, job: Job) -> list[str]:
        ask, truth = job.arrival.ask, self.truth
        there = (truth.cores >= ask.cores) & (truth.memory_gib >= ask.memory_gib)
        return [name for name, fits in zip(self._names, there.tolist(), strict=True) if fits and not job.apart[name]]

    def _rest(self, one: _Waiting) -> None:
        one.attempts += 1
        one.resting = True
        one.ready_at = self._daemon.now + self._backoff(one)

    @staticmethod
    def _backoff(one: _Waiting) -> float:
        return min(_FIRST_BACKOFF_SECONDS * 2.0 ** min(one.attempts - 1, 10), _LONGEST_BACKOFF_SECONDS)

    async def _bind(self, one: _Waiting, node: str) -> None:
        job = one.job
        cards = await self._daemon.bind(one.uid, node)
        if cards is None:
            one.attempts += 1
            one.ready_at = self._daemon.now + self._backoff(one)
            return
        del self.waiting[one.uid]
        job.placed[one.uid] = node
        job.apart[node] += 1
        self.truth.host(node, job.arrival, -1)
        self._note_bound(job, one.uid, node, cards)

    async def _bind_from_permit(self, job: Job, uid: str) -> None:
        node = job.placed[uid]
        cards = await self._daemon.bind(uid, node)
        if cards is None:
            self._leave_permit(job, uid)
        else:
            self._note_bound(job, uid, node, cards)

    def _note_bound(self, job: Job, uid: str, node: str, cards: list[tuple[int, int]]) -> None:
        at = self.truth.at[node]
        for card, mib in cards:
            self.truth.held_mib[at, card] += mib
            if self.truth.held_mib[at, card] > CARD_MIB:
                raise BrokenError(f"card {card} of {node} is given away twice")
        if self.truth.cores[at] < 0 or self.truth.memory_gib[at] < 0:
            raise BrokenError(f"node {node} has more pods than CPU or memory for them")
        self._cards[uid] = node, cards
        job.bound.add(uid)
        self._on_bound(job, uid)

    # Permit

    def _leave_permit(self, job: Job, uid: str) -> None:
        node = job.placed.pop(uid)
        job.apart[node] -= 1
        self.truth.host(node, job.arrival, 1)
        one = self.waiting[uid] = _Waiting(uid, job, attempts=1)
        one.ready_at = self._daemon.now + _LONGEST_BACKOFF_SECONDS

    def _reject(self, job: Job) -> None:
        for uid in [uid for uid in job.placed if uid not in job.bound]:
            self._daemon.give_back(uid)
            self._leave_permit(job, uid)
        self.wake()

    def _reject_late(self, now: float) -> None:
        holding = [job for job in self.jobs.values() if job.waits_at_permit and not job.bound]
        for job in [job for job in holding if job.deadline <= now]:
            self.timeouts += 1
            self.deadlocks += len(holding) > 1  # what one holds the other waits for, or might use
            holding.remove(job)
            self._reject(job)

    def _post_filter(self, job: Job) -> None:
        if self._permit is None or not self._permit.at_once or not job.arrival.is_group or job.bound:
            return
        if job.placed and 1 - len(job.placed) / job.arrival.size > _PERMIT_GAP:
            self._reject(job)


def _pod(uid: str, arrival: Arrival, *, grouped: bool) -> dict[str, Any]:
    """The pod object; members of a group keep off one another's nodes, in whatever mode."""
    ask = arrival.ask
    whole = {names.RESOURCE_GPU: str(ask.cards)}
    wanted = {"cpu": str(ask.cores), "memory": f"{ask.memory_gib}Gi"}
    wanted |= whole if ask.milli == 1000 else {names.RESOURCE_GPU_MILLI: str(ask.milli)}
    spec: dict[str, Any] = {
        "schedulerName": names.SCHEDULER_NAME,
        "containers": [{"name": "main", "resources": {"limits": wanted, "requests": wanted}}],
    }
    annotations = {}
    if arrival.is_group:
        term = {"topologyKey": names.LABEL_HOSTNAME, "labelSelector": {"matchLabels": {"job": arrival.name}}}
        spec["affinity"] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
        if grouped:
            annotations = {names.GROUP: arrival.name, names.GROUP_SIZE: str(arrival.size)}
    return {
        "metadata": {
            "name": uid, "namespace": "default", "uid": uid, "labels": {"job": arrival.name}, "annotations": annotations,
            "creationTimestamp": _stamp(arrival.at),
        },
        "spec": spec,
        "status": {"phase": "Pending"},
    }  # fmt: skip


def _stamp(seconds: float) -> str:
    """Virtual time as the API server writes it: whole seconds."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    month, day = divmod(days, _EPOCH_DAYS_IN_A_MONTH)
    year, month = divmod(month, 12)
    return f"{2026 + year}-{month + 1:02d}-{day + 1:02d}T{hour:02d}:{minute:02d}:{second:02d}Z"
