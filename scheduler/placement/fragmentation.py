"""How much of the free GPU memory is of no use to the pods that come. Pure."""

from typing import Final

import numpy as np

from scheduler.ledger.fleet import Fleet
from scheduler.placement import filtering
from scheduler.placement.profile import Profile

_KINDS_MEASURED: Final = 12  # the commonest make up nearly all pods; each costs about a millisecond at 5,000 nodes


def fragmentation(fleet: Fleet, profile: Profile) -> float:
    """Part of the free GPU memory that the pods of the profile could not use, weighted by how often each kind comes.

    For each kind, what is free on cards that cannot take a share of it (or on nodes that cannot run the pod) is lost
    to it: the fragmentation measure of Weng et al., USENIX ATC 2023, in MiB. 0 while nothing is free or was seen.
    """
    rows = np.flatnonzero(fleet.alive)
    free_mib = fleet.free_mib[rows]
    total = int(free_mib.sum())
    kinds = [(kind, share) for kind, share in zip(profile.kinds, profile.shares, strict=True) if kind.count > 0]
    kinds = kinds[:_KINDS_MEASURED]
    weight = sum(share for _, share in kinds)
    if not total or not weight:
        return 0.0
    lost = 0.0
    for kind, share in kinds:
        fit = filtering.fit(fleet, kind, rows)
        usable = fit.cards & (free_mib >= fit.need) & fit.fits[:, None]
        lost += share * float(free_mib[~usable].sum())
    return lost / weight / total
