"""Headroom's own words, and those of the device plugins."""

from typing import Final

from headroom import names
from headroom.domain.dialects.words import Count, Family, Size, Unit

DEVICE_PLUGINS: Final = Family(
    "Device plugins",
    examples=(
        "{nvidia.com/gpu: 1}",
        "{nvidia.com/gpu: 4}",
        "{nvidia.com/gpu.shared: 1}",
        "{amd.com/gpu: 8}",
        "{google.com/tpu: 4}",
        "{habana.ai/gaudi: 1}",
    ),
)

HEADROOM: Final = Family(
    "Headroom",
    sizes=(Size(names.RESOURCE_VRAM, Unit.BYTES), Size(names.RESOURCE_GPU_MILLI, Unit.MILLI)),
    counts=(Count(names.RESOURCE_GPU),),
    examples=(
        "{headroom.dev/vram: 20Gi}",
        "{headroom.dev/vram: 8e10}",
        "{nvidia.com/gpu: 1, headroom.dev/vram: 8Gi}",
        "{nvidia.com/gpu: 2, headroom.dev/vram: 40Gi}",
        "{headroom.dev/gpu-milli: 476}",
        "{nvidia.com/gpu: 1, headroom.dev/gpu-milli: 250}",
        "{headroom.dev/gpu: 2}",
        "{headroom.dev/gpu: 2, headroom.dev/vram: 40Gi}",
    ),
)
