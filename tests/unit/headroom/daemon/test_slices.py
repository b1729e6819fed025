"""Long work leaves the event loop to others between its slices."""

import asyncio

from headroom.daemon.slices import Slices


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_others_have_a_turn_once_a_slice_is_over_and_not_before() -> None:
    clock, turns = Clock(), 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    slices = Slices(1.0, monotonic=clock)
    await slices.pause()
    clock.now = 0.9
    await slices.pause()
    assert turns == 0
    clock.now = 1.1
    await slices.pause()
    assert turns == 1
    clock.now = 2.0  # the next slice began at 1.1
    await slices.pause()
    assert turns == 1
    clock.now = 2.2
    assert slices.over
    await slices.pause()
    assert turns == 2
    task.cancel()
