"""The one place where a daemon catches what nobody foresaw: it costs one piece of work, never the daemon."""

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
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
        self.count, self._sleep = count, sleep
        self.log = get_logger(__name__)

    async def run(self, where: str, work: Awaitable[T], **fields: str) -> T | None:
        """Await `work`; None when it raises. `fields` go into the log line."""
        with _Contained(self, where, fields):
            return await work
        return None

    def attempt(self, where: str, work: Callable[[], object], **fields: str) -> bool:
        """Call `work`; false when it raises."""
        with _Contained(self, where, fields):
            work()
            return True
        return False

    async def keep(self, where: str, work: Callable[[], Awaitable[object]]) -> None:
        """Run a task for ever: one that ends, by an error or not, starts again after a pause that grows."""
        backoff = Backoff(initial_seconds=0.5)
        while True:
            await self.run(where, work())
            await self._sleep(backoff.next_seconds())


class _Contained:
    """Work whose errors go no further than the end of the block."""

    def __init__(self, guard: Guard, where: str, fields: dict[str, str]) -> None:
        self._guard, self._where, self._fields = guard, where, fields

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        self._guard.count(self._where)
        self._guard.log.error("unforeseen_failure", where=self._where, exc_info=error, **self._fields)
        return True
