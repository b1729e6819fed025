"""Which pods no node has room for, and the placeholders that ask a node autoscaler for room in their place. Pure.

No node template advertises what a pod in pinned mode asks for, so a node autoscaler cannot see that a new node would help. A
placeholder asks for cards in its place, as `nvidia.com/gpu`, with the same selectors, required node affinity and tolerations. It stands
for one pod of whole or several cards, or for as many pods of one part of a card as fit on one card together.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headroom import names, wire
from headroom.domain.model import WHOLE_MILLI, GpuRequest, Mode
from scheduler.cluster.pod_entry import PodEntry, Stage

_UNSCHEDULABLE: Final = "Unschedulable"
_AS_NOBODY: Final = {"runAsNonRoot": True, "runAsUser": 65534, "seccompProfile": {"type": "RuntimeDefault"}}
_NOTHING_ALLOWED: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Room to be asked for."""

    name: str
    """Follows from the first of its pods, so that it stays as it is for as long as that one waits."""
    cards: int
    cpu_milli: int
    memory_mib: int
    pods: tuple[PodEntry, ...]
    """Whom it stands for, the first in the queue first."""


def is_unmet(entry: PodEntry, scheduler_names: Iterable[str]) -> bool:
    """Whether nothing but a further node would help the pod, as far as is known.

    Pods that ask a device plugin are seen by node autoscalers themselves. Where kube-scheduler offers no node at all it does
    not ask the extender: then its own word on the pod counts, unless a volume may be what it waits for.
    """
    spec, request = entry.pod.spec, entry.request
    if spec.scheduler_name not in scheduler_names or request.mode is not Mode.PINNED or request.count == 0:
        return False
    if entry.claim is not None or entry.facts.gated:
        return False
    if entry.stage is Stage.REFUSED:
        return entry.refusal is not None and not entry.refusal.by_quota
    if entry.stage is not Stage.WAITING or any(
        volume.persistent_volume_claim or volume.ephemeral for volume in spec.volumes
    ):
        return False
    return any(
        condition.type == "PodScheduled" and condition.status == "False" and condition.reason == _UNSCHEDULABLE
        for condition in entry.pod.status.conditions
    )


def placeholders(
    unmet: Iterable[PodEntry], card_mib: Callable[[GpuRequest], int], most: int
) -> tuple[list[Placeholder], int]:
    """The placeholders for pods that are unmet, at most so many; and how many pods are left out.

    `card_mib` tells the memory of the largest card that a request accepts, 0 where none is known. Pods of one part of a card share one
    where they ask for the same kind of node: as they come in the queue, each onto the first card on which it fits.
    """
    bins: list[_Bin] = []
    left_out = 0
    largest: dict[GpuRequest, int] = {}  # each is a look at all nodes, and thousands may ask for the same
    for entry in sorted(unmet, key=lambda entry: entry.rank):
        if entry.request not in largest:
            largest[entry.request] = card_mib(entry.request)
        whole_mib = largest[entry.request]
        template, size = _template(entry), _part_mib(entry.request, whole_mib)
        found = next((one for one in bins if size and one.template == template and one.free_mib >= size), None)
        if found is None and len(bins) == most:
            left_out += 1
            continue
        if found is None:
            found = _Bin(template, whole_mib if size else 0, [])
            bins.append(found)
        found.free_mib -= size
        found.pods.append(entry)
    return [one.placeholder() for one in bins], left_out


@dataclass(slots=True)
class _Bin:
    """A placeholder in the making."""

    template: bytes
    free_mib: int
    pods: list[PodEntry]

    def placeholder(self) -> Placeholder:
        first = self.pods[0]
        return Placeholder(
            f"room-{hashlib.sha256(first.uid.encode()).hexdigest()[:12]}",
            first.request.count,
            sum(entry.request.cpu_milli for entry in self.pods),
            sum(entry.request.memory_mib for entry in self.pods),
            tuple(self.pods),
        )


def _part_mib(request: GpuRequest, card_mib: int) -> int:
    """MiB of the one part of a card that a pod asks for; 0 for whole and several cards, and where it fits on no known card."""
    if request.count != 1 or request.whole_cards:
        return 0
    size = request.vram_mib or card_mib * request.milli // WHOLE_MILLI
    return size if 0 < size <= card_mib else 0


def _template(entry: PodEntry) -> bytes:
    """What limits the nodes that a pod may go to, and its cards."""
    spec = entry.pod.spec
    return msgspec.json.encode(
        (spec.node_selector, _required(spec), spec.tolerations, sorted(entry.request.models)), order="deterministic"
    )


def _required(spec: wire.PodSpec) -> wire.NodeSelector | None:
    affinity = spec.affinity.node_affinity if spec.affinity is not None else None
    return affinity.required if affinity is not None else None


def manifest(placeholder: Placeholder, namespace: str, scheduler_name: str, image: str) -> dict[str, Any]:
    """The Pod object. It may not be where pods in pinned mode are: such nodes look free to whoever counts devices."""
    spec = placeholder.pods[0].pod.spec
    resources = {names.RESOURCE_NVIDIA_GPU: str(placeholder.cards)}
    host = {"cpu": f"{placeholder.cpu_milli}m", "memory": f"{placeholder.memory_mib}Mi"}
    pinned = {
        "topologyKey": names.LABEL_HOSTNAME,
        "labelSelector": {"matchLabels": {names.LABEL_PINNED: "true"}},
        "namespaceSelector": {},
    }
    affinity: dict[str, Any] = {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [pinned]}}
    if (required := _required(spec)) is not None:
        selected = msgspec.to_builtins(required)
        affinity["nodeAffinity"] = {"requiredDuringSchedulingIgnoredDuringExecution": selected}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": placeholder.name,
            "namespace": namespace,
            "labels": {names.LABEL_PLACEHOLDER: "true"},
            "annotations": {f"{names.DOMAIN}/stands-for": ",".join(_keys(placeholder.pods))},
        },
        "spec": {
            "schedulerName": scheduler_name,
            "priorityClassName": names.PRIORITY_PLACEHOLDER,
            "nodeSelector": spec.node_selector,
            "tolerations": msgspec.to_builtins(spec.tolerations),
            "affinity": affinity,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            "securityContext": _AS_NOBODY,
            "containers": [
                {
                    "name": "placeholder",
                    "image": image,
                    "securityContext": _NOTHING_ALLOWED,
                    "resources": {"requests": resources | host, "limits": resources},
                }
            ],
        },
    }


def _keys(pods: Sequence[PodEntry], most: int = 20) -> list[str]:
    return [entry.key for entry in pods[:most]]
