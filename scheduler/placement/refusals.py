"""Why nodes cannot run a pod. Pure.

A refusal is a phrase from a small fixed vocabulary whose only numbers are the pod's own: kube-scheduler writes it into the
pod's condition, and a text that changed with the fleet would wake the pod again and again.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headroom import names
from headroom.domain.model import GpuRequest, Mode
from scheduler.ledger.arrays import IntArray
from scheduler.ledger.fleet import PIN_BARS, Fleet
from scheduler.placement.filtering import (
    BoolArray,
    Choice,
    allocates,
    any_card,
    choice_of,
    fit,
    host_fits,
    need_mib,
    no_card,
    too_many_at_once,
)
from scheduler.placement.row_cache import RowCaches

_MOST_BYTES: Final = 2**22
MEMORY_UNKNOWN: Final = f"the memory of its cards is unknown: label the node {names.LABEL_CARD_VRAM}, or run the agent"
UNTOLD: Final = "a pod that runs there could not be taken in yet: what it holds is not known"
PERHAPS_CLAIMED: Final = "a resource claim may hold any of its cards: nothing tells yet which (DRA)"


class Reasons:
    """Why each row refuses the request classes that were refused lately, kept up to date row by row: a refusal names up to 5,000 nodes."""

    def __init__(self, fleet: Fleet, *, check_host: bool) -> None:
        self._fleet, self._check_host = fleet, check_host
        self._texts = RowCaches(fleet, self._refusals, (np.object_,), most_bytes=_MOST_BYTES)

    def of(self, request: GpuRequest) -> npt.NDArray[Any]:
        """Words by row; None where the request fits."""
        (texts,) = self._texts.of(request)
        return texts

    def _refusals(self, request: GpuRequest, rows: IntArray) -> tuple[npt.NDArray[Any]]:
        texts = refusals(self._fleet, request, rows, check_host=self._check_host)
        return (np.array(texts, np.object_),)


def refusal(fleet: Fleet, request: GpuRequest, row: int, *, check_host: bool = False) -> str | None:
    """Why the row cannot run the request, in stable words; None when it can."""
    return refusals(fleet, request, np.array([row], np.int64), check_host=check_host)[0]


def refusals(fleet: Fleet, request: GpuRequest, rows: IntArray, *, check_host: bool = False) -> list[str | None]:
    """Why each of the rows cannot run the request, in stable words; None where it can."""
    choice = choice_of(fleet, request, rows)
    steps: list[tuple[BoolArray, str | None]] = [
        (~fleet.alive[rows], "node unknown"),
        (fleet.untold[rows], UNTOLD),
        (fit(fleet, request, rows, check_host=check_host).fits, None),
        (~(fleet.schedulable[rows] | request.on_cordoned), "node cordoned"),
    ]
    if check_host:
        steps.append((~host_fits(fleet, request, rows), "not enough CPU or memory on the host"))
    steps.append((no_card(choice.present), "no healthy GPU"))
    steps += _not_offered(fleet, request, rows, choice)
    steps.append((no_card(choice.of_model), "card model not allowed"))
    steps.append((no_card(choice.accepted), "no card that the pod's annotations accept"))
    if fleet.claims_matter:
        steps.append((no_card(choice.sure) & any_card(choice.accepted & choice.present), PERHAPS_CLAIMED))
    steps.append((no_card(choice.allowed), MEMORY_UNKNOWN))
    steps += (_slice_refusals if request.mode is Mode.SLICE else _pinned_refusals)(fleet, request, rows, choice)
    # The first step whose condition holds gives the answer; the last one's holds everywhere.
    texts = [text for _, text in steps]
    first = np.argmax(np.stack([holds for holds, _ in steps]), axis=0)
    return [texts[at] for at in first.tolist()]


def _not_offered(
    fleet: Fleet, request: GpuRequest, rows: IntArray, choice: Choice
) -> list[tuple[BoolArray, str | None]]:
    none: BoolArray = no_card(choice.offered)
    if request.mode is Mode.SLICE:
        return [(none, f"node does not offer {request.resource}, neither by a device plugin nor by DRA")]
    if not none.any():
        return []
    bars = fleet.pin_bar[rows]
    return [(none & any_card((bars == code) & choice.present), bar.value) for code, bar in enumerate(PIN_BARS) if bar]


def _slice_refusals(
    fleet: Fleet, request: GpuRequest, rows: IntArray, choice: Choice
) -> list[tuple[BoolArray, str | None]]:
    shared = any_card((fleet.slices[rows] > 1) & choice.offered)
    few = np.where(choice.offered, fleet.slices_free[rows], 0).sum(axis=1) < request.count
    one, count = request.count == 1, request.count
    size = _size_words(request) or "its share"
    left = choice.offered & (fleet.plugin[rows] == 0) & (fleet.slices[rows] > 0)
    limited = no_card(choice.allowed & (need_mib(fleet, request, rows) <= fleet.limit_mib[rows]))
    allocated = allocates(fleet, request, rows)
    return [
        *(_allocated_refusals(fleet, request, rows, choice, allocated) if allocated.any() else ()),
        (
            too_many_at_once(fleet, request, rows),
            f"the device plugin gives a container one shared device, not {count}",
        ),
        (limited, f"MPS keeps each share below {size}"),
        (few & shared, "no free time slice" if one else f"fewer than {count} free time slices"),
        (few, "no free card" if one else f"fewer than {count} free cards"),
        (any_card(left & ~choice.of_model), "the device plugin could pick a card of another model"),
        (
            any_card(left & ~choice.accepted),
            "the device plugin could pick a card that the pod's annotations do not accept",
        ),
        (shared, f"the card that the device plugin will pick has not {size} free"),
        (
            any_card(left & ((fleet.pinned[rows] > 0) | (fleet.claimed[rows] > 0))),
            "the device plugin could pick a card that is in use",
        ),
        (np.ones(len(rows), np.bool_), f"a card that the device plugin could pick has not {size} free"),
    ]


def _allocated_refusals(
    fleet: Fleet, request: GpuRequest, rows: IntArray, choice: Choice, allocated: BoolArray
) -> list[tuple[BoolArray, str | None]]:
    """Why not, on the rows that `allocated` marks: the last step's condition holds on all of them."""
    count, size = request.count, _size_words(request) or "its share"
    free = np.where(choice.offered & fleet.by_allocator[rows], fleet.slices_free[rows], 0)
    left = free > 0
    limited = left & choice.allowed & (need_mib(fleet, request, rows) > fleet.limit_mib[rows])
    steps: list[tuple[BoolArray, str | None]] = [
        (
            free.sum(axis=1) - fleet.promised[rows] < count,
            "no free device (DRA)" if count == 1 else f"fewer than {count} free devices (DRA)",
        ),
        (any_card(left & ~choice.of_model), "kube-scheduler could allocate a card of another model (DRA)"),
        (
            any_card(left & ~choice.accepted),
            "kube-scheduler could allocate a card that the pod's annotations do not accept (DRA)",
        ),
        (any_card(limited), f"a share that kube-scheduler allocates is smaller than {size} (DRA)"),
        (any_card(left & (fleet.pinned[rows] > 0)), "kube-scheduler could allocate a card that is in use (DRA)"),
        (np.ones(len(rows), np.bool_), f"a card that kube-scheduler could allocate has not {size} free (DRA)"),
    ]
    return [(allocated & holds, text) for holds, text in steps]


def _pinned_refusals(
    fleet: Fleet, request: GpuRequest, rows: IntArray, choice: Choice
) -> list[tuple[BoolArray, str | None]]:
    count, several, allowed = request.count, request.count > 1, choice.allowed
    everywhere = np.ones(len(rows), np.bool_)
    steps: list[tuple[BoolArray, str | None]] = [(allowed.sum(axis=1) < count, f"fewer than {count} cards")]
    if request.whole_cards:
        return [*steps, (everywhere, f"fewer than {count} unused cards" if several else "no unused card")]
    size = _size_words(request)
    roomy = allowed & (fleet.free_mib[rows] >= need_mib(fleet, request, rows))
    if fleet.claims_matter:
        claimed = roomy & (fleet.claimed[rows] > 0)
        steps.append((claimed.sum(axis=1) >= count, "cards with room are held by resource claims (DRA)"))
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
