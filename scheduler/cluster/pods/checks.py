"""Compares the records of pods with the ledger: where they disagree there is a bug."""

from typing import TYPE_CHECKING

from scheduler.cluster.pod_entry import Stage
from scheduler.ledger.holding import HoldingState
from scheduler.ledger.ledger import Ledger

if TYPE_CHECKING:
    from scheduler.cluster.pods.records import Pods


def disagreements(pods: "Pods", ledger: Ledger) -> list[str]:
    """Where the records and the ledger disagree; empty unless there is a bug. For tests and `/debug/snapshot?check`."""
    breaches = []
    states = {
        Stage.NAMED: HoldingState.RESERVED, Stage.OFFERED: HoldingState.RESERVED,
        Stage.BINDING: HoldingState.BINDING, Stage.BOUND: HoldingState.BOUND,
    }  # fmt: skip
    for entry in pods.entries.values():
        holding = ledger.holdings.get(entry.uid)
        expected = states.get(entry.stage)
        if (None if holding is None else holding.state) is not expected:
            breaches.append(f"{entry.key} is {entry.stage.value}, the ledger has {holding}")
        if (entry.claim is None) == (entry.uid in pods.claims):
            breaches.append(f"{entry.key}: its claim is {entry.claim}, which the list of claims contradicts")
    breaches += [
        f"node {node} is kept for {entry.key}, which does not know"
        for node, entry in pods.kept.keepers.items()
        if entry.kept_node != node or pods.entries.get(entry.uid) is not entry
    ]
    breaches += [f"{held.pod} has no record" for held in ledger.reservations() if held.uid not in pods.entries]
    ahead = sum(entry.name_landed for entry in pods.at(Stage.NAMED))
    if ahead != pods.names_ahead:
        breaches.append(f"{pods.names_ahead} names ahead are counted, {ahead} there are")
    return breaches
