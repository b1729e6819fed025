"""How far an assignment written on a pod is believed: as far as it agrees with what the pod asks for. Pure.

Annotations are the ledger's only memory, and where no admission policy guards them any author of a pod may write them. So a pod counts
with the larger of what is written and what it asks for: nobody gets room on a card by writing an annotation.
"""

from dataclasses import replace
from typing import Final

from headroom import names
from headroom.domain.assignment import Assignment
from headroom.domain.device_plugin import share_mib
from headroom.domain.model import Card, GpuNode, GpuRequest, Mode

_TOLERANCE: Final = 0.1
"""A share that follows from the card (a whole one, a slice, thousandths) may differ by this part of it: what is known of the
card's size and of the driver's reserve may have changed since."""


def agreed(request: GpuRequest, assigned: Assignment) -> tuple[Assignment | None, list[str]]:
    """What is taken of an assignment by what the pod asks for, and what is wrong with it; None where the cards are not believed."""
    problems = []
    if assigned.mode is not request.mode:
        if request.mode is Mode.SLICE:
            words = f"the device plugin picks the cards of a pod that asks for {request.resource}"
            return None, [f"{names.ANNOTATION_ASSIGNED_MODE}: {assigned.mode.value}: {words}"]
        problems.append(f"{names.ANNOTATION_ASSIGNED_MODE}: {assigned.mode.value}: the pod asks for no device")
    if len(assigned.cards) != request.count:
        number = f"{len(assigned.cards)} card{'s' if len(assigned.cards) > 1 else ''}"
        problems.append(f"{names.ANNOTATION_ASSIGNED_CARDS}: {number}: the pod asks for {request.count}")
    shares = assigned.share_mib
    if request.vram_mib and any(mib != request.vram_mib for mib in shares):
        written = ",".join(str(mib) for mib in sorted(set(shares)))
        words = f"the pod asks for {request.vram_mib} MiB of each card"
        problems.append(f"{names.ANNOTATION_ASSIGNED_VRAM_MIB}: {written}: {words}")
        shares = tuple(max(mib, request.vram_mib) for mib in shares)
    return replace(assigned, share_mib=shares, mode=request.mode), problems


def positions_counted(node: GpuNode, request: GpuRequest, written: tuple[int, ...]) -> tuple[int, ...]:
    """The cards on which a pod counts whose written cards have these positions.

    What it asks for beyond those counts on others of the node: it is somewhere.
    """
    others = [at for at in range(len(node.cards)) if at not in written] + [*written] * request.count
    return (*written, *others[: max(request.count - len(written), 0)])


def counted_share(request: GpuRequest, card: Card, written_mib: int) -> tuple[int, str]:
    """MiB that count for one share on a card, and what is wrong with what is written (0 for nothing).

    No less than what is asked for, and no more than the card has unless that is asked for.
    """
    room = max(card.vram_mib - card.reserve_mib, 0)
    asked = share_mib(request, room if card.sized else card.slices, card.slices)
    if not card.sized or not written_mib:
        return written_mib or asked, ""
    counted = min(max(written_mib, asked), max(room, asked))
    if request.vram_mib or abs(written_mib - asked) <= asked * _TOLERANCE:
        return counted, ""
    words = f"what the pod asks for is {asked} MiB of card {card.id}"
    return counted, f"{names.ANNOTATION_ASSIGNED_VRAM_MIB}: {written_mib}: {words}"
