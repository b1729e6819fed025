"""Which cards a device plugin will hand out, and how much of a card one share takes. Pure.

The order of choice is the NVIDIA device plugin's for shared and MIG devices (k8s-device-plugin, internal/rm/allocate.go):
one device at a time, `distributed` from the card with the fewest devices given out, `packed` from the one with the most,
`spread` (k8s-device-plugin#1936) from the one picked least for this very pod, then as `distributed`; among equals the card
picked least for this very pod, then the lowest index. For whole cards the plugin prefers well-connected ones, which
nothing in the API tells: there the lowest free indices are as good a guess as any.
"""

from collections.abc import Sequence
from typing import Final

from headroom.domain.model import WHOLE_MILLI, Allocation, GpuNode, GpuRequest, Mode

_DIRECTION: Final = {Allocation.PACKED: -1, Allocation.UNKNOWN: 0}


def share_mib(request: GpuRequest, usable_mib: int, slices: int) -> int:
    """MiB that one share of the request takes on a card of `usable_mib` that is advertised as `slices` devices.

    Thousandths are rounded down, so that thousandths adding up to 1000 always fit on one card, but never to nothing.
    `scheduler.placement.filtering` has the same rule for many cards at once.
    """
    if request.vram_mib:
        return request.vram_mib
    if 0 < request.milli < WHOLE_MILLI:
        return max(request.milli * usable_mib // WHOLE_MILLI, 1)
    if request.mode is Mode.SLICE and not request.milli and slices > 1:
        return usable_mib // slices
    return usable_mib


def allocated_mib(node: GpuNode, request: GpuRequest) -> int:
    """The most that a device which kube-scheduler allocates on the node (DRA) can take of the card that it is."""
    cards = node.allocated(request.resource)
    return max((share_mib(request, card.usable_mib, card.slices) for card in cards), default=0)


def greedy_cards(
    given_out: Sequence[int], slices: Sequence[int], count: int, allocation: Allocation
) -> tuple[int, ...] | None:
    """Card positions that the plugin picks for `count` devices, one per device; None when too few are free.

    `given_out` and `slices` are devices in use and devices in all, by card position; a card that the plugin does not offer
    has none. `scheduler.placement.filtering` has the same rule for many nodes at once.
    """
    used = list(given_out)
    picked = [0] * len(used)
    direction = _DIRECTION.get(allocation, 1)
    cards: list[int] = []
    for _ in range(count):
        free = [at for at, total in enumerate(slices) if used[at] < total]
        if not free:
            return None
        if allocation is Allocation.SPREAD:
            best = min(free, key=lambda at: (picked[at], used[at], at))
        else:
            best = min(free, key=lambda at: (direction * used[at], picked[at], at))
        used[best] += 1
        picked[best] += 1
        cards.append(best)
    return tuple(cards)


def most_devices(
    given_out: Sequence[int], leaving: Sequence[int], slices: Sequence[int], count: int, allocation: Allocation
) -> tuple[int, ...]:
    """The most of `count` devices, all under way at once, that each card can come to give, by card position.

    In whatever order kubelet takes in the pods that want them, and whichever of equal cards the plugin picks. `given_out` are
    devices whose card is known; `leaving`, of those, may come back meanwhile: their pods are being deleted.
    """
    least = [given - gone for given, gone in zip(given_out, leaving, strict=True)]
    most = []
    for at, total in enumerate(slices):
        left = min(total - least[at], count)
        if allocation is Allocation.PACKED:
            # Cards that are surely fuller come first, until they are full.
            first = sum(
                slices[other] - given_out[other]
                for other in range(len(slices))
                if other != at and least[other] > given_out[at]
            )
            most.append(max(min(left, count - first), 0))
        elif allocation is Allocation.UNKNOWN:
            most.append(max(left, 0))
        else:
            # For its nth device this card must have given no more than any other that has one left: those must catch up first.
            number = 0
            while number < left and _raising(given_out, slices, at, least[at] + number) + number + 1 <= count:
                number += 1
            most.append(number)
    return tuple(most)


def _raising(given_out: Sequence[int], slices: Sequence[int], at: int, level: int) -> int:
    """Devices that all cards but one must give to have given `level` each, or all that they have."""
    return sum(max(min(level, slices[other]) - given, 0) for other, given in enumerate(given_out) if other != at)
