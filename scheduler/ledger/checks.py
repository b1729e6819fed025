"""Recounts a ledger: where its arrays and its holdings disagree there is a bug. For tests, the fuzzer and `/debug/snapshot?check`. Pure.

Steps are small, one for each node, and each is true of its moment, so that the ledger may change between two of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from scheduler.ledger.claims import count_claim
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import NOTHING, Held, Holding, HoldingState

if TYPE_CHECKING:
    from scheduler.ledger.ledger import Ledger

_COUNTED: Final = (
    "held_mib", "caution_mib", "excess_mib", "pinned", "plugin", "claimed", "promised", "slices_free", "cpu_free_milli", "memory_free_mib",
)  # fmt: skip
"""Arrays of the fleet that follow from the holdings."""

_PODS_AT_ONCE: Final = 200


def of(
    ledger: "Ledger",
    by_node: Mapping[str, Mapping[str, Holding]],
    by_namespace: Mapping[str, Held],
    promised: Callable[[Holding], int],
) -> Iterator[list[str]]:
    """The breaches, step by step. The mappings are the ledger's own lists; `promised` tells how many devices a pod may yet take."""
    yield _priorities(ledger)
    yield _namespaces(ledger, by_namespace)
    holdings = list(ledger.holdings.values())
    for start in range(0, len(holdings), _PODS_AT_ONCE):
        yield _holdings(ledger, holdings[start : start + _PODS_AT_ONCE], by_node, promised)
    yield _lists(ledger, by_node)
    for name in list(ledger.fleet.row_of):
        if name in ledger.fleet.row_of:
            yield _node(ledger, name)


def _priorities(ledger: "Ledger") -> list[str]:
    counted: Counter[int] = Counter()
    for holding in ledger.holdings.values():
        if holding.state is HoldingState.BOUND and holding.request.count:
            counted[holding.priority] += 1
    return [] if ledger.priorities == counted else [f"priorities are counted as {dict(ledger.priorities)}"]


def _namespaces(ledger: "Ledger", by_namespace: Mapping[str, Held]) -> list[str]:
    vram: Counter[str] = Counter()
    shares: Counter[str] = Counter()
    for holding in ledger.holdings.values():
        if (held_by_it := holding.in_all) != NOTHING:
            vram[holding.namespace] += held_by_it.vram_mib
            shares[holding.namespace] += held_by_it.shares
    held = {namespace: Held(vram[namespace], shares[namespace]) for namespace in shares}
    return [] if held == by_namespace else [f"namespaces are counted as {by_namespace}, the holdings say {held}"]


def _holdings(
    ledger: "Ledger",
    some: Iterable[Holding],
    by_node: Mapping[str, Mapping[str, Holding]],
    promised: Callable[[Holding], int],
) -> list[str]:
    known, found = ledger.fleet.row_of, list[str]()
    for holding in some:
        if ledger.holdings.get(holding.uid) is not holding:
            continue  # it ended since
        node = holding.placement.node
        if holding.counted != (node in known):
            found.append(f"{holding.pod}: counted is {holding.counted} on node {node}")
        if holding.counted and holding.promised != promised(holding):
            found.append(f"{holding.pod}: {holding.promised} devices are promised")
        if by_node.get(node, {}).get(holding.uid) is not holding:
            found.append(f"{holding.pod} is not in the list of node {node}")
    return found


def _lists(ledger: "Ledger", by_node: Mapping[str, Mapping[str, Holding]]) -> list[str]:
    found = [
        f"claim {claim.key}: counted is {claim.counted} on node {claim.use.node}"
        for claim in ledger.claims.holdings.values()
        if claim.counted != (claim.use.node in ledger.fleet.row_of)
    ]
    if sum(map(len, by_node.values())) > len(ledger.holdings):
        found.append("lists of nodes hold pods that the ledger does not")
    return found


def _node(ledger: "Ledger", name: str) -> list[str]:
    """Count a node's holdings anew on a fleet of that node alone."""
    fleet, fresh = ledger.fleet, Fleet(rows=1, width=ledger.fleet.width)
    theirs, ours = fresh.upsert_node(fleet.nodes[name]), fleet.row_of[name]
    for holding in ledger.on_node(name):
        fresh.take(theirs, *holding.per_card, **holding.per_node)
        fresh.add_excess(theirs, holding.excess_mib)
    for claim in ledger.claims.on_node(name):
        count_claim(fresh, claim)
        fresh.add_excess(theirs, claim.excess_mib)
    return [
        f"{name}: {array} is {is_now}, the holdings say {should_be}"
        for array in _COUNTED
        for is_now in (getattr(fleet, array)[ours],)
        for should_be in (getattr(fresh, array)[theirs],)
        if not np.array_equal(is_now, should_be)
    ]
