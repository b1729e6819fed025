"""What stands out in a fleet: pods that ask for far more than they use, cards that idle, and what may go wrong."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from headroom import names
from headroom.domain.model import GpuNode, Mode
from headroom.units import format_mib
from simulations.advise.reading import Scaler
from simulations.advise.replay import Map
from simulations.advise.tenants import Rules, Tenant, sized_mib

_FAR_MORE: Final = 0.7
"""A size below this share of what is asked for is worth a patch."""
_IDLE: Final = 0.05
_DEVICES: Final = (names.RESOURCE_NVIDIA_GPU, names.RESOURCE_NVIDIA_GPU_SHARED)


@dataclass(frozen=True, slots=True)
class OverAsk:
    """Pods of a workload that ask for more than they ever used, and the patch that asks for what they need."""

    workload: str
    pods: int
    asked_mib: int
    """Memory that each holds of each card today."""
    asks: str
    """The same in words."""
    peak_mib: int
    busy_high: float | None
    wanted_mib: int
    patch: dict[str, Any] | None
    """Of the workload's template; None for a bare pod, which cannot be changed."""

    @property
    def kubectl(self) -> str:
        """The command that applies the patch."""
        if self.patch is None:
            return ""
        return f"{self.kubectl_patch} -p '{json.dumps(self.patch, separators=(',', ':'))}'"

    @property
    def kubectl_patch(self) -> str:
        """The command, up to the patch."""
        namespace, kind, name = self.names
        return f"kubectl -n {namespace} patch {kind} {name}"

    @property
    def names(self) -> tuple[str, str, str]:
        """Namespace, kind as kubectl takes it, name."""
        namespace, kind, name = self.workload.split("/", 2)
        return namespace, kind.lower(), name


@dataclass(slots=True)
class Findings:
    """Everything that is told beside the figures."""

    over_asking: list[OverAsk] = field(default_factory=list)
    idle: list[tuple[str, int]] = field(default_factory=list)
    """(workload, cards) whose kernels ran less than one part in twenty, even at busy times."""
    risks: list[str] = field(default_factory=list)


def find(
    tenants: Sequence[Tenant], nodes: Mapping[str, GpuNode], now: Map, scalers: Sequence[Scaler], rules: Rules
) -> Findings:
    """Look at every workload, card and scaler once."""
    by_workload: dict[str, list[Tenant]] = defaultdict(list)
    for tenant in tenants:
        by_workload[tenant.workload].append(tenant)
    found = Findings()
    for workload, pods in sorted(by_workload.items()):
        if (asked := _over_ask(workload, pods, rules)) is not None:
            found.over_asking.append(asked)
        if all(pod.use.busy_high is not None and pod.use.busy_high < _IDLE for pod in pods):
            found.idle.append((workload, sum(pod.request.count for pod in pods)))
    found.over_asking.sort(key=lambda one: (one.wanted_mib - one.asked_mib) * one.pods)
    found.risks = [
        *_shared_without_sizes(tenants, nodes, now),
        *_too_full(tenants, nodes, now),
        *_scaled_by_cpu(by_workload, scalers),
    ]
    return found


def _over_ask(workload: str, pods: Sequence[Tenant], rules: Rules) -> OverAsk | None:
    sizes = [size for pod in pods if (size := sized_mib(pod, rules)) is not None]
    peaks = [pod.use.peak_mib for pod in pods if pod.use.peak_mib]
    if len(sizes) < len(pods) or len(peaks) < len(pods):
        return None
    first, wanted = pods[0], max(sizes)
    asked = first.stated_mib or first.usable_mib // first.slices
    if wanted > _FAR_MORE * asked:
        return None
    return OverAsk(
        workload=workload,
        pods=len(pods),
        asked_mib=asked,
        asks=first.asks,
        peak_mib=max(peaks),
        busy_high=max((pod.use.busy_high for pod in pods if pod.use.busy_high is not None), default=None),
        wanted_mib=wanted,
        patch=_patch(first, wanted),
    )


def _patch(tenant: Tenant, wanted_mib: int) -> dict[str, Any] | None:
    if tenant.workload.split("/")[1] not in ("Deployment", "StatefulSet", "DaemonSet"):
        return None
    resources: dict[str, Any] = {"limits": {names.RESOURCE_VRAM: f"{wanted_mib // 1024}Gi"}}
    if tenant.request.resource in _DEVICES:
        gone = {tenant.request.resource: None}
        resources = {"limits": gone | resources["limits"], "requests": gone}
    containers = [{"name": tenant.container, "resources": resources}]
    return {"spec": {"template": {"spec": {"containers": containers}}}}


def _shared_without_sizes(tenants: Sequence[Tenant], nodes: Mapping[str, GpuNode], now: Map) -> list[str]:
    """Time-sliced cards on which nobody says how much memory he needs."""
    cards, pods = 0, 0
    for (node, at), held in now.cards.items():
        if nodes[node].cards[at].slices > 1 and len(held) > 1:
            silent = [
                index
                for index, _ in held
                if tenants[index].stated_mib is None and tenants[index].request.mode is Mode.SLICE
            ]
            cards += bool(silent)
            pods += len(silent)
    if not cards:
        return []
    return [
        f"{pods} pods share {cards} time-sliced cards and state no memory: nothing keeps one from taking what another needs."
        " State it: headroom.dev/vram beside nvidia.com/gpu"
    ]


def _too_full(tenants: Sequence[Tenant], nodes: Mapping[str, GpuNode], now: Map) -> list[str]:
    """Cards whose pods together once used more than there is, at whatever times."""
    found = []
    for (node, at), held in sorted(now.cards.items()):
        peaks = [peak for index, _ in held if (peak := tenants[index].use.peak_mib)]
        usable = nodes[node].cards[at].usable_mib
        if len(held) > 1 and sum(peaks) > usable:
            found.append(
                f"card {at} of node {node}: its {len(held)} pods used up to {format_mib(sum(peaks))} together,"
                f" and it has {format_mib(usable)}: they run out of memory on a bad day"
            )
    return found


def _scaled_by_cpu(by_workload: Mapping[str, Sequence[Tenant]], scalers: Sequence[Scaler]) -> list[str]:
    found = []
    for scaler in scalers:
        target = scaler.spec.scale_target_ref
        workload = f"{scaler.metadata.namespace or 'default'}/{target.kind}/{target.name}"
        if workload in by_workload and all(
            metric.type in ("Resource", "ContainerResource") for metric in scaler.spec.metrics
        ):
            found.append(
                f"HPA {scaler.metadata.name} scales {workload} on CPU or memory, which say nothing about a GPU: headroom convert"
            )
    return sorted(found)
