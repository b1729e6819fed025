"""kube-scheduler as an extender meets it: an old view of the pods, calls that are given up after five seconds and made again, one
scheduling cycle at a time, bindings beside it, refused pods that rest until an event or the flush.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from typing import Any

from tests.property.scheduler.daemon.truth import MODEL_LABEL, MODELS, Object, Truth

_HTTP_TIMEOUT_SECONDS = 5.0
_FLUSH_SECONDS = 30.0

Ask = Callable[[str, bytes], Awaitable[bytes | None]]
"""The extender beside it: a verb's answer, None for an error."""


class KubeScheduler:
    """Asks `ask` while `leads()`."""

    def __init__(self, truth: Truth, rng: random.Random, ask: Ask, leads: Callable[[], bool]) -> None:
        self._truth, self._rng, self._ask, self._leads = truth, rng, ask, leads
        self.lag_seconds = 0.1
        self.pods: dict[str, Object] = {}
        self.nodes: dict[str, Object] = {}
        self.older: list[Object] = []
        """Versions of pods that it has seen before."""
        self._read = 0
        self._not_before: dict[str, float] = {}
        self._assumed: dict[str, float] = {}
        self._bindings: set[asyncio.Task[None]] = set()
        self.impatient = 0
        """So many of its next bind calls it gives up before they end, and asks again when it does not offer the node any more."""

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _look(self) -> None:
        """Take in what happened until a while ago."""
        log = self._truth.log
        while self._read < len(log) and log[self._read][1] + self.lag_seconds <= self._now:
            _, _, kind, event, body = log[self._read]
            self._read += 1
            if kind == "namespaces":
                continue
            known = self.pods if kind == "pods" else self.nodes
            name = body["metadata"]["name"]
            if event == "DELETED":
                known.pop(name, None)
            else:
                known[name] = body
            if kind == "pods":
                self.older.append(body)
            if kind == "nodes" or event == "DELETED":
                self._not_before = {uid: at for uid, at in self._not_before.items() if at < self._now + 2.0}

    async def run(self) -> None:
        """Schedule until cancelled."""
        while True:
            await asyncio.sleep(self._rng.choice((0.02, 0.1, 0.4)))
            self._look()
            pod = self._next() if self._leads() else None
            if pod is None:
                await self._truth.change(self._rng.choice((0.5, 5.0)))
            else:
                await self._cycle(pod)

    def _next(self) -> Object | None:
        waiting = [
            pod
            for pod in self.pods.values()
            if not pod["spec"].get("nodeName")
            and not pod["spec"].get("schedulingGates")
            and not pod["metadata"].get("deletionTimestamp")
            and pod["spec"]["schedulerName"] == "headroom"
            and self._not_before.get(pod["metadata"]["uid"], 0.0) <= self._now
            and self._assumed.get(pod["metadata"]["uid"], 0.0) <= self._now
        ]
        first = min(
            waiting, key=lambda pod: (-pod["spec"].get("priority", 0), int(pod["metadata"]["uid"][1:])), default=None
        )
        return self._rng.choice(waiting) if first is not None and self._rng.random() < 0.2 else first

    def _offered(self, pod: Object) -> list[str]:
        wanted = pod["spec"].get("nodeSelector", {}).get(MODEL_LABEL)
        return [
            name
            for name, node in self.nodes.items()
            if not node["spec"].get("unschedulable") and (not wanted or wanted in MODELS[name])
        ]

    async def _cycle(self, pod: Object) -> None:
        uid, nodes = pod["metadata"]["uid"], self._offered(pod)
        named = pod["status"].get("nominatedNodeName")
        offers = ([[named]] if named in nodes else []) + ([nodes] if nodes else [])
        for offer in offers:
            answer = await self.call("filter", {"Pod": pod, "NodeNames": offer})
            if answer is None:
                self._not_before[uid] = self._now + self._rng.choice((0.5, 1.0, 4.0))
                return
            if answer["NodeNames"]:
                node = answer["NodeNames"][0]
                if self._rng.random() < 0.05:
                    return  # something after the filter turns the node down
                self._assumed[uid] = self._now + 30.0
                task = asyncio.get_running_loop().create_task(self._bind(pod, node))
                self._bindings.add(task)
                task.add_done_callback(self._bindings.discard)
                return
        self._not_before[uid] = self._now + _FLUSH_SECONDS

    async def _bind(self, pod: Object, node: str) -> None:
        await asyncio.sleep(self._rng.choice((0.0, 0.01, 0.3)))
        meta = pod["metadata"]
        body = {"PodName": meta["name"], "PodNamespace": "default", "PodUID": meta["uid"], "Node": node}
        call = asyncio.get_running_loop().create_task(self.call("bind", body))
        if self.impatient:
            self.impatient -= 1
            await asyncio.sleep(self._rng.choice((0.01, 0.05, 0.5)))
            await self.call("filter", {"Pod": pod, "NodeNames": [name for name in self._offered(pod) if name != node]})
        answer = await call
        if answer is None or answer.get("Error"):
            self._assumed.pop(meta["uid"], None)
            self._not_before[meta["uid"]] = self._now + self._rng.choice((0.1, 1.0, 5.0, 10.0))

    async def call(self, verb: str, body: Any) -> Any:
        """The decoded answer; None where there is none in time."""
        task = asyncio.get_running_loop().create_task(_outcome(self._ask(verb, json.dumps(body).encode())))
        await asyncio.wait({task}, timeout=_HTTP_TIMEOUT_SECONDS)
        raw = task.result() if task.done() else None
        return None if raw is None else json.loads(raw)


async def _outcome(asked: Awaitable[bytes | None]) -> bytes | None:
    return await asked
