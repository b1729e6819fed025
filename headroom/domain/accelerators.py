"""The kinds of accelerator Headroom knows: one table row each, from the resource pods ask for to what node labels say.

A new kind enters by a row in `ACCELERATORS`. Only NVIDIA cards can be shared by memory; the others go out whole, for which
neither model nor memory need be known.
"""

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from headroom import names

GIB: Final = 1024  # MiB


@dataclass(frozen=True)
class Accelerator:
    """How one vendor's device plugin and node labels spell what a node has."""

    vendor: str
    resources: tuple[str, ...]
    """Names under which the device plugin advertises devices."""
    product_labels: tuple[str, ...]
    """Node labels that hold the card model, the first present one counts."""
    memory_labels: tuple[str, ...] = ()
    """Node labels that hold memory per card: a bare number is MiB, else a quantity (`192G` is read as the vendor's GiB)."""
    shareable: bool = False
    """Whether several pods may hold one card by memory."""
    ids: tuple[str, ...] = ()
    """How the driver's own ids of such devices begin."""
    known_vram_mib: MappingProxyType[str, int] = field(kw_only=True)
    """Memory by card model, for nodes whose labels leave it out. Cautious: at or under what the driver leaves to
    programs, so that a guess never promises memory that is not there."""


NVIDIA: Final = Accelerator(
    vendor="NVIDIA",
    resources=(names.RESOURCE_NVIDIA_GPU, names.RESOURCE_NVIDIA_GPU_SHARED),
    product_labels=(names.LABEL_GPU_PRODUCT,),
    memory_labels=(names.LABEL_GPU_MEMORY,),
    shareable=True,
    ids=("GPU-", "MIG-"),
    # By the product name that GPU feature discovery makes of the driver's.
    known_vram_mib=MappingProxyType(
        {
            "Tesla-T4": 14909,
            "Tesla-P100-PCIE-16GB": 16280,
            "Tesla-V100-SXM2-16GB": 16140,
            "Tesla-V100-PCIE-16GB": 16140,
            "Tesla-V100-SXM2-32GB": 32480,
            "NVIDIA-A10": 22500,
            "NVIDIA-A10G": 22500,
            "NVIDIA-A30": 24062,
            "NVIDIA-A40": 45440,
            "NVIDIA-A100-SXM4-40GB": 40326,
            "NVIDIA-A100-PCIE-40GB": 40326,
            "NVIDIA-A100-SXM4-80GB": 81037,
            "NVIDIA-A100-80GB-PCIe": 81037,
            "NVIDIA-L4": 22491,
            "NVIDIA-L40": 45440,
            "NVIDIA-L40S": 45440,
            "NVIDIA-RTX-A6000": 45440,
            "NVIDIA-RTX-6000-Ada-Generation": 45440,
            "NVIDIA-GeForce-RTX-3090": 24062,
            "NVIDIA-GeForce-RTX-4090": 24062,
            "NVIDIA-H100-PCIe": 80990,
            "NVIDIA-H100-80GB-HBM3": 80990,
            "NVIDIA-H100-NVL": 95320,
            "NVIDIA-H200": 143156,
            "NVIDIA-B200": 182642,
        }
    ),
)

AMD: Final = Accelerator(
    vendor="AMD",
    resources=(names.RESOURCE_AMD_GPU,),
    product_labels=("amd.com/gpu.product-name", "beta.amd.com/gpu.product-name"),
    memory_labels=("amd.com/gpu.vram", "beta.amd.com/gpu.vram"),
    known_vram_mib=MappingProxyType(
        {
            "AMD_Instinct_MI210": 64 * GIB,
            "AMD_Instinct_MI250X": 64 * GIB,  # each of its two dies is a device of its own
            "AMD_Instinct_MI300X": 192 * GIB,
            "AMD_Instinct_MI325X": 256 * GIB,
            "AMD_Instinct_MI350X": 288 * GIB,
            "AMD_Instinct_MI355X": 288 * GIB,
        }
    ),
)

GOOGLE_TPU: Final = Accelerator(
    vendor="Google",
    resources=(names.RESOURCE_GOOGLE_TPU,),
    product_labels=("cloud.google.com/gke-tpu-accelerator",),
    known_vram_mib=MappingProxyType(
        {
            "tpu-v4-podslice": 32 * GIB,
            "tpu-v5-lite-podslice": 16 * GIB,
            "tpu-v5-lite-device": 16 * GIB,
            "tpu-v5p-slice": 95 * GIB,
            "tpu-v6e-slice": 32 * GIB,
            "tpu7x": 192 * GIB,
        }
    ),
)

INTEL_GAUDI: Final = Accelerator(
    vendor="Intel",
    resources=(names.RESOURCE_INTEL_GAUDI,),
    # Gaudi's feature discovery names no model: whoever runs the nodes labels them.
    product_labels=(names.LABEL_CARD_MODEL,),
    known_vram_mib=MappingProxyType({"Gaudi": 32 * GIB, "Gaudi2": 96 * GIB, "Gaudi3": 128 * GIB}),
)

GKE_MODELS: Final = MappingProxyType(
    {
        "nvidia-tesla-t4": "Tesla-T4",
        "nvidia-tesla-p100": "Tesla-P100-PCIE-16GB",
        "nvidia-tesla-v100": "Tesla-V100-SXM2-16GB",
        "nvidia-tesla-a100": "NVIDIA-A100-SXM4-40GB",
        "nvidia-a100-80gb": "NVIDIA-A100-SXM4-80GB",
        "nvidia-l4": "NVIDIA-L4",
        "nvidia-h100-80gb": "NVIDIA-H100-80GB-HBM3",
        "nvidia-h100-mega-80gb": "NVIDIA-H100-80GB-HBM3",
        "nvidia-h200-141gb": "NVIDIA-H200",
        "nvidia-b200": "NVIDIA-B200",
    }
)
"""What GKE's label `cloud.google.com/gke-accelerator` calls the models of the NVIDIA table."""

ACCELERATORS: Final = (NVIDIA, AMD, GOOGLE_TPU, INTEL_GAUDI)
BY_RESOURCE: Final = MappingProxyType({resource: kind for kind in ACCELERATORS for resource in kind.resources})
