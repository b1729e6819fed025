"""Who waits for something that is done for one caller at a time."""

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from typing import Final

_REST: Final = 2.0


class Turns:
    """One at a time; those who wait are let in by caller, round and round. After each turn all rest.

    A rest is twice as long as the turn took, within bounds: however many ask, they get a third of the time and no more.
    """

    def __init__(self, *, least_rest_seconds: float = 0.0, longest_rest_seconds: float) -> None:
        self._least, self._longest = least_rest_seconds, longest_rest_seconds
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._busy = False

    @contextlib.asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Wait for a turn, have it while the block runs, and rest."""
        await self._enter(caller)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            yield
        finally:
            rest = min(max(_REST * (clock() - began), self._least), self._longest)
            asyncio.get_running_loop().call_later(rest, self._next)

    async def _enter(self, caller: str) -> None:
        if not self._busy:
            self._busy = True
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._next()  # the turn had come already
            raise

    def _next(self) -> None:
        while self._waiting:
            caller, queue = self._waiting.popitem(last=False)
            first = queue.popleft()
            if queue:
                self._waiting[caller] = queue
            if not first.done():
                first.set_result(None)
                return
        self._busy = False
