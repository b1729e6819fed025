"""Starts Headroom's own daemons, unmodified and each in its own process, against the embedded simulated cluster."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from headroom.errors import HeadroomError

_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.05


class DaemonError(HeadroomError):
    """A daemon did not come up, or went away; the text ends with the last lines of its log."""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.asynccontextmanager
async def daemon(command: list[str], *, port: int, log: Path) -> AsyncIterator[str]:
    """Run `headroom COMMAND` until the block ends; yields its address once /readyz answers 200. Raises DaemonError."""
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "headroom", *command, stdout=sink, stderr=asyncio.subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        await _wait_ready(process, url, log)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _wait_ready(process: asyncio.subprocess.Process, url: str, log: Path) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _READY_SECONDS
    async with aiohttp.ClientSession() as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"{url}/readyz") as response:
                    if response.status == 200:
                        return
            if process.returncode is not None or loop.time() > deadline:
                raise DaemonError(f"the daemon at {url} did not become ready\n{_tail(log)}")
            await asyncio.sleep(_POLL_SECONDS)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:])


async def until(condition: Callable[[], Awaitable[Any]], *, what: str, timeout_seconds: float = 30.0) -> None:
    """Wait until `condition()` gives something true. Raises DaemonError naming `what` when it does not in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_seconds
    while not await condition():
        if loop.time() > deadline:
            raise DaemonError(f"waited {timeout_seconds:.0f} s for {what}")
        await asyncio.sleep(0.005)
