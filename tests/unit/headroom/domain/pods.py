"""Pods as the API server shows them."""

from typing import Any

from headroom import wire
from headroom.domain.model import GpuRequest, Mode

VRAM = "headroom.dev/vram"
MILLI = "headroom.dev/gpu-milli"
CARDS = "headroom.dev/gpu"
GPU = "nvidia.com/gpu"
GPUMEM = "nvidia.com/gpumem"
ALIYUN = "aliyun.com/gpu-mem"
CORES = "nvidia.com/gpucores"


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = (), **spec: Any) -> wire.Pod:
    """A pod whose containers have these limits."""
    return wire.Pod(
        metadata=wire.Meta(name="web", namespace="team-a", uid="u1"),
        spec=wire.PodSpec(
            containers=tuple(container(f"c{at}", limits) for at, limits in enumerate(containers)),
            init_containers=tuple(container(f"i{at}", limits) for at, limits in enumerate(init)),
            **spec,
        ),
    )


def container(name: str, limits: dict[str, Any]) -> wire.Container:
    always = limits.pop("sidecar", False)
    return wire.Container(name=name, resources=wire.Resources(limits=limits), restart_policy="Always" if always else "")


def slices(count: int, resource: str = GPU, **size: Any) -> GpuRequest:
    return GpuRequest(count=count, mode=Mode.SLICE, resource=resource, **size)


def pinned(count: int = 1, **size: Any) -> GpuRequest:
    return GpuRequest(count=count, mode=Mode.PINNED, **size)
