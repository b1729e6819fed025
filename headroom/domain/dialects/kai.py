"""KAI's and Run:ai's annotations (https://github.com/NVIDIA/KAI-Scheduler).

Such pods name no resource, so kube-scheduler shows them to no extender. Headroom's admission policy turns the annotations into
resources; a pod that it has not seen is refused.
"""

from typing import Final

from headroom import names
from headroom.domain.dialects.words import Annotation, Family

SCHEDULERS: Final = frozenset({"kai-scheduler", "runai-scheduler"})
"""Pods of these hold no device themselves: a reservation pod holds the card for them."""

KAI: Final = Family(
    "KAI, Run:ai",
    annotations=(
        Annotation("gpu-fraction", "0.5", "that part of a card", resource=names.RESOURCE_GPU_MILLI),
        Annotation("gpu-memory", "2000", "so many MiB of a card", resource=names.RESOURCE_VRAM),
        Annotation("gpu-fraction-num-devices", "2", "of so many cards", resource=names.RESOURCE_GPU),
    ),
)
