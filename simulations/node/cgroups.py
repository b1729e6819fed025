"""One control group for all of a node's pods, in every hierarchy of the machine, so that it can be removed as a whole."""

from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")
_UNIFIED_CONTROLLERS: Final = ["cpuset", "cpu", "io", "memory", "pids", "hugetlb"]


def _hierarchies() -> list[Path]:
    """Version 2 has one; version 1 has one for each controller."""
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    found = {folder.resolve() for folder in ROOT.iterdir() if (folder / "cgroup.procs").exists()}
    return sorted(found)


def create(name: str) -> list[Path]:
    """Make the group; its folders. Raises OSError where control groups cannot be written."""
    folders = []
    for hierarchy in _hierarchies():
        folder = hierarchy / name
        folder.mkdir()
        folders.append(folder)
        for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1 gives a new group none, and then no process may join
            if (folder / setting).exists() and not (folder / setting).read_text().strip():
                (folder / setting).write_text((hierarchy / setting).read_text())
        if hierarchy == ROOT:
            there = (ROOT / "cgroup.controllers").read_text().split()
            wanted = " ".join(f"+{one}" for one in _UNIFIED_CONTROLLERS if one in there)
            (ROOT / "cgroup.subtree_control").write_text(wanted)
            (folder / "cgroup.subtree_control").write_text(wanted)
    return folders


def processes(name: str) -> set[int]:
    """Every process in the group or below it, by its number outside."""
    found: set[int] = set()
    for hierarchy in _hierarchies():
        for listing in (hierarchy / name).rglob("cgroup.procs"):
            try:
                found.update(map(int, listing.read_text().split()))
            except OSError:
                continue  # removed meanwhile
    return found - {0}
