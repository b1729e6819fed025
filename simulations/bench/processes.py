"""Parts of a benchmark that run in processes of their own, so that their work is not counted."""

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Connection = multiprocessing.connection.Connection


@dataclass(frozen=True, slots=True)
class Beside:
    """A process that runs, and the port that it named."""

    pid: int
    port: int


@contextlib.contextmanager
def beside(target: Callable[..., None], *args: object) -> Iterator[Beside]:
    """`target(connection, *args)`, a module's function, in a process of its own while the block runs.

    The block begins when it has sent a port. Raises EOFError when it ends before that.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *args), daemon=True)
    process.start()
    theirs.close()
    try:
        assert process.pid is not None
        yield Beside(process.pid, ours.recv())
    finally:
        process.kill()
        process.join()
        ours.close()


async def stay(connection: Connection, port: int) -> None:
    """In such a process: name the port, and go on until the other one ends."""
    connection.send(port)
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(connection.recv)
