"""Namespaces of their own for one node: mounts, network, processes, host name. Nothing of the machine itself is changed.

    spaces = Namespaces.open(folder, reaper)
    subprocess.run([*spaces.prefix(), "ip", "address"])   # a program inside
    with spaces.network():
        urllib.request.urlopen("http://10.99.0.1:9090")   # a connection from outside into the node's network

The first process inside is `inside/init.py`; ending it ends every process inside, containers included: the kernel sees to it.
Needs root (CAP_SYS_ADMIN, CAP_NET_ADMIN), Linux, util-linux's `unshare` and `nsenter`, and iproute2.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from simulations.kwok.process import Component, ComponentError, Reaper

NODE_IP: Final = "10.99.0.1"
_CLONE_NEWNET: Final = 0x40000000
_OPEN_SECONDS: Final = 30.0
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Namespaces:
    """The namespaces of one node, kept open by their first process."""

    def __init__(self, pid: int) -> None:
        """`pid` is the first process inside, by its number outside."""
        self.pid = pid

    @classmethod
    def open(cls, folder: Path, node: str, reaper: Reaper) -> Self:
        """Make them. What processes inside write to /etc, /var and /opt lands in `folder`. Raises ComponentError."""
        if sys.platform != "linux" or os.geteuid() != 0:
            raise ComponentError("a real node needs Linux and root: it is made of namespaces and control groups")
        init = [
            sys.executable,
            "-I",
            "-S",
            str(Path(__file__).with_name("inside") / "init.py"),
            str(folder),
            node,
            NODE_IP,
        ]
        unshare = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        log = folder / "init.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [*unshare, "--propagation", "private", *init],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        reaper.guard(process.pid)
        deadline = time.monotonic() + _OPEN_SECONDS
        while not (folder / "namespaces-ready").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                raise ComponentError(f"the node's namespaces could not be made:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)
        return cls(_only_child(process.pid))

    def prefix(self) -> list[str]:
        """What comes before a command that is to run inside."""
        return ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--uts", "--"]

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread makes meanwhile are of the node's network, also later. Raises OSError when it is gone."""
        with open("/proc/thread-self/ns/net") as own, open(f"/proc/{self.pid}/ns/net") as inside:
            _enter(inside.fileno())
            try:
                yield
            finally:
                _enter(own.fileno())

    def close(self) -> None:
        """End every process inside; returns when they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while Path(f"/proc/{self.pid}/ns/net").exists():  # a zombie has none
            time.sleep(0.02)


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:  # os.setns comes with Python 3.12
        raise OSError(ctypes.get_errno(), "setns")


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class InsideComponent(Component):
    """A component that lives in a node's namespaces. `pid` is its number outside."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        spaces: Namespaces,
        *,
        log: Path,
        reaper: Reaper,
        ready: Callable[[], bool] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            name, [*spaces.prefix(), *command], log=log, reaper=reaper, ready=ready, environment=environment
        )

    @property
    def pid(self) -> int | None:
        """The program's own process: `nsenter` stays outside and waits for it."""
        waiting = super().pid
        if waiting is None:
            return None
        try:
            return _only_child(waiting)
        except (OSError, IndexError):
            return waiting  # it has not been started yet, or has just ended

    def signal(self, number: signal.Signals) -> None:
        """To the program, not to the `nsenter` that waits for it."""
        if (pid := self.pid) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL; returns when the process is gone."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self, timeout_seconds: float = 10.0) -> int | None:
        """SIGTERM, then SIGKILL after the time-out; the exit status, None when it was never started."""
        if self._process is None:
            return None
        self.signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode
