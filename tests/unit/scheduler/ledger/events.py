"""What happens to a ledger, in one line each."""

from typing import Any

from headroom import wire
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Placement, Sharing
from scheduler.ledger.ledger import Ledger

L4_MIB = 22000


def whole(name: str = "n1", count: int = 2, **fields: Any) -> GpuNode:
    """A node whose cards go out whole."""
    cards = tuple(Card(f"GPU-{at}", at, "NVIDIA-L4", L4_MIB) for at in range(count))
    return GpuNode(name, cards, resource="nvidia.com/gpu", cpu_milli=8000, memory_mib=32000, **fields)


def shared(name: str = "n1", slices: int = 2, allocation: Allocation = Allocation.DISTRIBUTED) -> GpuNode:
    """A node with two time-sliced cards."""
    cards = tuple(Card(f"GPU-{at}", at, "Tesla-T4", 15000, slices=slices) for at in range(2))
    return GpuNode(name, cards, Sharing.TIME_SLICING, allocation, "nvidia.com/gpu", cpu_milli=8000, memory_mib=32000)


def pinned(mib: int, **host: Any) -> GpuRequest:
    return GpuRequest(count=1, mode=Mode.PINNED, vram_mib=mib, **host)


def on(node: str, card: int, mib: int) -> Placement:
    return Placement(node, (card,), (mib,), Mode.PINNED)


def bound(
    uid: str, limits: dict[str, str], node: str = "n1", *, name: str = "", started: str = "", **annotations: str
) -> wire.Pod:
    """A pod on a node; annotations without their prefix."""
    return wire.Pod(
        metadata=wire.Meta(
            name=name or uid,
            namespace="ns",
            uid=uid,
            annotations={f"headroom.dev/assigned-{key.replace('_', '-')}": text for key, text in annotations.items()},
        ),
        spec=wire.PodSpec(node_name=node, containers=(wire.Container(resources=wire.Resources(limits=dict(limits))),)),
        status=wire.PodStatus(phase="Running", start_time=started or None),
    )


def free(ledger: Ledger, node: str = "n1") -> list[int]:
    row = ledger.fleet.row_of[node]
    return ledger.fleet.free_mib[row, : len(ledger.fleet.nodes[node].cards)].tolist()


def used_slices(ledger: Ledger, node: str = "n1") -> list[int]:
    row = ledger.fleet.row_of[node]
    return ledger.fleet.plugin[row, : len(ledger.fleet.nodes[node].cards)].tolist()


# News of pods

VRAM = {"headroom.dev/vram": "9000Mi"}
GPU = {"nvidia.com/gpu": "1"}
STARTED = "2026-01-01T00:00:00Z"
"""Kubelet's word on where no agent tells of cards: the pod has been taken in."""
