"""`make faults`: the table can be read, and what pytest says is understood. That tests fail without mends is for `make faults` to show."""

from pathlib import Path

import pytest

from tests.paths import ROOT
from tools.faults import Fault, known, reason


def test_the_table_names_each_fault_once() -> None:
    faults = known()
    assert len({fault.name for fault in faults}) == len(faults) > 30


def test_every_mend_is_where_the_table_says() -> None:
    for fault in known():
        assert fault.without(ROOT)


def test_a_mend_is_taken_back_where_it_stands_once(tmp_path: Path) -> None:
    fault = Fault("x", "", "code.py", "a = 1", "a = 2", "test")
    (tmp_path / "code.py").write_text("a = 1\nb = 1\n")
    assert fault.without(tmp_path) == "a = 2\nb = 1\n"
    for text, times in (("b = 1\n", 0), ("a = 1\na = 1\n", 2)):
        (tmp_path / "code.py").write_text(text)
        with pytest.raises(ValueError, match=f"x: code.py has the mended text {times} times, not once"):
            fault.without(tmp_path)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("FAILED tests/a.py::test_b - assert 1 == 2\n1 failed", "assert 1 == 2"),
        ("FAILED tests/a.py::test_b[x - y] - assert 1 == 2\n1 failed", "assert 1 == 2"),
        ("FAILED tests/a.py::test_b\n1 failed", "failed"),
        ("ERROR tests/a.py - SyntaxError\n1 error", ""),
        ("1 passed", ""),
    ],
)
def test_only_a_test_that_ran_and_failed_has_noticed(output: str, words: str) -> None:
    assert reason(output) == words
