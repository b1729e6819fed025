"""Who else writes a target's replicas, and whether to go on against them. Pure; now is an argument.

A change that was not ours is somebody's: a person's once, a GitOps controller's every few minutes, an owner's at once. Replicas
are asked for again each time, but somebody who undoes every change within moments is left alone for a while: two that write
against each other only start and stop pods.
"""

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from autoscaler.observation.cluster.workloads import FIELD_MANAGER, Workload

_REMEMBERED_SECONDS: Final = 3600.0
_UNDONE_SECONDS: Final = 60.0
"""A change that follows one of ours so soon undoes it."""
_PATIENCE: Final = 3
_PATIENCE_WITH_OWNER: Final = 2
"""Undone changes before the other one is left alone."""
_YIELD_SECONDS: Final = (600.0, 3600.0)
"""For how long, the first time and at most; twice as long each time."""


class Change(NamedTuple):
    """Of `spec.replicas`, by somebody else."""

    at_seconds: float
    before: int
    after: int
    who: str


@dataclass(slots=True)
class OtherWriters:
    """What is known of them for one target. Times are of one clock; only differences matter."""

    changes: list[Change] = field(default_factory=list)
    """Of the last hour, newest last."""
    yields_until: float = float("-inf")
    _seen: int | None = None
    _version: int = 0
    _wrote_at: float = float("-inf")
    _undone: int = 0
    _yield_seconds: float = _YIELD_SECONDS[0]

    def look(self, workload: Workload, now: float) -> Change | None:
        """Compare with what was seen or written last; returns the change of somebody else, if there was one."""
        self.changes = [change for change in self.changes if now - change.at_seconds < _REMEMBERED_SECONDS]
        before, self._seen = self._seen, workload.replicas
        if _number(workload.version) < self._version:
            self._seen = before  # the watch does not show our own change yet
            return None
        if before is None or workload.replicas == before or workload.writer == FIELD_MANAGER:
            return None
        change = Change(now, before, workload.replicas, workload.writer or workload.owner or "somebody else")
        self.changes.append(change)
        self._judge(change, workload)
        return change

    def _judge(self, change: Change, workload: Workload) -> None:
        if change.at_seconds - self._wrote_at > _UNDONE_SECONDS:
            self._undone = 0
            return
        self._undone += 1
        if self._undone >= (_PATIENCE_WITH_OWNER if workload.owner else _PATIENCE):
            self.yields_until = change.at_seconds + self._yield_seconds
            self._yield_seconds = min(2 * self._yield_seconds, _YIELD_SECONDS[1])
            self._undone -= 1  # one more that is undone and they are left alone again

    def wrote(self, replicas: int, version: str, now: float) -> None:
        """Our own change, and the version that the target has by it."""
        self._seen, self._version, self._wrote_at = replicas, _number(version), now

    def forget(self) -> None:
        """Somebody else acts on purpose: another scaler, another leader."""
        self.changes.clear()
        self._seen = None

    def words(self) -> str:
        """Who wrote lately; empty for nobody, and for a single change, which is a person's right."""
        if len(self.changes) < 2:
            return ""
        last = self.changes[-1]
        return (
            f"{last.who} changed the replicas, {len(self.changes)} times within the last hour that others did,"
            f" last from {last.before} to {last.after}"
        )


def _number(version: str) -> int:
    """Versions of one object can be compared as numbers."""
    return int(version) if version.isdecimal() else 0
