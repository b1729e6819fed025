"""Recounts a ledger: where its arrays and its holdings disagree there is a bug. For tests, the fuzzer and `/debug/snapshot?check`. Pure.

Steps are small, one for each node, and each is true of its moment, so that the ledger may change between two of them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from scheduler.ledger.books import Books
from scheduler.ledger.claims import count_claim
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import Held, Holding, HoldingState

_COUNTED: Final = (
    "held_mib", "caution_mib", "excess_mib", "pinned", "plugin", "claimed", "promised", "slices_free", "cpu_free_milli", "memory_free_mib",
)  # fmt: skip
"""Arrays of the fleet that follow from the holdings."""

_PODS_AT_ONCE: Final = 200
_SUMMED_AT_ONCE: Final = 1000


def of(books: Books) -> Iterator[list[str]]:
    """The breaches, step by step."""
    holdings = list(books.holdings.values())
    yield from _sums(books, holdings)
    for start in range(0, len(holdings), _PODS_AT_ONCE):
        yield _holdings(books, holdings[start : start + _PODS_AT_ONCE])
    yield _lists(books)
    for name in list(books.fleet.row_of):
        if name in books.fleet.row_of:
            yield _node(books, name)


def _sums(books: Books, holdings: Sequence[Holding]) -> Iterator[list[str]]:
    """What is counted by priority and by namespace. Where pods came or went meanwhile nothing is said: the next check may."""
    began = books.counts
    priorities, vram, shares = Counter[int](), Counter[str](), Counter[str]()
    for start in range(0, len(holdings), _SUMMED_AT_ONCE):
        for holding in holdings[start : start + _SUMMED_AT_ONCE]:
            priorities[holding.priority] += holding.state is HoldingState.BOUND and holding.request.count > 0
            vram[holding.namespace] += holding.weighed.vram_mib
            shares[holding.namespace] += holding.weighed.shares
        yield []
    if books.counts != began:
        return
    if books.priorities != +priorities:
        yield [f"priorities are counted as {dict(books.priorities)}"]
    held = {name: Held(vram[name], shares[name]) for name in shares if vram[name] or shares[name]}
    if books.by_namespace != held:
        yield [f"namespaces are counted as {books.by_namespace}, the holdings say {held}"]


def _holdings(books: Books, some: Iterable[Holding]) -> list[str]:
    known, found = books.fleet.row_of, list[str]()
    for holding in some:
        if books.holdings.get(holding.uid) is not holding:
            continue  # it ended since
        node = holding.placement.node
        if holding.counted != (node in known):
            found.append(f"{holding.pod}: counted is {holding.counted} on node {node}")
        if holding.counted and holding.promised != books.promised(holding):
            found.append(f"{holding.pod}: {holding.promised} devices are promised")
        if holding.weighed != holding.in_all:
            found.append(f"{holding.pod}: {holding.weighed} counts for its namespace, it holds {holding.in_all}")
        if books.by_node.get(node, {}).get(holding.uid) is not holding:
            found.append(f"{holding.pod} is not in the list of node {node}")
    return found


def _lists(books: Books) -> list[str]:
    found = [
        f"claim {claim.key}: counted is {claim.counted} on node {claim.use.node}"
        for claim in books.claims.holdings.values()
        if claim.counted != (claim.use.node in books.fleet.row_of)
    ]
    if sum(map(len, books.by_node.values())) > len(books.holdings):
        found.append("lists of nodes hold pods that the ledger does not")
    return found


def _node(books: Books, name: str) -> list[str]:
    """Count a node's holdings anew on a fleet of that node alone."""
    fleet, fresh = books.fleet, Fleet(rows=1, width=books.fleet.width)
    fresh.resource_code.update(fleet.resource_code)  # devices under way name their resource by it
    theirs, ours = fresh.upsert_node(fleet.nodes[name]), fleet.row_of[name]
    for holding in books.on_node(name):
        fresh.take(theirs, *holding.per_card, **holding.per_node)
        fresh.add_excess(theirs, holding.excess_mib)
    for claim in books.claims.on_node(name):
        count_claim(fresh, claim)
        fresh.add_excess(theirs, claim.excess_mib)
    return [
        f"{name}: {array} is {is_now}, the holdings say {should_be}"
        for array in _COUNTED
        for is_now in (getattr(fleet, array)[ours],)
        for should_be in (getattr(fresh, array)[theirs],)
        if not np.array_equal(is_now, should_be)
    ]
