"""An event loop whose clock jumps to the next thing that is due: hours pass in seconds, and every run is the same."""

import asyncio
import selectors
from typing import Any


class _NothingToWaitFor(selectors.DefaultSelector):
    """Never waits: what would be waited is added to the loop's clock."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Sockets and threads are not served."""

    def __init__(self) -> None:
        self._clock = _NothingToWaitFor()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now
