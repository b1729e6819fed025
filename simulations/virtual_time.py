"""Virtual time: a heap of events. The clock moves only from one event to the next; nothing here reads the real one."""

import heapq
from collections.abc import Callable
from typing import Any

Action = Callable[..., None]


class Engine:
    """Runs actions in order of their time; equal times run in the order in which they were set, so a run is repeatable."""

    __slots__ = ("_heap", "_order", "now")

    def __init__(self, start: float = 0.0) -> None:
        self.now = start
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._order = 0

    def at(self, time: float, action: Action, *arguments: Any) -> None:
        """Run `action(*arguments)` at `time` (seconds). Raises ValueError for a time before now."""
        if time < self.now:
            raise ValueError(f"an event at {time} s cannot be set at {self.now} s")
        self._order += 1
        heapq.heappush(self._heap, (time, self._order, action, arguments))

    def after(self, delay_seconds: float, action: Action, *arguments: Any) -> None:
        """Run an action `delay_seconds` from now."""
        self.at(self.now + delay_seconds, action, *arguments)

    def run(self, until: float) -> None:
        """Run all events up to and including `until`, then set the clock to it; later events stay."""
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= until:
            self.now, _, action, arguments = pop(heap)
            action(*arguments)
        self.now = max(self.now, until)

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def next_time(self) -> float | None:
        """Time of the next event, None when there is none."""
        return self._heap[0][0] if self._heap else None
