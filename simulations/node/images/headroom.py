"""Builds Headroom's image from deploy/Dockerfile with buildah, and says what is in it.

`python -m simulations.node.images.headroom` builds (or finds) it in `$HEADROOM_CACHE/image`, and prints its size by content.
No registry is needed: a base made of Debian's packages with mmdebstrap takes the place of `python:3.11-slim`; the Dockerfile
takes it as a build argument. Base and dependencies are kept; a change of the code alone takes half a minute.
"""

import hashlib
import json
import os
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from simulations.kwok.build import TOOLS, BuildError, cache_root, checked, exclusive
from simulations.kwok.process import ComponentError
from simulations.node.images.basic import write_image
from simulations.node.programs import program

NAME: Final = "docker.io/library/headroom:0.1.0"
"""As deploy/base names it."""
KUBE_SCHEDULER: Final = "registry.k8s.io/kube-scheduler:v1.36.3"
_CHECKOUT: Final = TOOLS.parent
_SOURCES: Final = ("headroom", "scheduler", "autoscaler", "agent", "simulations")
_FILES: Final = (
    "pyproject.toml",
    "constraints.txt",
    "README.md",
    "LICENSE",
    "deploy/Dockerfile",
    "deploy/image-requirements.py",
)
_BASES: Final = {
    "base-build": ("python3", "python3-venv", "ca-certificates"),
    "base-run": ("python3", "ca-certificates", "libstdc++6"),
}
_LEFT_OUT: Final = ("doc", "man", "locale", "info")  # as Docker's slim images
_DISTRIBUTION: Final = "bookworm"


def folder() -> Path:
    """Where everything about the image is kept."""
    return cache_root() / "image"


def digest() -> str:
    """Of all that goes into the image."""
    hasher = hashlib.sha256()
    trees = [path for tree in _SOURCES for path in (_CHECKOUT / tree).rglob("*") if "__pycache__" not in path.parts]
    for path in sorted([*trees, *(_CHECKOUT / name for name in _FILES)]):
        if path.is_file():
            hasher.update(str(path.relative_to(_CHECKOUT)).encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()[:16]


def build(report: Callable[[str], None] = print) -> Path:
    """The image's archive, built now if it is not there. Raises BuildError, ComponentError."""
    root = folder()
    root.mkdir(parents=True, exist_ok=True)
    archive = root / f"headroom-{digest()}.tar"
    with exclusive(root / "build.lock", report):
        if not archive.exists():
            _build_into(root, archive, report)
    return archive


def _build_into(root: Path, archive: Path, report: Callable[[str], None]) -> None:
    buildah = _Buildah(root)
    for name, packages in _BASES.items():
        if not buildah.has(name):
            _make_base(root, name, packages, report)
            buildah.bud(name, root, "FROM scratch\nADD base.tar /\n")
            (root / "base.tar").unlink()
    began = time.monotonic()
    buildah.bud(
        "headroom",
        _CHECKOUT,
        _CHECKOUT / "deploy" / "Dockerfile",
        "--layers",
        "--build-arg=BASE=localhost/base-build:latest",
        "--build-arg=RUNTIME_BASE=localhost/base-run:latest",
        *_pip_settings(),
    )
    report(f"  {time.monotonic() - began:.0f} s  buildah built the image")
    for old in root.glob("headroom-*.tar"):  # each is as large as the image
        old.unlink()
    part = archive.with_suffix(".part")
    buildah.run("push", "-q", "localhost/headroom:latest", f"docker-archive:{part}:{NAME}")
    part.rename(archive)


def _pip_settings() -> list[str]:
    """The machine's own way to the package index: its certificates, and what pip is told by files and variables."""
    certificates = Path("/etc/ssl/certs")
    mounts = [path for path in (certificates, Path("/etc/pip.conf")) if path.exists()]
    wanted = ("PIP_INDEX_URL", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "SSL_CERT_FILE", "HTTPS_PROXY", "NO_PROXY")
    settings = [f"--env={name}={os.environ[name]}" for name in wanted if name in os.environ]
    return [*(f"--volume={path}:{path}:ro" for path in mounts), *settings]


def _make_base(root: Path, name: str, packages: tuple[str, ...], report: Callable[[str], None]) -> None:
    began = time.monotonic()
    sources = [*Path("/etc/apt/sources.list.d").glob("*.sources"), Path("/etc/apt/sources.list")]
    given = [str(path) for path in sources if path.exists()][:1]
    options = [f"--dpkgopt=path-exclude=/usr/share/{one}/*" for one in _LEFT_OUT]
    command = [
        program("mmdebstrap", "mmdebstrap"),
        "--mode=root",
        "--variant=essential",
        f"--include={','.join(packages)}",
    ]
    checked([*command, *options, _DISTRIBUTION, str(root / "base.tar"), *given])
    report(f"  {time.monotonic() - began:.0f} s  mmdebstrap made {name} of Debian's packages")


class _Buildah:
    """buildah with storage of its own, so that the machine's images are not touched."""

    def __init__(self, root: Path) -> None:
        self._program = program("buildah", "buildah")
        self._policy = root / "policy.json"
        self._policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')  # all images are made here
        self._root = root

    def run(self, command: str, *arguments: str) -> str:
        storage = ["--root", str(self._root / "storage"), "--runroot", str(self._root / "run")]
        policy = [f"--signature-policy={self._policy}"] if command in ("bud", "push") else []
        whole = [self._program, *storage, "--storage-driver=overlay", command, *policy, *arguments]
        return checked(whole, {"BUILDAH_ISOLATION": "chroot"})

    def has(self, name: str) -> bool:
        return bool(self.run("images", "--filter", f"reference=localhost/{name}:latest", "-q", "--all").strip())

    def bud(self, name: str, context: Path, dockerfile: Path | str, *options: str) -> None:
        if isinstance(dockerfile, str):
            written = context / f"{name}.Dockerfile"
            written.write_text(dockerfile)
            dockerfile = written
        self.run(
            "bud",
            "-q",
            "--pull-never",
            f"--tag=localhost/{name}:latest",
            f"--file={dockerfile}",
            *options,
            str(context),
        )


def write_kube_scheduler(archive: Path, kube_scheduler: Path) -> None:
    """The image that deploy/base runs beside the extender, of the binary that was built here."""
    path = "usr/local/bin/kube-scheduler"
    write_image(archive, KUBE_SCHEDULER, {path: kube_scheduler}, links={}, command=[f"/{path}"])


def contents(archive: Path) -> Counter[str]:
    """Bytes of the image's files by what they are for: the base, each package, our own code, byte code counted with each."""
    sizes: Counter[str] = Counter()
    with tarfile.open(archive) as whole:
        manifest = json.load(whole.extractfile("manifest.json") or sys.stdin)
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=whole.extractfile(layer)) as files:
                for entry in files:
                    if entry.isfile():
                        sizes[_purpose(entry.name)] += entry.size
    return sizes


def _purpose(path: str) -> str:
    """`numpy` and `numpy.libs` are numpy; what is not below /opt/headroom is the base."""
    if "site-packages/" not in path:
        return "virtual environment" if path.startswith("opt/headroom") else "base: Debian and Python"
    name = path.partition("site-packages/")[2].partition("/")[0]
    if name in _SOURCES:
        return "Headroom"
    return name.partition("-")[0].removesuffix(".libs").lstrip("_")


def main() -> int:
    """Build, and print what is in the image."""
    try:
        archive = build(lambda text: print(text, flush=True))
    except (BuildError, ComponentError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    sizes = contents(archive)
    for name, size in sizes.most_common():
        if size >= 2**20:
            print(f"{size / 2**20:7.1f} MiB  {name}")
    small = sum(size for size in sizes.values() if size < 2**20)
    print(f"{small / 2**20:7.1f} MiB  {sum(size < 2**20 for size in sizes.values())} smaller things")
    print(f"{sum(sizes.values()) / 2**20:7.1f} MiB  in all, in {archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
