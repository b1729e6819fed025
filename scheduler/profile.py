"""The workload profile: what kinds of pods are likely to come next, and how often.

Taken from a list (as the published FGD takes its typical pods) or learned from the pods that arrive, with decay.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

from headroom.model import GpuRequest


def kind_of(request: GpuRequest) -> GpuRequest:
    """The request without host memory, which no placement score looks at: pods of one kind are interchangeable."""
    return request if request.memory_mib == 0 else dataclasses.replace(request, memory_mib=0)


@dataclass(frozen=True, slots=True)
class Profile:
    """Kinds of pods with the share of arrivals that each makes up; shares add to 1 (or the profile is empty)."""

    kinds: tuple[GpuRequest, ...] = ()
    shares: tuple[float, ...] = ()

    @classmethod
    def of(cls, weights: dict[GpuRequest, float]) -> "Profile":
        """From weights per kind, most frequent first; equal weights keep their order of first appearance."""
        total = sum(weights.values())
        ranked = sorted(weights.items(), key=lambda item: -item[1])
        return cls(tuple(kind for kind, _ in ranked), tuple(weight / total for _, weight in ranked))

    @classmethod
    def from_requests(cls, requests: Iterable[GpuRequest]) -> "Profile":
        """Counted from a list of requests."""
        weights: dict[GpuRequest, float] = {}
        for request in requests:
            kind = kind_of(request)
            weights[kind] = weights.get(kind, 0.0) + 1.0
        return cls.of(weights)

    def typical(self, share: float = 0.95) -> "Profile":
        """The most frequent kinds that make up at least `share` of the arrivals, their shares scaled back to 1."""
        kept: dict[GpuRequest, float] = {}
        covered = 0.0
        for kind, weight in zip(self.kinds, self.shares, strict=True):
            if covered >= share:
                break
            kept[kind] = weight
            covered += weight
        return Profile.of(kept)


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
    _scale: float = 1.0

    def __post_init__(self) -> None:
        for kind, share in zip(self.prior.kinds, self.prior.shares, strict=True):
            self._weights[kind] = share * self.prior_arrivals

    def observe(self, request: GpuRequest) -> None:
        """Count one arrival. A new arrival gets a growing weight, which is the same as decaying all the others."""
        kind = kind_of(request)
        self._scale *= 2.0 ** (1.0 / self.half_life_arrivals)
        self._weights[kind] = self._weights.get(kind, 0.0) + self._scale
        self.seen += 1
        if self._scale > 1e12:
            self._rescale()

    def _rescale(self) -> None:
        floor = 1e-6 * self._scale
        self._weights = {kind: weight / self._scale for kind, weight in self._weights.items() if weight > floor}
        self._scale = 1.0

    def profile(self) -> Profile:
        """The profile as of now; empty before the first arrival."""
        return Profile.of(self._weights) if self._weights else Profile()
