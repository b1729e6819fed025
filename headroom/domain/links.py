"""How the cards of a node are linked with one another: the annotation `headroom.dev/links`, and what a path is worth. Pure.

A path has the word that `nvidia-smi topo -m` has for it. A minus before the word says that the two cards cannot read each other's
memory (no P2P), so that what they exchange is copied through the host's.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from headroom import wire
from headroom.errors import HeadroomError

MOST_CARDS: Final = 64
"""More in one matrix are a mistake."""
NVLINK_GBYTES_PER_SECOND: Final = 25
"""One NVLink, one direction: 20 in its first version, 25 in the second to fourth, 50 in the fifth. Within a node all are of one version."""
PCIE_GBYTES_PER_SECOND: Final = {"PIX": 24, "PXB": 20, "PHB": 16, "NODE": 12, "SYS": 8}
"""Through one PCIe switch, several, the host bridge, within a NUMA node, across NUMA nodes. The order is NVIDIA's (`nvidia-smi topo -m`);
the figures are those of PCIe 4.0 x16 with a loss for each step, assumed: they rank paths and are no measurements."""
WORST: Final = "-SYS"
"""What counts for a card that the matrix does not name."""
_PATH: Final = re.compile(r"-?(NV(?P<links>[1-9][0-9]?)|PIX|PXB|PHB|NODE|SYS)")

Matrix = tuple[tuple[int, ...], ...]
"""GB/s of one direction between each two of a node's cards, by their places; 0 of a card with itself."""


class LinksError(HeadroomError, ValueError):
    """A description of links that is not what it should be; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Links:
    """The paths between cards. `paths[i]` has those of card i to the cards after it, so that no pair can be told in two ways."""

    cards: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]

    def check(self) -> None:
        """Raise LinksError for what does not hold together."""
        if len(self.cards) > MOST_CARDS:
            raise LinksError(f"{len(self.cards)} cards: at most {MOST_CARDS}")
        repeated = next((card for card in self.cards if self.cards.count(card) > 1), None)
        if repeated is not None:
            raise LinksError(f"card {repeated} is named twice")
        if len(self.paths) != max(len(self.cards) - 1, 0):
            raise LinksError(f"{len(self.cards)} cards need {max(len(self.cards) - 1, 0)} rows, not {len(self.paths)}")
        for at, row in enumerate(self.paths):
            if len(row) != len(self.cards) - 1 - at:
                raise LinksError(f"row {at} needs {len(self.cards) - 1 - at} paths, not {len(row)}")
            for word in row:
                gbytes_per_second(word)

    def matrix(self, ids: Sequence[str]) -> Matrix:
        """GB/s between cards given by id, in their order; `WORST` to a card that is not named.

        Empty where every pair has the same path: then there is nothing to choose.
        """
        place = {card: at for at, card in enumerate(self.cards)}
        known = [place.get(card) for card in ids]
        worth = [[gbytes_per_second(word) for word in row] for row in self.paths]
        worst, rows = gbytes_per_second(WORST), [[0] * len(ids) for _ in ids]
        for at, one in enumerate(known):
            for after, other in enumerate(known[at + 1 :], at + 1):
                value = worst if one is None or other is None else worth[min(one, other)][abs(one - other) - 1]
                rows[at][after] = rows[after][at] = value
        different = {value for at, row in enumerate(rows) for value in row[at + 1 :]}
        return tuple(map(tuple, rows)) if len(different) > 1 else ()


def gbytes_per_second(path: str) -> int:
    """What a path is worth. Raises LinksError for a word that nobody knows."""
    found = _PATH.fullmatch(path)
    if found is None:
        raise LinksError(
            f"path {path[:20]!r}: must be NV and a number of links, PIX, PXB, PHB, NODE or SYS, with a minus where P2P fails"
        )
    links = found["links"]
    worth = int(links) * NVLINK_GBYTES_PER_SECOND if links else PCIE_GBYTES_PER_SECOND[path.removeprefix("-")]
    return worth // 2 if path.startswith("-") else worth


class _Written(msgspec.Struct, forbid_unknown_fields=False):
    """The annotation: a row of paths is one text with spaces between them."""

    cards: list[str]
    paths: list[str]


_WRITTEN: Final = wire.Decoder(_Written)


def encode_links(links: Links) -> str:
    """The annotation: what `decode_links` reads back."""
    return msgspec.json.encode(_Written(list(links.cards), [" ".join(row) for row in links.paths])).decode()


def decode_links(text: str) -> Links:
    """Read the annotation. Raises LinksError."""
    try:
        written = _WRITTEN.decode(text.encode())
    except wire.WireError as error:
        raise LinksError(f"is no matrix of links: {error.__cause__}") from error
    links = Links(tuple(written.cards), tuple(tuple(row.split()) for row in written.paths))
    links.check()
    return links
