"""The pods that hold cards, and what each would ask for in Headroom's way."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from headroom import wire
from headroom.domain.model import GpuNode, GpuRequest, Mode
from headroom.domain.request import RequestError, request_of
from headroom.units import format_mib
from scheduler.ledger.holding import FINISHED_PHASES
from simulations.advise.use import Use

_GIB: Final = 1024
_HASH: Final = re.compile(r"-[a-z0-9]{6,10}$")


@dataclass(frozen=True, slots=True)
class Rules:
    """How sizes are made of what was measured."""

    spare_share: float = 0.15
    """Memory beside the most that was ever used."""
    busy_limit: float = 0.8
    """Share of a card's time that its pods may need together."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A running pod with a GPU demand, and what it is in one line."""

    pod: wire.Pod
    request: GpuRequest
    node: str
    workload: str
    """`namespace/Kind/name` of what owns it, a ReplicaSet's Deployment."""
    container: str
    """The container that holds the GPU."""
    models: frozenset[str]
    """Card models of its node: it stays on cards that are known to serve it."""
    usable_mib: int
    """Memory of the cards it is on."""
    slices: int
    """Time slices of each of them; 1 where cards are not shared."""
    use: Use

    @property
    def stated_mib(self) -> int | None:
        """Memory per card that it asks for today; None for whole cards and slices of no size."""
        if self.request.vram_mib:
            return self.request.vram_mib
        return self.request.milli * self.usable_mib // 1000 if self.request.milli else None

    @property
    def asks(self) -> str:
        """What it asks for on each card, in words."""
        if (stated := self.stated_mib) is not None:
            return format_mib(stated)
        return "a whole card" if self.slices == 1 else f"one of {self.slices} slices of a card"


def tenants_of(
    pods: list[wire.Pod], nodes: Mapping[str, GpuNode], use: Mapping[str, Use], problems: list[str]
) -> tuple[list[Tenant], list[wire.Pod]]:
    """Running pods with a GPU on known nodes, and waiting ones. Demands that cannot be read are added to `problems`."""
    running, waiting = [], []
    for pod in pods:
        if pod.status.phase in FINISHED_PHASES:
            continue
        try:
            request = request_of(pod)
        except RequestError as error:
            problems.append(str(error))
            continue
        if request is None or request.count == 0:
            continue
        node = nodes.get(pod.spec.node_name)
        if node is None or not node.cards:
            if not pod.spec.node_name:
                waiting.append(pod)
            continue
        usable = min((card.usable_mib for card in node.cards if card.healthy and card.sized), default=0)
        running.append(
            Tenant(
                pod, request, node.name, workload_of(pod), _container(pod), frozenset(card.model for card in node.cards),
                usable, max(card.slices for card in node.cards), use.get(pod.key, Use()),
            )
        )  # fmt: skip
    return running, waiting


def workload_of(pod: wire.Pod) -> str:
    """`namespace/Kind/name` of the owner that people know; the pod itself where it has none."""
    owner = next((owner for owner in pod.metadata.owner_references if owner.controller), None)
    namespace = pod.metadata.namespace or "default"
    if owner is None:
        return f"{namespace}/Pod/{pod.metadata.name}"
    if owner.kind == "ReplicaSet" and _HASH.search(owner.name):
        return f"{namespace}/Deployment/{_HASH.sub('', owner.name)}"
    return f"{namespace}/{owner.kind}/{owner.name}"


def _container(pod: wire.Pod) -> str:
    for container in pod.spec.containers:
        if any(
            "gpu" in name or "headroom.dev" in name
            for name in (*container.resources.limits, *container.resources.requests)
        ):
            return container.name
    return pod.spec.containers[0].name if pod.spec.containers else ""


def sized_mib(tenant: Tenant, rules: Rules) -> int | None:
    """Whole GiB that it would ask for on each card; None where nothing tells, or a whole card is what it needs.

    The larger of memory (the most used, and the spare share) and time: a pod that is busy half of the time gets at least the
    memory that goes with half of the time that pods may need together, so that shares that fit in memory fit in time as well.
    """
    if tenant.usable_mib <= 0 or (tenant.request.count > 1 and tenant.stated_mib is None):
        return None
    memory = tenant.stated_mib
    if tenant.use.peak_mib:
        measured = _whole_gib(tenant.use.peak_mib * (1 + rules.spare_share))
        memory = measured if memory is None else min(measured, memory)
    if memory is None:
        return None
    size = max(memory, _whole_gib((tenant.use.busy_high or 0.0) / rules.busy_limit * tenant.usable_mib))
    return size if size < tenant.usable_mib else None


def wanted_request(tenant: Tenant, rules: Rules) -> GpuRequest:
    """The demand in Headroom's pinned mode: a size where one is known, else whole cards."""
    size = sized_mib(tenant, rules)
    return replace(
        tenant.request,
        mode=Mode.PINNED,
        vram_mib=size or 0,
        milli=0,
        resource="",
        models=tenant.request.models or tenant.models,
    )


def _whole_gib(mib: float) -> int:
    return max(math.ceil(mib / _GIB), 1) * _GIB
