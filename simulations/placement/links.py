"""What knowing the links between cards is worth: a day on one machine, pods of one to eight cards that come and go.

The same pods at the same times, by three choices of cards: by index, as without knowledge; the best linked set, whatever it leaves to
others; and Headroom's. A pod that finds too few free cards waits in a queue, first come first served. How many cards are free at any
moment is the same for all three, so what differs is only which.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import click

from headroom.domain.links import Matrix, gbytes_per_second
from scheduler.placement.policies.linked import LinkTables, best_set, tables_of

_DAY_SECONDS: Final = 86_400.0
_SIZES: Final = (1, 1, 1, 2, 2, 2, 4, 4, 8)
"""Cards of a pod, each as likely: small ones come more often."""
_MEAN_SECONDS: Final = 1800.0
LOAD: Final = 0.85


def machine(cards: int, path: Callable[[int, int], str]) -> Matrix:
    """The matrix of a machine whose path between two cards a function tells, the lower card first."""
    return tuple(
        tuple(
            0 if one == other else gbytes_per_second(path(min(one, other), max(one, other))) for other in range(cards)
        )
        for one in range(cards)
    )


_MESH: Final = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2, (2, 6): 1, (3, 7): 1, (4, 5): 1, (4, 6): 1,
    (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip
"""NVLinks of the hybrid cube mesh of eight V100 (NVIDIA, DGX-1 with Tesla V100 system architecture, 2017)."""


def _far(one: int, other: int, half: int) -> str:
    return "NODE" if one // half == other // half else "SYS"


MACHINES: Final = {
    "8 cards, NVLink bridges between pairs": machine(8, lambda a, b: "NV4" if a // 2 == b // 2 else _far(a, b, 4)),
    "8 cards, hybrid cube mesh": machine(8, lambda a, b: f"NV{_MESH[a, b]}" if (a, b) in _MESH else _far(a, b, 4)),
    "8 cards, PCIe switches of two": machine(8, lambda a, b: "PIX" if a // 2 == b // 2 else _far(a, b, 4)),
    "16 cards, PCIe switches of four": machine(16, lambda a, b: "PIX" if a // 4 == b // 4 else _far(a, b, 8)),
}

Chooser = Callable[[Matrix, int, int], int]
"""(matrix, count, free cards as bits) -> cards as bits."""


def by_index(_: Matrix, count: int, free: int) -> int:
    """The first free cards."""
    taken = [card for card in range(free.bit_length()) if free >> card & 1][:count]
    return sum(1 << card for card in taken)


def best_alone(matrix: Matrix, count: int, free: int) -> int:
    """The best set, whatever it leaves; of equals the lowest."""
    tables = tables_of(matrix)
    sets = tables.of_size(count, free)
    return int(sets[tables.worth[sets].argmax()])


def headrooms(matrix: Matrix, count: int, free: int) -> int:
    """Headroom's choice for whole cards."""
    return best_set(matrix, count, free, unused=free, liked=by_index(matrix, count, free))


CHOOSERS: Final[dict[str, Chooser]] = {"by index": by_index, "best alone": best_alone, "Headroom": headrooms}


@dataclass(slots=True)
class Outcome:
    """Means over the pods of several cards, as shares of what there is: of the best set among the free cards, and on the empty machine."""

    pods: int = 0
    of_free_slowest: float = 0.0
    of_free_total: float = 0.0
    of_empty_slowest: float = 0.0
    of_empty_total: float = 0.0

    def count(self, tables: LinkTables, chosen: int, free: int) -> None:
        """Hold a choice against the best of all sets, by the slowest pair and by the sum of pairs, each for itself."""
        self.pods += 1
        size = int(tables.size[chosen])
        slowest, total = float(tables.slowest[chosen]), float(tables.total[chosen])
        for among, kind in ((free, "free"), (len(tables.size) - 1, "empty")):
            sets = tables.of_size(size, among)
            for name, value, best in (("slowest", slowest, tables.slowest), ("total", total, tables.total)):
                known = getattr(self, f"of_{kind}_{name}")
                share = value / float(best[sets].max())
                setattr(self, f"of_{kind}_{name}", known + (share - known) / self.pods)


def day(matrix: Matrix, choose: Chooser, seed: int, *, days: float = 1.0) -> Outcome:
    """Pods come by a Poisson process and stay for an exponential time."""
    rng, tables, outcome = random.Random(seed), tables_of(matrix), Outcome()
    cards = len(matrix)
    every = _MEAN_SECONDS * sum(_SIZES) / len(_SIZES) / (LOAD * cards)
    free, now, came = (1 << cards) - 1, 0.0, 0.0
    waiting: deque[tuple[int, float]] = deque()
    ends: list[tuple[float, int]] = []
    while now < days * _DAY_SECONDS:
        if ends and ends[0][0] <= came:
            now, held = heapq.heappop(ends)
            free |= held
        else:
            now = came
            waiting.append((rng.choice(_SIZES), rng.expovariate(1 / _MEAN_SECONDS)))
            came = now + rng.expovariate(1 / every)
        while waiting and waiting[0][0] <= free.bit_count():
            size, seconds = waiting.popleft()
            chosen = choose(matrix, size, free)
            if size > 1:
                outcome.count(tables, chosen, free)
            free &= ~chosen
            heapq.heappush(ends, (now + seconds, chosen))
    return outcome


def table(seeds: Sequence[int]) -> str:
    """Means over the seeds, as Markdown."""
    lines = [
        "| machine | cards chosen | pods | slowest pair, % of the best free | all pairs, % of the best free"
        " | slowest pair, % of the empty machine | all pairs, % of the empty machine |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, matrix in MACHINES.items():
        for chooser, choose in CHOOSERS.items():
            runs = [day(matrix, choose, seed) for seed in seeds]
            means = [
                sum(100 * getattr(run, field) for run in runs) / len(runs)
                for field in ("of_free_slowest", "of_free_total", "of_empty_slowest", "of_empty_total")
            ]
            figures = " | ".join(f"{mean:.1f}" for mean in means)
            lines.append(f"| {name} | {chooser} | {sum(run.pods for run in runs)} | {figures} |")
    return "\n".join(lines)


@click.command()
@click.option("--seeds", default=10, show_default=True, type=click.IntRange(1, 1000), help="Days on each machine.")
def main(seeds: int) -> None:
    """Print how well linked the cards are that pods of several cards get in a day."""
    click.echo(table(range(42, 42 + seeds)))
