"""Node objects for simulated GPU nodes, described in any of the ways that real nodes describe their cards."""

from enum import StrEnum
from typing import Any, Final

from headroom import names
from headroom.domain.model import Allocation, Card, GpuNode, Sharing
from headroom.domain.node_cards import encode_cards

_PODS_PER_NODE: Final = 250
# Ready from the first moment: thousands of nodes need not each be seen and patched by kwok and the controller manager.
_READY: Final = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "simulated"}
_SHARING_LABEL: Final = {Sharing.TIME_SLICING: "time-slicing", Sharing.MPS: "mps"}


class Description(StrEnum):
    """Where a node says which cards it has."""

    ANNOTATION = "annotation"  # as the Headroom agent writes it
    LABELS = "labels"  # as NVIDIA GPU feature discovery writes them


def uniform_nodes(
    count: int,
    *,
    prefix: str = "gpu-",
    cards: int = 8,
    model: str = "NVIDIA-A100-SXM4-80GB",
    vram_mib: int = 81920,
    slices: int = 1,
    resource: str = names.RESOURCE_NVIDIA_GPU,
) -> list[GpuNode]:
    """`count` equal nodes `prefix0000`, `prefix0001`, ...; `resource=""` is a node without device plugin (pinned mode only)."""
    return [
        GpuNode(
            name=f"{prefix}{number:04d}",
            cards=tuple(
                Card(f"GPU-{prefix}{number:04d}-{index}", index, model, vram_mib, slices=slices)
                for index in range(cards)
            ),
            sharing=Sharing.TIME_SLICING if slices > 1 else Sharing.EXCLUSIVE,
            resource=resource,
            cpu_milli=128_000,
            memory_mib=1024 * 1024,
        )
        for number in range(count)
    ]


def node_manifest(node: GpuNode, description: Description = Description.ANNOTATION) -> dict[str, Any]:
    """The Node object. Labels can describe only what feature discovery can: one model, one size, one slice count."""
    labels = {
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
        "type": "kwok",
        **node.labels,
    }
    annotations: dict[str, str] = {"node.alpha.kubernetes.io/ttl": "0"}
    if node.allocation is not Allocation.DISTRIBUTED:
        labels[names.LABEL_ALLOCATION] = node.allocation.value
    if node.cards and description is Description.ANNOTATION:
        labels.setdefault(names.LABEL_GPU_PRODUCT, node.cards[0].model)
        annotations[names.ANNOTATION_NODE_CARDS] = encode_cards(node.cards)
    elif node.cards:
        labels |= _discovery_labels(node)
    resources = {"cpu": f"{node.cpu_milli}m", "memory": f"{node.memory_mib}Mi", "pods": str(_PODS_PER_NODE)}
    if node.resource:
        resources[node.resource] = str(sum(card.slices for card in node.cards if card.healthy))
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels, "annotations": annotations},
        "spec": {} if node.schedulable else {"unschedulable": True},
        "status": {"capacity": resources, "allocatable": resources, "conditions": [_READY]},
    }


def _discovery_labels(node: GpuNode) -> dict[str, str]:
    first = node.cards[0]
    shared = node.sharing in _SHARING_LABEL
    return {
        names.LABEL_GPU_PRODUCT: first.model + ("-SHARED" if shared else ""),
        names.LABEL_GPU_MEMORY: str(first.vram_mib),
        names.LABEL_GPU_COUNT: str(len(node.cards)),
        names.LABEL_GPU_REPLICAS: str(first.slices),
        names.LABEL_GPU_SHARING: _SHARING_LABEL.get(node.sharing, "none"),
    }
