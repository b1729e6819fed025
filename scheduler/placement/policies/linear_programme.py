"""The one kind of linear programme that Headroom solves, by HiGHS (https://highs.dev). Pure.

`highspy` is HiGHS's own Python package. scipy has the same solver inside; it would add 110 MB to the image and a second to the
start of every daemon that plans.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import highspy
import numpy as np
import numpy.typing as npt

from headroom.errors import HeadroomError

FloatArray = npt.NDArray[np.float64]
IndexArray = npt.NDArray[np.int32]
Entry = tuple[int, int, float]
"""Row, column, coefficient."""


class UnsolvedError(HeadroomError):
    """The solver found no optimum; the text has its word for why."""


@dataclass(frozen=True, slots=True)
class Solution:
    """An optimum."""

    level: FloatArray
    """Value of each variable."""
    price: FloatArray
    """Shadow price of each row: what one more of its limit would be worth, never negative."""
    value: float
    """`worth @ level`."""


class _Quiet(highspy.Highs):  # type: ignore[misc] # highspy has no types
    """A solver that prints nothing: HiGHS's constructor greets on standard output, where a daemon logs JSON."""

    def enableCallbacks(self) -> None:  # noqa: N802 - theirs; the constructor calls it
        self.silent()
        super().enableCallbacks()


def maximise(
    worth: FloatArray, entries: Sequence[Entry], limit: FloatArray, *, most: FloatArray | None = None
) -> Solution:
    """The variables x >= 0 that make `worth @ x` largest, with each row's sum of coefficient * x at most its limit.

    Coefficients given twice for the same row and column add up. `most` are upper bounds of x, none where infinite.
    Raises UnsolvedError.
    """
    columns, rows = len(worth), len(limit)
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = columns, rows
    lp.col_cost_ = -worth
    lp.col_lower_ = np.zeros(columns)
    lp.col_upper_ = np.full(columns, highspy.kHighsInf) if most is None else most
    lp.row_lower_ = np.full(rows, -highspy.kHighsInf)
    lp.row_upper_ = limit
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_, lp.a_matrix_.index_, lp.a_matrix_.value_ = _by_column(entries, rows, columns)
    solver = _Quiet()
    solver.passModel(lp)
    solver.run()
    status = solver.getModelStatus()
    if status != highspy.HighsModelStatus.kOptimal:
        raise UnsolvedError(f"the linear programme was not solved: {solver.modelStatusToString(status)}")
    solution = solver.getSolution()
    level = np.array(solution.col_value)
    return Solution(level, -np.array(solution.row_dual), float(worth @ level))


def _by_column(entries: Sequence[Entry], rows: int, columns: int) -> tuple[IndexArray, IndexArray, FloatArray]:
    """Compressed columns: where each column starts, the rows of its coefficients, the coefficients."""
    row, column, value = (np.array(part) for part in zip(*entries, strict=True)) if entries else (np.zeros(0),) * 3
    place, which = np.unique(column.astype(np.int64) * rows + row.astype(np.int64), return_inverse=True)
    start = np.searchsorted(place, np.arange(columns + 1, dtype=np.int64) * rows)
    return (
        start.astype(np.int32),
        (place % rows).astype(np.int32),
        np.bincount(which, weights=value, minlength=len(place)).astype(np.float64),
    )
