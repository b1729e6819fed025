"""How a card's product is spelt: by the driver, by GPU feature discovery, by Headroom. Pure.

Two spellings of one card would keep pods away from it, so there is one: that of the label `nvidia.com/gpu.product`.
"""

import re
from typing import Final

_NOT_IN_A_LABEL: Final = re.compile(r"[^A-Za-z0-9\-_. ]")
_LONGEST_LABEL: Final = 63
_SHARED_SUFFIX: Final = "-SHARED"
_DISPLAYS: Final = ("DGX-Display", "NVIDIA-DGX-Display")
_MIG: Final = "-MIG-"


def label_value(product: str) -> str:
    """A product name as GPU feature discovery writes it into `nvidia.com/gpu.product`.

    Characters that a label value cannot have are left out and blanks become dashes (k8s-device-plugin, internal/lm/resource.go).
    The name is cut where a label value ends: Kubernetes refuses longer ones.
    """
    return "-".join(_NOT_IN_A_LABEL.sub("", product).split())[:_LONGEST_LABEL].rstrip("-_.")


def plain_model(product: str) -> str:
    """The card model in a product name or label, without the `-SHARED` that feature discovery appends where cards are shared."""
    return label_value(product.strip().removesuffix(_SHARED_SUFFIX))


def is_display(model: str) -> bool:
    """Whether the card only drives a screen: NVIDIA's device plugin leaves it out (go-nvlib, skipped devices)."""
    return model in _DISPLAYS


def is_mig(model: str) -> bool:
    """Whether the model is that of a MIG instance."""
    return _MIG in model
