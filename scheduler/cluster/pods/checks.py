"""Compares the records of pods with the ledger: where they disagree there is a bug. For tests and `/debug/snapshot?check`.

Steps are small, and each is true of its moment, so that pods may come and go between two of them.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.ledger.holding import HoldingState
from scheduler.ledger.ledger import Ledger

if TYPE_CHECKING:
    from scheduler.cluster.pods.records import Pods

_STATES: Final = {
    Stage.NAMED: HoldingState.RESERVED, Stage.OFFERED: HoldingState.RESERVED,
    Stage.BINDING: HoldingState.BINDING, Stage.BOUND: HoldingState.BOUND,
}  # fmt: skip
_PODS_AT_ONCE: Final = 500


def of(pods: "Pods", ledger: Ledger) -> Iterator[list[str]]:
    """The breaches, step by step; empty unless there is a bug."""
    entries = list(pods.entries.values())
    for start in range(0, len(entries), _PODS_AT_ONCE):
        yield _records(pods, ledger, entries[start : start + _PODS_AT_ONCE])
    yield _lists(pods, ledger)


def _records(pods: "Pods", ledger: Ledger, some: Iterable[PodEntry]) -> list[str]:
    breaches = []
    for entry in some:
        if pods.entries.get(entry.uid) is not entry:
            continue  # it ended since
        holding = ledger.holdings.get(entry.uid)
        if (None if holding is None else holding.state) is not _STATES.get(entry.stage):
            breaches.append(f"{entry.key} is {entry.stage.value}, the ledger has {holding}")
        if (entry.claim is None) == (entry.uid in pods.claims):
            breaches.append(f"{entry.key}: its claim is {entry.claim}, which the list of claims contradicts")
    return breaches


def _lists(pods: "Pods", ledger: Ledger) -> list[str]:
    breaches = [
        f"node {node} is kept for {entry.key}, which does not know"
        for node, entry in pods.kept.keepers.items()
        if entry.kept_node != node or pods.entries.get(entry.uid) is not entry
    ]
    breaches += [f"{held.pod} has no record" for held in ledger.reservations() if held.uid not in pods.entries]
    ahead = sum(entry.name_landed for entry in pods.at(Stage.NAMED))
    if ahead != pods.names_ahead:
        breaches.append(f"{pods.names_ahead} names ahead are counted, {ahead} there are")
    return breaches
