"""The one place where a daemon catches what nobody foresaw: it costs one piece of work, never the daemon."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import Backoff

T = TypeVar("T")

Sleep = Callable[[float], Awaitable[object]]
"""`asyncio.sleep`, or what a test puts in its place."""


class Guard:
    """Runs work whose errors are logged with their traceback, counted under `where`, and go no further.

    `count(where)` adds one to the daemon's metric of unforeseen failures.
    """

    def __init__(self, count: Callable[[str], None], *, sleep: Sleep = asyncio.sleep) -> None:
        self._count, self._sleep = count, sleep
        self._log = get_logger(__name__)

    async def run(self, where: str, work: Awaitable[T], **fields: str) -> T | None:
        """Await `work`; None when it raises. `fields` go into the log line."""
        try:
            return await work
        except Exception:
            self._count(where)
            self._log.exception("unforeseen_failure", where=where, **fields)
            return None

    async def keep(self, where: str, work: Callable[[], Awaitable[object]]) -> None:
        """Run a task for ever: one that ends, by an error or not, starts again after a pause that grows."""
        backoff = Backoff(initial_seconds=0.5)
        while True:
            await self.run(where, work())
            await self._sleep(backoff.next_seconds())
