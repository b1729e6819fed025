"""Replays pods against a placement policy in virtual time and records how much of the cluster gets used.

The protocol is that of Weng et al. (USENIX ATC 2023): shuffle, grow or shrink the list to a load, pods arrive one by one,
one attempt each, nobody leaves. Equal scores go to the first node in one random order per seed.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from headroom.domain.model import GpuNode, GpuRequest, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import Placer, hold
from scheduler.placement.policies.fgd import Fgd
from scheduler.placement.policies.registry import policy_by_name
from scheduler.placement.policies.simple import GpuClustering
from scheduler.placement.profile import LearnedProfile, Profile
from scheduler.placement.row_cache import RowCache
from scheduler.placement.scoring import Policy, card_units
from simulations.placement.traces import Pod

Place = Callable[[Pod], Placement | None]
"""Decides on one arriving pod and holds what it takes; None when nothing fits."""


@dataclass(slots=True)
class Record:
    """What one run gave. Shares are percent of the cluster's GPU (`frag_of_idle_at`: of its idle GPU) by arrived load."""

    trace: str
    policy: str
    seed: int
    alloc_at: dict[int, float] = field(default_factory=dict)
    frag_at: dict[int, float] = field(default_factory=dict)
    frag_of_idle_at: dict[int, float] = field(default_factory=dict)
    timeline: dict[float, tuple[float, float]] = field(default_factory=dict)
    """With departures: hour -> (allocated GPU, fragmented GPU), percent of the cluster."""
    refused_percent: float = 0.0
    """With departures: GPU time refused, percent of GPU time asked."""
    pods: int = 0
    failed: int = 0
    seconds: float = 0.0


def shuffled(pods: Sequence[Pod], rng: random.Random) -> list[Pod]:
    """The pods in a random order that depends on their names and the generator only."""
    ordered = sorted(pods, key=lambda pod: pod.name)
    rng.shuffle(ordered)
    return ordered


def tuned(pods: list[Pod], cluster_units: int, load: float, rng: random.Random) -> list[Pod]:
    """The list grown by random clones, or shrunk by random deletions, to `load` times the cluster's GPU.

    As published, growing stops when the next clone's thousandths *per card* would pass the target.
    """
    target = load * cluster_units
    total = sum(pod.units for pod in pods)
    tuned_pods = list(pods)
    if total > target:
        order = list(range(len(pods)))
        rng.shuffle(order)
        gone = set()
        for at in order:
            if total <= target:
                break
            total -= pods[at].units
            gone.add(at)
        return [pod for at, pod in enumerate(pods) if at not in gone]
    while True:
        original = rng.choice(pods)
        if total + original.request.milli > target:
            return tuned_pods
        total += original.units
        tuned_pods.append(replace(original, name=f"{original.name}-clone-{len(tuned_pods)}"))


def build_fleet(nodes: Sequence[GpuNode], rng: random.Random) -> Fleet:
    """A fleet whose names sort in one random order, which settles ties the same way all through a run."""
    order = list(range(len(nodes)))
    rng.shuffle(order)
    fleet = Fleet(rows=len(nodes), width=max(len(node.cards) for node in nodes))
    for at, node in zip(order, nodes, strict=True):
        fleet.upsert_node(replace(node, name=f"{at:06d}-{node.name}"))
    return fleet


def published_policy(name: str, rng: np.random.Generator) -> Policy:
    """The policy as the experiment has it: FGD's ties follow the order of nodes, not Headroom's packing rule."""
    return Fgd(packing=False) if name == "fgd" else policy_by_name(name, rng)


class Scheduler:
    """The extender's placement code on a fleet in memory, with the table re-planned every `replan_every` arrivals.

    With `profile` the workload is known beforehand (FGD's typical pods are, too); without, it is learned from arrivals.
    """

    def __init__(self, fleet: Fleet, policy: Policy, profile: Profile | None, *, replan_every: int = 500) -> None:
        self.fleet = fleet
        self.placer = Placer(fleet, policy, check_host=True, profile=LearnedProfile())
        self._profile = profile
        self._replan_every = replan_every
        self._arrived = 0
        self._notes = isinstance(policy, GpuClustering)

    def place(self, pod: Pod) -> Placement | None:
        """Place one pod and hold its cards; None when it fits nowhere."""
        placer = self.placer
        if self._profile is None:
            placer.observe(pod.request)
        if self._arrived % self._replan_every == 0 or (self._profile is None and self._arrived in (20, 60, 150, 300)):
            placer.replan(self._profile)
        self._arrived += 1
        placement = placer.best(pod.request)
        if placement is not None:
            self._hold(pod.request, placement, 1)
        return placement

    def leave(self, request: GpuRequest, placement: Placement) -> None:
        """A placed pod ends and gives its cards back."""
        self._hold(request, placement, -1)

    def _hold(self, request: GpuRequest, placement: Placement, sign: int) -> None:
        if self._notes:
            self.placer.policy.note(self.fleet.row_of[placement.node], request, sign)
        hold(self.fleet, request, placement, sign)


