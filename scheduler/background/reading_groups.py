"""Reads the objects that tell how many members a group must have: PodGroups, jobs. Most clusters have few of them, or none.

They are read one by one when a pod names one, and again from time to time while pods of the group wait. If the API that they belong
to is not served, the labels that name them have no meaning, and each pod stands alone.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headroom.daemon.logs import get_logger
from headroom.domain.groups import Group, GroupError, GroupKind, number_in
from headroom.errors import HeadroomError
from headroom.kube.client import Forbidden, KubeClient, KubeError, NotFound
from scheduler.cluster.changes import PodWaits
from scheduler.cluster.effects import Effects
from scheduler.cluster.pod_entry import PodEntry, Stage
from scheduler.cluster.pods.groups import ALONE, GroupRecord, Missing
from scheduler.cluster.state import ClusterState

_AGAIN_SECONDS: Final = 5.0
_REREAD_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 5.0
_LONGEST_WAIT_SECONDS: Final = 1.0  # well below kube-scheduler's httpTimeout of 5 s
_BY_CONTROLLERS: Final = (GroupKind.JOB_SET, GroupKind.KUBEFLOW, GroupKind.MPI_JOB, GroupKind.RAY)
"""Kinds whose pods never asked to be placed together in so many words."""
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


class GroupReader:
    """It hears of pods that wait by `effects`; run `run` as a task."""

    def __init__(
        self, kube: KubeClient, state: ClusterState, effects: Effects, *, monotonic: Callable[[], float]
    ) -> None:
        self._kube, self._state, self._effects, self._monotonic = kube, state, effects, monotonic
        self._due: dict[GroupRecord, None] = {}
        self._read_at: dict[GroupRecord, float] = {}
        self._signal, self._learnt = asyncio.Event(), asyncio.Event()
        self._log = get_logger(__name__)
        effects.on(PodWaits, "groups", lambda change: self.pod_waits(change.entry))

    def pod_waits(self, entry: PodEntry) -> None:
        """Note a pod whose group may have to be read."""
        if entry.facts.group is None or entry.facts.group.source is None:
            return
        record = self._state.groups.of(entry.uid) or self._state.groups.show(entry.pod)
        if record is not None and record not in self._read_at:
            self._due[record] = None
            self._signal.set()

    async def known(self, uid: str) -> None:
        """Return when it is known how many members the pod's group must have, or cannot be known for now."""
        record = self._state.groups.of(uid)
        if record is None or record in self._read_at or record.source_group is None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_WAIT_SECONDS):
                while record not in self._read_at:
                    self._learnt.clear()
                    await self._learnt.wait()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_SECONDS):
                    await self._signal.wait()
            self._signal.clear()
            due, self._due = list(self._due), {}
            for record in dict.fromkeys([*due, *self._stale()]):
                await self._read(record)
            self._learnt.set()

    def _stale(self) -> list[GroupRecord]:
        """Groups with waiting members whose object may say something else by now; those that are gone are forgotten."""
        now, groups = self._monotonic(), self._state.groups
        for record in [record for record in self._read_at if groups.records.get(record.key) is not record]:
            del self._read_at[record]
        found = []
        for record, at in self._read_at.items():
            after = _AGAIN_SECONDS if isinstance(record.read, Missing) else _REREAD_SECONDS
            if now - at >= after and self._waits(record):
                found.append(record)
        return found

    def _waits(self, record: GroupRecord) -> bool:
        entries = self._state.pods.entries
        return any(
            (entry := entries.get(uid)) is not None and entry.stage in (Stage.WAITING, Stage.REFUSED)
            for uid in record.members
        )

    async def _read(self, record: GroupRecord) -> None:
        group = record.source_group
        if group is None:
            return
        found = await self._number(group, record.read)
        before, record.read = record.number(), found
        self._read_at[record] = self._monotonic()
        self._learnt.set()
        if record.number() != before and self._state.fleet.nodes:
            # Pods that were refused meanwhile are tried again; any node will do to tell of it.
            node = next(iter(self._state.fleet.nodes))
            self._effects([self._state.pods.freed(node, seen_by_scheduler=False)])

    async def _number(self, group: Group, known: int | Missing | None) -> int | Missing | None:
        """The number that the group's object tells, `known` while it cannot be read; None where the pods' own word counts."""
        try:
            found = await self._object(group)
            if found is not None:
                return number_in(group, found)
        except Forbidden as error:
            self._log.warning("group_forbidden", group=group.words, error=str(error))
            if group.kind in _BY_CONTROLLERS:
                return ALONE
            missing = Missing(f"the right to read its {group.kind.value} is missing")
        except GroupError as error:
            missing = Missing(str(error))
        except (KubeError, msgspec.MsgspecError) as error:
            self._log.warning("group_not_read", group=group.words, error=str(error))
            if isinstance(known, int):
                return known
            missing = Missing(f"its {group.kind.value} cannot be read now")
        except NotThereError:
            missing = Missing(f"its {group.kind.value} does not exist")
        else:
            return None if group.min_count is not None else ALONE
        return None if group.min_count is not None else missing

    async def _object(self, group: Group) -> Mapping[str, Any] | None:
        """The object; None where no version of its API is served. Raises NotThereError, KubeError."""
        source = group.source
        assert source is not None
        for version in source.versions:
            try:
                raw = await self._get(source.path(version, group.namespace))
            except NotFound:
                try:
                    await self._get(f"/apis/{version}")
                except NotFound:
                    continue
                raise NotThereError from None
            return _OBJECT.decode(raw)
        return None

    async def _get(self, path: str) -> bytes:
        return await self._kube.request("GET", path, timeout_seconds=_ANSWER_SECONDS)


class NotThereError(HeadroomError):
    """The API is served, and has no object of this name."""
