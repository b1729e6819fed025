"""What the demo shows in the terminal: a live picture of the fleet on a terminal, plain lines elsewhere."""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from headroom.domain.model import GpuNode
from simulations.demo.fleet import sorted_nodes

_COLOURS: Final = (33, 208, 37, 170, 71, 220, 99, 203, 45, 142, 177, 109)
"""256-colour codes of the models, in the order of the report's palette."""
_CELLS: Final = 8
_PLAIN_EVERY: Final = 0.2
"""Without a terminal, a line each fifth of the way."""


@dataclass(frozen=True, slots=True)
class FleetState:
    """Who holds what now: by card, (model number, MiB) of each share."""

    nodes: tuple[GpuNode, ...]
    held: Mapping[tuple[str, int], Sequence[tuple[int, int]]]
    pods: int = 0
    pending: int = 0

    @property
    def cards_in_use(self) -> int:
        """Cards with at least one share."""
        return sum(bool(shares) for shares in self.held.values())

    @property
    def held_mib(self) -> int:
        """Memory of all shares."""
        return sum(mib for shares in self.held.values() for _, mib in shares)


def fleet_lines(state: FleetState, *, width: int, colour: bool) -> list[str]:
    """The fleet as blocks: a bar of eight cells per card, card types on lines of their own, as many nodes a line as fit `width`.

    Without colour the cells are letters: `a` for the first model, and so on.
    """
    nodes = sorted_nodes(state.nodes)
    longest = max(len(node.name) for node in nodes)
    lines: list[str] = []
    room = 0
    before = ""
    for node in nodes:
        bars = "│".join(_bar(state, node, index, colour) for index in range(len(node.cards)))
        text = f"{node.name:<{longest}} ▕{bars}▏"
        visible = longest + 2 + len(node.cards) * (_CELLS + 1)
        if lines and before == node.cards[0].model and room >= visible + 2:
            lines[-1] += "  " + text
            room -= visible + 2
        else:
            lines.append(text)
            room = width - visible
        before = node.cards[0].model
    return lines


def legend_lines(names: Sequence[str], *, width: int, colour: bool) -> list[str]:
    """Which colour or letter stands for which model."""
    lines, room = [""], width
    for number, name in enumerate(names):
        sign = _cell(number, colour)
        if room < len(name) + 4:
            lines.append("")
            room = width
        lines[-1] += f"{sign} {name}   "
        room -= len(name) + 5
    return lines


def _cell(model: int, colour: bool) -> str:
    if not colour:
        return chr(ord("a") + model % 26)
    return f"\033[38;5;{_COLOURS[model % len(_COLOURS)]}m█\033[0m"


def _bar(state: FleetState, node: GpuNode, index: int, colour: bool) -> str:
    usable = max(node.cards[index].usable_mib, 1)
    cells: list[str] = []
    for model, mib in state.held.get((node.name, index), ()):
        cells += [_cell(model, colour)] * max(round(_CELLS * mib / usable), 1)
    cells = cells[:_CELLS]
    return "".join(cells) + "·" * (_CELLS - len(cells))


class View:
    """Progress of the demo. On a terminal the picture is drawn again in place; elsewhere one line now and then."""

    def __init__(self, out: TextIO | None = None, *, live: bool | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self.live = self._out.isatty() if live is None else live
        self._drawn = 0
        self._shown = -1.0

    def say(self, text: str = "") -> None:
        """A line that stays."""
        self._erase()
        print(text, file=self._out, flush=True)

    def placing(self, done: int, total: int, state: FleetState) -> None:
        """The stream of Deployments so far."""
        headline = (
            f"{_progress(done, total)} Deployments {done}/{total}   pods {state.pods - state.pending} placed, {state.pending} waiting"
            f"   cards in use {state.cards_in_use}   {state.held_mib / 1024:,.0f} GiB held"
        )
        self._frame(done / total, headline, state)

    def serving(self, title: str, share: float, clock: str, state: FleetState, services: Sequence[str]) -> None:
        """Where the run is (`clock`, in words), the fleet, and a line per service."""
        headline = f"{_progress(share, 1.0)} {title}: {clock}   cards held {state.cards_in_use}"
        self._frame(share, headline, state, services)

    def picture(self, state: FleetState, names: Sequence[str]) -> None:
        """The fleet and the key to it, to stay on the screen."""
        self._erase()
        width = self._width()
        lines = [
            *fleet_lines(state, width=width, colour=self.live),
            *legend_lines(names, width=width, colour=self.live),
            "",
        ]
        print("\n".join(lines), file=self._out, flush=True)

    def _frame(self, share: float, headline: str, state: FleetState, extra: Sequence[str] = ()) -> None:
        if not self.live:
            if share >= 1 or share >= self._shown + _PLAIN_EVERY:
                self._shown = share if share < 1 else -1.0
                print(headline, file=self._out, flush=True)
            return
        self._erase()
        lines = [headline, *extra, *fleet_lines(state, width=self._width(), colour=True)]
        room = shutil.get_terminal_size().lines - 2
        print("\n".join(lines[:room]), file=self._out, flush=True)
        self._drawn = min(len(lines), room)

    def _erase(self) -> None:
        if self._drawn:
            print(f"\033[{self._drawn}A\033[J", end="", file=self._out)
            self._drawn = 0

    def _width(self) -> int:
        return shutil.get_terminal_size((120, 40)).columns


def _progress(done: float, total: float) -> str:
    filled = round(20 * done / total) if total else 20
    return "━" * filled + "╌" * (20 - filled)
