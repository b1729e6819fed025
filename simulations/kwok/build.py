"""Builds the programs of tests and demos from the Go modules pinned in `tools/`.

`python -m simulations.kwok.build` compiles the control plane (kube-apiserver, kube-controller-manager, kube-scheduler,
kubectl, etcd, kwok, kwokctl) and kubelet and kube-proxy of a real node into
`$HEADROOM_CACHE/control-plane/<hash of tools/go.sum>` (default `~/.cache/headroom`), prints what it is compiling while it
does, and prints that folder at the end. Outside the checkout, so that a clean clone reuses it; keyed by the hash, so that a
changed pin is a new folder and never a mixture. From nothing: 8 minutes on two cores; when the folder is there: no time at
all. `simulations.node.build` builds containerd in the same way.

`HEADROOM_KUBERNETES=1.37` makes it another version of Kubernetes, for which `tools/kubernetes/` has the pins (written by
`tools/kubernetes/pin.py`), here and for whoever starts a cluster. etcd and kwok stay those of the usual build, and a real node's
programs are not built.
"""

import fcntl
import hashlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headroom.errors import HeadroomError

TOOLS: Final = Path(__file__).resolve().parents[2] / "tools"
_KUBERNETES: Final = "v1.36.3"
_OTHER_KUBERNETES: Final = {"1.34": "v1.34.4", "1.37": "v1.37.2"}
"""Those that can be built besides, by what `HEADROOM_KUBERNETES` names."""
_VERSION_VARIABLE: Final = "HEADROOM_KUBERNETES"
_PROGRESS_SECONDS: Final = 5.0
_FAILURE_LINES: Final = 30


@dataclass(frozen=True)
class Programs:
    """What the `tool` lines of one Go module build."""

    name: str
    """Folder of the cache."""
    what: str
    """In words, for messages."""
    module: Path
    """Folder of go.mod and go.sum."""
    binaries: tuple[str, ...]
    linker_flags: str
    make: str
    """The make target that builds them."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Go names a binary after the last element of its package: what that gives -> the name that it should have."""
    borrowed: tuple[str, ...] = ()
    """Those that are taken from the usual control plane."""


def _version_flags(kubernetes: str) -> str:
    major, minor, _ = kubernetes.removeprefix("v").split(".")
    values = {"gitVersion": kubernetes, "gitMajor": major, "gitMinor": minor}
    return "-s -w" + "".join(f" -X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


CONTROL_PLANE: Final = Programs(
    name="control-plane",
    what=f"the control plane (Kubernetes {_KUBERNETES}, etcd 3.6, kwok v0.8.0)",
    module=TOOLS,
    binaries=(
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "kubectl",
        "etcd",
        "kwok",
        "kwokctl",
        "kubelet",
        "kube-proxy",
    ),
    linker_flags=f"{_version_flags(_KUBERNETES)} -X sigs.k8s.io/kwok/pkg/consts.Version=v0.8.0",
    make="make control-plane",
    renamed={"server": "etcd"},
)


def control_plane() -> Programs:
    """The usual control plane, or the one of the Kubernetes that `HEADROOM_KUBERNETES` names. Raises BuildError."""
    named = os.environ.get(_VERSION_VARIABLE, "")
    if not named or _KUBERNETES.startswith(f"v{named}."):
        return CONTROL_PLANE
    kubernetes = _OTHER_KUBERNETES.get(named)
    if kubernetes is None:
        known = ", ".join(sorted([*_OTHER_KUBERNETES, _KUBERNETES[1:].rpartition(".")[0]]))
        raise BuildError(f"{_VERSION_VARIABLE}: {named!r}: the versions that can be built are {known}")
    return Programs(
        name="control-plane",
        what=f"the control plane (Kubernetes {kubernetes})",
        module=TOOLS / "kubernetes" / f"v{named}",
        binaries=("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"),
        linker_flags=_version_flags(kubernetes),
        make=f"make control-plane {_VERSION_VARIABLE}={named}",
        borrowed=("etcd", "kwok", "kwokctl"),
    )


class BuildError(HeadroomError):
    """The programs cannot be built or found here; the text says what to do about it."""


def cache_root() -> Path:
    """`$HEADROOM_CACHE`, else `~/.cache/headroom`."""
    configured = os.environ.get("HEADROOM_CACHE")
    return Path(configured) if configured else Path.home() / ".cache" / "headroom"


def binaries_folder(programs: Programs | None = None) -> Path:
    """Where the binaries of the present pins belong, built or not. Raises BuildError outside a checkout."""
    programs = programs or control_plane()
    pins = programs.module / "go.sum"
    try:
        digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    except OSError as error:
        raise BuildError(f"{pins}: {error.strerror}: {programs.what} is built from a checkout of Headroom") from error
    return cache_root() / programs.name / digest[:16]


def is_built(folder: Path, programs: Programs | None = None) -> bool:
    """Whether every binary is there."""
    programs = programs or control_plane()
    return all(os.access(folder / name, os.X_OK) for name in (*programs.binaries, *programs.borrowed))


def find_binaries(programs: Programs | None = None) -> Path:
    """The folder of built binaries. Raises BuildError when they have not been built."""
    programs = programs or control_plane()
    folder = binaries_folder(programs)
    if not is_built(folder, programs):
        raise BuildError(f"{programs.what} is not in {folder}: run `{programs.make}` first")
    return folder


def sources(programs: Programs, module: str) -> Path:
    """The folder of a Go module's sources, in the version that the programs are built from. Raises BuildError."""
    go = shutil.which("go")
    if go is None:
        raise BuildError(f"what comes with the sources of {module} is wanted, and there is no `go` on the PATH")
    return Path(checked([go, "-C", str(programs.module), "list", "-m", "-f", "{{.Dir}}", module]).strip())


def build(report: Callable[[str], None] = print, programs: Programs | None = None) -> Path:
    """The folder of binaries, built now if it is not there. `report` gets a line every few seconds. Raises BuildError."""
    programs = programs or control_plane()
    folder = binaries_folder(programs)
    if is_built(folder, programs):
        return folder
    go = shutil.which("go")
    if go is None:
        raise BuildError(
            f"{programs.what} is built with Go, and there is no `go` on the PATH: install Go 1.26 or newer "
            f"(https://go.dev/dl), or put released binaries ({', '.join(programs.binaries)}) into {folder}. "
            "`make demo` and `make test-unit` need neither."
        )
    if programs.borrowed:
        build(report, CONTROL_PLANE)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent / "build.lock", report):
        if not is_built(folder, programs):  # another builder may have finished while this one waited
            _build_into(go, folder, programs, report)
    return folder


