"""How long other work keeps an event loop: the longest time between two turns of a task that wants one every half millisecond."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

_PAUSE_SECONDS: Final = 0.0005  # no pause at all would take the interpreter from threads that work beside the loop


@dataclass(slots=True)
class Turn:
    """The longest turn of the loop so far. Processor time counts; the clock also counts what other processes took."""

    cpu_ms: float = 0.0
    wall_ms: float = 0.0


class Probe:
    """Watches the running event loop; `longest` may be replaced at any time by a new Turn."""

    def __init__(self) -> None:
        self.longest = Turn()

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch while the block runs."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()

    async def _run(self) -> None:
        while True:
            cpu, wall = time.thread_time(), time.perf_counter()
            await asyncio.sleep(_PAUSE_SECONDS)
            cpu, wall = (time.thread_time() - cpu) * 1000, (time.perf_counter() - wall) * 1000
            self.longest.cpu_ms = max(self.longest.cpu_ms, cpu)
            self.longest.wall_ms = max(self.longest.wall_ms, wall)
