"""Makes deploy/base from the chart in deploy/chart: `make base`. `--check` writes nothing and fails where the two differ.

Each template becomes the file of the same name, as `helm template` renders it with the values below; comments come along. Settings
files are copied: kustomize makes ConfigMaps of them, whose names change with their content, so that a changed setting restarts
the daemons. `kustomization.yaml` is written by hand.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
CHART: Final = ROOT / "deploy" / "chart"
BASE: Final = ROOT / "deploy" / "base"
NAMESPACE: Final = "headroom-system"
KUBE_SCHEDULER: Final = "v1.36.3"
"""The tag that deploy/base names. A chart takes that of the cluster."""

_VALUES: Final = (
    "kustomize=true",
    "namespace.create=true",
    "admission=policy",
    f"scheduler.kubeScheduler.tag={KUBE_SCHEDULER}",
)
_SOURCE: Final = re.compile(r"^---\n# Source: headroom/templates/(\S+)\n", re.MULTILINE)


def rendered(helm: Path, chart: Path = CHART) -> dict[str, str]:
    """Content of each file of deploy/base by its path in there. Raises CalledProcessError with helm's words."""
    flags = [flag for value in _VALUES for flag in ("--set", value)]
    command = [str(helm), "template", "headroom", str(chart), "--namespace", NAMESPACE, *flags]
    command.append(f"--kube-version={KUBE_SCHEDULER}")
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    parts = _SOURCE.split(text)
    files: dict[str, list[str]] = {}
    for name, document in zip(parts[1::2], parts[2::2], strict=True):
        files.setdefault(name, []).append(document.strip("\n") + "\n")
    written = {
        name: "---\n".join(_in_order(documents, chart / "templates" / name)) for name, documents in files.items()
    }
    for path in sorted((chart / "files").rglob("*.yaml")):
        content = path.read_text(encoding="utf-8").replace("{{ .Release.Namespace }}", NAMESPACE)
        written[path.relative_to(chart / "files").as_posix()] = content
    return written


def _in_order(documents: list[str], template: Path) -> list[str]:
    """As the template has them: helm sorts by kind. A document belongs where most of its lines stand."""
    parts = [
        set(part.splitlines()) for part in re.split(r"^---$", template.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]

    def place(document: str) -> int:
        common = [len(part & set(document.splitlines())) for part in parts]
        return common.index(max(common))

    return sorted(documents, key=place)


def differences(files: dict[str, str], base: Path = BASE) -> list[str]:
    """Files of deploy/base that are not what the chart says, with what is wrong."""
    there = {path.relative_to(base).as_posix(): path.read_text(encoding="utf-8") for path in base.rglob("*.yaml")}
    there.pop("kustomization.yaml", None)
    wrong = [f"{name}: missing" for name in sorted(files.keys() - there.keys())]
    wrong += [f"{name}: no template of the chart makes it" for name in sorted(there.keys() - files.keys())]
    wrong += [f"{name}: differs" for name in sorted(files.keys() & there.keys()) if files[name] != there[name]]
    return wrong


def main() -> None:
    """Write the files, or say where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--helm", type=Path, required=True, help="path of helm, version 3 or 4")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where deploy/base differs")
    arguments = parser.parse_args()
    files = rendered(arguments.helm)
    wrong = differences(files)
    if arguments.check:
        sys.exit("\n".join([*wrong, "run `make base`"]) if wrong else 0)
    for name, content in files.items():
        path = BASE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    print("\n".join(wrong) or "deploy/base is as the chart says")


if __name__ == "__main__":
    main()
