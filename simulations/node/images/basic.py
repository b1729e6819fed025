"""Small container images as archives that `ctr images import` takes, made without a registry or a builder.

The format is Docker's image archive: https://github.com/moby/docker-image-spec. Each image is one layer.
"""

import hashlib
import io
import json
import platform
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from simulations.kwok.process import ComponentError
from simulations.node.programs import PAUSE

BUSYBOX: Final = "localhost/busybox:1"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(
    archive: Path, name: str, files: Mapping[str, Path], *, links: Mapping[str, str], command: Sequence[str]
) -> None:
    """An image with these files (path in the image -> file here, mode 0755) and symbolic links, and what it runs."""
    layer = _layer(files, links)
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/usr/local/bin:/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, "w") as whole:
        _add(whole, "layer.tar", layer)
        _add(whole, "config.json", json.dumps(config).encode())
        _add(whole, "manifest.json", json.dumps(manifest).encode())


def _layer(files: Mapping[str, Path], links: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for path, source in files.items():
            _add(layer, path, source.read_bytes(), mode=0o755)
        for path, target in links.items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname = tarfile.SYMTYPE, target
            layer.addfile(link)
        scratch = tarfile.TarInfo("tmp")
        scratch.type, scratch.mode = tarfile.DIRTYPE, 0o1777
        layer.addfile(scratch)
    return buffer.getvalue()


def _add(archive: tarfile.TarFile, path: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def write_basic_images(folder: Path) -> list[Path]:
    """Pause (what holds a pod's namespaces) and busybox. Raises ComponentError when there is no static busybox here."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise ComponentError("no `busybox` on the PATH: run tools/install-prerequisites.sh (Debian: busybox-static)")
    program = {"bin/busybox": Path(busybox)}
    names = ("sh", "env", "sleep", "httpd", "cat", "echo", "mkdir", "wget", "true", "false", "id", "ls", "grep", "nc")
    links = {f"bin/{name}": "busybox" for name in names}
    images = {PAUSE: ["/bin/sleep", "2147483647"], BUSYBOX: ["/bin/sh"]}
    written = []
    for name, command in images.items():
        archive = folder / f"{name.partition('/')[2].partition(':')[0]}.tar"
        write_image(archive, name, program, links=links, command=command)
        written.append(archive)
    return written
