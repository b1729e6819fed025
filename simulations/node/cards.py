"""The node's cards: the stub of NVML, whose answers a script decides. See tests/stub_nvml/stub_nvml.c."""

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from simulations.kwok.process import ComponentError

_SOURCE: Final = Path(__file__).resolve().parents[2] / "tests" / "stub_nvml" / "stub_nvml.c"
_LIBRARY: Final = "libnvidia-ml.so.1"


class StubCards:
    """A folder with the library and its script, as a driver's would be mounted into containers."""

    def __init__(self, folder: Path, count: int) -> None:
        """Compile the stub into a new `folder`. Raises ComponentError without a C compiler."""
        folder.mkdir()
        self.folder = folder
        self.uuids = tuple(f"GPU-00000000-0000-0000-0000-{at:012d}" for at in range(count))
        compiler = os.environ.get("CC", "cc")
        command = [compiler, "-shared", "-fPIC", "-O1", f"-Wl,-soname,{_LIBRARY}", "-o", str(folder / _LIBRARY)]
        try:
            subprocess.run([*command, str(_SOURCE)], check=True, capture_output=True, text=True)
        except FileNotFoundError as error:
            raise ComponentError(f"no C compiler `{compiler}` here: the stub of NVML needs one") from error
        except subprocess.CalledProcessError as error:
            raise ComponentError(f"the stub of NVML cannot be compiled:\n{error.stderr}") from error
        self.say()

    @property
    def library_folder(self) -> str:
        """Where a container of Debian's kind looks for libraries."""
        return f"/usr/lib/{platform.machine()}-linux-gnu"

    def say(self, *lines: str) -> None:
        """What the driver answers from now on, in the script's language; the cards as they come without `lines`."""
        script = self.folder / "script"
        text = "\n".join(("reset", f"cards {len(self.uuids)}", *lines)) + "\n"
        script.with_suffix(".part").write_text(text)
        script.with_suffix(".part").rename(script)

    def environment(self) -> dict[str, str]:
        """For a daemon that runs as a process of the node instead of in a container."""
        return {"LD_LIBRARY_PATH": str(self.folder), "STUB_NVML_SCRIPT": str(self.folder / "script")}

    def say_processes(self, processes: Sequence[tuple[int, int, int, int]]) -> None:
        """Compute processes as (card, process id inside the node, bytes, percent of the multiprocessors)."""
        lines = [f"card {card} process {pid} {size} {busy}" for card, pid, size, busy in processes]
        used = {card: sum(size for at, _, size, _ in processes if at == card) for card in {one[0] for one in processes}}
        lines += [f"card {card} used {size}" for card, size in used.items()]
        self.say(*lines)
