"""Builds helm, versions 3 and 4, for the tests of the chart from the Go modules pinned in `tools/helm/`.

`python -m simulations.kwok.helm` compiles both into `$HEADROOM_CACHE/helm/`; see `simulations.kwok.build`. Modules of their own,
because the two want different versions of the same modules. From nothing: 3 minutes on two cores.
"""

import sys
from typing import Final

from simulations.kwok.build import TOOLS, Programs, main

HELM_3: Final = Programs(
    name="helm/v3",
    what="helm 3.22",
    module=TOOLS / "helm" / "v3",
    binaries=("helm",),
    linker_flags="-s -w -X helm.sh/helm/v3/internal/version.version=v3.22.0",
    make="make helm",
)
HELM_4: Final = Programs(
    name="helm/v4",
    what="helm 4.3",
    module=TOOLS / "helm" / "v4",
    binaries=("helm",),
    linker_flags="-s -w -X helm.sh/helm/v4/internal/version.version=v4.3.1",
    make="make helm",
)

if __name__ == "__main__":
    sys.exit(main(HELM_3) or main(HELM_4))
