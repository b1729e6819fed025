"""Writes the pins of another version of Kubernetes: `python tools/kubernetes/pin.py v1.37.2` makes `tools/kubernetes/v1.37/`.

The folder's name is what `HEADROOM_KUBERNETES` names; `_OTHER_KUBERNETES` of `simulations/kwok/build.py` lists it. Needs Go.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")


def main(version: str) -> None:
    """Write go.mod and go.sum."""
    _, minor, patch = version.split(".")
    folder = Path(__file__).parent / f"v1.{minor}"
    folder.mkdir(exist_ok=True)
    downloaded = subprocess.run(
        ["go", "mod", "download", "-json", f"k8s.io/kubernetes@{version}"], check=True, capture_output=True, text=True
    )
    published = Path(json.loads(downloaded.stdout)["GoMod"]).read_text()
    language = re.search(r"^go (.*)$", published, re.MULTILINE)
    assert language is not None
    # Kubernetes' own go.mod takes these from a folder beside it; published, each is a module of its own.
    parts = re.findall(r"^\t?(?:replace )?(k8s\.io/[\w-]+) => \./staging", published, re.MULTILINE)
    lines = [
        "module headroom.dev/tools/kubernetes", "", f"go {language[1]}", "", f"require k8s.io/kubernetes {version}", "",
        "tool (", *(f"\tk8s.io/kubernetes/cmd/{name}" for name in PROGRAMS), ")", "",
        "replace (", *(f"\t{part} => {part} v0.{minor}.{patch}" for part in parts), ")",
    ]  # fmt: skip
    (folder / "go.mod").write_text("\n".join(lines) + "\n")
    (folder / "go.sum").unlink(missing_ok=True)
    subprocess.run(["go", "list", "-mod=mod", "-deps", "tool"], check=True, cwd=folder, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main(*sys.argv[1:])
