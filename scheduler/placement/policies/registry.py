"""The placement policies by name."""

from collections.abc import Callable
from typing import Final

import numpy as np

from headroom.errors import HeadroomError
from scheduler.placement.policies.fgd import Fgd
from scheduler.placement.policies.headroom import Headroom
from scheduler.placement.policies.simple import BestFit, DotProduct, GpuClustering, GpuPacking, Random, Spread
from scheduler.placement.scoring import Policy


class PolicyError(HeadroomError, ValueError):
    """An unknown policy name."""


def _maker(policy: Callable[..., Policy], *arguments: str) -> Callable[[np.random.Generator], Policy]:
    """A maker that needs no random generator."""
    return lambda _: policy(*arguments)


POLICIES: Final[dict[str, Callable[[np.random.Generator], Policy]]] = {
    "headroom": _maker(Headroom),
    "fgd": _maker(Fgd),
    "bestfit": _maker(BestFit),
    "gpupacking": _maker(GpuPacking),
    "gpuclustering": _maker(GpuClustering),
    "dotprod": _maker(DotProduct),
    "random": Random,
    **{name: _maker(Spread, name) for name in ("binpack-vram", "spread-vram", "binpack-slices", "spread-slices")},
}


def policy_by_name(name: str, rng: np.random.Generator | None = None) -> Policy:
    """A fresh policy. `rng` is used by `random` only. Raises PolicyError for an unknown name."""
    make = POLICIES.get(name)
    if make is None:
        raise PolicyError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    return make(rng if rng is not None else np.random.default_rng(0))
