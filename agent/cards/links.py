"""How the cards of a node are linked, from what the driver says of each of them. Pure.

Each card is asked by itself, so two may contradict each other. Then the worse answer counts: the smaller number of NVLinks, the farther
level, no P2P where one says so. A pair of which neither says how far apart it is leaves the whole matrix untold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from headroom.domain.links import Links

SWITCH: Final = "switch"
"""Stands for the bus id of an NVSwitch, through which each card reaches every other."""
_LEVELS: Final = ((10, "PIX"), (20, "PXB"), (30, "PHB"), (40, "NODE"), (50, "SYS"))
"""NVML_TOPOLOGY_SINGLE, MULTIPLE, HOSTBRIDGE, NODE, SYSTEM. NVML_TOPOLOGY_INTERNAL (0) is two dies of one board."""


@dataclass(frozen=True, slots=True)
class CardLinks:
    """What the driver says of one card."""

    id: str
    bus: str
    """Its PCI bus id, by which the NVLinks of other cards name it."""
    nvlinks: tuple[str, ...] = ()
    """Where each working NVLink leads: a bus id, or `SWITCH`."""
    levels: Mapping[str, int] = field(default_factory=dict)
    """Topology level of the common ancestor, by the other card's id; left out where the driver does not tell."""
    no_p2p: frozenset[str] = frozenset()
    """Ids of cards whose memory it cannot read."""
    fault: str = ""
    """Why something was not told."""


def settle(cards: Sequence[CardLinks]) -> tuple[Links | None, str]:
    """The matrix, None where it cannot be told; and what is wrong with it, in words."""
    if len(cards) < 2:
        return None, ""
    paths: list[tuple[str, ...]] = []
    problems: list[str] = []
    for at, one in enumerate(cards[:-1]):
        row = []
        for other in cards[at + 1 :]:
            level = _level(one, other, problems)
            if level is None:
                why = one.fault or other.fault or "no answer"
                return None, f"how far {one.id} is from {other.id} is not told: {why}"
            row.append(_word(_nvlinks(one, other, problems), level, p2p=_p2p(one, other, problems)))
        paths.append(tuple(row))
    return Links(tuple(card.id for card in cards), tuple(paths)), "; ".join(problems)


def _word(nvlinks: int, level: int, *, p2p: bool) -> str:
    word = f"NV{min(nvlinks, 99)}" if nvlinks else next((word for most, word in _LEVELS if level <= most), "SYS")
    return word if p2p else f"-{word}"


def _level(one: CardLinks, other: CardLinks, problems: list[str]) -> int | None:
    said = [level for level in (one.levels.get(other.id), other.levels.get(one.id)) if level is not None]
    if len(set(said)) > 1:
        problems.append(f"{one.id} and {other.id} tell two topology levels of one another: the farther one counts")
    return max(said, default=None)


def _nvlinks(one: CardLinks, other: CardLinks, problems: list[str]) -> int:
    there, back = one.nvlinks.count(other.bus), other.nvlinks.count(one.bus)
    if there != back:
        problems.append(f"{one.id} has {there} NVLinks to {other.id}, which has {back}: the smaller number counts")
    return min(there, back) + min(one.nvlinks.count(SWITCH), other.nvlinks.count(SWITCH))


def _p2p(one: CardLinks, other: CardLinks, problems: list[str]) -> bool:
    fails = [other.id in one.no_p2p, one.id in other.no_p2p]
    if fails[0] != fails[1]:
        problems.append(f"{one.id} and {other.id} disagree on P2P: none counts")
    return not any(fails)
