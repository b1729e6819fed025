"""Numbers for kinds of cards, the same in every fleet. Pure."""

import math
from dataclasses import dataclass
from typing import Final

from headroom.domain.model import GpuNode


@dataclass(frozen=True, slots=True)
class CardKind:
    """What makes cards alike: model, usable memory, and CPU per card of their node in steps of half a doubling."""

    model: str
    usable_mib: int
    cpu_class: int


CARD_KINDS: Final = [CardKind("", 0, 0)]
"""Every kind of card met so far in any fleet, by its code in `Fleet.card_kind`; 0 is no card, or one that must not be used."""
_KIND_CODE: Final[dict[CardKind, int]] = {}


def code_of_kind(kind: CardKind) -> int:
    """Its place in CARD_KINDS; a kind not met before gets the next one."""
    code = _KIND_CODE.get(kind)
    if code is None:
        code = _KIND_CODE[kind] = len(CARD_KINDS)
        CARD_KINDS.append(kind)
    return code


def cpu_class_of(node: GpuNode) -> int:
    """CPU per card of a node in steps of half a doubling."""
    cores = node.cpu_milli / (1000 * max(len(node.cards), 1))
    return round(2 * math.log2(max(cores, 0.25)))
