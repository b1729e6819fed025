"""Whether a node has the room for what is about to be reserved on it. Pure."""

from collections import Counter

from headroom.domain.device_plugin import share_mib
from headroom.domain.model import GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import LedgerError, OverCommitError


def node_for(fleet: Fleet, placement: Placement, request: GpuRequest) -> GpuNode:
    """The node of a placement. Raises LedgerError where it is not known, or what is placed there cannot be what was asked for."""
    node = fleet.nodes.get(placement.node)
    if node is None:
        raise LedgerError(f"node {placement.node} is not known")
    shares = placement.shares
    if shares != request.count or len(placement.cards) != len(placement.share_mib):
        raise LedgerError(f"{request.count} shares were asked for, not {shares} of {placement.share_mib} MiB")
    if any(not 0 <= at < len(node.cards) for at in placement.cards) or any(mib < 0 for mib in placement.share_mib):
        raise LedgerError(f"node {node.name} has {len(node.cards)} cards, not {placement.cards}")
    if placement.mode is Mode.PINNED and len(set(placement.cards)) < len(placement.cards):
        raise LedgerError(f"cards {placement.cards} of node {node.name} are not all different")
    return node


def check_room(fleet: Fleet, node: GpuNode, request: GpuRequest, placement: Placement) -> None:
    """Raises OverCommitError where a card or the node has less left than the placement takes."""
    row = fleet.row_of[node.name]
    wanted: Counter[int] = Counter()
    for at, mib in zip(placement.cards, placement.share_mib, strict=True):
        wanted[at] += mib
    uncertain = placement.mode is Mode.SLICE and row in fleet.under_way
    for at, mib in wanted.items():
        # What may come to pods under way is judged for all of them together, with this one.
        free = fleet.room_mib(row, at) if uncertain else int(fleet.free_mib[row, at])
        if mib > free:
            raise OverCommitError(f"card {node.cards[at].id} of node {node.name} has {free} MiB left, not {mib}")
    if uncertain and placement.cards:
        _check_under_way(fleet, node, row, request, placement)
    if placement.devices > (left := fleet.devices_left(row)) and placement.devices:
        raise OverCommitError(f"node {node.name} has {left} devices left (DRA), not {placement.devices}")
    if placement.mode is Mode.SLICE:
        for at, devices in Counter(placement.cards).items():
            left = int(fleet.slices_free[row, at])
            if devices > left:
                raise OverCommitError(
                    f"card {node.cards[at].id} of node {node.name} has {left} slices left, not {devices}"
                )


def _check_under_way(fleet: Fleet, node: GpuNode, row: int, request: GpuRequest, placement: Placement) -> None:
    resource = int(fleet.card_resource[row, placement.cards[0]])
    need = need_mib(fleet, node, row, request)
    if not fleet.under_way.has_room(fleet, row, resource, need, request.count, [True] * len(node.cards)):
        raise OverCommitError(
            f"node {node.name} has no card left that would have room for pod after pod, whichever the device plugin picks"
        )


def need_mib(fleet: Fleet, node: GpuNode, row: int, request: GpuRequest) -> tuple[int, ...]:
    """MiB that one share of a request takes on each of the node's cards."""
    usable = fleet.usable_mib[row].tolist()
    return tuple(share_mib(request, usable[at], card.slices) for at, card in enumerate(node.cards))
