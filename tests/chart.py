"""The chart in deploy/chart, and the helm that reads it."""

import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from simulations.kwok.build import Programs, find_binaries
from tests.paths import DEPLOY

CHART: Final = DEPLOY / "chart"


class Helm:
    """One version of helm, with folders of its own."""

    def __init__(
        self,
        programs: Programs,
        folder: Path,
        *,
        prefix: Sequence[str] = (),
        flags: Sequence[str] = (),
        trouble: Callable[[], str] = str,
    ) -> None:
        """`prefix` is what to run it under, `flags` are for every command, `trouble` says more when one fails."""
        self.path = find_binaries(programs) / "helm"
        self._prefix, self._flags, self._trouble = prefix, flags, trouble
        self._environment = os.environ | {
            f"HELM_{name}_HOME": str(folder / name.lower()) for name in ("CACHE", "CONFIG", "DATA")
        }

    def __call__(self, *arguments: str) -> str:
        """What it prints. Raises AssertionError with its words when it fails."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr + self._trouble()
        return done.stdout

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The same, whatever comes of it."""
        command = [*self._prefix, str(self.path), *arguments, *self._flags]
        return subprocess.run(command, check=False, capture_output=True, text=True, env=self._environment)
