"""Builds helm, versions 3 and 4, for the tests of the chart from the Go modules pinned in `tools/helm/`.

`python -m simulations.kwok.helm` compiles both into `$HEADROOM_CACHE/helm/`; see `simulations.kwok.build`. Modules of their own,
because the two want different versions of the same modules. From nothing: 3 minutes on two cores.
"""

import sys
from typing import Final

from simulations.kwok.build import TOOLS, Programs, main


def _helm(version: str) -> Programs:
    major = f"v{version[0]}"
    return Programs(
        name=f"helm/{major}",
        what=f"helm {version}",
        module=TOOLS / "helm" / major,
        binaries=("helm",),
        linker_flags=f"-s -w -X helm.sh/helm/{major}/internal/version.version=v{version}",
        make="make helm",
    )


HELM_3: Final = _helm("3.22.0")
HELM_4: Final = _helm("4.3.1")

if __name__ == "__main__":
    sys.exit(main(HELM_3) or main(HELM_4))
