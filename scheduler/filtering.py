"""Which nodes can run a pod, decided for many nodes at once, and why the others cannot.

A refusal is a phrase from a small fixed vocabulary whose only numbers are the pod's own: kube-scheduler writes it into the
pod's condition, and a text that changed with the fleet would wake the pod again and again.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from headroom.fleet import Fleet, IntArray
from headroom.model import Allocation, GpuRequest, Mode

BoolArray = npt.NDArray[np.bool_]

_PACKED: Final = list(Allocation).index(Allocation.PACKED)
_FAR: Final = np.int64(2**40)  # beyond any count or size in MiB


@dataclass(frozen=True, slots=True)
class Fit:
    """What a request could take on each of `rows`, one line per row.

    `fits` [rows]; `cards` [rows, width]: cards that may hold a share, `need` [rows, width]: MiB of one share there.
    `take` [rows, width] is the MiB that would be held on each card where the cards are not Headroom's to choose (slice
    mode, and pods without a share); None where it chooses among `cards`.
    """

    rows: IntArray
    fits: BoolArray
    cards: BoolArray
    need: IntArray
    take: IntArray | None


def need_mib(fleet: Fleet, request: GpuRequest, rows: IntArray) -> IntArray:
    """MiB that one share of the request holds on each card of each row: [rows, width].

    Thousandths are rounded down, so that shares which add up to a card always fit on it, but never to nothing.
    """
    usable = fleet.usable_mib[rows]
    if request.vram_mib > 0:
        return np.full_like(usable, request.vram_mib)
    if 0 < request.milli < 1000:
        return np.maximum(usable * request.milli // 1000, 1)
    if request.mode is Mode.SLICE and request.milli == 0:
        return usable // np.maximum(fleet.slices[rows], 1)
    return usable


def _allowed_cards(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    present = fleet.usable_mib[rows] > 0
    if not request.models:
        return present
    wanted = np.zeros(len(fleet.models) + 1, np.bool_)  # the last place answers for "no card", code -1
    for model in request.models:
        code = fleet.model_code.get(model)
        if code is not None:
            wanted[code] = True
    return present & wanted[fleet.card_model[rows]]


def host_fits(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """Whether CPU and host memory suffice; in a cluster that question is kube-scheduler's own."""
    return (fleet.cpu_free_milli[rows] >= request.cpu_milli) & (fleet.memory_free_mib[rows] >= request.memory_mib)


def fit(fleet: Fleet, request: GpuRequest, rows: IntArray, *, check_host: bool = False) -> Fit:
    """Test the request against the given rows. Cordoned and empty rows never fit."""
    ready = fleet.schedulable[rows] & fleet.alive[rows]
    if check_host:
        ready = ready & host_fits(fleet, request, rows)
    need = need_mib(fleet, request, rows)
    if request.count == 0:
        nothing = np.zeros_like(need)
        return Fit(rows, ready, np.zeros_like(need, np.bool_), need, nothing)
    allowed = _allowed_cards(fleet, request, rows)
    if request.mode is Mode.SLICE:
        fits, take = _fit_slices(fleet, request, rows, allowed, need)
        return Fit(rows, ready & fits, allowed, need, take)
    cards = allowed & (fleet.free_mib[rows] >= need) & (fleet.plugin[rows] == 0)
    if request.whole_cards:
        cards &= (fleet.held_mib[rows] == 0) & (fleet.pinned[rows] == 0)
    return Fit(rows, ready & (cards.sum(axis=1) >= request.count), cards, need, None)


def _fit_slices(
    fleet: Fleet, request: GpuRequest, rows: IntArray, allowed: BoolArray, need: IntArray
) -> tuple[BoolArray, IntArray]:
    """Slice mode: the device plugin picks the cards, so the pod must fit on the ones it will pick."""
    shared = (fleet.slices[rows] > 1).any(axis=1)
    shares = predicted_shares(fleet, rows, request.count)
    take = shares * need
    touched = shares > 0
    enough = shares.sum(axis=1) == request.count
    room = (~touched | (allowed & (fleet.free_mib[rows] >= take))).all(axis=1)
    # An exclusive plugin may hand out any card it has left: all of those must do.
    left = (fleet.plugin[rows] == 0) & (fleet.slices[rows] > 0)
    suitable = left & allowed & (fleet.pinned[rows] == 0) & (fleet.free_mib[rows] >= need)
    any_will_do = (suitable == left).all(axis=1)
    return offers_resource(fleet, request, rows) & enough & room & (shared | any_will_do), take


