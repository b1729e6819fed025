"""The worked example of docs/placement.md: prints its tables and writes its picture.

`python -m simulations.placement_example docs/placement-values.svg`
"""

import sys
from pathlib import Path
from typing import Final

import numpy as np

from scheduler.placement.policies.plan import Piece, PlanInputs, PriceTable, solve
from simulations.placement.tables import table

# Free thousandths of a card -> cards that have them, and size -> pods out of the published default list's one-card pods.
STOCK: Final = {1000: 60, 680: 2, 530: 3, 350: 4, 190: 25}
PODS: Final = {1000: 3911, 810: 1078, 650: 253, 470: 750, 320: 328}
_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 360, 60, 20


def plan() -> tuple[PlanInputs, PriceTable]:
    """The example's plan: pods of the mix until the free cards are used up."""
    stock = np.zeros((2, 1001))
    for units, cards in STOCK.items():
        stock[1, units] = cards
    free = sum(units * cards for units, cards in STOCK.items())
    mean = sum(size * pods for size, pods in PODS.items()) / sum(PODS.values())
    arrivals = free / mean
    inputs = PlanInputs(
        stock=stock,
        weight=np.array([0.0, 1.0]),
        cpu_milli=np.array([0.0, 1e9]),
        pieces=tuple(
            Piece(key, arrivals * pods / sum(PODS.values()), (1001, size), 0.0)
            for key, (size, pods) in enumerate(PODS.items())
        ),
        host_cpu_milli=0.0,
        bound=(),
        several=(),
        cpu_per_unit=0.0,
    )
    return inputs, solve(inputs)


def tables() -> str:
    """What leftovers are worth, and what placing a pod of 320 or 470 on each costs."""
    inputs, prices = plan()
    worth = prices.value[1]
    expected = {size: piece.expected for size, piece in zip(PODS, inputs.pieces, strict=True)}
    pods = table(["size", "expected pods"], [[str(size), f"{count:.1f}"] for size, count in expected.items()])
    rows = []
    for units, cards in STOCK.items():
        costs = [
            f"{worth[units] - worth[units - size] - size:.0f}" if units >= size else "does not fit"
            for size in (320, 470)
        ]
        rows.append([str(units), str(cards), f"{worth[units]:.0f}", f"{units - worth[units]:.0f}", *costs])
    head = ["free", "cards", "worth", "stranded", "cost of a 320 there", "cost of a 470 there"]
    return f"{pods}\n\n{table(head, rows)}"


def picture() -> str:
    """Worth of a leftover against its size, as SVG."""
    worth = plan()[1].value[1]

    def x(units: float) -> float:
        return _LEFT + units * (_WIDTH - _LEFT - 20) / 1000

    def y(value: float) -> float:
        return _TOP + (1000 - value) * (_HEIGHT - _TOP - 50) / 1000

    steps = " ".join(f"{x(units):.1f},{y(float(worth[units])):.1f}" for units in range(1001))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<line x1="{x(0)}" y1="{y(0)}" x2="{x(1000)}" y2="{y(1000)}" stroke="#bbb" stroke-dasharray="4 4"/>',
        f'<polyline points="{steps}" fill="none" stroke="#0b6" stroke-width="2"/>',
    ]
    for units in range(0, 1001, 200):
        parts.append(f'<text x="{x(units):.0f}" y="{y(0) + 18:.0f}" text-anchor="middle">{units}</text>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y(units) + 4:.0f}" text-anchor="end">{units}</text>')
    for units in STOCK:
        top = y(float(worth[units]))
        parts.append(f'<circle cx="{x(units):.1f}" cy="{top:.1f}" r="4" fill="#06c"/>')
        parts.append(f'<text x="{x(units) - 6:.1f}" y="{top - 8:.1f}" text-anchor="end" fill="#06c">{units}</text>')
    parts.append(f'<text x="{x(500):.0f}" y="{_HEIGHT - 8}" text-anchor="middle">free thousandths of a card</text>')
    parts.append(f'<text x="{x(500):.0f}" y="{y(520):.0f}" fill="#999" text-anchor="end">all of it useful</text>')
    parts.append(f'<text x="{x(20):.0f}" y="{y(940):.0f}" fill="#0b6">worth of the leftover</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    print(tables())
    Path(sys.argv[1]).write_text(picture())
