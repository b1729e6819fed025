"""Which of several extenders decides: the one whose kube-scheduler asks, and never two at once.

Reservations live in one process's memory, so two extenders that both answered would give the same card twice. They elect one
by a Lease. kube-schedulers elect theirs by a Lease of their own, and each asks the extender beside it: being asked is
therefore how an extender learns that it should lead, and not being asked is what makes the one that leads give way.

Whoever takes over lists the pods again before it decides anything: all that the one before it has bound is known then. And it
marks those that are not bound (`scheduler.background.fencing`): what the one before it has decided cannot be bound any more.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from headroom.daemon.logs import get_logger
from headroom.kube.client import JSON, KubeClient, KubeError, Query, WatchEvent
from headroom.kube.lease import Elector
from scheduler.settings import SchedulerSettings

PATIENCE_SECONDS: Final = 4.0  # how long a call waits for leadership; below kube-scheduler's httpTimeout of 5 s
_ASKED_SECONDS: Final = 2.0  # how long ago a call still means that this extender's kube-scheduler leads
_RENEWALS: Final = 7.5  # per duration of the lease: every 2 s with 15 s


class NotDecidingError(KubeError):
    """A write that was not sent: another extender decides by now."""


class FencedClient:
    """The API as those may use it who act only while this extender decides: `may_write` is asked right before each write."""

    def __init__(self, kube: KubeClient, may_write: Callable[[], bool]) -> None:
        self._kube, self._may_write = kube, may_write

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query = (),
        body: Any = None,
        content_type: str = JSON,
        timeout_seconds: float = 10.0,
    ) -> bytes:
        """See KubeClient. Raises NotDecidingError."""
        if method != "GET" and not self._may_write():
            raise NotDecidingError(f"{method} {path}: another extender decides by now")
        return await self._kube.request(
            method, path, query=query, body=body, content_type=content_type, timeout_seconds=timeout_seconds
        )

    def watch(self, path: str, resource_version: str, *, query: Query = ()) -> AsyncIterator[WatchEvent]:
        """See KubeClient."""
        return self._kube.watch(path, resource_version, query=query)

    async def close(self) -> None:
        """See KubeClient."""
        await self._kube.close()


class Leadership:
    """Whether this extender decides; with an empty `lease_namespace` it always does.

    `catch_up()` returns once everything written before it was called is known. `on_gained()` and `on_lost()` are called when
    this extender begins and ends to be the one that decides. `instance` names its place: the host and the port it serves on.
    """

    def __init__(
        self,
        kube: KubeClient,
        settings: SchedulerSettings,
        *,
        instance: str,
        process: str,
        catch_up: Callable[[], Awaitable[None]],
        on_gained: Callable[[], None],
        on_lost: Callable[[], None],
        monotonic: Callable[[], float],
    ) -> None:
        self._catch_up, self._on_gained, self._on_lost, self._monotonic = catch_up, on_gained, on_lost, monotonic
        self._lease = f"{settings.lease_namespace}/{settings.lease_name}"
        self._identity = f"{instance}_{process}"
        self._elector = (
            Elector(
                kube,
                namespace=settings.lease_namespace,
                name=settings.lease_name,
                identity=self._identity,
                seat=f"{instance}_",
                duration_seconds=settings.lease_seconds,
                renew_seconds=settings.lease_seconds / _RENEWALS,
                wants=lambda: self._calls > 0 or self._asked_lately(),
                yields=lambda: self._calls == 0 and not self._asked_lately(),
                on_look=self._looked,
                monotonic=monotonic,
            )
            if settings.lease_namespace
            else None
        )
        self._asked_at = float("-inf")
        self._calls = 0
        self._term = 0
        """The term for which the cluster has been caught up with."""
        self._catching_up: asyncio.Task[None] | None = None
        self._gained = asyncio.Event()
        self._log = get_logger(__name__)

    @property
    def deciding(self) -> bool:
        """Whether this extender may decide, and write what nobody asked it for, now."""
        elector = self._elector
        return elector is None or (elector.is_leader and self._term == elector.terms)

    @property
    def term(self) -> str:
        """This process, and the number of the lease's term in which it decides or begins to: what it marks pods with."""
        return f"{self._identity}/{0 if self._elector is None else self._elector.transitions}"

    @property
    def words(self) -> str:
        """Who decides, for people."""
        if self._elector is None:
            return "the only one"
        if self.deciding:
            return f"decides, by lease {self._lease}"
        if self._elector.is_leader:
            return f"taking over lease {self._lease}: reading what was bound before"
        if self._elector.problem:
            return f"stands by: lease {self._lease} cannot be had: {self._elector.problem}"
        return f"stands by: lease {self._lease} is held by {self._elector.holder or 'nobody yet'}"

    def _asked_lately(self) -> bool:
        return self._monotonic() - self._asked_at < _ASKED_SECONDS

    @contextlib.asynccontextmanager
    async def asked(self) -> AsyncIterator[bool]:
        """A call of kube-scheduler's, from its beginning to its end. Yields whether it may be answered, after a while if need be."""
        self._calls += 1
        self._asked_at = self._monotonic()
        try:
            yield self.deciding or await self._takes_over()
        finally:
            self._calls -= 1

    async def _takes_over(self) -> bool:
        if self._elector is None:
            return True
        self._elector.hurry()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not self.deciding:
                    self._gained.clear()
                    await self._gained.wait()
        return self.deciding

    async def run(self) -> None:
        """Take part in the election until cancelled."""
        if self._elector is None:
            await asyncio.Event().wait()
        else:
            await self._elector.run()

    def _looked(self) -> None:
        elector = self._elector
        assert elector is not None
        if self._term and not (elector.holds and elector.terms == self._term):
            self._term = 0
            self._log.info("stands_by", lease=self._lease, holder=elector.holder)
            self._on_lost()
        if not elector.is_leader or self._catching_up is not None:
            return
        if self._term == elector.terms:
            self._gained.set()
            return
        self._catching_up = asyncio.create_task(self._take_over(elector))

    async def _take_over(self, elector: Elector) -> None:
        term = elector.terms
        try:
            await self._catch_up()
        finally:
            self._catching_up = None
        if elector.holds and elector.terms == term:
            self._term = term
            self._log.info("decides", lease=self._lease, term=term)
            self._gained.set()
            self._on_gained()

    async def release(self) -> None:
        """Let another decide at once; call it when no call is being answered any more."""
        if self._elector is not None:
            await self._elector.release()
