"""Builds containerd for a real node from the Go module pinned in `tools/node/`.

`python -m simulations.node.build` compiles containerd, its `ctr` and its shim into `$HEADROOM_CACHE/node/<hash of
tools/node/go.sum>`; see `simulations.kwok.build`, which builds kubelet and kube-proxy beside the control plane. A module of
its own because containerd and Kubernetes want different versions of the same modules. From nothing: 2 minutes on two cores.
"""

import sys
from typing import Final

from simulations.kwok.build import TOOLS, Programs, main

_CONTAINERD: Final = "v2.2.9"
NODE: Final = Programs(
    name="node",
    what=f"containerd {_CONTAINERD}",
    module=TOOLS / "node",
    binaries=("containerd", "ctr", "containerd-shim-runc-v2"),
    linker_flags=f"-s -w -X github.com/containerd/containerd/v2/version.Version={_CONTAINERD}",
    make="make node-programs",
)

if __name__ == "__main__":
    sys.exit(main(NODE))
