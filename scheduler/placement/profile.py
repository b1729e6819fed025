"""The workload profile: what kinds of pods are likely to come next, and how often.

Taken from a list (as the published FGD takes its typical pods) or learned from the pods that arrive, with decay.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from headroom.domain.model import GpuRequest


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


@dataclass(slots=True)
class LearnedProfile:
    """A profile from the arrivals so far; an arrival's weight halves every `half_life_arrivals` further arrivals.

    `prior` is what is believed before anything was seen; it counts as `prior_arrivals` arrivals and decays like them.
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
        self._scale *= 2.0 ** (1.0 / self.half_life_arrivals)
        self._weights[kind] = self._weights.get(kind, 0.0) + self._scale
        self._memory[kind] = self._memory.get(kind, 0.0) + self._scale * request.memory_mib
        self.seen += 1
        if self._scale > 1e12:
            self._rescale()

    def _rescale(self) -> None:
        floor = 1e-6 * self._scale
        self._weights = {kind: weight / self._scale for kind, weight in self._weights.items() if weight > floor}
        self._memory = {kind: self._memory[kind] / self._scale for kind in self._weights}
        self._scale = 1.0

    def profile(self) -> Profile:
        """The profile as of now; empty before the first arrival."""
        if not self._weights:
            return Profile()
        mean = {kind: self._memory[kind] / weight for kind, weight in self._weights.items() if weight > 0}
        return Profile.of(self._weights, mean)
