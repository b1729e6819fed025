"""The objects of the embedded simulated cluster: what a Kubernetes API server keeps, as plain JSON values.

One resource version counts all writes, as in etcd. Every write is remembered so that a watch can start at any version that
is still in the history; an older start gets `Expired`, which the API answers with 410.
"""

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from headroom.errors import HeadroomError

Object = dict[str, Any]
Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped objects."""

CardRef = tuple[str, int]
"""(node, card index)."""

_HISTORY: Final = 50_000


class StoreError(HeadroomError):
    """A write or read the API server would refuse; `code` and `reason` are what it answers."""

    code = 500
    reason = "InternalError"


class Missing(StoreError):  # noqa: N818 - named after the API server's answers
    """No such object."""

    code, reason = 404, "NotFound"


class Conflict(StoreError):  # noqa: N818
    """The object exists already, is bound already, or is not the one the caller means."""

    code, reason = 409, "Conflict"


class Expired(StoreError):  # noqa: N818
    """The history no longer reaches back to the version asked for."""

    code, reason = 410, "Expired"


@dataclass(frozen=True, slots=True)
class Change:
    """One write: `kind` is ADDED, MODIFIED or DELETED, `after` the object as it then was."""

    version: int
    collection: str
    kind: str
    after: Object


@dataclass(eq=False)
class Watch:
    """A reader of changes of one collection; `pending` wakes it."""

    collection: str
    queue: "asyncio.Queue[Change]" = field(default_factory=asyncio.Queue)


class Store:
    """Collections of objects by plural name (`pods`, `nodes`, `deployments`, ...)."""

    def __init__(self, now: Callable[[], str]) -> None:
        """`now` gives the creation timestamp of new objects (RFC 3339), from the cluster's virtual clock."""
        self._now = now
        self._objects: dict[str, dict[Key, Object]] = {}
        self._history: deque[Change] = deque(maxlen=_HISTORY)
        self._watches: set[Watch] = set()
        self._uids = 0
        self.version = 1

    def items(self, collection: str, namespace: str = "") -> Iterator[Object]:
        """All objects of a collection, of one namespace when given. Callers must not change them."""
        for (where, _), value in self._objects.get(collection, {}).items():
            if not namespace or where == namespace:
                yield value

    def get(self, collection: str, key: Key) -> Object:
        """One object. Raises Missing."""
        try:
            return self._objects[collection][key]
        except KeyError:
            raise Missing(f'{collection} "{key[1]}" not found') from None

    def create(self, collection: str, value: Object) -> Object:
        """Add an object; fills in uid, version and creation time. Raises Conflict when the name is taken."""
        value = copy.deepcopy(value)
        meta = value.setdefault("metadata", {})
        self._uids += 1
        if "name" not in meta:
            meta["name"] = f"{meta.get('generateName', collection + '-')}{self._uids:05d}"
        key = (meta.get("namespace", ""), meta["name"])
        if key in self._objects.setdefault(collection, {}):
            raise Conflict(f'{collection} "{key[1]}" already exists')
        meta.setdefault("uid", f"00000000-0000-4000-8000-{self._uids:012d}")
        meta["creationTimestamp"] = self._now()
        self._write(collection, key, value, "ADDED")
        return value

    def update(self, collection: str, key: Key, change: Callable[[Object], None]) -> Object:
        """Apply a change to a copy of the object and store it. Raises Missing, and whatever `change` raises (nothing is stored then)."""
        value = copy.deepcopy(self.get(collection, key))
        before = copy.deepcopy(value)
        change(value)
        if value == before:
            return value
        self._write(collection, key, value, "MODIFIED")
        return value

    def delete(self, collection: str, key: Key) -> Object:
        """Remove an object at once. Raises Missing."""
        value = copy.deepcopy(self.get(collection, key))
        del self._objects[collection][key]
        self._record(collection, value, "DELETED")
        return value

    def _write(self, collection: str, key: Key, value: Object, kind: str) -> None:
        self._objects[collection][key] = value
        self._record(collection, value, kind)

    def _record(self, collection: str, value: Object, kind: str) -> None:
        self.version += 1
        value["metadata"]["resourceVersion"] = str(self.version)
        change = Change(self.version, collection, kind, value)
        self._history.append(change)
        for watch in self._watches:
            if watch.collection == collection:
                watch.queue.put_nowait(change)

    def watch(self, collection: str, since: int) -> Watch:
        """Start reading changes after version `since`. Raises Expired."""
        if self._history and since < self._history[0].version - 1 and len(self._history) == _HISTORY:
            raise Expired(f"too old resource version: {since} ({self._history[0].version})")
        watch = Watch(collection)
        for change in self._history:
            if change.collection == collection and change.version > since:
                watch.queue.put_nowait(change)
        self._watches.add(watch)
        return watch

    def close(self, watch: Watch) -> None:
        """Stop a watch."""
        self._watches.discard(watch)


def merge(target: Object, patch: Object) -> None:
    """JSON merge patch (RFC 7386) in place: null removes, objects merge, everything else replaces."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            inner = target.get(name)
            if not isinstance(inner, dict):
                inner = target[name] = {}
            merge(inner, value)
        else:
            target[name] = copy.deepcopy(value)
