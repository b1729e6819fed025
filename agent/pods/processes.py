"""Looks up the pod of a process in /proc, once per process.

A PID alone does not identify a process, because PIDs are used again. The start time from `/proc/PID/stat` tells one life of a number from
the next, so the cache is keyed by both.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from agent.pods.cgroup import Owner, owner_of

_START_TIME_FIELD: Final = 19  # field 22 of proc(5), counted from the state field that follows the command's ")"


class ProcessTable:
    """PID -> pod. `proc` is where the host's /proc is mounted; the agent must share the host's PID namespace."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._known: dict[int, tuple[int, Owner | None]] = {}
        self.vanished = 0
        """Processes that were gone by the time they were looked up."""
        self.reused = 0
        """PIDs that turned out to be another process than the last time."""

    def owners(self, pids: Iterable[int]) -> dict[int, Owner | None]:
        """The owner of each process that is still there; None for one outside any pod. Forgets all others."""
        known: dict[int, tuple[int, Owner | None]] = {}
        for pid in set(pids):
            found = self._look_up(pid)
            if found is None:
                self.vanished += 1
            else:
                known[pid] = found
        self._known = known
        return {pid: owner for pid, (_, owner) in known.items()}

    def _look_up(self, pid: int) -> tuple[int, Owner | None] | None:
        try:
            started = _start_time(self._proc / str(pid) / "stat")
            before = self._known.get(pid)
            if before is not None and before[0] == started:
                return before
            self.reused += before is not None
            owner = owner_of((self._proc / str(pid) / "cgroup").read_text(encoding="utf-8", errors="replace"))
            # The number may have changed hands between the two reads.
            if _start_time(self._proc / str(pid) / "stat") != started:
                return None
        except (OSError, ValueError, IndexError):
            return None
        return started, owner


def _start_time(stat: Path) -> int:
    """Clock ticks since boot at which the process started. The command in brackets may hold spaces and brackets itself."""
    text = stat.read_text(encoding="utf-8", errors="replace")
    return int(text[text.rindex(")") + 1 :].split()[_START_TIME_FIELD])
