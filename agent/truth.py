"""Compares what kubelet really handed out with what Headroom wrote on the pods. Pure.

In slice mode the scheduler predicts the card and kubelet decides. Where the two differ, the pod's annotation is corrected;
where a pod has no annotation (another scheduler placed it, or nobody), it gets one, so that the ledger knows of its memory.
Kubelet names pods by namespace and name only, so a pod that has not started yet is left alone: the devices may still be
those of a predecessor of the same name.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from agent.podresources import Device
from agent.pods import NodePod, PodIndex, is_finished
from headroom.cards import share_mib
from headroom.model import Card, Mode
from headroom.names import (
    ANNOTATION_ASSIGNED_CARDS,
    ANNOTATION_ASSIGNED_MODE,
    ANNOTATION_ASSIGNED_VRAM_MIB,
    ANNOTATION_ASSIGNED_VRAM_SHARE,
)
from headroom.request import RequestError, request_of

_SLICE: Final = re.compile(r"(?P<card>.+?)::\d+")
_GKE: Final = re.compile(r"nvidia(?P<index>\d+)(?:/vgpu\d+)?")
_NVIDIA: Final = "nvidia.com/"


class Finding(StrEnum):
    """What a comparison of one pod came to."""

    RIGHT = "right"
    CORRECTED = "corrected"  # the prediction named other cards
    REPORTED = "reported"  # Headroom had not placed this pod


@dataclass(frozen=True, slots=True)
class Correction:
    """Annotations to write on a pod because kubelet's word differs."""

    namespace: str
    name: str
    uid: str
    finding: Finding
    predicted: tuple[str, ...]
    actual: tuple[str, ...]
    annotations: Mapping[str, str]


@dataclass(slots=True)
class Truth:
    """The outcome of one comparison."""

    right: int = 0
    corrections: list[Correction] = field(default_factory=list)
    unknown_pods: list[tuple[str, str]] = field(default_factory=list)
    """Kubelet lists devices for them, the API server has no such pod here (yet, or any more)."""
    waiting: list[tuple[str, str]] = field(default_factory=list)
    """Not started: the devices may be a predecessor's."""
    unknown_devices: list[str] = field(default_factory=list)
    """NVIDIA device ids that name no card of the node."""
    not_understood: list[str] = field(default_factory=list)
    """Pods whose request cannot be read, with the reason."""
    holders: dict[tuple[str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """(namespace, name) -> (card id, container) of each device it holds."""


def card_of(device_id: str, cards: Iterable[Card]) -> str | None:
    """The id of the card a device belongs to: `UUID`, `UUID::n`, `MIG-...`, or GKE's `nvidiaN` and `nvidiaN/vgpuK`.

    None when it is none of the node's cards. GKE's `nvidiaN/giM` is not resolved: NVML's instance ids are not published.
    """
    match = _SLICE.fullmatch(device_id)
    plain = match.group("card") if match else device_id
    gke = _GKE.fullmatch(plain)
    for card in cards:
        if card.id == plain or (gke is not None and card.index == int(gke.group("index"))):
            return card.id
    return None


def compare(devices: Iterable[Device], pods: PodIndex, cards: tuple[Card, ...]) -> Truth:
    """Hold kubelet's list against the annotations of the node's pods."""
    truth = Truth()
    held: dict[tuple[str, str], list[tuple[str, str]]] = {}
    unresolved: set[tuple[str, str]] = set()
    for device in devices:
        key = (device.namespace, device.pod)
        card_id = card_of(device.id, cards)
        if card_id is not None:
            held.setdefault(key, []).append((card_id, device.container))
        elif device.resource.startswith(_NVIDIA):
            truth.unknown_devices.append(device.id)
            unresolved.add(key)
    by_id = {card.id: card for card in cards}
    for key, holdings in sorted(held.items()):
        pod = pods.by_name.get(key)
        if pod is None:
            truth.unknown_pods.append(key)
        elif is_finished(pod):
            continue
        elif pod.status.start_time is None:
            truth.waiting.append(key)
        else:
            truth.holders[key] = tuple(holdings)
            if key not in unresolved:
                _judge(truth, pod, [by_id[card_id] for card_id, _ in holdings])
    return truth


def _judge(truth: Truth, pod: NodePod, actual: list[Card]) -> None:
    annotations = pod.metadata.annotations
    if annotations.get(ANNOTATION_ASSIGNED_MODE) == Mode.PINNED:
        return
    predicted = tuple(
        part.strip() for part in annotations.get(ANNOTATION_ASSIGNED_CARDS, "").split(",") if part.strip()
    )
    ids = tuple(card.id for card in sorted(actual, key=lambda card: (card.index, card.id)))
    if Counter(predicted) == Counter(ids):
        truth.right += 1
        return
    try:
        share = _share_mib(pod, actual)
    except RequestError as error:
        truth.not_understood.append(str(error))
        return
    smallest = min(card.vram_mib - card.reserve_mib for card in actual)
    written = {
        ANNOTATION_ASSIGNED_CARDS: ",".join(ids),
        ANNOTATION_ASSIGNED_VRAM_MIB: str(share),
        ANNOTATION_ASSIGNED_VRAM_SHARE: _share_text(share, smallest),
        ANNOTATION_ASSIGNED_MODE: Mode.SLICE.value,
    }
    finding = Finding.CORRECTED if predicted else Finding.REPORTED
    meta = pod.metadata
    truth.corrections.append(
        Correction(meta.namespace or "default", meta.name, meta.uid, finding, predicted, ids, written)
    )


def _share_mib(pod: NodePod, actual: list[Card]) -> int:
    """MiB per share: what the pod asked for, on the largest of its cards where that depends on the card. Raises RequestError."""
    request = request_of(pod)
    sizes = [(card.vram_mib - card.reserve_mib, card.slices) for card in actual]
    if request is None:
        return max(usable // slices for usable, slices in sizes)
    return max(share_mib(request, usable, slices) for usable, slices in sizes)


def _share_text(share: int, usable_mib: int) -> str:
    """The fraction of the card in three decimals, rounded down so that an engine told to take it stays inside."""
    milli = min(share * 1000 // usable_mib, 1000) if usable_mib > 0 else 0
    return f"{milli // 1000}.{milli % 1000:03d}"
