"""Nodes as the API server shows them."""

import json
from typing import Any

from headroom import wire
from headroom.domain.model import GpuNode

PRODUCT, MEMORY, COUNT = "nvidia.com/gpu.product", "nvidia.com/gpu.memory", "nvidia.com/gpu.count"
REPLICAS, STRATEGY = "nvidia.com/gpu.replicas", "nvidia.com/gpu.sharing-strategy"
CARDS = "headroom.dev/cards"


def node(
    labels: dict[str, str] | None = None,
    allocatable: dict[str, Any] | None = None,
    *,
    capacity: dict[str, Any] | None = None,
    cards: Any = None,
    cordoned: bool = False,
) -> wire.Node:
    annotations = {} if cards is None else {CARDS: cards if isinstance(cards, str) else json.dumps(cards)}
    return wire.Node(
        metadata=wire.Meta(name="n1", labels=labels or {}, annotations=annotations),
        spec=wire.NodeSpec(unschedulable=cordoned),
        status=wire.NodeStatus(
            allocatable={"cpu": "7910m", "memory": "32Gi", **(allocatable or {})}, capacity=capacity or {}
        ),
    )


def gfd(
    product: str, memory: int, count: int, replicas: int = 1, strategy: str = "none", **more: str
) -> dict[str, str]:
    """The labels that GPU feature discovery writes."""
    return {
        PRODUCT: product, MEMORY: str(memory), COUNT: str(count), REPLICAS: str(replicas), STRATEGY: strategy, **more,
    }  # fmt: skip


def shape(found: GpuNode) -> tuple[Any, ...]:
    """Sharing, resource, and per card: model, memory, slices."""
    return found.sharing, found.resource, [(card.model, card.vram_mib, card.slices) for card in found.cards]


def card(**fields: Any) -> dict[str, Any]:
    return {"id": "GPU-a", "model": "NVIDIA-L4", "vram_mib": 23034, **fields}


T4 = gfd("Tesla-T4", 15360, 2)
