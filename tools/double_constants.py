"""Doubles each constant of the scaling law alone and says which tests fail: `python tools/double_constants.py [NAME ...]`.

A constant whose doubling no test notices may change by accident. Exits with 1 when there is one.
"""

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from autoscaler.law.constants import LawConstants

ROOT = Path(__file__).resolve().parents[1]
TESTS = (ROOT / "tests" / "unit" / "autoscaler" / "law",)


class Failures:
    """Collects the tests that fail, for pytest."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called by pytest after each phase of each test."""
        if report.failed:
            self.names.append(report.nodeid.rpartition("/")[2])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Called by pytest after collecting a file."""
        if report.failed:
            self.names.append(f"{report.nodeid} (not collected)")


def double(name: str) -> None:
    """Make `LawConstants()` hold twice the value of one constant, in this process."""
    fields = dataclasses.fields(LawConstants)
    made = LawConstants.__init__
    made.__defaults__ = tuple(field.default * 2 if field.name == name else field.default for field in fields)


def failing(name: str) -> list[str]:
    """The tests that fail with a constant doubled. Run in a process of its own."""
    double(name)
    failures = Failures()
    arguments = [*map(str, TESTS), "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "--hypothesis-seed=0"]
    pytest.main(arguments, plugins=[failures])
    return failures.names


def in_a_child(name: str) -> list[str]:
    """As `failing`, in a child process, whose output is not shown."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.write(writing, "\n".join(failing(name)).encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text.splitlines()


def main(names: list[str]) -> int:
    """Print a line per constant."""
    known = [field.name for field in dataclasses.fields(LawConstants)]
    if unknown := sorted({*names} - {*known}):
        print(f"no such constant: {', '.join(unknown)}", file=sys.stderr)
        return 2
    free = []
    for name in names or known:
        failed = in_a_child(name)
        print(f"{name:24} {len(failed):3} fail{': ' + ', '.join(failed[:3]) if failed else ''}", flush=True)
        if not failed:
            free.append(name)
    if free:
        print(f"held by no test: {', '.join(free)}")
    return bool(free)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    sys.exit(main(sys.argv[1:]))
