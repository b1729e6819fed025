"""A cache of one kind of object, fed by list and watch.

Lists (in pages), then watches from the list's version; bookmarks move the version on; 410 lists again; any failure backs off
with jitter. `has_synced` turns true after the first complete list and stays so: an outage makes the cache old, not empty, and
`seconds_since_contact` tells how old. Handlers are called synchronously and in order, so state behind them needs no lock.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from headroom.daemon.guard import Guard
from headroom.daemon.logs import get_logger
from headroom.daemon.slices import Slices
from headroom.daemon.tasks import Backoff
from headroom.kube.client import Forbidden, Gone, KubeClient, KubeError, NotFound, Query
from headroom.wire import ADDED, DELETED, MODIFIED, WireError

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


_PAGE: Final = 1000
_NOT_SERVED_SECONDS: Final = 300.0  # between two looks whether an optional kind is served by now


class ObjectDecoder(Protocol[T_co]):
    """`headroom.wire.POD` and the like, or a plain msgspec decoder. Raises WireError or MsgspecError."""

    def decode(self, data: bytes | msgspec.Raw, /) -> T_co:
        """One object from its JSON."""
        ...


class _Meta(msgspec.Struct, rename="camel", gc=False):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")
    name: str = ""
    namespace: str = ""


class _List(msgspec.Struct):
    metadata: _Meta
    items: list[msgspec.Raw] | None = None


class _Object(msgspec.Struct):
    metadata: _Meta


_LIST: Final = msgspec.json.Decoder(_List)
_OBJECT: Final = msgspec.json.Decoder(_Object)


class Reflector(Generic[T]):
    """Keeps `on_event(kind, key, object)` informed of every object under `path`; keys are `namespace/name` or `name`.

    An object that cannot be decoded is reported through `on_broken(key, error)` and skipped, so that one bad object hurts only
    itself. With a `guard`, so does one on which `on_event` fails: the failure is counted under the plural of the path, the
    watch goes on, and a list soon brings the event again; `on_missed(key, object)` hears of it, and `on_missed(key, None)` once the
    event was taken in or the object is gone. `remember` makes of each object what is kept of it, for the day a list
    no longer holds it (None: the whole object). `on_page()` follows the events of each page of a list, `on_synced(began)` those of a
    whole one; `began` is when it was asked for, in seconds of `monotonic`: what was written before is in it.
    Where the kind is `optional`, an API server that does not serve it, or not to us, counts as one that has no such objects.
    """

    def __init__(
        self,
        kube: KubeClient,
        path: str,
        decoder: ObjectDecoder[T],
        on_event: Callable[[str, str, T], None],
        *,
        query: Query = (),
        remember: Callable[[T], T] | None = None,
        on_broken: Callable[[str, Exception], None] | None = None,
        on_page: Callable[[], None] | None = None,
        on_synced: Callable[[float], None] | None = None,
        on_missed: Callable[[str, T | None], None] | None = None,
        optional: bool = False,
        guard: Guard | None = None,
        backoff: Backoff | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kube, self._path, self._decoder, self._query = kube, path, decoder, query
        self._on_event, self._on_broken = on_event, on_broken
        self._on_page, self._on_synced, self._on_missed = on_page, on_synced, on_missed
        self._remember, self._guard, self._optional = remember, guard, optional
        self._again = Backoff(initial_seconds=1.0, maximum_seconds=60.0)
        self._relisting: asyncio.TimerHandle | None = None
        self._failed: dict[str, int] = {}
        """How often in a row an event of an object was not taken in, by key."""
        self.untaken = set[str]()
        """Keys of objects that the last list held and that could not be taken in: they are there all the same. Read only."""
        self._backoff = backoff or Backoff()
        self._monotonic = monotonic
        self._log = get_logger(__name__).bind(path=path)
        self._versions: dict[str, str] = {}
        self._last: dict[str, T] = {}
        self._last_contact: float | None = None
        self._synced = asyncio.Event()
        self._asked: list[asyncio.Event] = []
        self._watching: asyncio.Task[str] | None = None
        self._version = ""
        self.relists = 0
        self.failures = 0
        self.forbidden = False
        """Whether the last attempt failed for want of the right to list or watch."""

    @property
    def has_synced(self) -> bool:
        """True once a complete list has been applied."""
        return self._synced.is_set()

    async def wait_synced(self) -> None:
        """Return when `has_synced` turns true."""
        await self._synced.wait()

    async def relist(self) -> None:
        """Return once a list begun after this call has been applied: all that was written before the call is known then.

        For callers that must not act on old news, such as a new leader. It waits through failures.
        """
        await self._ask().wait()

    def _ask(self) -> asyncio.Event:
        done = asyncio.Event()
        self._asked.append(done)
        if self._watching is not None:
            self._watching.cancel()
        return done

    @property
    def behind(self) -> bool:
        """Whether an event was not taken in and has not been tried again yet. One that fails again is not waited for."""
        return 1 in self._failed.values()

    @property
    def resource_version(self) -> str:
        """The version of the API up to which everything has been applied; empty before the first list."""
        return self._version

    @property
    def seconds_since_contact(self) -> float:
        """Age of the last word from the server; infinite before the first."""
        return float("inf") if self._last_contact is None else self._monotonic() - self._last_contact

    async def run(self) -> None:
        """Follow the objects until cancelled."""
        version = ""
        while True:
            try:
                while not version or self._asked:
                    version = await self._list()
                version = await self._watch_until_asked(version)
                self._backoff.reset()
                # A server that closes watches at once must not be asked in a tight loop.
                await asyncio.sleep(0.05)
            except Gone:
                self._log.info("watch_expired")
                version = ""
                await asyncio.sleep(self._backoff.next_seconds())
            except KubeError as error:
                if self._is_not_served(error):
                    version = ""
                    await asyncio.sleep(_NOT_SERVED_SECONDS)
                    continue
                self.failures += 1
                self.forbidden = isinstance(error, Forbidden)
                delay = max(self._backoff.next_seconds(), error.retry_after_seconds or 0.0)
                self._log.warning("watch_failed", error=str(error), retry_seconds=round(delay, 2))
                version = self._version if self._synced.is_set() else ""
                await asyncio.sleep(delay)

    def _is_not_served(self, error: KubeError) -> bool:
        """Whether the API server answers that it has no such kind, or none for us, and that does not matter."""
        if not self._optional or not isinstance(error, NotFound | Forbidden) or self._version:
            return False
        self._contact()
        if not self._synced.is_set():
            say = self._log.info if isinstance(error, NotFound) else self._log.warning
            say("kind_not_served", error=str(error), retry_seconds=_NOT_SERVED_SECONDS)
        self._synced.set()
        return True

    async def _watch_until_asked(self, version: str) -> str:
        """Watch until the server ends it, or until a list is asked for."""
        self._watching = asyncio.create_task(self._watch(version))
        try:
            return await self._watching
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return self._version
        finally:
            self._watching = None

    async def _list(self) -> str:
        asked, began = len(self._asked), self._monotonic()
        seen: set[str] = set()
        self.untaken = set()
        token, version = "", ""
        while True:
            query = [("limit", str(_PAGE)), *self._query, *([("continue", token)] if token else [])]
            raw = await self._kube.request("GET", self._path, query=query, timeout_seconds=60)
            try:
                page = _LIST.decode(raw)
            except msgspec.MsgspecError as error:
                raise KubeError(f"GET {self._path}: broken list: {error}") from error
            self._contact()
            slices = Slices()
            for item in page.items or []:
                self._apply_listed(item, seen)
                await slices.pause()
            if self._on_page:
                self._on_page()
            version, token = page.metadata.resource_version, page.metadata.continue_
            if not token:
                break
        slices = Slices()
        for key in [key for key in self._versions if key not in seen]:
            self._forget(key)
            await slices.pause()
        if self._relisting is None:
            self._again.reset()
        self.relists += 1
        self._version = version
        self.forbidden = False
        self._synced.set()
        for done in self._asked[:asked]:
            done.set()
        del self._asked[:asked]
        if self._on_synced:
            self._on_synced(began)
        return version

    def _apply_listed(self, item: msgspec.Raw, seen: set[str]) -> None:
        meta = _OBJECT.decode(item).metadata
        key = _key(meta)
        seen.add(key)
        known = self._versions.get(key)
        if known != meta.resource_version or not known:
            self._upsert(ADDED if known is None else MODIFIED, key, meta.resource_version, item)
            if not self._versions.get(key):
                self.untaken.add(key)

    async def _watch(self, version: str) -> str:
        self._version = version
        slices = Slices()
        async for event in self._kube.watch(self._path, version, query=self._query):
            self._contact()
            self._backoff.reset()
            meta = _OBJECT.decode(event.object).metadata
            if event.type == DELETED:
                self._delete(_key(meta), event.object)
            elif event.type in (ADDED, MODIFIED):
                key = _key(meta)
                self._upsert(event.type, key, meta.resource_version, event.object)
            self._version = meta.resource_version or self._version
            # After an event that was waited for, this slice is over at once: one more turn of the loop.
            await slices.pause()
        return self._version

    def _upsert(self, kind: str, key: str, version: str, raw: msgspec.Raw) -> None:
        try:
            item = self._decoder.decode(raw)
        except (msgspec.MsgspecError, WireError) as error:
            self._broken(key, error)
            return
        self._last[key] = item if self._remember is None else self._remember(item)
        self._versions[key] = version if self._tell(kind, key, item) else ""

    def _delete(self, key: str, raw: msgspec.Raw) -> None:
        last = self._last.get(key)
        try:
            item: T | None = self._decoder.decode(raw)
        except (msgspec.MsgspecError, WireError) as error:
            self._broken(key, error)
            item = last
        self._gone(key, item)

    def _forget(self, key: str) -> None:
        """An object that a list no longer holds: deleted while nobody watched."""
        self._gone(key, self._last.get(key))

    def _gone(self, key: str, item: T | None) -> None:
        if item is None or self._tell(DELETED, key, item):
            self._versions.pop(key, None)
            self._last.pop(key, None)
        else:  # the next list finds it missing
            self._versions[key] = ""
            self._last.setdefault(key, item)

    def _tell(self, kind: str, key: str, item: T) -> bool:
        """Whether the event was taken in."""
        if self._guard is None:
            self._on_event(kind, key, item)
            return True
        done = self._guard.attempt(self._path.rsplit("/", 1)[-1], partial(self._on_event, kind, key, item), key=key)
        if done:
            missed = self._failed.pop(key, 0) > 0
        else:
            self._failed[key] = self._failed.get(key, 0) + 1
            missed = kind != DELETED  # what is gone is not there to be waited for
        if missed and self._on_missed:
            self._on_missed(key, None if done else item)
        if not done and self._relisting is None:
            delay = self._again.next_seconds()
            self._relisting = asyncio.get_running_loop().call_later(delay, self._relist_now)
        return done

    def _relist_now(self) -> None:
        self._relisting = None
        self._ask()

    def _broken(self, key: str, error: Exception) -> None:
        self._log.warning("object_not_understood", key=key, error=str(error))
        if self._on_broken:
            self._on_broken(key, error)

    def _contact(self) -> None:
        self._last_contact = self._monotonic()

    def items(self) -> dict[str, T]:
        """The objects by key, as `remember` left them; the cache itself, not to be changed."""
        return self._last


def _key(meta: _Meta) -> str:
    return f"{meta.namespace}/{meta.name}" if meta.namespace else meta.name
