"""`/debug/snapshot`: everything the extender knows. Made in slices: each node is true of one moment, not all of the same."""

from collections.abc import Callable
from typing import Any, Final

from headroom import wire
from headroom.daemon.slices import PAGE_SLICE_SECONDS, Slices
from scheduler.cluster.pod_entry import Stage
from scheduler.cluster.state import ClusterState


async def snapshot(state: ClusterState, now: float, *, check: bool = False) -> bytes:
    """The snapshot as JSON; `check` recounts every holding, which takes a second or two of a large cluster's loop, by slices."""
    slices, nodes, parts = Slices(PAGE_SLICE_SECONDS), list[bytes](), list[bytes]()
    for name in sorted(state.fleet.nodes):
        if name in state.fleet.nodes:
            nodes.append(wire.encode(state.fleet.dump_node(name)))
        await slices.pause()
    for part, make in _PARTS.items():
        parts.append(wire.encode(part) + b":" + wire.encode(make(state, now)))
        await slices.pause()
    if check:
        breaches = []
        for found in state.checks():
            breaches += found
            await slices.pause()
        parts.append(b'"breaches":' + wire.encode(breaches))
    return b"".join([b"{", b",".join(parts), b',"fleet":{"nodes":[', b",".join(nodes), b"]}}"])


def _quotas(state: ClusterState) -> dict[str, Any]:
    return {
        quota.namespace: {
            "max_vram_mib": quota.vram_mib,
            "max_cards": quota.cards,
            "held_mib": held_mib,
            "held_cards": held_cards,
            "problem": quota.problem,
        }
        for quota, held_mib, held_cards in state.quotas.each()
    }


_PARTS: Final[dict[str, Callable[[ClusterState, float], Any]]] = {
    "figures": lambda state, _: state.figures(),
    "reservations": lambda state, now: state.reservations(now),
    "refused": lambda state, _: sorted(entry.key for entry in state.pods.at(Stage.REFUSED)),
    "waiting": lambda state, _: sorted(
        entry.key for entry in state.pods.entries.values() if entry.stage is not Stage.BOUND
    ),
    "quotas": lambda state, _: _quotas(state),
    "node_problems": lambda state, _: dict(sorted(state.node_problems.items())),
    "claim_problems": lambda state, _: dict(sorted(state.devices.problems.items())),
    "pod_problems": lambda state, _: dict(sorted(state.news.problems.items())),
    "over_committed": lambda state, _: [
        f"{node}: card {card} holds {held} of {usable} MiB" for node, card, held, usable in state.ledger.overcommitted()
    ],
}
"""All but the nodes."""
