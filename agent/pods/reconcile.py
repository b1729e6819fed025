"""Compares what kubelet really handed out with what Headroom wrote on the pods. Pure.

In slice mode the scheduler predicts the card and kubelet decides. Kubelet's word is written on every such pod: until it is there
the scheduler keeps room on every card that the pod may be on. Where the two differ, the pod's annotation is corrected;
where a pod has no annotation (another scheduler placed it, or nobody), it gets one, so that the ledger knows of its memory.
Kubelet names pods by namespace and name only, so a pod that has not started yet is left alone: the devices may still be
those of a predecessor of the same name.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from agent.pods.index import NodePod, PodIndex, is_finished
from headroom.domain.accelerators import NVIDIA
from headroom.domain.assignment import annotations_of, is_settled, readable_assignment_of
from headroom.domain.device_plugin import most_devices, share_mib
from headroom.domain.dialects.table import GUARDED
from headroom.domain.dra.classes import NVIDIA_DRIVER
from headroom.domain.dra.devices import DeviceKey
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Placement
from headroom.domain.request import RequestError, request_of
from headroom.names import ANNOTATION_KUBELET_CARDS

_SLICE: Final = re.compile(r"(?P<card>.+?)(?:::|-_-|-)\d+")
_GKE: Final = re.compile(r"nvidia(?P<index>\d+)(?:/vgpu\d+)?")
_NVIDIA: Final = "nvidia.com/"


@dataclass(frozen=True, slots=True)
class Device:
    """One device that kubelet gave to a container."""

    namespace: str
    pod: str
    container: str
    resource: str
    """What the device plugin calls it; the driver, for a device of a resource claim."""
    id: str
    """`UUID`, `UUID::n` for a slice, `MIG-UUID`, or a vendor's own form; for a device of a claim, its name in the pool."""
    pool: str = ""
    """The driver's pool, for a device of a resource claim (DRA)."""


class Finding(StrEnum):
    """What a comparison of one pod came to."""

    RIGHT = "right"
    TIE = "tie"  # another card than foretold, which the device plugin was as free to pick
    CORRECTED = "corrected"  # the prediction was wrong: by the plugin's rule it could not be this card
    REPORTED = "reported"  # Headroom had not placed this pod


@dataclass(frozen=True, slots=True)
class Correction:
    """Annotations to write on a pod, so that kubelet's word on its cards is there."""

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
    """Why requests cannot be read; their pods count with the default slice of each device."""
    holders: dict[tuple[str, str], tuple[tuple[str, str], ...]] = field(default_factory=dict)
    """(namespace, name) -> (card id, container) of each device it holds."""


def card_of(device_id: str, cards: Iterable[Card]) -> str | None:
    """The id of the card a device belongs to: `UUID`, `UUID::n`, `MIG-...`, GKE's `nvidiaN` and `nvidiaN/vgpuK`, HAMi's
    `UUID-n`, gpushare's `UUID-_-n`.

    None when it is none of the node's cards. GKE's `nvidiaN/giM` is not resolved: NVML's instance ids are not published.
    """
    match = _SLICE.fullmatch(device_id)
    plain = match.group("card") if match else device_id
    gke = _GKE.fullmatch(plain)
    for card in cards:
        if card.id in (plain, device_id) or (gke is not None and card.index == int(gke.group("index"))):
            return card.id
    return None


def devices_by_card(devices: Iterable[Device], cards: tuple[Card, ...]) -> dict[str, int] | None:
    """How many devices of each card the NVIDIA device plugin hands out; None where that cannot be told.

    It cannot when there is none, or when one names no known card: what is withheld would then be a guess.
    """
    found: Counter[str] = Counter()
    for device in devices:
        if device.resource not in NVIDIA.resources:
            continue
        card_id = card_of(device.id, cards)
        if card_id is None:
            return None
        found[card_id] += 1
    return dict(found) or None


def cards_held(pods: PodIndex, truth: Truth | None = None) -> frozenset[str]:
    """Ids of the cards that are written on pods which have not ended, or that kubelet last said pods have."""
    held = {card for devices in (truth.holders.values() if truth is not None else ()) for card, _ in devices}
    for pod in pods:
        if not is_finished(pod):
            assignment = readable_assignment_of(pod.metadata.annotations)
            held.update(assignment.cards if assignment is not None else ())
    return frozenset(held)


