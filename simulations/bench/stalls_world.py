"""A running extender, and callers in threads, for `headroom bench stalls`."""

import asyncio
import http.client
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import numpy as np

from headroom.daemon.slices import Slices
from headroom.kube import calls
from scheduler.cluster.pod_entry import PodEntry
from scheduler.daemon import SchedulerDaemon
from scheduler.ledger.arrays import IntArray
from simulations.bench.api_server import CONTROL, Object
from simulations.bench.extender_cluster import SIZES_GIB, pod_object

HERE: Final = "127.0.0.1"
ELSEWHERE: Final = "127.0.0.2"  # not this machine, to the extender


@dataclass(frozen=True, slots=True)
class NewPod:
    """A pod that nobody has seen yet. As text: thousands of pods as objects would make garbage collection the longest turn."""

    name: str
    raw: bytes

    @property
    def uid(self) -> str:
        """Its UID."""
        return f"uid-{self.name}"

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"models/{self.name}"


class World:
    """The daemon, its API server and callers; what those do is done in threads and processes, and is no time of the loop's."""

    def __init__(self, daemon: SchedulerDaemon, api_url: str, port: int, nodes: int) -> None:
        self.daemon = daemon
        self.names = [f"node-{at:05d}" for at in range(nodes)]
        self._api, self._extender = urlsplit(api_url).netloc, f"{HERE}:{port}"
        self._rng = random.Random(3)
        self._pods = 0

    def rows(self) -> IntArray:
        """Every row of the fleet."""
        return np.arange(len(self.daemon.state.fleet.names))

    def pod(self, gib: int, *, cpu: str = "", **spec: Any) -> NewPod:
        """A new pod; `cpu` stands for what pods usually ask."""
        self._pods += 1
        pod = pod_object(f"new-{self._pods}", gib)
        pod["spec"] |= spec
        if cpu:
            pod["spec"]["containers"][0]["resources"] = {
                kind: amounts | {"cpu": cpu} for kind, amounts in pod["spec"]["containers"][0]["resources"].items()
            }
        return NewPod(pod["metadata"]["name"], msgspec.json.encode(pod))

    async def made(self, pods: Iterable[NewPod]) -> list[NewPod]:
        """Many new pods, made in slices: that is the benchmark's work, not the extender's."""
        slices, found = Slices(), list[NewPod]()
        for pod in pods:
            found.append(pod)
            await slices.pause()
        return found

    def size(self) -> int:
        """One of the usual sizes."""
        return self._rng.choice(SIZES_GIB)

    def entry(self, pod: NewPod) -> PodEntry:
        """The daemon's record of a pod."""
        return self.daemon.state.pods.entries[pod.uid]

    async def change(self, change: str, path: str, body: bytes = b"") -> None:
        """Have the API server's objects changed, see there."""
        await asyncio.to_thread(_ask, self._api, "POST", f"{CONTROL}{change}?path={path}", body, HERE)

    async def create(self, pods: Sequence[NewPod]) -> None:
        """Have the watch tell of pods, and wait until they are known."""
        await self.change("put", calls.PODS, b"[%b]" % b",".join(pod.raw for pod in pods))
        await self.until(lambda: self._all_known(pods))

    def _all_known(self, pods: Sequence[NewPod]) -> bool:
        entries = self.daemon.state.pods.entries
        return all(pod.uid in entries for pod in reversed(pods))  # the last one is heard of last

    async def remove(self, pods: Sequence[NewPod]) -> None:
        """Have the watch tell that pods are gone, and wait until that is known."""
        await self.change("remove", calls.PODS, msgspec.json.encode([pod.key for pod in pods]))
        state = self.daemon.state
        await self.until(
            lambda: not any(pod.uid in state.pods.entries or pod.uid in state.ledger.holdings for pod in pods)
        )

    async def until(self, condition: Callable[[], bool], seconds: float = 300.0) -> None:
        """Wait for something that must come about."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)

    async def ask(self, method: str, path: str, body: bytes = b"", *, source: str = HERE) -> bytes:
        """One call of the extender, in a thread. Raises RuntimeError for an answer that is neither 200 nor 404."""
        return await asyncio.to_thread(_ask, self._extender, method, path, body, source)

    async def filter(self, pod: NewPod) -> list[str]:
        """The nodes that filter leaves, of all."""
        self._rng.shuffle(self.names)
        body = b'{"Pod":%b,"Nodes":null,"NodeNames":%b}' % (pod.raw, msgspec.json.encode(self.names))
        answer: Object = msgspec.json.decode(await self.ask("POST", "/filter", body))
        return list(answer["NodeNames"])

    async def bind(self, pod: NewPod, node: str) -> None:
        """Bind, and wait until the watch has told."""
        body = {"PodName": pod.name, "PodNamespace": "models", "PodUID": pod.uid, "Node": node}
        await self.ask("POST", "/bind", msgspec.json.encode(body))
        await self.until(lambda: self.daemon.state.bound_node(pod.uid) == node)

    async def refuse(self, pods: Sequence[NewPod]) -> None:
        """Have pods refused by every node, as filter calls would: each of those costs its caller more than the loop."""
        rows, state = self.rows(), self.daemon.state
        for pod in pods:
            self.daemon.effects(state.pods.refuse(self.entry(pod), rows))
            await asyncio.sleep(0)


def _ask(address: str, method: str, path: str, body: bytes, source: str) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=300, source_address=(source, 0))
    connection.request(method, path, body or None, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status not in (200, 404):
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:200]!r}")
    return text
