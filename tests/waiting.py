"""How tests wait: for something that must come about, or for time that passes on the event loop's clock alone.

No other file of tests/unit and tests/fakes sleeps: tests/unit/test_structure.py says which few do and why.
"""

import asyncio
import inspect
import math
import time
from collections.abc import Callable
from typing import Final

LOOK_AGAIN_SECONDS: Final = 0.005
STEP_SECONDS: Final = 0.02
"""The clock runs ahead by no more at once: what is due first is done first, and what follows from it is done soon after it."""
TURNS: Final = 25
"""Of the event loop after each step: a call to a fake server and its answer take about ten."""


async def until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    """Wait until the condition, which may be a coroutine function, holds; TimeoutError when it does not within `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if await met if inspect.isawaitable(met) else met:
                return
            await asyncio.sleep(LOOK_AGAIN_SECONDS)


def until_blocking(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """The same where there is no event loop."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(LOOK_AGAIN_SECONDS)


async def turns(count: int = 8 * TURNS) -> None:
    """Let the event loop turn so often: what needs no time is done then, calls to fake servers and their answers included."""
    for _ in range(count):
        await asyncio.sleep(0)


async def pass_time_until(condition: Callable[[], object], seconds: float, step_seconds: float = 1.0) -> None:
    """Let time pass as `pass_time` does until the condition holds; TimeoutError when it does not after `seconds`."""
    for _ in range(math.ceil(seconds / step_seconds)):
        if condition():
            return
        await pass_time(step_seconds, step_seconds)
    await until(condition)


async def pass_time(seconds: float, step_seconds: float = STEP_SECONDS) -> None:
    """Let so much time pass on the clock of the event loop, of which nobody waits a second.

    What is due meanwhile (sleeps, time-outs, delayed calls) happens in its order. Clocks that are not the loop's stand still.
    """
    loop = asyncio.get_running_loop()
    clock = loop.time
    if not isinstance(clock, _Clock):
        clock = loop.time = _Clock(loop.time)  # type: ignore[method-assign]
    left = seconds
    while left > 0:
        step = min(left, step_seconds)
        left -= step
        clock.ahead_seconds += step
        await turns(TURNS)
    await turns()


def loop_clock() -> Callable[[], float]:
    """The clock of the running event loop, which `pass_time` puts ahead."""
    loop = asyncio.get_running_loop()

    def now() -> float:
        return loop.time()

    return now


class _Clock:
    """The loop's own clock, and how far it was put ahead."""

    def __init__(self, own: Callable[[], float]) -> None:
        self._own, self.ahead_seconds = own, 0.0

    def __call__(self) -> float:
        return self._own() + self.ahead_seconds
