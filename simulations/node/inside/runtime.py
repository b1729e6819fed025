"""Stands for nvidia-container-runtime: adds to a container's OCI bundle what NVIDIA's would add, with the stub of NVML for
the driver's library. A shell script that `write_wrapper` makes calls it for `create` only, then hands over to runc.

Like NVIDIA's it acts on NVIDIA_VISIBLE_DEVICES in the container's environment (unset, empty, `void`: nothing), and mounts
NVML where NVIDIA_DRIVER_CAPABILITIES names `utility` (or `all`; unset counts as `utility,compute`). What it saw of every
container is appended to `containers.jsonl`. It imports nothing of ours, since it runs at each start of a container.
"""

import json
import sys
from pathlib import Path
from typing import Any

_DRIVER = "/run/stub-nvml"


def main(folder: Path, library_folder: str, arguments: list[str]) -> None:
    """`folder` keeps the log and the stub (`nvml/`); `library_folder` is where a container looks for libraries."""
    path = Path(arguments[arguments.index("--bundle") + 1]) / "config.json"
    spec = json.loads(path.read_text())
    with (folder / "containers.jsonl").open("a") as log:
        log.write(json.dumps(_facts(spec)) + "\n")
    if _add_driver(spec, folder / "nvml", library_folder):
        path.write_text(json.dumps(spec))


def _environment(spec: dict[str, Any]) -> dict[str, str]:
    return dict(line.partition("=")[::2] for line in spec["process"].get("env", []))


def _facts(spec: dict[str, Any]) -> dict[str, Any]:
    environment = _environment(spec)
    names = {key.rpartition(".")[2]: value for key, value in spec.get("annotations", {}).items()}
    return {
        "pod": names.get("sandbox-name"),
        "container": names.get("container-name"),
        "visible": environment.get("NVIDIA_VISIBLE_DEVICES"),
        "capabilities": environment.get("NVIDIA_DRIVER_CAPABILITIES"),
        "cgroup": spec["linux"].get("cgroupsPath"),
        "user": spec["process"]["user"].get("uid"),
        "read_only": spec["root"].get("readonly", False),
        "linux_capabilities": sorted(spec["process"].get("capabilities", {}).get("effective") or []),
    }


def _add_driver(spec: dict[str, Any], stub: Path, library_folder: str) -> bool:
    environment = _environment(spec)
    if environment.get("NVIDIA_VISIBLE_DEVICES") in (None, "", "void"):
        return False
    if not {"utility", "all"} & set(environment.get("NVIDIA_DRIVER_CAPABILITIES", "utility,compute").split(",")):
        return False
    library = "libnvidia-ml.so.1"
    for source, destination in ((stub / library, f"{library_folder}/{library}"), (stub, _DRIVER)):
        options = ["rbind", "ro", "nosuid", "nodev"]
        spec["mounts"].append({"destination": destination, "type": "bind", "source": str(source), "options": options})
    spec["process"]["env"].append(f"STUB_NVML_SCRIPT={_DRIVER}/script")
    return True


def write_wrapper(folder: Path, runc: str, library_folder: str) -> Path:
    """The runtime that containerd calls."""
    wrapper = folder / "nvidia-stub-runtime"
    python = f"{sys.executable} -I -S {Path(__file__).resolve()} {folder} {library_folder}"
    case = 'for word in "$@"; do case "$word" in create) ' + python + ' "$@" || exit 1; break;; esac; done'
    wrapper.write_text(f'#!/bin/sh\n{case}\nexec {runc} "$@"\n')
    wrapper.chmod(0o755)
    return wrapper


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
