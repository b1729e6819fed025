"""One child process of a simulated cluster: start, wait until it serves, kill, restart, show its log."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from headroom.errors import HeadroomError

_POLL_SECONDS: Final = 0.05
# Below the kernel's range for outgoing connections, so that a component can be restarted on its port.
_PORTS: Final = (15000, 32000)
_given: Final[set[int]] = set()


class ComponentError(HeadroomError):
    """A component did not start, did not become ready or ended by itself; the text has the end of its log."""


def free_port() -> int:
    """A TCP port that nobody listens on, on any address. Raises ComponentError when none of many tries is free.

    A port is given once: what it is for may start much later, after others have asked.
    """
    chooser = random.SystemRandom()  # several clusters, and several test runs, choose at the same time
    for _ in range(1000):
        port = chooser.randint(*_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("0.0.0.0", port))
            _given.add(port)
            return port
    raise ComponentError(f"no free port between {_PORTS[0]} and {_PORTS[1]}")


class Reaper:
    """Guards the processes of one cluster: should this program be killed, they end with it. See `reaper.py`."""

    def __init__(self, folder: Path) -> None:
        script = Path(__file__).with_name("reaper.py")
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(script), str(folder)],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def guard(self, pid: int) -> None:
        """End this process too when the time comes."""
        self._tell(str(pid))

    def guard_cgroup(self, folder: Path) -> None:
        """Remove this cgroup with all below it, once the processes have ended."""
        self._tell(str(folder))

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """End what is left of the guarded processes, and remove the folder."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=60)


class Component:
    """A process with a name, a log file and a question that tells when it serves."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        reaper: Reaper,
        ready: Callable[[], bool] | None = None,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """`ready` is asked every 50 ms; it may raise OSError while nothing listens yet. `environment` is added to ours."""
        self.name, self.log = name, log
        self.command = list(command)
        self._reaper, self._ready, self._folder = reaper, ready, folder
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def running(self) -> bool:
        """Whether the process is there (ready or not)."""
        return self.pid is not None

    def start(self, timeout_seconds: float = 60.0) -> None:
        """Start and wait until ready. Raises ComponentError; the process is then ended."""
        self.launch()
        self.wait_ready(timeout_seconds)

    def launch(self) -> None:
        """Start without waiting. Raises ComponentError when it runs already or the program is not there."""
        if self.running:
            raise ComponentError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            log.write(f"--- {' '.join(self.command)}\n".encode())
            log.flush()
            try:
                self._process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=os.environ | self._environment,
                    cwd=self._folder,
                    start_new_session=True,
                )
            except OSError as error:
                raise ComponentError(f"{self.name}: {self.command[0]}: {error.strerror}") from error
        self._reaper.guard(self._process.pid)

    def wait_ready(self, timeout_seconds: float = 60.0) -> None:
        """Until `ready` says so. Raises ComponentError with the end of the log when the process ends or time runs out."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            if not self.running:
                assert self._process is not None
                raise ComponentError(
                    f"{self.name} ended with status {self._process.returncode}; its log ends:\n{self.tail()}"
                )
            with contextlib.suppress(OSError):
                if self._ready is None or self._ready():
                    return
            if time.monotonic() > deadline:
                tail = self.tail()
                self.kill()
                raise ComponentError(f"{self.name} is not ready after {timeout_seconds:.0f} s; its log ends:\n{tail}")
            time.sleep(_POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, e.g. SIGSTOP and SIGCONT for a component that hangs."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, as a node failure would; returns when the process is gone. Nothing happens when it does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_seconds: float = 10.0) -> int | None:
        """SIGTERM, then SIGKILL after the time-out; the exit status, None when it was never started."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.returncode

    def restart(self, timeout_seconds: float = 60.0) -> None:
        """Stop if it runs, start again with the same command and port, wait until ready."""
        self.stop()
        self.start(timeout_seconds)

    def tail(self, lines: int = 20) -> str:
        """The end of the log."""
        try:
            text = self.log.read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])