def offers_resource(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """Whether the node's device plugin advertises the resource that the pod names."""
    if not request.resource:
        return np.ones(len(rows), np.bool_)
    names, nodes = fleet.names, fleet.nodes
    return np.fromiter(
        (bool(names[row]) and nodes[names[row]].resource == request.resource for row in rows.tolist()),
        np.bool_,
        len(rows),
    )


def predicted_shares(fleet: Fleet, rows: IntArray, count: int) -> IntArray:
    """How many of `count` slices the device plugin will hand out on each card: [rows, width].

    `distributed` takes the card with the fewest slices given out, `packed` the one with the most, ties by index; a second
    share goes to another card while there is one.
    """
    given = fleet.plugin[rows].copy()
    left = fleet.slices_free[rows].copy()
    packed = fleet.allocation[rows] == _PACKED
    shares = np.zeros_like(given)
    at = np.arange(len(rows))
    for _ in range(count):
        order = np.where(packed[:, None], -given, given) + shares * (_FAR // 1024)
        order = np.where(left > 0, order, _FAR)
        pick = order.argmin(axis=1)
        some = (left[at, pick] > 0).astype(np.int64)
        shares[at, pick] += some
        given[at, pick] += some
        left[at, pick] -= some
    return shares


def refusal(fleet: Fleet, request: GpuRequest, row: int, *, check_host: bool = False) -> str | None:
    """Why the row cannot run the request, in stable words; None when it can."""
    rows = np.array([row], np.int64)
    if not fleet.alive[row]:
        return "node unknown"
    if fit(fleet, request, rows, check_host=check_host).fits[0]:
        return None
    if not fleet.schedulable[row]:
        return "node cordoned"
    if check_host and not host_fits(fleet, request, rows)[0]:
        return "not enough CPU or memory on the host"
    if not (fleet.usable_mib[row] > 0).any():
        return "no healthy GPU"
    allowed = _allowed_cards(fleet, request, rows)[0]
    if not allowed.any():
        return "card model not allowed"
    if request.mode is Mode.SLICE:
        return _slice_refusal(fleet, request, rows, allowed)
    return _pinned_refusal(fleet, request, row, allowed, need_mib(fleet, request, rows)[0])


def _slice_refusal(fleet: Fleet, request: GpuRequest, rows: IntArray, allowed: BoolArray) -> str:
    row = int(rows[0])
    if not offers_resource(fleet, request, rows)[0]:
        return f"node does not offer {request.resource}"
    shared = bool((fleet.slices[row] > 1).any())
    if int(fleet.slices_free[row].sum()) < request.count:
        if shared:
            return "no free time slice" if request.count == 1 else f"fewer than {request.count} free time slices"
        return "no free card" if request.count == 1 else f"fewer than {request.count} free cards"
    size = (
        f"{request.vram_mib} MiB"
        if request.vram_mib
        else f"{request.milli} thousandths"
        if request.milli
        else "its share"
    )
    if shared:
        return f"the card that the device plugin will pick has not {size} free"
    left = (fleet.plugin[row] == 0) & (fleet.slices[row] > 0)
    if (left & ((fleet.pinned[row] > 0) | ~allowed)).any():
        return "the device plugin could pick a card that is in use"
    return f"a card that the device plugin could pick has not {size} free"


def _pinned_refusal(fleet: Fleet, request: GpuRequest, row: int, allowed: BoolArray, need: IntArray) -> str:
    if int(allowed.sum()) < request.count:
        return f"fewer than {request.count} cards"
    several = request.count > 1
    if request.whole_cards:
        return f"fewer than {request.count} unused cards" if several else "no unused card"
    size = f"{request.vram_mib} MiB" if request.vram_mib else f"{request.milli} thousandths"
    roomy = allowed & (fleet.free_mib[row] >= need)
    if int(roomy.sum()) >= request.count:
        return "cards with room are in the hands of the device plugin"
    return f"fewer than {request.count} cards with {size} free" if several else f"no card with {size} free"
