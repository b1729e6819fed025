"""HiGHS by its own package: small programmes whose answers are known."""

import subprocess
import sys

import numpy as np
import pytest

from scheduler.placement.policies.linear_programme import UnsolvedError, maximise


def test_a_known_optimum_and_its_prices() -> None:
    """max 3x + 5y with x <= 4, 2y <= 12, 3x + 2y <= 18: (2, 6), prices (0, 1.5, 1) (Hillier and Lieberman's Wyndor)."""
    entries = [(0, 0, 1.0), (1, 1, 2.0), (2, 0, 3.0), (2, 1, 2.0)]
    best = maximise(np.array([3.0, 5.0]), entries, np.array([4.0, 12.0, 18.0]))
    assert best.level == pytest.approx([2.0, 6.0])
    assert best.price == pytest.approx([0.0, 1.5, 1.0])
    assert best.value == pytest.approx(36.0)


def test_nothing_is_printed() -> None:
    """In a process of its own: HiGHS greets once a process."""
    code = (
        "import numpy as np; from scheduler.placement.policies.linear_programme import maximise\n"
        "maximise(np.array([1.0]), [(0, 0, 1.0)], np.array([5.0]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_coefficients_given_twice_add_up() -> None:
    best = maximise(np.array([1.0]), [(0, 0, 1.0), (0, 0, 1.0)], np.array([8.0]))
    assert best.level == pytest.approx([4.0])


def test_upper_bounds_and_variables_without_a_row() -> None:
    best = maximise(np.array([1.0, 2.0]), [(0, 0, 1.0)], np.array([5.0]), most=np.array([np.inf, 3.0]))
    assert best.level == pytest.approx([5.0, 3.0])


def test_what_has_no_optimum_is_an_error() -> None:
    with pytest.raises(UnsolvedError, match="nbounded"):
        maximise(np.array([1.0]), [(0, 0, -1.0)], np.array([5.0]))
