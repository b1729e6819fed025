"""Builds Karpenter with its provider of KWOK nodes, for the tests of node autoscaling, from the Go module pinned in `tools/karpenter/`.

`python -m simulations.kwok.karpenter` compiles it into `$HEADROOM_CACHE/karpenter/`; see `simulations.kwok.build`. From nothing: 4 minutes
of two cores.
"""

import sys
from pathlib import Path
from typing import Final

from simulations.kwok.build import TOOLS, Programs, main, sources

KARPENTER: Final = Programs(
    name="karpenter",
    what="Karpenter 1.13.0 with KWOK nodes",
    module=TOOLS / "karpenter",
    binaries=("karpenter",),
    linker_flags="-s -w",
    make="make test-karpenter",
    renamed={"kwok": "karpenter"},
)


def definitions() -> list[Path]:
    """Its CustomResourceDefinitions, as they come with the sources. Raises BuildError."""
    source = sources(KARPENTER, "sigs.k8s.io/karpenter")
    return sorted([*source.glob("pkg/apis/crds/*.yaml"), *source.glob("kwok/apis/crds/*.yaml")])


if __name__ == "__main__":
    sys.exit(main(KARPENTER))
