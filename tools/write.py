"""Writes what follows from code: tables of the docs, the list of metrics, the dashboards. `make tables`; `--check` only compares."""

import sys
from collections.abc import Mapping
from pathlib import Path

from tools import write_dashboards, write_metrics, write_tables

WRITERS = (write_tables, write_metrics, write_dashboards)


def old(files: Mapping[Path, str]) -> list[Path]:
    """Those of the files that are not what they should be."""
    return [path for path, text in files.items() if not path.exists() or path.read_text(encoding="utf-8") != text]


def main() -> None:
    """Write what is old, or say what it is."""
    for writer in WRITERS:
        files = writer.files()
        stale = old(files)
        if stale and "--check" in sys.argv[1:]:
            sys.exit(f"{', '.join(path.name for path in stale)}: not what the code says; run `make tables`")
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path], encoding="utf-8")


if __name__ == "__main__":
    main()
