"""What a pinned pod takes from pods that get their cards from the device plugin: the price of mixing both on one node. Pure.

kubelet does not know of pinned pods. Where it hands out whole cards, a node with one pinned pod can take no further pod of the plugin
unless every card that kubelet could pick is free: one small pod makes eight cards useless for them. So a pinned pod goes where others
of its kind are, and where there are none to where it withholds the fewest cards. It is a price and no bar: what fits nowhere else is
mixed.
"""

from typing import Final

import numpy as np

from headroom.domain.model import GpuRequest, Mode
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import Fleet

_MOST_CARDS: Final = 63
_PRICE_BITS: Final = 56
"""One card withheld outweighs any score of any policy, and 63 of them are still a key."""


def price(fleet: Fleet, request: GpuRequest, rows: IntArray, *, devices_wanted: bool) -> IntArray:
    """What to take off the key of each row, by the cards that the pod would withhold there beside its own.

    `devices_wanted`: whether pods come that the plugin gives cards to; where some run already, that is known of the node.
    """
    if request.mode is not Mode.PINNED or request.count == 0:
        return np.zeros(len(rows), np.int64)
    if not devices_wanted and not fleet.plugin[rows].any():
        return np.zeros(len(rows), np.int64)  # most clusters, at every filter call
    whole = (fleet.slices[rows] == 1) & (fleet.card_resource[rows] >= 0) & ~fleet.by_allocator[rows]
    if (nameless := fleet.resource_code.get("")) is not None:
        whole &= fleet.card_resource[rows] != nameless
    matters = (whole & (fleet.plugin[rows] > 0)).any(axis=1) | devices_wanted
    first = (fleet.pinned[rows] == 0).all(axis=1)
    withheld = np.clip(whole.sum(axis=1) - request.count, 0, _MOST_CARDS)
    priced: IntArray = np.where(matters & first, withheld, 0).astype(np.int64) << _PRICE_BITS
    return priced
