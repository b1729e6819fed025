"""Which labels of nodes tell what a node is near to, and what a pod says of its group's topology. Pure.

A label's key and value together name a domain: the nodes of one rack, of one zone. The levels are in a fixed order, the nearest first.
The names are those that the makers document: `kubernetes.io/hostname` and `topology.kubernetes.io/*` by Kubernetes ("Well-Known Labels"),
`cloud.google.com/gce-topology-*` by Google Kubernetes Engine (a block holds sub-blocks, which are racks, which hold hosts),
`network.topology.nvidia.com/*` by NVIDIA's topograph (accelerator, then the leaf switch, the spine and the core; earlier releases call
the first of these switches block and the last datacenter), `nvidia.com/gpu.clique` by NVIDIA's feature discovery (nodes on one NVLink
fabric), `topology.k8s.aws/network-node-layer-*` by Amazon EKS (the third layer is the nearest).
"""

import re
from typing import Final

from headroom import names

LEVELS: Final[dict[str, tuple[str, ...]]] = {
    "host": ("cloud.google.com/gce-topology-host", names.LABEL_HOSTNAME),
    "accelerator": ("nvidia.com/gpu.clique", "network.topology.nvidia.com/accelerator"),
    "rack": (
        "cloud.google.com/gce-topology-subblock", "network.topology.nvidia.com/leaf", "network.topology.nvidia.com/block",
        "topology.k8s.aws/network-node-layer-3",
    ),
    "block": (
        "cloud.google.com/gce-topology-block", "network.topology.nvidia.com/spine", "topology.k8s.aws/network-node-layer-2",
    ),
    "datacenter": (
        "network.topology.nvidia.com/core", "network.topology.nvidia.com/datacenter", "topology.k8s.aws/network-node-layer-1",
    ),
    "zone": ("topology.kubernetes.io/zone",),
    "region": ("topology.kubernetes.io/region",),
}  # fmt: skip
"""Labels by level, the nearest level first; of a node that has several of one level the first counts."""
PREFERRED: Final = tuple(tuple(key for key in keys if key != names.LABEL_HOSTNAME) for keys in LEVELS.values())
"""The levels within which a group is placed where it can be. That each node is a host of its own says nothing about what it is near to."""

_NAME: Final = r"[A-Za-z0-9]([-._A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_DNS: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_LABEL_KEY: Final = re.compile(rf"(({_DNS}\.)*{_DNS}/)?{_NAME}")
_LONGEST_KEY: Final = 253 + 1 + 63


def labels_of(topology: str) -> tuple[str, ...]:
    """The labels that tell the domains of what `headroom.dev/group-topology` says: a level's word, or the key of a label."""
    return LEVELS.get(topology, (topology,))


def is_topology(text: str) -> bool:
    """Whether it is a level's word or could be the key of a label."""
    return text in LEVELS or (len(text) <= _LONGEST_KEY and _LABEL_KEY.fullmatch(text) is not None)


def words_of(topology: str) -> str:
    """One domain as people name it."""
    return f"one {topology}" if topology in LEVELS else f"one domain of the label {topology}"


def labels_words(topology: str) -> str:
    """The labels of which a node needs one, as people name them."""
    labels = labels_of(topology)
    return f"the label {labels[0]}" if len(labels) == 1 else f"any of the labels {', '.join(labels)}"


def levels_words() -> str:
    """The levels' words, for a message."""
    return ", ".join(LEVELS)
