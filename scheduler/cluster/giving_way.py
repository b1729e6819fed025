"""Which reservations give way to a more important pod: those whose node kube-scheduler was not given yet."""

from collections import defaultdict
from collections.abc import Callable
from typing import Final

from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.state import ClusterState
from scheduler.placement.victims import Occupant, victims_on

_ROWS_EXAMINED: Final = 16  # it happens inside a filter call


def reservations_in_the_way(
    state: ClusterState, entry: PodEntry, may_run_on: Callable[[int], bool]
) -> tuple[int, list[PodEntry]] | None:
    """A row on which the pod fits once some named pods of lower priority give their reservations back, and those pods.

    The row whose most important such pod matters least comes first. None where that would not be enough.
    """
    here: dict[int, list[PodEntry]] = defaultdict(list)
    for other in state.pods.at(Stage.NAMED):
        holding = state.holding(other.uid)
        row = None if holding is None else state.fleet.row_of.get(holding.placement.node)
        if state.groups.seated_with(other.uid) is not None:
            continue  # a group that is under way keeps its places, or none
        if other.facts.priority < entry.facts.priority and row is not None and may_run_on(row):
            here[row].append(other)
    order = sorted(here, key=lambda row: (max(other.facts.priority for other in here[row]), state.fleet.names[row]))
    for row in order[:_ROWS_EXAMINED]:
        occupants = [_occupant(state, other) for other in here[row]]
        chosen = victims_on(state.fleet, row, occupants, entry.request, entry.facts.priority)
        if chosen:
            return row, [state.pods.entries[one.uid] for one in chosen]
    return None


def _occupant(state: ClusterState, entry: PodEntry) -> Occupant:
    namespace, name = entry.key.split("/", 1)
    return Occupant(entry.uid, namespace, name, entry.facts.priority, state.ledger.holdings[entry.uid].placement)
