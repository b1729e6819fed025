"""Keeps the policy's plan fresh: solved in a thread, put in place on the event loop."""

import asyncio
from collections.abc import Callable
from typing import Final

from scheduler.placement.placer import Placer

_FIRST_PLAN_ARRIVALS: Final = 20
_POLL_SECONDS: Final = 0.1
_KINDS_READIED: Final = 8


class Planner:
    """Plans anew every `every_seconds`, and sooner once twice as many pods have been seen as the last plan knew."""

    def __init__(self, placer: Placer, *, every_seconds: float, monotonic: Callable[[], float]) -> None:
        self._placer, self._every_seconds, self._monotonic = placer, every_seconds, monotonic

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            seen, began = self._placer.profile.seen, self._monotonic()
            await self.plan_once()
            await self._plan_has_aged(began + self._every_seconds, seen)

    async def plan_once(self) -> None:
        """Make a plan from the fleet and the pods as they are now, and put it in place."""
        policy, inputs = self._placer.policy, self._placer.plan_inputs()
        if inputs is None:
            return
        table = await asyncio.to_thread(policy.solve, inputs)
        usual = self._placer.latest(_KINDS_READIED)
        policy.swap(table)
        # With new prices every node is another: look at them for the usual kinds of pods now, before a call has to.
        for request in usual:
            self._placer.get_ready(request)
            await asyncio.sleep(0)

    async def _plan_has_aged(self, deadline: float, seen: int) -> None:
        """Wait for the deadline, or until twice the pods have been seen: a plan from few pods misleads the next ones."""
        enough = max(2 * seen, _FIRST_PLAN_ARRIVALS)
        while self._monotonic() < deadline and self._placer.profile.seen < enough:
            await asyncio.sleep(_POLL_SECONDS)
