"""What every daemon needs around its work: an event loop, signals that end it in order, and back-off."""

import asyncio
import contextlib
import random
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Final

JITTER: Final = random.Random()
"""Draws the delays of everybody who brings no generator of his own; a simulation that must repeat itself seeds it."""


class Backoff:
    """Delays that grow after each failure, with jitter so that many clients do not return at once.

    The n-th delay is drawn between half of and the whole of min(maximum, initial * factor**n) seconds.
    """

    def __init__(
        self,
        *,
        initial_seconds: float = 0.2,
        factor: float = 2.0,
        maximum_seconds: float = 30.0,
        rng: random.Random | None = None,
    ) -> None:
        self._initial, self._factor, self._maximum = initial_seconds, factor, maximum_seconds
        self._rng = rng or JITTER
        self._failures = 0

    def next_seconds(self) -> float:
        """The delay before the next attempt."""
        ceiling = min(self._maximum, self._initial * self._factor ** min(self._failures, 64))
        self._failures += 1
        return ceiling * (0.5 + 0.5 * self._rng.random())

    def reset(self) -> None:
        """Call after a success."""
        self._failures = 0


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes an event loop: uvloop's where there is one, else None for Python's own."""
    if sys.platform != "win32":
        with contextlib.suppress(ImportError):
            import uvloop

            factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
            return factory
    return None


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a daemon until it returns or SIGTERM or SIGINT comes, which cancels it; its own `finally` blocks then run in order."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_until_signal(main))


async def _until_signal(main: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
