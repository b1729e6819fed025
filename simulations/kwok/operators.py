"""Builds the controllers of LeaderWorkerSet and MPIJob, for the tests of groups, from the Go modules pinned in `tools/operators/`.

`python -m simulations.kwok.operators` compiles them into `$HEADROOM_CACHE/operators/`; see `simulations.kwok.build`. From nothing it took
half an hour on two cores that were busy with much else.
"""

import shutil
import sys
from pathlib import Path
from typing import Final

from simulations.kwok.build import TOOLS, BuildError, Programs, checked, main

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
        _sources("sigs.k8s.io/lws") / "config" / "crd" / "bases" / "leaderworkerset.x-k8s.io_leaderworkersets.yaml",
        _sources("github.com/kubeflow/mpi-operator") / "manifests" / "base" / "kubeflow.org_mpijobs.yaml",
    ]


def webhooks() -> Path:
    """The admission webhooks of LeaderWorkerSet, which number the pods. Raises BuildError."""
    return _sources("sigs.k8s.io/lws") / "config" / "webhook" / "manifests.yaml"


def _sources(module: str) -> Path:
    go = shutil.which("go")
    if go is None:
        raise BuildError(f"the definitions come with the sources of {module}, and there is no `go` on the PATH")
    return Path(checked([go, "-C", str(OPERATORS.module), "list", "-m", "-f", "{{.Dir}}", module]).strip())


if __name__ == "__main__":
    sys.exit(main(OPERATORS))
