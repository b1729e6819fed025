"""Which nodes can run a pod, decided for many nodes at once, and why the others cannot.

A refusal is a phrase from a small fixed vocabulary whose only numbers are the pod's own: kube-scheduler writes it into the
pod's condition, and a text that changed with the fleet would wake the pod again and again.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from headroom.domain.model import WHOLE_MILLI, Allocation, GpuNode, GpuRequest, Mode
from scheduler.ledger.fleet import Fleet, IntArray

BoolArray = npt.NDArray[np.bool_]

_PACKED: Final = list(Allocation).index(Allocation.PACKED)
_FAR: Final = np.int64(2**40)  # beyond any order of cards
_PICKS: Final = 2**16  # more picks of a card than one pod has shares


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

    The rule of `headroom.domain.device_plugin.share_mib`, for many cards at once.
    """
    usable = fleet.usable_mib[rows]
    if request.vram_mib > 0:
        return np.full_like(usable, request.vram_mib)
    if 0 < request.milli < WHOLE_MILLI:
        return np.maximum(usable * request.milli // WHOLE_MILLI, 1)
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
    shares, room = _predict(fleet, rows, request.count, np.where(allowed, fleet.free_mib[rows], -1), need)
    take = shares * need
    enough = shares.sum(axis=1) == request.count
    # An exclusive plugin may hand out any card it has left: all of those must do.
    left = (fleet.plugin[rows] == 0) & (fleet.slices[rows] > 0)
    suitable = left & allowed & (fleet.pinned[rows] == 0) & (fleet.free_mib[rows] >= need)
    any_will_do = (suitable == left).all(axis=1)
    return offers_resource(fleet, request, rows) & enough & room & (shared | any_will_do), take


def offers_resource(fleet: Fleet, request: GpuRequest, rows: IntArray) -> BoolArray:
    """Whether the node's device plugin advertises the resource that the pod names."""
    if not request.resource:
        return np.ones(len(rows), np.bool_)
    # The metrics page asks beside the event loop, where a node may go between two looks.
    names, nodes, nothing = fleet.names, fleet.nodes, GpuNode("")
    return np.fromiter(
        (nodes.get(names[row], nothing).resource == request.resource for row in rows.tolist()),
        np.bool_,
        len(rows),
    )


def _predict(fleet: Fleet, rows: IntArray, count: int, free: IntArray, need: IntArray) -> tuple[IntArray, BoolArray]:
    """How many of `count` devices the plugin will hand out on each card, and whether there is room wherever it may go.

    [rows, width] and [rows]. The rule of `headroom.domain.device_plugin.greedy_cards`, for many nodes at once; fewer than `count` where the
    plugin has no more.
    Between cards that are alike to it the plugin goes by the order of a hash table, so that any of them may be taken: each
    must have room in `free` for what it would then hold of `need`. The shares are told of the lowest index among them.
    """
    given = fleet.plugin[rows].copy()
    left = fleet.slices_free[rows].copy()
    packed = fleet.allocation[rows] == _PACKED
    shares = np.zeros_like(given)
    room = np.ones(len(rows), np.bool_)
    at = np.arange(len(rows))
    for _ in range(min(count, int(left.sum(axis=1).max(initial=0)))):
        order = np.where(packed[:, None], -given, given) * _PICKS + shares
        order = np.where(left > 0, order, _FAR)
        pick = order.argmin(axis=1)
        alike = (left > 0) & (order == order[at, pick][:, None])
        room &= (~alike | (free >= (shares + 1) * need)).all(axis=1)
        some = (left[at, pick] > 0).astype(np.int64)
        shares[at, pick] += some
        given[at, pick] += some
        left[at, pick] -= some
    return shares, room


def refusal(fleet: Fleet, request: GpuRequest, row: int, *, check_host: bool = False) -> str | None:
    """Why the row cannot run the request, in stable words; None when it can."""
    return refusals(fleet, request, np.array([row], np.int64), check_host=check_host)[0]


def refusals(fleet: Fleet, request: GpuRequest, rows: IntArray, *, check_host: bool = False) -> list[str | None]:
    """Why each of the rows cannot run the request, in stable words; None where it can."""
    allowed = _allowed_cards(fleet, request, rows)
    steps: list[tuple[BoolArray, str | None]] = [
        (~fleet.alive[rows], "node unknown"),
        (fit(fleet, request, rows, check_host=check_host).fits, None),
        (~fleet.schedulable[rows], "node cordoned"),
    ]
    if check_host:
        steps.append((~host_fits(fleet, request, rows), "not enough CPU or memory on the host"))
    steps.append(((fleet.usable_mib[rows] > 0).sum(axis=1) == 0, "no healthy GPU"))
    steps.append((allowed.sum(axis=1) == 0, "card model not allowed"))
    steps += (_slice_refusals if request.mode is Mode.SLICE else _pinned_refusals)(fleet, request, rows, allowed)
    # The first step whose condition holds gives the answer; the last one's holds everywhere.
    texts = [text for _, text in steps]
    first = np.argmax(np.stack([holds for holds, _ in steps]), axis=0)
    return [texts[at] for at in first.tolist()]


def _slice_refusals(
    fleet: Fleet, request: GpuRequest, rows: IntArray, allowed: BoolArray
) -> list[tuple[BoolArray, str | None]]:
    shared = (fleet.slices[rows] > 1).sum(axis=1) > 0
    few = fleet.slices_free[rows].sum(axis=1) < request.count
    one, count = request.count == 1, request.count
    size = _size_words(request) or "its share"
    left = (fleet.plugin[rows] == 0) & (fleet.slices[rows] > 0)
    in_use = (left & ((fleet.pinned[rows] > 0) | ~allowed)).sum(axis=1) > 0
    return [
        (~offers_resource(fleet, request, rows), f"node does not offer {request.resource}"),
        (few & shared, "no free time slice" if one else f"fewer than {count} free time slices"),
        (few, "no free card" if one else f"fewer than {count} free cards"),
        (shared, f"the card that the device plugin will pick has not {size} free"),
        (in_use, "the device plugin could pick a card that is in use"),
        (np.ones(len(rows), np.bool_), f"a card that the device plugin could pick has not {size} free"),
    ]


def _pinned_refusals(
    fleet: Fleet, request: GpuRequest, rows: IntArray, allowed: BoolArray
) -> list[tuple[BoolArray, str | None]]:
    count, several = request.count, request.count > 1
    everywhere = np.ones(len(rows), np.bool_)
    steps: list[tuple[BoolArray, str | None]] = [(allowed.sum(axis=1) < count, f"fewer than {count} cards")]
    if request.whole_cards:
        return [*steps, (everywhere, f"fewer than {count} unused cards" if several else "no unused card")]
    size = _size_words(request)
    roomy = allowed & (fleet.free_mib[rows] >= need_mib(fleet, request, rows))
    return [
        *steps,
        (roomy.sum(axis=1) >= count, "cards with room are in the hands of the device plugin"),
        (everywhere, f"fewer than {count} cards with {size} free" if several else f"no card with {size} free"),
    ]


def _size_words(request: GpuRequest) -> str:
    """The size of one share in the pod's own terms, empty where it states none."""
    if request.vram_mib:
        return f"{request.vram_mib} MiB"
    return f"{request.milli} thousandths" if request.milli else ""
