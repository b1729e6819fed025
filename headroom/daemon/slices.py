"""Long work on an event loop, in slices: between two of them everything else that is ready has its turn."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

SLICE_SECONDS: Final = 0.002
"""A call of kube-scheduler's needs about three turns of the loop, so it waits for about as many slices."""
PAGE_SLICE_SECONDS: Final = 0.0005
"""For pages: nobody who places pods waits for them."""


class Slices:
    """Counts how long one piece of work has had the loop. Make one when the work begins, and `pause` between its steps."""

    def __init__(self, seconds: float = SLICE_SECONDS, *, monotonic: Callable[[], float] = time.perf_counter) -> None:
        self._seconds, self._monotonic = seconds, monotonic
        self._end = monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether others have waited for a slice's time."""
        return self._monotonic() >= self._end

    async def pause(self) -> None:
        """Let others have the loop if this work has had it for a slice."""
        if self.over:
            await asyncio.sleep(0)
            self._end = self._monotonic() + self._seconds
