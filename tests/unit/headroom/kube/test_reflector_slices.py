"""A long list and a burst of events leave the event loop to others in between."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from headroom.kube.client import Query, WatchEvent
from headroom.kube.reflector import Reflector
from tests.waiting import until

OBJECTS = 200
WORK_SECONDS = 0.0005
"""What each event costs its handler: 100 ms in all, fifty slices."""


class Thing(msgspec.Struct):
    metadata: dict[str, Any]


class Kube:
    """Lists so many objects at once, then sends an event for each without a pause."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.version = 1
        self.burst = asyncio.Event()

    def _meta(self, name: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "resourceVersion": str(self.version)}}

    async def request(self, *_: object, **__: object) -> bytes:
        return msgspec.json.encode(
            {"metadata": {"resourceVersion": "1"}, "items": [self._meta(name) for name in self.names]}
        )

    async def watch(self, path: str, resource_version: str, *, query: Query = ()) -> AsyncIterator[WatchEvent]:
        await self.burst.wait()
        self.version += 1
        for name in self.names:
            yield WatchEvent("MODIFIED", msgspec.Raw(msgspec.json.encode(self._meta(name))))
        await asyncio.Event().wait()

    async def close(self) -> None:
        pass


class Turns:
    """Counts how often another task had the loop."""

    def __init__(self) -> None:
        self.count = 0

    async def run(self) -> None:
        while True:
            self.count += 1
            await asyncio.sleep(0)


@pytest.fixture
async def turns() -> AsyncIterator[Turns]:
    counter = Turns()
    task = asyncio.create_task(counter.run())
    yield counter
    task.cancel()


def busily(kind: str, key: str, _: Thing) -> None:
    end = time.perf_counter() + WORK_SECONDS
    while time.perf_counter() < end:
        pass


async def test_list_burst_and_the_end_of_everything(turns: Turns) -> None:
    """s35; `headroom bench stalls` has the times."""
    kube = Kube()
    kube.names = [f"n{at}" for at in range(OBJECTS)]
    applied: list[tuple[str, int]] = []

    def apply(kind: str, key: str, thing: Thing) -> None:
        busily(kind, key, thing)
        applied.append((kind, turns.count))

    reflector = Reflector(kube, "/api/v1/things", msgspec.json.Decoder(Thing), apply)
    task = asyncio.create_task(reflector.run())

    async def turns_during(kind: str) -> int:
        await until(lambda: sum(one == kind for one, _ in applied) == OBJECTS)
        counts = [count for one, count in applied if one == kind]
        return counts[-1] - counts[0]

    assert await turns_during("ADDED") > 10
    kube.burst.set()
    assert await turns_during("MODIFIED") > 10
    kube.names = []
    await reflector.relist()
    assert await turns_during("DELETED") > 10
    assert reflector.items() == {}
    task.cancel()


async def test_what_is_done_after_each_page_comes_after_its_events() -> None:
    class InPages(Kube):
        async def request(self, *_: object, **asked: Any) -> bytes:
            last = any(key == "continue" for key, _ in asked["query"])
            meta = {"resourceVersion": "1", "continue": "" if last else "more"}
            return msgspec.json.encode({"metadata": meta, "items": [self._meta("b" if last else "a")]})

    told: list[str] = []
    reflector = Reflector(
        InPages(), "/things", msgspec.json.Decoder(Thing), lambda kind, key, _: told.append(key),
        on_page=lambda: told.append("page"), on_synced=lambda _: told.append("all"),
    )  # fmt: skip
    task = asyncio.create_task(reflector.run())
    await reflector.wait_synced()
    assert told == ["a", "page", "b", "page", "all"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