@contextmanager
def exclusive(path: Path, report: Callable[[str], None]) -> Iterator[None]:
    """One build at a time: hold the lock file `path`, which may mean to wait for another builder."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another build is running; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_into(go: str, folder: Path, programs: Programs, report: Callable[[str], None]) -> None:
    """Compile next to `folder` and rename, so that the folder is whole or absent."""
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as temporary:
        target = Path(temporary) / "bin"
        target.mkdir()
        command = [go, "build", "-v", "-trimpath", "-ldflags", programs.linker_flags, "-o", f"{target}/", "tool"]
        report(f"building {programs.what} into {folder}; several minutes from nothing")
        _run_with_progress(command, target, programs, report)
        for built, wanted in programs.renamed.items():
            (target / built).rename(target / wanted)
        missing = [name for name in programs.binaries if not os.access(target / name, os.X_OK)]
        if missing:
            raise BuildError(f"go build ended well but made no {', '.join(missing)}")
        for name in programs.borrowed:
            shutil.copy2(binaries_folder(CONTROL_PLANE) / name, target / name)
        if folder.exists():
            shutil.rmtree(folder)
        target.rename(folder)


def checked(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a program of a build prints; `environment` is added to ours. Raises BuildError with its last words."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | dict(environment or {})
    )
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-_FAILURE_LINES:])
        raise BuildError(f"`{' '.join(command[:3])} ...` ended with status {done.returncode}:\n{tail}")
    return done.stdout


def _run_with_progress(command: list[str], target: Path, programs: Programs, report: Callable[[str], None]) -> None:
    environment = os.environ | {"CGO_ENABLED": "0"}
    process = subprocess.Popen(command, cwd=programs.module, env=environment, stderr=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def pump() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            lines.put(line.rstrip())
        lines.put(None)

    threading.Thread(target=pump, daemon=True).start()
    try:
        tail = _show(lines, target, len(programs.binaries), report)
    finally:
        if process.poll() is None and sys.exc_info()[0] is not None:
            process.terminate()
        status = process.wait()
    if status != 0:
        raise BuildError(f"`{' '.join(command[:2])}` ended with status {status}:\n" + "\n".join(tail))


def _show(
    lines: "queue.SimpleQueue[str | None]", target: Path, wanted: int, report: Callable[[str], None]
) -> list[str]:
    """Report progress until the compiler closes its output; its last lines."""
    start = time.monotonic()
    next_report = start + _PROGRESS_SECONDS
    downloaded = compiled = 0
    tail: list[str] = []
    while True:
        try:
            line = lines.get(timeout=max(next_report - time.monotonic(), 0.01))
        except queue.Empty:
            line = ""
        if line is None:
            return tail
        if line:
            downloaded += line.startswith("go: downloading")
            compiled += not line.startswith("go: ")
            tail = [*tail[1 - _FAILURE_LINES :], line]
        if time.monotonic() >= next_report:
            elapsed, linked = time.monotonic() - start, len(list(target.iterdir()))
            counts = f"{downloaded} modules fetched, {compiled} packages compiled, {linked} of {wanted} programs linked"
            report(f"  {elapsed:4.0f} s  {counts}{'; now ' + tail[-1] if tail else ''}")
            next_report = time.monotonic() + _PROGRESS_SECONDS


def main(programs: Programs | None = None) -> int:
    """Build, and print the folder."""
    try:
        folder = build(lambda text: print(text, flush=True), programs)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
