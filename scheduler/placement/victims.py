"""Which pods to evict for a pod that fits nowhere. Pure.

First the node whose most important victim matters least, then the fewest victims, then the least memory taken away.
"""

import itertools
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from headroom.domain.model import GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.placement import filtering

_ROWS_AT_ONCE: Final = 250
_NODES_EXAMINED: Final = 64  # kube-scheduler's own preemption examines 100 or a tenth of the nodes


@dataclass(frozen=True, slots=True)
class Occupant:
    """A pod that holds cards of a node, as preemption looks at it."""

    uid: str
    namespace: str
    name: str
    priority: int
    placement: Placement
    leaving: bool = False
    """Being deleted already."""
    excess_mib: Mapping[int, int] = field(default_factory=dict)
    """What it uses beyond its shares, by card position."""

    @property
    def held_mib(self) -> int:
        """Memory that it gives back when it ends."""
        return sum(self.placement.share_mib) + sum(self.excess_mib.values())


@dataclass(frozen=True, slots=True)
class Plan:
    """Evict `victims` from `node`; none are needed when the pods already leaving make enough room."""

    node: str
    victims: tuple[Occupant, ...]


def plan(
    fleet: Fleet,
    occupants: Callable[[int], Sequence[Occupant]],
    request: GpuRequest,
    priority: int,
    rows: Iterable[int],
) -> Generator[None, None, Plan | None]:
    """The least harmful way to make room for `request` on one of `rows`; None where lower priorities do not suffice.

    `occupants(row)` gives the pods that hold cards of a row. A generator, whose value is the plan: it pauses every few
    milliseconds, and nodes may change meanwhile.
    """
    best: tuple[tuple[int, int, int, str], Plan] | None = None
    for row in (yield from _promising(fleet, occupants, request, priority, rows)):
        yield
        victims = victims_on(fleet, row, occupants(row), request, priority) if fleet.alive[row] else None
        if victims is None:
            continue
        rank = (
            max((victim.priority for victim in victims), default=-(2**31)),
            len(victims),
            sum(victim.held_mib for victim in victims),
            fleet.names[row],
        )
        if best is None or rank < best[0]:
            best = rank, Plan(fleet.names[row], tuple(victims))
    return None if best is None else best[1]


def _removable(occupants: Iterable[Occupant], priority: int) -> list[Occupant]:
    return [pod for pod in occupants if pod.leaving or pod.priority < priority]


def _promising(
    fleet: Fleet,
    occupants: Callable[[int], Sequence[Occupant]],
    request: GpuRequest,
    priority: int,
    rows: Iterable[int],
) -> Generator[None, None, list[int]]:
    """Rows where the request fits once all lower priorities are gone, the least important occupants first."""
    trial = fleet.copy()
    found: list[tuple[int, str, int]] = []
    rest = iter(rows)
    while some := list(itertools.islice(rest, _ROWS_AT_ONCE)):
        by_row = {row: removable for row in some if (removable := _removable(occupants(row), priority))}
        fitting = fitting_without(trial, by_row, request)
        found += [(min(pod.priority for pod in by_row[row]), fleet.names[row], row) for row in fitting]
        yield
    return [row for _, _, row in sorted(found)[:_NODES_EXAMINED]]


def victims_on(
    fleet: Fleet, row: int, occupants: Sequence[Occupant], request: GpuRequest, priority: int
) -> list[Occupant] | None:
    """Fewest pods of lowest priority whose end lets the request fit on the row: all are taken away, then as many as
    possible come back, the most important and largest first."""
    removed = _removable(occupants, priority)
    if not fits_without(fleet, row, removed, request):
        return None
    for pod in sorted(removed, key=lambda pod: (-pod.priority, -pod.held_mib, pod.uid)):
        rest = [other for other in removed if other is not pod]
        if not pod.leaving and fits_without(fleet, row, rest, request):
            removed = rest
    return [pod for pod in removed if not pod.leaving]


def fits_without(fleet: Fleet, row: int, removed: Iterable[Occupant], request: GpuRequest) -> bool:
    """Whether the request fits on the row once these pods are gone."""
    trial = _one_row(fleet, row)
    for pod in removed:
        _take_away(trial, 0, pod)
    return bool(filtering.fit(trial, request, np.zeros(1, np.int64)).fits[0])


def fitting_without(trial: Fleet, removed: Mapping[int, Sequence[Occupant]], request: GpuRequest) -> list[int]:
    """The rows of `removed` on which the request fits once those pods are gone. They are taken from `trial`, a copy."""
    _take_all_away(trial, [(row, pod) for row, pods in removed.items() for pod in pods])
    rows = np.array(list(removed), np.int64)
    fitting: list[int] = rows[filtering.fit(trial, request, rows).fits].tolist()
    return fitting


def _one_row(fleet: Fleet, row: int) -> Fleet:
    name = fleet.names[row]
    single = Fleet(rows=1, width=max(len(fleet.nodes[name].cards), 1), idle_mib=fleet.idle_mib)
    single.resource_code.update(fleet.resource_code)  # devices under way name their resource by it
    single.upsert_node(fleet.nodes[name])
    for array in (
        "held_mib",
        "excess_mib",
        "foreign_mib",
        "caution_mib",
        "free_mib",
        "pinned",
        "plugin",
        "claimed",
        "slices_free",
    ):
        getattr(single, array)[0] = getattr(fleet, array)[row, : single.width]
    single.under_way = fleet.under_way.of_row(row)
    single.promised[0], single.claims_matter = fleet.promised[row], fleet.claims_matter
    return single


def _take_all_away(fleet: Fleet, pods: Sequence[tuple[int, Occupant]]) -> None:
    """`_take_away` for the pods of many rows at once: one by one, those of 5,000 nodes take a second."""
    for mode in Mode:
        shares = [
            (row, at, mib, excess)
            for row, pod in pods
            if pod.placement.mode is mode
            for at, mib, excess in _shares(pod)
            if at < fleet.width  # the node may have got more cards since the fleet was copied
        ]
        if shares:
            row, at, mib, excess = np.array(shares, np.int64).T
            fleet.give_many(row, at, mib, excess, plugin=mode is Mode.SLICE)


def _shares(pod: Occupant) -> Iterator[tuple[int, int, int]]:
    """Card position, share and, with a card's first share, what the pod uses beyond its shares of it."""
    excess = dict(pod.excess_mib)
    for at, mib in zip(pod.placement.cards, pod.placement.share_mib, strict=True):
        yield at, mib, excess.pop(at, 0)


def _take_away(fleet: Fleet, row: int, pod: Occupant) -> None:
    """The pod's share, or all that it uses where that is more; never what is in use and no pod's: that outlives it."""
    fleet.give(row, pod.placement.cards, pod.placement.share_mib, plugin=pod.placement.mode is Mode.SLICE)
    fleet.add_excess(row, pod.excess_mib, -1)
