"""Why each node refuses a kind of pod, kept up to date row by row: a refusal names up to 5,000 nodes."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import numpy as np

from headroom.domain.model import GpuRequest
from scheduler.placement import filtering
from scheduler.placement.placer import Placer

_CLASSES_KEPT: Final = 64


@dataclass(slots=True)
class _Standing:
    clock: int
    texts: list[str | None]


class Reasons:
    """Stable words by row for the request classes that were refused lately."""

    def __init__(self, placer: Placer) -> None:
        self._placer = placer
        self._standings: OrderedDict[GpuRequest, _Standing] = OrderedDict()

    def of(self, request: GpuRequest) -> list[str | None]:
        """Words by row; None where the request fits."""
        fleet = self._placer.fleet
        size = len(fleet.names)
        standing = self._standings.get(request)
        changed = fleet.changed_since(standing.clock) if standing is not None else None
        if standing is None or changed is None:
            standing = self._standings[request] = _Standing(fleet.clock, [None] * size)
            while len(self._standings) > _CLASSES_KEPT:
                self._standings.popitem(last=False)
            changed = list(range(size))
        self._standings.move_to_end(request)
        standing.texts += [None] * (size - len(standing.texts))
        rows = np.array(changed, np.int64)
        texts = filtering.refusals(fleet, request, rows, check_host=self._placer.check_host)
        for row, text in zip(changed, texts, strict=True):
            standing.texts[row] = text
        standing.clock = fleet.clock
        return standing.texts
