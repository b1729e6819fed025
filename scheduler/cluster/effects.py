"""The one place from which changes of the state take effect: each is handed on once, after it is complete."""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from headroom.daemon.guard import Guard
from scheduler.cluster.changes import Change

C = TypeVar("C", bound=Change)


class Effects:
    """Call it with what a change returned. Everything happens before the call returns, on the event loop.

    An effect may change the state in its turn; what that changed is handed on after the effects that are due already. An
    effect that fails is logged and counted, and neither undoes the change nor keeps the other effects from happening.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._acts: dict[type[Any], list[tuple[str, Callable[[Any], None]]]] = {}
        self._due: deque[Change] = deque()
        self._busy = False

    def on(self, kind: type[C], name: str, act: Callable[[C], None]) -> None:
        """Have `act` called with every change of a kind, after those registered before; failures are counted under `name`."""
        self._acts.setdefault(kind, []).append((name, act))

    def __call__(self, changes: Iterable[Change]) -> None:
        """Hand changes on."""
        self._due.extend(changes)
        if self._busy:
            return
        self._busy = True
        try:
            while self._due:
                change = self._due.popleft()
                for name, act in self._acts.get(type(change), ()):
                    self._guard.attempt(name, partial(act, change))
        finally:
            self._busy = False
