"""The annotations that say which cards a pod was given: written in the Binding, read back from every pod. Pure.

They are the only record of the ledger outside memory, so everything the ledger needs after a restart is in them.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from headroom import names
from headroom.domain.device_plugin import share_mib
from headroom.domain.model import WHOLE_MILLI, Card, GpuNode, GpuRequest, Mode, Placement
from headroom.errors import HeadroomError


class AssignmentError(HeadroomError, ValueError):
    """Assignment annotations that cannot be read; names the annotation and the value."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a pod's annotations say: one card id per share, the memory of each, and who picked the cards."""

    cards: tuple[str, ...]
    share_mib: tuple[int, ...]
    mode: Mode


def annotations_of(node: GpuNode, placement: Placement, request: GpuRequest | None = None) -> dict[str, str]:
    """The annotations for a placement on this node, whose card positions are positions in `node.cards`.

    Empty for a pod without a share. Memory is one number where all shares are equal, else one per share; 0 for a card of
    unknown memory. The share of the card, for engines that take a fraction of it (vLLM's --gpu-memory-utilization), is of
    the total memory that the engine sees, rounded down. Where kube-scheduler picks the cards, their ids are left out, and the
    memory is what `request` takes of the smallest of them.
    """
    if placement.devices and request is not None:
        shares = ((card, share_mib(request, card.usable_mib, card.slices)) for card in node.allocated(request.resource))
        return _sizes([min(shares, key=itemgetter(1))])
    if not placement.cards:
        return {}
    cards = [node.cards[at] for at in placement.cards]
    # Who binds a pod in slice mode takes away what its author may have written as kubelet's word.
    unknown = {names.ANNOTATION_KUBELET_CARDS: ""} if placement.mode is Mode.SLICE else {}
    return {
        names.ANNOTATION_ASSIGNED_CARDS: ",".join(card.id for card in cards),
        **_sizes(list(zip(cards, placement.share_mib, strict=True))),
        names.ANNOTATION_ASSIGNED_MODE: placement.mode.value,
        **unknown,
    }


def _sizes(held: Sequence[tuple[Card, int]]) -> dict[str, str]:
    written = [mib if card.sized else 0 for card, mib in held]
    sizes = written if len(set(written)) > 1 else written[:1]
    share_milli = min(mib * WHOLE_MILLI // (card.vram_mib or card.slices) for card, mib in held)
    return {
        names.ANNOTATION_ASSIGNED_VRAM_MIB: ",".join(str(mib) for mib in sizes),
        names.ANNOTATION_ASSIGNED_VRAM_SHARE: f"{share_milli / WHOLE_MILLI:.3f}",
    }


def is_settled(annotations: Mapping[str, str], assignment: Assignment) -> bool:
    """Whether the agent has written on a pod that kubelet gave it the cards that are assigned to it."""
    text = annotations.get(names.ANNOTATION_KUBELET_CARDS, "")
    return bool(text) and sorted(text.split(",")) == sorted(assignment.cards)


def assignment_of(annotations: Mapping[str, str]) -> Assignment | None:
    """The assignment in a pod's annotations, None where there is none. Raises AssignmentError."""
    ids = annotations.get(names.ANNOTATION_ASSIGNED_CARDS)
    if ids is None:
        return None
    cards = tuple(sys.intern(card) for card in ids.split(","))
    if not all(cards):
        raise AssignmentError(f"{names.ANNOTATION_ASSIGNED_CARDS}: {ids!r}: an empty card id")
    mode = annotations.get(names.ANNOTATION_ASSIGNED_MODE, "")
    if mode not in set(Mode):
        raise AssignmentError(f"{names.ANNOTATION_ASSIGNED_MODE}: {mode!r}: neither pinned nor slice")
    text = annotations.get(names.ANNOTATION_ASSIGNED_VRAM_MIB, "")
    sizes = text.split(",")
    if not all(size.isascii() and size.isdigit() and len(size) < 10 for size in sizes):
        raise AssignmentError(f"{names.ANNOTATION_ASSIGNED_VRAM_MIB}: {text!r}: not MiB")
    if len(sizes) == 1:
        sizes *= len(cards)
    if len(sizes) != len(cards):
        raise AssignmentError(f"{names.ANNOTATION_ASSIGNED_VRAM_MIB}: {text!r}: not one size per card of {ids!r}")
    return Assignment(cards, tuple(map(int, sizes)), Mode(mode))


def readable_assignment_of(annotations: Mapping[str, str]) -> Assignment | None:
    """The same for callers to whom annotations that cannot be read are as good as none."""
    try:
        return assignment_of(annotations)
    except AssignmentError:
        return None
