"""Which pods use more memory of a card than their share, or a card that is not theirs. Pure.

Nothing stops a process from taking memory that it was not given, or from looking at all cards of its node: that shows in whose
processes hold memory where. A pod's own cards are those that kubelet lists for it; for a pod that asks for no device they are those of
its assignment, which only Headroom writes. Where neither is certain the pod is left alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from agent.pods.index import NodePod, PodIndex, PodKey, is_finished, key_of
from headroom.domain.assignment import Assignment, readable_assignment_of
from headroom.domain.device_plugin import share_mib
from headroom.domain.model import Card, GpuRequest, Mode
from headroom.domain.request import RequestError, request_of
from headroom.units import MIB

_KUBERNETES = "kubernetes.io"


class Trespass(StrEnum):
    """What a pod does that it should not."""

    OVER_SHARE = "over_share"
    FOREIGN_CARD = "foreign_card"


@dataclass(frozen=True, slots=True)
class Finding:
    """One pod on one card. Bytes."""

    pod: PodKey
    uid: str
    card: str
    used_bytes: int
    share_bytes: int
    """What it was given of the card; 0 for a card that is not its own."""

    @property
    def kind(self) -> Trespass:
        """Which of the two it is."""
        return Trespass.OVER_SHARE if self.share_bytes else Trespass.FOREIGN_CARD

    @property
    def excess_bytes(self) -> int:
        """What it uses and was not given."""
        return self.used_bytes - self.share_bytes


def find(
    used: Mapping[tuple[PodKey, str], int],
    pods: PodIndex,
    held: Mapping[tuple[str, str], Iterable[tuple[str, str]]],
    cards: Iterable[Card],
    tolerance_bytes: int,
) -> list[Finding]:
    """Pods that use more than `tolerance_bytes` beyond what they were given.

    `used` is the memory of their processes by pod and card, `held` kubelet's list (see `agent.pods.reconcile.Truth.holders`).
    """
    by_id = {card.id: card for card in cards}
    found = []
    for (pod_key, card_id), used_bytes in sorted(used.items()):
        place = (pod_key.namespace, pod_key.name)
        pod = pods.by_name.get(place)
        if pod is None or is_finished(pod) or card_id not in by_id or key_of(pod) != pod_key:
            continue
        given = _given_mib(pod, [card for card, _ in held.get(place, ())], by_id)
        if given is None:
            continue
        one = Finding(pod_key, pod.metadata.uid, card_id, used_bytes, given.get(card_id, 0) * MIB)
        if one.excess_bytes > tolerance_bytes:
            found.append(one)
    return found


def _given_mib(pod: NodePod, devices: list[str], cards: Mapping[str, Card]) -> dict[str, int] | None:
    """MiB that the pod was given, by card; None where that is not certain."""
    try:
        request = request_of(pod)
    except RequestError:
        return None
    assignment = readable_assignment_of(pod.metadata.annotations)
    if devices:
        given = devices
    elif request is not None and request.mode is Mode.PINNED and request.count > 0:
        if assignment is None:
            return None
        given = list(assignment.cards)
    elif request is None or request.count == 0:
        return {} if not _may_hold_devices(pod) else None
    else:
        return None  # kubelet has not said yet which devices it handed out
    found: dict[str, int] = {}
    for at, card_id in enumerate(given):
        card = cards.get(card_id)
        if card is None:
            return None  # the card is gone, or called otherwise since
        found[card_id] = found.get(card_id, 0) + _share(request, assignment, at, card)
    return found


def _share(request: GpuRequest | None, assignment: Assignment | None, at: int, card: Card) -> int:
    """MiB of one share: what the pod asks for, else what is written on it, else a slice of the card."""
    usable = max(card.vram_mib - card.reserve_mib, 0)
    if request is not None and request.count > 0:
        return share_mib(request, usable, card.slices)
    if assignment is not None and at < len(assignment.share_mib):
        return assignment.share_mib[at]
    return usable // max(card.slices, 1)


def _may_hold_devices(pod: NodePod) -> bool:
    """Whether the pod could have been handed cards in a way that is not understood here: under another name, or by a claim."""
    if pod.spec.resource_claims:
        return True
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    names = {name for one in containers for name in (*one.resources.limits, *one.resources.requests)}
    return any("/" in name and not name.split("/", 1)[0].endswith(_KUBERNETES) for name in names)


class Watch:
    """Takes a finding seriously once two readings in a row have it: a pod's end and its process's are not one moment."""

    def __init__(self) -> None:
        self._suspects: frozenset[tuple[str, str, Trespass]] = frozenset()
        self._known: frozenset[tuple[str, str, Trespass]] = frozenset()

    def confirm(self, findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
        """What is confirmed now, and what of it was not before."""
        by_key = {(one.uid, one.card, one.kind): one for one in findings}
        confirmed = frozenset(by_key.keys() & self._suspects)
        new = [one for key, one in by_key.items() if key in confirmed and key not in self._known]
        self._suspects, self._known = frozenset(by_key), confirmed
        return [one for key, one in by_key.items() if key in confirmed], new
