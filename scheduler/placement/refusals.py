"""Why each node refuses a kind of pod, kept up to date row by row: a refusal names up to 5,000 nodes."""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from headroom.domain.model import GpuRequest
from scheduler.ledger.arrays import IntArray
from scheduler.placement import filtering
from scheduler.placement.placer import Placer
from scheduler.placement.row_cache import RowCaches

_MOST_BYTES: Final = 2**22


class Reasons:
    """Stable words by row for the request classes that were refused lately."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._texts = RowCaches(placer.fleet, self._refusals, (np.object_,), most_bytes=_MOST_BYTES)

    def of(self, request: GpuRequest) -> npt.NDArray[Any]:
        """Words by row; None where the request fits."""
        (texts,) = self._texts.of(request)
        return texts

    def _refusals(self, request: GpuRequest, rows: IntArray) -> tuple[npt.NDArray[Any]]:
        texts = filtering.refusals(self._placer.fleet, request, rows, check_host=self._placer.check_host)
        return (np.array(texts, np.object_),)
