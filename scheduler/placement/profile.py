"""The workload profile: what kinds of pods are likely to come next, and how often.

Taken from a list (as the published FGD takes its typical pods) or learned from the pods that arrive, with decay.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headroom.domain.model import WHOLE_MILLI, GpuRequest, Mode

_KINDS_KEPT: Final = 512
"""Kinds that a learned profile knows at least; the published traces have 80 to 300."""


def kind_of(request: GpuRequest) -> GpuRequest:
    """The request without host memory, which no placement score looks at: pods of one kind are interchangeable."""
    return request if request.memory_mib == 0 else dataclasses.replace(request, memory_mib=0)


@dataclass(frozen=True, slots=True)
class Profile:
    """Kinds of pods with the share of arrivals that each makes up; shares add to 1 (or the profile is empty).

    `memory_mib` is the mean host memory of each kind.
    """

    kinds: tuple[GpuRequest, ...] = ()
    shares: tuple[float, ...] = ()
    memory_mib: tuple[float, ...] = ()

    @classmethod
    def of(cls, weights: dict[GpuRequest, float], memory_mib: Mapping[GpuRequest, float] | None = None) -> "Profile":
        """From weights per kind, most frequent first; equal weights keep their order of first appearance.

        `memory_mib` is the mean host memory of kinds; a kind that is not in it has none.
        """
        total = sum(weights.values())
        ranked = sorted(weights.items(), key=lambda item: -item[1])
        kinds = tuple(kind for kind, _ in ranked)
        memory = memory_mib or {}
        return cls(kinds, tuple(weight / total for _, weight in ranked), tuple(memory.get(kind, 0.0) for kind in kinds))

    @classmethod
    def from_requests(cls, requests: Iterable[GpuRequest]) -> "Profile":
        """Counted from a list of requests."""
        weights: dict[GpuRequest, float] = {}
        memory: dict[GpuRequest, float] = {}
        for request in requests:
            kind = kind_of(request)
            weights[kind] = weights.get(kind, 0.0) + 1.0
            memory[kind] = memory.get(kind, 0.0) + request.memory_mib
        return cls.of(weights, {kind: memory[kind] / weight for kind, weight in weights.items()})

    def typical(self, share: float = 0.95) -> "Profile":
        """The most frequent kinds that make up at least `share` of the arrivals, their shares scaled back to 1."""
        kept: dict[GpuRequest, float] = {}
        covered = 0.0
        for kind, weight in zip(self.kinds, self.shares, strict=True):
            if covered >= share:
                break
            kept[kind] = weight
            covered += weight
        return Profile.of(kept, dict(zip(self.kinds, self.memory_mib, strict=True)))

    def coarsened(self, most_sizes: int) -> "Profile":
        """At most so many sizes of share (memory, thousandths, CPU): where there are more, sizes are rounded, ever more coarsely.

        A plan costs as much as the square of the sizes it knows, and hundreds of nearly equal ones need no plan for each.
        """
        profile, grain = self, 1
        while len({size_of(kind) for kind in profile.kinds}) > most_sizes:
            profile = self._with_rounded_sizes(grain)
            grain *= 2
        return profile

    def _with_rounded_sizes(self, grain: int) -> "Profile":
        weights: dict[GpuRequest, float] = {}
        memory: dict[GpuRequest, float] = {}
        for kind, share, memory_mib in zip(self.kinds, self.shares, self.memory_mib, strict=True):
            coarse = dataclasses.replace(
                kind,
                vram_mib=_rounded(kind.vram_mib, 256 * grain),
                milli=min(_rounded(kind.milli, 10 * grain), WHOLE_MILLI),
                cpu_milli=_rounded(kind.cpu_milli, 250 * grain),
            )
            weights[coarse] = weights.get(coarse, 0.0) + share
            memory[coarse] = memory.get(coarse, 0.0) + share * memory_mib
        return Profile.of(weights, {kind: memory[kind] / weight for kind, weight in weights.items() if weight > 0})


def size_of(kind: GpuRequest) -> tuple[int, int, bool, int]:
    """What one share of a kind takes of any card and its node: MiB, thousandths, whether it is a device plugin's slice, CPU."""
    return kind.vram_mib, kind.milli, kind.mode is Mode.SLICE, kind.cpu_milli // max(kind.count, 1)


def _rounded(size: int, step: int) -> int:
    """Down, so that what fits on a card still does; to nothing only from nothing."""
    return max(size // step, 1) * step if size else 0


@dataclass(slots=True)
class LearnedProfile:
    """A profile from the arrivals so far; an arrival's weight halves every `half_life_arrivals` further arrivals.

    `prior` is what is believed before anything was seen; it counts as `prior_arrivals` arrivals and decays like them. Of ever new
    kinds the rarest are forgotten. `profile` may be asked for beside the thread that observes.
    """

    half_life_arrivals: float = 5000.0
    prior: Profile = field(default_factory=Profile)
    prior_arrivals: float = 0.0
    seen: int = 0
    _weights: dict[GpuRequest, float] = field(default_factory=dict)
    _memory: dict[GpuRequest, float] = field(default_factory=dict)  # MiB times weight
    _scale: float = 1.0

    def __post_init__(self) -> None:
        prior = zip(self.prior.kinds, self.prior.shares, self.prior.memory_mib, strict=True)
        for kind, share, memory_mib in prior:
            self._weights[kind] = share * self.prior_arrivals
            self._memory[kind] = share * self.prior_arrivals * memory_mib

    def observe(self, request: GpuRequest) -> None:
        """Count one arrival. A new arrival gets a growing weight, which is the same as decaying all the others."""
        kind = kind_of(request)
        if kind not in self._weights and len(self._weights) >= 2 * _KINDS_KEPT:
            self._keep(sorted(self._weights, key=self._weights.__getitem__, reverse=True)[:_KINDS_KEPT])
        self._scale *= 2.0 ** (1.0 / self.half_life_arrivals)
        self._weights[kind] = self._weights.get(kind, 0.0) + self._scale
        self._memory[kind] = self._memory.get(kind, 0.0) + self._scale * request.memory_mib
        self.seen += 1
        if self._scale > 1e12:
            self._rescale()

    def _rescale(self) -> None:
        floor = 1e-6 * self._scale
        self._keep([kind for kind, weight in self._weights.items() if weight > floor])
        self._weights = {kind: weight / self._scale for kind, weight in self._weights.items()}
        self._memory = {kind: memory / self._scale for kind, memory in self._memory.items()}
        self._scale = 1.0

    def _keep(self, kinds: Iterable[GpuRequest]) -> None:
        kept = set(kinds)
        self._weights = {kind: weight for kind, weight in self._weights.items() if kind in kept}
        self._memory = {kind: memory for kind, memory in self._memory.items() if kind in kept}

    def profile(self) -> Profile:
        """The profile as of now; empty before the first arrival."""
        # Copied in one step each: the metrics page asks from another thread.
        weights, memory = self._weights.copy(), self._memory.copy()
        if not weights:
            return Profile()
        return Profile.of(
            weights, {kind: memory.get(kind, 0.0) / weight for kind, weight in weights.items() if weight > 0}
        )
