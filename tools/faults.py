"""Takes mends back, one by one, each in a copy of the working tree, and says whether its test notices.

`python -m tools.faults [NAME ...]` goes through tools/faults.toml, or the named ones of it; with `--real` it uses the tests that go
through the same on a real node (root, a minute each). To take a mend back, the text `is` of a file becomes `was`: the code as it was, or as
it would be without the mend. The test must pass with the mend, and fail, not break down, without it. Exits with 1 when one does not.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
TABLE: Final = ROOT / "tools" / "faults.toml"
_FAILED: Final = 1
"""pytest's exit status when tests ran and some failed."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was mended, how to take its mend back, and the test that holds it."""

    name: str
    what: str
    """What goes wrong, in one sentence."""
    file: str
    mended: str
    """What stands in the file; once."""
    before: str
    test: str
    """pytest's id."""
    also: str = ""
    """A test that goes through the same on a real node; whether it fails without the mend, `--real` shows."""

    def without(self, root: Path) -> str:
        """The file's text without the mend. Raises ValueError when the mend is not there, or not once."""
        text = (root / self.file).read_text(encoding="utf-8")
        if text.count(self.mended) != 1:
            raise ValueError(f"{self.name}: {self.file} has the mended text {text.count(self.mended)} times, not once")
        return text.replace(self.mended, self.before)


def known() -> tuple[Fault, ...]:
    """The table."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["fault"]
    fields = {"is": "mended", "was": "before"}  # `is` is no name in Python
    return tuple(Fault(**{fields.get(key, key): text for key, text in row.items()}) for row in rows)


def copy_to(root: Path) -> None:
    """The working tree as git sees it, changes included."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)


def run(root: Path, *tests: str) -> "subprocess.CompletedProcess[str]":
    """pytest in the copy, on the copy's code."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        *tests,
        "-q",
        "--no-header",
        "-p",
        "no:cacheprovider",
        "-rfE",
        "--tb=line",
    ]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def reason(output: str) -> str:
    """What the first failed test said; empty where none failed, or something broke before a test could."""
    if re.search(r"^ERROR ", output, re.MULTILINE):
        return ""
    match = re.search(r"^FAILED [^\s\[]+(?:\[.*?\])?(?: - (.*))?$", output, re.MULTILINE)
    return (match.group(1) or "failed") if match else ""


def unsound(faults: Iterable[Fault], root: Path) -> str:
    """What fails with every mend in place; empty when nothing does."""
    told = run(root, *sorted({fault.test for fault in faults}))
    return "" if told.returncode == 0 else reason(told.stdout) or told.stdout[-1000:] + told.stderr[-1000:]


def missed(fault: Fault, root: Path) -> bool:
    """Whether its test passes, or breaks down, without the mend. Prints how it came out."""
    began = time.monotonic()
    try:
        without = fault.without(root)
    except ValueError as moved:
        print(f"{moved}: the mend has moved, or is gone", flush=True)
        return True
    (root / fault.file).write_text(without, encoding="utf-8")
    told = run(root, fault.test)
    shutil.copy2(ROOT / fault.file, root / fault.file)
    why = reason(told.stdout) if told.returncode == _FAILED else ""
    words = why[:140] if why else f"NOT NOTICED by {fault.test}: exit status {told.returncode}: {told.stdout[-300:]}"
    print(f"{fault.name:28} {time.monotonic() - began:5.0f} s  {words}", flush=True)
    return not why


def main() -> int:
    """Print a line per fault."""
    parser = argparse.ArgumentParser(prog="python -m tools.faults", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--real", action="store_true", help="by the tests on a real node")
    options = parser.parse_args()
    names, table = options.names, known()
    if options.real:
        table = tuple(replace(fault, test=fault.also) for fault in table if fault.also)
    if strange := sorted({*names} - {fault.name for fault in table}):
        parser.error(f"no such fault: {', '.join(strange)}")
    chosen = [fault for fault in table if fault.name in names or not names]
    with tempfile.TemporaryDirectory(prefix="headroom-faults-") as folder:
        root = Path(folder)
        copy_to(root)
        if wrong := unsound(chosen, root):
            print(f"with the mends in place: {wrong}")
            return 1
        return int(sum(missed(fault, root) for fault in chosen) > 0)


if __name__ == "__main__":
    sys.exit(main())
