"""What a test scripts of an API server's bad days: errors, silence, watches that lag, clients that are cut off."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from tests.fakes.api_objects import Refusal, Request


@dataclass
class _Fault:
    method: str
    path: re.Pattern[str]
    status: int
    message: str
    times: int


@dataclass
class _Stall:
    method: str
    path: re.Pattern[str]
    released: asyncio.Event = field(default_factory=asyncio.Event)


class Front:
    """An address of the server for one client; while `down`, no call gets through and none is answered."""

    def __init__(self, write_kubeconfig: Callable[[Path, str], Path], url: str) -> None:
        self._write_kubeconfig, self.url = write_kubeconfig, url
        self._open = asyncio.Event()
        self._open.set()

    @property
    def down(self) -> bool:
        """Whether it is cut off."""
        return not self._open.is_set()

    @down.setter
    def down(self, down: bool) -> None:
        if down:
            self._open.clear()
        else:
            self._open.set()

    async def opened(self) -> None:
        """Wait until it is not cut off."""
        await self._open.wait()

    def write_kubeconfig(self, path: Path) -> Path:
        """A kubeconfig for this address, without credentials."""
        return self._write_kubeconfig(path, self.url)


class Faults:
    """The scripted faults of one server, which looks at them at each call."""

    def __init__(self) -> None:
        self._faults: list[_Fault] = []
        self._stalls: list[_Stall] = []
        self._delays: list[_Stall] = []
        self._fronts: dict[int, Front] = {}
        self._flowing = asyncio.Event()
        self._flowing.set()

    def fail(self, method: str, path: str, *, status: int = 500, message: str = "scripted", times: int = 1) -> None:
        """The next `times` calls whose path matches the pattern are answered with `status`."""
        self._faults.append(_Fault(method, re.compile(path), status, message, times))

    def stall(self, method: str, path: str) -> asyncio.Event:
        """Calls that match are carried out, but their answer is withheld until the returned event is set."""
        stall = _Stall(method, re.compile(path))
        self._stalls.append(stall)
        return stall.released

    def delay(self, method: str, path: str) -> asyncio.Event:
        """Calls that match are carried out only when the returned event is set, whether their client still waits or not."""
        delay = _Stall(method, re.compile(path))
        self._delays.append(delay)
        return delay.released

    def hold_watches(self) -> asyncio.Event:
        """No watch is told of anything, as by a server whose watch cache lags, until the returned event is set."""
        self._flowing.clear()
        return self._flowing

    def release_watches(self) -> None:
        """Let watches that were held go on."""
        self._flowing.set()

    def _front_of(self, http: web.Request) -> Front | None:
        assert http.transport is not None
        return self._fronts.get(http.transport.get_extra_info("sockname")[1])

    async def _get_through(self, http: web.Request, front: Front | None) -> None:
        """Nothing comes through an address that is cut off, in either direction; the client sees no more than silence."""
        while front is not None and front.down:
            await front.opened()
            if http.transport is None:  # the client has given up meanwhile
                raise ConnectionResetError

    def _raise_fault(self, request: Request) -> None:
        for fault in self._faults:
            if fault.times > 0 and fault.method == request.method and fault.path.search(request.path):
                fault.times -= 1
                raise Refusal(fault.status, "Scripted", fault.message)