def compare(
    devices: Iterable[Device],
    pods: PodIndex,
    cards: tuple[Card, ...],
    allocation: Allocation = Allocation.DISTRIBUTED,
    published: Mapping[DeviceKey, tuple[str, ...]] = MappingProxyType({}),
) -> Truth:
    """Hold kubelet's list against the annotations of the node's pods. `allocation` is the device plugin's rule.

    `published` gives the card ids of devices that resource claims may hold. What those hold is written on no pod: the claims say it.
    """
    truth = Truth()
    held: dict[tuple[str, str], list[tuple[str, str]]] = {}
    by_plugins: dict[tuple[str, str], list[str]] = {}
    unresolved: set[tuple[str, str]] = set()
    for device in devices:
        if device.resource in GUARDED:
            continue  # units of memory of another scheduler's plugin, not devices
        key = (device.namespace, device.pod)
        card_id = _card_of_claim(device, cards, published) if device.pool else card_of(device.id, cards)
        if card_id is not None:
            held.setdefault(key, []).append((card_id, device.container))
            by_plugins.setdefault(key, []).extend([] if device.pool else [card_id])
        elif device.pool and device.resource == NVIDIA_DRIVER:
            truth.unknown_devices.append(f"{device.pool}/{device.id}")
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
    free_choice = _free_choice(by_plugins, pods, cards, allocation)
    for key in truth.holders:
        if key not in unresolved and by_plugins[key]:
            _judge(truth, pods.by_name[key], [by_id[card_id] for card_id in by_plugins[key]], free_choice)
    return truth


def _card_of_claim(device: Device, cards: Iterable[Card], published: Mapping[DeviceKey, tuple[str, ...]]) -> str | None:
    """The id of the card that a device of a resource claim is, or is a part of; None when it is none of the node's."""
    known = {card.id for card in cards}
    ids = published.get(DeviceKey(device.resource, device.pool, device.id), ())
    return next((each for each in ids if each in known), None)


def _free_choice(
    by_plugins: Mapping[tuple[str, str], list[str]],
    pods: PodIndex,
    cards: tuple[Card, ...],
    allocation: Allocation,
) -> frozenset[str]:
    """The cards that the plugin's rule left open to the pods whose cards are news, in whatever order they were taken in."""
    at = {card.id: position for position, card in enumerate(cards)}
    given, leaving, count = [0] * len(cards), [0] * len(cards), 0
    for key, ids in by_plugins.items():
        pod = pods.by_name.get(key)
        told = pod is not None and _is_settled(pod)
        for card_id in ids:
            if not told:
                count += 1
                continue
            given[at[card_id]] += 1
            leaving[at[card_id]] += pod is not None and pod.metadata.deletion_timestamp is not None
    most = most_devices(given, leaving, [card.slices for card in cards], count, allocation)
    return frozenset(card.id for card, number in zip(cards, most, strict=True) if number)


def _is_settled(pod: NodePod) -> bool:
    assignment = readable_assignment_of(pod.metadata.annotations)
    return assignment is not None and is_settled(pod.metadata.annotations, assignment)


def _request(truth: Truth, pod: NodePod) -> GpuRequest | None:
    try:
        return request_of(pod)
    except RequestError as error:
        truth.not_understood.append(str(error))
        return None  # the devices are taken all the same


def _judge(truth: Truth, pod: NodePod, actual: list[Card], free_choice: frozenset[str]) -> None:
    # Kubelet's word takes the place of annotations that cannot be read.
    assignment = readable_assignment_of(pod.metadata.annotations)
    pinned = assignment is not None and assignment.mode is Mode.PINNED
    predicted = assignment.cards if assignment is not None else ()
    cards = tuple(sorted(actual, key=lambda card: (card.index, card.id)))
    ids = tuple(card.id for card in cards)
    meta, word = pod.metadata, {ANNOTATION_KUBELET_CARDS: ",".join(ids)}
    if Counter(predicted) == Counter(ids) and not pinned:
        truth.right += 1
        if assignment is not None and not is_settled(meta.annotations, assignment):
            truth.corrections.append(
                Correction(meta.namespace or "default", meta.name, meta.uid, Finding.RIGHT, predicted, ids, word)
            )
        return
    request = _request(truth, pod)
    if pinned and request is not None and request.mode is Mode.PINNED:
        return  # Headroom picked the cards, and whatever kubelet handed out beside them is none of these
    shares = tuple(
        share_mib(request, card.vram_mib - card.reserve_mib, card.slices)
        if request is not None
        else (card.vram_mib - card.reserve_mib) // card.slices
        for card in cards
    )
    placement = Placement(pod.spec.node_name, tuple(range(len(cards))), shares, Mode.SLICE)
    written = annotations_of(GpuNode(pod.spec.node_name, cards), placement) | word
    finding = Finding.REPORTED
    if predicted:
        finding = Finding.TIE if free_choice.issuperset(ids) and not pinned else Finding.CORRECTED
    truth.corrections.append(
        Correction(meta.namespace or "default", meta.name, meta.uid, finding, predicted, ids, written)
    )
