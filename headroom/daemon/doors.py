"""One port, two doors: callers on this machine are served on the daemon's event loop, all others in a thread of their own.

What strangers send is accepted, read and parsed in that thread. However many they are, they share the interpreter with the
daemon's loop, but never stand in its queue. Pages that need the daemon's state ask its loop through `Bridge`.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable
from typing import Final

from aiohttp import web

from headroom.daemon.http import THIS_MACHINE, Page, Question, Reply, Site
from headroom.daemon.logs import get_logger
from headroom.daemon.tasks import loop_factory

_BACKLOG: Final = 128
_RETRY_SECONDS: Final = 0.05  # after an accept failed, for want of file descriptors most likely
_ASKED_AT_ONCE: Final = 8
_SHUTDOWN_SECONDS: Final = 1.0

log = get_logger(__name__)


class Bridge:
    """Answers pages on `loop` for callers in another thread's event loop; few questions at a time, the others wait there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._slots = asyncio.Semaphore(_ASKED_AT_ONCE)

    def page(self, page: Page) -> Page:
        """The same page for the other thread."""

        async def answer(question: Question) -> Reply:
            async with self._slots:
                asked = asyncio.run_coroutine_threadsafe(_ask(page, question), self._loop)
                return await asyncio.wrap_future(asked)

        return answer


async def _ask(page: Page, question: Question) -> Reply:
    return await page(question)


def kept_for(seconds: float, page: Page) -> Page:
    """The page with each answer kept for so long: for pages that say the same to everyone, and are asked often."""
    reply: Reply | None = None
    until = 0.0

    async def answer(question: Question) -> Reply:
        nonlocal reply, until
        clock = asyncio.get_running_loop().time
        if reply is None or clock() >= until:
            reply = await page(question)
            until = clock() + seconds
        return reply

    return answer


@contextlib.asynccontextmanager
async def two_doors(here: Site | None, elsewhere: Callable[[Bridge], Site], host: str, port: int) -> AsyncIterator[int]:
    """Serve `here` to callers on this machine (None: like all others) and `elsewhere` to the rest, while the block runs.

    Yields the port (useful with port 0). Raises OSError when the address is taken.
    """
    loop = asyncio.get_running_loop()
    listener = _listen(host, port)
    near = here.server() if here is not None else None
    handed_over: set[asyncio.Task[None]] = set()

    def hand_over(connection: socket.socket) -> None:
        assert near is not None
        task = loop.create_task(_serve(loop, near, connection))
        handed_over.add(task)
        task.add_done_callback(handed_over.discard)

    def for_here(connection: socket.socket) -> None:
        loop.call_soon_threadsafe(hand_over, connection)

    # Made here and now, so that its pages ask this loop.
    side = _SideThread(listener, elsewhere(Bridge(loop)), None if near is None else for_here)
    side.start()
    try:
        yield listener.getsockname()[1]
    finally:
        await asyncio.to_thread(side.stop)
        if near is not None:
            await shut_down(near)


async def shut_down(server: web.Server) -> None:
    """Let requests under way end, for a moment, and close every connection."""
    server.pre_shutdown()
    await server.shutdown(_SHUTDOWN_SECONDS)


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


async def _serve(loop: asyncio.AbstractEventLoop, server: web.Server, connection: socket.socket) -> None:
    try:
        await loop.connect_accepted_socket(server, connection)
    except OSError as error:
        log.info("connection_lost", error=str(error))
        connection.close()


class _SideThread:
    """Accepts every connection; answers those from elsewhere, and hands the others over."""

    def __init__(self, listener: socket.socket, site: Site, for_here: Callable[[socket.socket], None] | None) -> None:
        self._listener, self._site, self._for_here = listener, site, for_here
        self._loop: asyncio.AbstractEventLoop | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pages", daemon=True)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()
        self._running.wait()

    def stop(self) -> None:
        """Accept no more, end what is under way, and return when all is over."""
        if self._loop is not None and self._accepting is not None:
            self._loop.call_soon_threadsafe(self._accepting.cancel)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(self._main())

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        server = self._site.server()
        self._accepting = asyncio.create_task(self._accept(self._loop, server))
        self._running.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._accepting
        self._listener.close()
        await shut_down(server)

    async def _accept(self, loop: asyncio.AbstractEventLoop, server: web.Server) -> None:
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                log.warning("accept_failed", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if self._for_here is not None and address[0] in THIS_MACHINE:
                self._for_here(connection)
            else:
                await _serve(loop, server, connection)
