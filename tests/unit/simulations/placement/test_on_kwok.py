"""How pods of a list are written for a real control plane, and how their placement is read back."""

from typing import Any

import msgspec

from headroom import wire
from headroom.domain.model import GpuRequest, Mode, Placement
from headroom.domain.request import request_of
from simulations.placement.on_kwok import placement_of, pod_manifest

SHARED = GpuRequest(1, milli=470, cpu_milli=4_000, memory_mib=1024, models=frozenset({"T4", "P100"}))


def read_back(request: GpuRequest) -> GpuRequest | None:
    """What the extender makes of the manifest."""
    return request_of(msgspec.convert(pod_manifest("p", request), wire.Pod))


def test_the_extender_reads_what_the_list_asked() -> None:
    assert read_back(SHARED) == SHARED
    whole = GpuRequest(1, milli=1000, cpu_milli=8_000, memory_mib=1)
    assert read_back(whole) == whole


def test_pods_on_several_cards_keep_their_number() -> None:
    several = GpuRequest(4, milli=1000, cpu_milli=8_000, memory_mib=1)
    assert read_back(several) == several


def test_pods_without_a_gpu_are_not_the_extenders() -> None:
    assert read_back(GpuRequest(0, cpu_milli=4_000, memory_mib=1)) is None


def bound(**annotations: str) -> dict[str, Any]:
    return {"spec": {"nodeName": "000007-node"}, "metadata": {"annotations": annotations}}


def test_placements_are_read_from_the_binding() -> None:
    pod = bound(
        **{
            "headroom.dev/assigned-cards": "000007-node-3,000007-node-0",
            "headroom.dev/assigned-vram-mib": "1000",
            "headroom.dev/assigned-mode": "slice",
        }
    )
    assert placement_of(pod) == Placement("000007-node", (3, 0), (1000, 1000), Mode.SLICE)
    assert placement_of(bound()) == Placement("000007-node", (), ())
