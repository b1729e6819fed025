"""One list through one mode, in virtual time: how long pods wait, how much is in use, and what must hold after every step."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from headroom.domain.model import GpuNode
from simulations.placement.groups.daemon import BrokenError, Daemon
from simulations.placement.groups.kube import Job, KubeScheduler, Permit
from simulations.placement.groups.lists import Arrival

_SWEEP_SECONDS: Final = 30.0
_WHOLE_CHECK_EVERY: Final = 1000  # steps
_DRAIN_HOURS: Final = 72.0
_HOUR: Final = 3600.0
REFUSED_BINDINGS: Final = 0.002
"""One binding in so many is refused by the API server."""


@dataclass(frozen=True, slots=True)
class Mode:
    """How groups are placed."""

    name: str
    grouped: bool = False
    permit: Permit | None = None


HEADROOM: Final = Mode("all or none (Headroom)", grouped=True)
PERMIT_600: Final = Mode("Permit, 600 s", permit=Permit(600.0))
PERMIT_60: Final = Mode("Permit, 60 s", permit=Permit(60.0))
PERMIT_AT_ONCE: Final = Mode("Permit, given up at the first refusal", permit=Permit(600.0, at_once=True))
APART: Final = Mode("no groups")
MODES: Final = (HEADROOM, PERMIT_600, PERMIT_60, PERMIT_AT_ONCE, APART)


@dataclass(slots=True)
class Outcome:
    """What one run gave. Waiting times are in seconds, of what came after the fleet had filled."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    """By kind: `group`, `one card`, `several cards`."""
    pod_hours: float = 0.0
    used_share: float = 0.0
    """Of all cards, the part that bound pods hold in the mean."""
    idle_held_share: float = 0.0
    """The part that is reserved for pods that wait at Permit."""
    partial: int = 0
    """Groups that held some of their places, and not all, after some step."""
    timeouts: int = 0
    deadlocks: int = 0
    """Time-outs while other groups held a part of their places, too."""
    unplaced: int = 0
    """Pods that had no place when all others had ended."""
    steps: int = 0


class Run:
    """Everything of one run; see `play`."""

    def __init__(
        self, nodes: Sequence[GpuNode], arrivals: Sequence[Arrival], mode: Mode, *,
        seed: int, hours: float, warm_hours: float, fair_wait_seconds: float = 300.0,
    ) -> None:  # fmt: skip
        self._arrivals, self._mode = arrivals, mode
        self._warm, self._end = warm_hours * _HOUR, hours * _HOUR
        self.daemon = Daemon(
            nodes, seed, waits_at_permit=mode.permit is not None, refuses=REFUSED_BINDINGS,
            fair_wait_seconds=fair_wait_seconds,
        )  # fmt: skip
        self.kube = KubeScheduler(self.daemon, nodes, grouped=mode.grouped, permit=mode.permit, on_bound=self._bound)
        self.outcome = Outcome({"group": [], "one card": [], "several cards": []})
        self._ends: list[tuple[float, int, list[str]]] = []
        self._partial: set[int] = set()
        self._ran: set[int] = set()
        self._used_area = self._idle_area = 0.0

    async def play(self) -> Outcome:
        """Until all that came has ended. Raises BrokenError."""
        coming = 0
        last = self._end + _DRAIN_HOURS * _HOUR
        while True:
            times = [self._arrivals[coming].at] if coming < len(self._arrivals) else []
            times += [self._ends[0][0]] if self._ends else []
            ready = self.kube.next_at
            if self.kube.waiting or ready is not None:
                times.append((self.daemon.now // _SWEEP_SECONDS + 1) * _SWEEP_SECONDS)
            if ready is not None:
                times.append(max(ready, self.daemon.now))
            if not times or min(times) > last:
                break
            now = min(times)
            self._pass_time(now)
            while coming < len(self._arrivals) and self._arrivals[coming].at <= now:
                self.kube.submit(self._arrivals[coming], coming)
                coming += 1
            while self._ends and self._ends[0][0] <= now:
                _, number, uids = heapq.heappop(self._ends)
                self.kube.end(self.kube.jobs[number], uids)
            if now % _SWEEP_SECONDS == 0 and await self.daemon.sweep():
                self.kube.wake()
            await self.kube.run()
            self._check()
        return self._summed_up()

    def _pass_time(self, now: float) -> None:
        first, last = max(self.daemon.now, self._warm), min(now, self._end)
        if last > first:
            truth = self.kube.truth
            self._used_area += (last - first) * int(truth.held_mib.sum())
            fleet = self.daemon.state.fleet
            self._idle_area += (last - first) * (int(fleet.held_mib.sum()) - int(truth.held_mib.sum()))
        self.daemon.now = now

    def _bound(self, job: Job, uid: str) -> None:
        arrival, now = job.arrival, self.daemon.now
        together = self._mode is not APART
        if together and len(job.bound) < arrival.size:
            return
        if len(job.bound) == arrival.size:
            kind = "group" if arrival.is_group else "one card" if arrival.ask.cards == 1 else "several cards"
            if self._warm <= arrival.at:
                self.outcome.waits[kind].append(now - arrival.at)
        ended = list(job.uids) if together else [uid]
        heapq.heappush(self._ends, (now + arrival.seconds, job.number, ended))
        self.outcome.pod_hours += len(ended) * arrival.seconds / _HOUR

    def _check(self) -> None:
        """What must hold after every step. Raises BrokenError."""
        self.outcome.steps += 1
        self.daemon.check(whole=self.outcome.steps % _WHOLE_CHECK_EVERY == 0)
        if self._mode is APART:
            return
        for job in {one.job for one in self.kube.waiting.values() if one.job.arrival.is_group}:
            held = sum(self.daemon.held(uid) for uid in job.uids)
            if 0 < held < job.arrival.size:
                self._partial.add(job.number)
                if self._mode.grouped:
                    raise BrokenError(f"group {job.arrival.name} has {held} of {job.arrival.size} places")

    def _summed_up(self) -> Outcome:
        outcome, truth = self.outcome, self.kube.truth
        area = (self._end - self._warm) * truth.units
        outcome.used_share, outcome.idle_held_share = self._used_area / area, self._idle_area / area
        outcome.partial, outcome.unplaced = len(self._partial), len(self.kube.waiting)
        outcome.timeouts, outcome.deadlocks = self.kube.timeouts, self.kube.deadlocks
        return outcome
