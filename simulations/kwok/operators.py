"""Builds the controllers of LeaderWorkerSet and MPIJob, for the tests of groups, from the Go modules pinned in `tools/operators/`.

`python -m simulations.kwok.operators` compiles them into `$HEADROOM_CACHE/operators/`; see `simulations.kwok.build`. From nothing it took
half an hour on two cores that were busy with much else.
"""

import sys
from pathlib import Path
from typing import Final

from simulations.kwok.build import TOOLS, Programs, main, sources

OPERATORS: Final = Programs(
    name="operators",
    what="the controllers of LeaderWorkerSet 0.7.0 and MPIJob 0.7.0",
    module=TOOLS / "operators",
    binaries=("lws", "mpi-operator"),
    linker_flags="-s -w",
    make="make test-operators",
    renamed={"cmd": "lws"},
)


def definitions() -> list[Path]:
    """Their CustomResourceDefinitions, as they come with the sources. Raises BuildError."""
    return [
        sources(OPERATORS, "sigs.k8s.io/lws")
        / "config"
        / "crd"
        / "bases"
        / "leaderworkerset.x-k8s.io_leaderworkersets.yaml",
        sources(OPERATORS, "github.com/kubeflow/mpi-operator") / "manifests" / "base" / "kubeflow.org_mpijobs.yaml",
    ]


def webhooks() -> Path:
    """The admission webhooks of LeaderWorkerSet, which number the pods. Raises BuildError."""
    return sources(OPERATORS, "sigs.k8s.io/lws") / "config" / "webhook" / "manifests.yaml"


if __name__ == "__main__":
    sys.exit(main(OPERATORS))
