"""The extenders of a run."""

import asyncio
import contextlib
from typing import TYPE_CHECKING

from headroom import wire
from headroom.wire import WireError
from scheduler.cluster.changes import Changes
from scheduler.daemon import SchedulerDaemon
from scheduler.settings import SchedulerSettings
from scheduler.verbs.server import VerbRefusedError
from tests.property.scheduler.daemon.weather import Client

if TYPE_CHECKING:
    from tests.property.scheduler.daemon.world import World


class Extender:
    """One process of the extender, with the kube-scheduler beside it."""

    def __init__(self, world: "World", name: str) -> None:
        self.name = name
        self.client = Client(name, world.truth, world.rng, on_evict_asked=world.evict_asked, on_evict=world.evict)
        self.client.weather = world.weather
        self._wrongs = world.truth.wrongs
        settings = SchedulerSettings(
            port=1 if name == "a" else 2, policy="bestfit", naming_ahead_backlog=3,
            preemption_seconds=world.preemption_seconds, reservation_seconds=10.0, nomination_seconds=20.0,
            unsure_seconds=40.0, event_every_seconds=10_000.0, sweep_seconds=0.5,
            lease_namespace="kube-system" if world.several else "", plan_every_pods=10**9, resource_claims=False,
            fair_wait_seconds=1e6,  # a node kept for one pod has room that others must not have, which `_rest` would take for a fault
        )  # fmt: skip
        clock = asyncio.get_running_loop().time
        self.daemon = SchedulerDaemon(self.client, settings, monotonic=clock, unix_clock=clock)
        self.unforeseen = 0
        """Events still to come on which the extender's own code shall fail."""
        self._take, self.daemon.state.news.on_event = self.daemon.state.news.on_event, self._fail_sometimes  # type: ignore[method-assign]
        self.run = asyncio.get_running_loop().create_task(self.daemon.run())
        self.calls: dict[asyncio.Task[bytes], None] = {}

    def _fail_sometimes(self, kind: str, key: str, pod: wire.Pod) -> Changes:
        if self.unforeseen:
            self.unforeseen -= 1
            raise RuntimeError("nobody foresaw this")
        return self._take(kind, key, pod)

    async def ask(self, verb: str, body: bytes) -> bytes | None:
        if self.client.dead:
            return None
        task = asyncio.get_running_loop().create_task(self._answer(verb, body))
        self.calls[task] = None
        task.add_done_callback(self.calls.pop)
        try:
            return await asyncio.shield(task)
        except (VerbRefusedError, WireError, asyncio.CancelledError):
            return None
        except Exception as error:  # what kube-scheduler would see as a 500
            self._wrongs.append(f"{verb} fails: {type(error).__name__}: {error}")
            return None

    async def _answer(self, verb: str, body: bytes) -> bytes:
        return (await self.daemon.server.answer(verb, body)).body

    async def end(self, *, orderly: bool) -> None:
        if orderly:
            await self.daemon.leadership.release()
        self.client.dead = True
        for task in (self.run, *self.calls):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.run

    def failures(self) -> dict[str, float]:
        found = {}
        for family in self.daemon.metrics.cycle_failures.collect():
            for sample in family.samples:
                if sample.name.endswith("_total") and sample.value and sample.labels["task"] != "pods":
                    found[sample.labels["task"]] = sample.value
        return found