class Meter:
    """Keeps allocation and fragmentation by arrived load, in whole percent.

    Allocation is in the fleet's unit of memory; fragmentation counts every card as 1,000 thousandths, whatever its size.
    """

    def __init__(self, fleet: Fleet, profile: Profile) -> None:
        self._fleet = fleet
        self._fragments = Fgd()
        self._fragments.swap(self._fragments.solve(profile))
        self._rows = np.arange(len(fleet.names))
        self.cluster_units = int(fleet.usable_mib.sum())
        self._cards = int((fleet.usable_mib > 0).sum())
        self._by_row = RowCache(fleet, lambda rows: (self._fragments.fragmentation(fleet, rows),), (np.float64,))
        self._arrived = 0.0
        self._allocated = 0
        self._sums: dict[int, tuple[float, int]] = {}
        self.frag_at: dict[int, float] = {}
        self.frag_of_idle_at: dict[int, float] = {}

    def arrival(self, units: float, taken: int) -> None:
        """Count one arrival that asked for so much and got so much."""
        before = round(100 * self._arrived / self.cluster_units)
        self._arrived += units
        self._allocated += taken
        load = round(100 * self._arrived / self.cluster_units)
        if load != before:
            fragments, idle = self._fragmentation()
            self.frag_at[load] = fragments
            self.frag_of_idle_at[load] = 100 * fragments / idle if idle else 0.0
        total, count = self._sums.get(load, (0.0, 0))
        self._sums[load] = (total + 100 * self._allocated / self.cluster_units, count + 1)

    def sample(self) -> tuple[float, float]:
        """Allocated and fragmented GPU at this moment, percent of the cluster."""
        held = int(np.minimum(self._fleet.held_mib, self._fleet.usable_mib).sum())
        return 100 * held / self.cluster_units, self._fragmentation()[0]

    def _fragmentation(self) -> tuple[float, float]:
        (by_row,) = self._by_row.current()
        idle = float(card_units(self._fleet, self._rows).sum())
        return 100 * float(by_row.sum()) / (1000 * self._cards), 100 * idle / (1000 * self._cards)

    @property
    def alloc_at(self) -> dict[int, float]:
        """Mean allocation over the arrivals at each whole percent of arrived load; one that was jumped over has the last."""
        shares: dict[int, float] = {}
        last = 0.0
        for load in range(max(self._sums, default=-1) + 1):
            total, count = self._sums.get(load, (last, 1))
            shares[load] = last = total / count
        return shares


def replay(
    pods: Iterable[Pod], place: Place, meter: Meter, record: Record, progress: Callable[[], None] | None = None
) -> None:
    """Offer each pod once, in order, and fill in the record. `place` may be a simulated or a real scheduler."""
    for pod in pods:
        placement = place(pod)
        meter.arrival(pod.units, 0 if placement is None else sum(placement.share_mib))
        record.pods += 1
        record.failed += placement is None
        if progress is not None:
            progress()
    record.alloc_at, record.frag_at, record.frag_of_idle_at = meter.alloc_at, meter.frag_at, meter.frag_of_idle_at


def run_published(
    nodes: Sequence[GpuNode],
    pods: Sequence[Pod],
    *,
    trace: str,
    policy: str,
    seed: int,
    load: float,
    learned: bool = False,
) -> Record:
    """One run of the published protocol."""
    rng = random.Random(seed)
    cluster_units = 1000 * sum(len(node.cards) for node in nodes)
    arrivals = tuned(shuffled(pods, rng), cluster_units, load, rng)
    fleet = build_fleet(nodes, rng)
    profile = Profile.from_requests(pod.request for pod in pods)
    scheduler = Scheduler(fleet, published_policy(policy, np.random.default_rng(seed)), None if learned else profile)
    record = Record(trace, policy, seed)
    replay(arrivals, scheduler.place, Meter(fleet, profile), record)
    return record
