"""Builds the stub library with the system's C compiler and speaks to it."""

import ctypes
import os
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("stub_nvml.c")
SONAME = "libnvidia-ml.so.1"


def build(folder: Path) -> Path:
    """Compile into `folder`; returns the library's path."""
    library = folder / SONAME
    if not library.exists():
        command = [
            "-shared",
            "-fPIC",
            "-O1",
            "-Wall",
            "-Werror",
            f"-Wl,-soname,{SONAME}",
            "-o",
            str(library),
            str(SOURCE),
        ]
        subprocess.run([os.environ.get("CC", "cc"), *command], check=True)
    return library


class Stub:
    """The library loaded into this process: `pynvml` finds it by its soname, as it would find the driver's."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)

    def __call__(self, *lines: str) -> None:
        """Apply lines of the script language described in the C file."""
        for line in lines:
            if self._library.stub_apply(line.encode()) != 0:
                raise ValueError(f"stub does not understand {line!r}")
