"""Ends a cluster's processes when the program that started them is gone, however it went.

Run as `python -I -S reaper.py FOLDER` with one process id, or one path of a cgroup, a line on standard input. Each process
is held by a file descriptor, so that a recycled id is never hit. When standard input closes, because its owner closed it or
was killed, the processes still alive are ended, the cgroups and FOLDER are removed.
"""

import contextlib
import os
import select
import shutil
import signal
import sys
import time

_GRACE_SECONDS = 3.0
_CGROUP_SECONDS = 5.0


def main(folder: str) -> None:
    """Collect process ids until end of file, then end them and remove `folder`."""
    held: list[int] = []
    cgroups: list[str] = []
    for line in sys.stdin:
        if line.startswith("/"):
            cgroups.append(line.rstrip("\n"))
            continue
        with contextlib.suppress(ProcessLookupError, ValueError):
            held.append(os.pidfd_open(int(line)))
    for signal_number, grace_seconds in ((signal.SIGTERM, _GRACE_SECONDS), (signal.SIGKILL, 1.0)):
        for descriptor in held:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal_number)
        _wait(held, grace_seconds)
    _remove_cgroups(cgroups)
    shutil.rmtree(folder, ignore_errors=True)


def _remove_cgroups(folders: list[str]) -> None:
    """A cgroup can be removed once the last of its processes is gone, which takes the kernel a moment."""
    deadline = time.monotonic() + _CGROUP_SECONDS
    while any(os.path.exists(folder) for folder in folders) and time.monotonic() < deadline:
        for root in folders:
            for folder, _, _ in os.walk(root, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
        time.sleep(0.05)


def _wait(descriptors: list[int], seconds: float) -> None:
    """Until each process has ended (its descriptor is then readable), at most `seconds` for each."""
    for descriptor in descriptors:
        select.select([descriptor], [], [], seconds)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the owner; its end closes standard input
    main(sys.argv[1])
