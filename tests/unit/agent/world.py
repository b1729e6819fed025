"""An agent with a scripted driver, between an API server over HTTP and a kubelet over gRPC."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from agent.cards.reader import CardReading, Reading
from agent.cards.scripted import Frame, ScriptedReader
from agent.cycle import Agent, follow
from agent.energy.books import Account
from agent.energy.tariff import Tariff
from agent.metrics import AgentMetrics
from agent.pods.index import NodePod
from agent.pods.podresources import PodResources
from agent.pods.processes import ProcessTable
from agent.settings import AgentSettings
from headroom import wire
from headroom.daemon.pages import Health
from headroom.kube.aio import connect
from tests.fakes.apiserver import ApiServer
from tests.fakes.kubelet import Kubelet
from tests.waiting import until

GIB = 2**30
NODES, PODS = "/api/v1/nodes", "/api/v1/pods"
NODE = {"metadata": {"name": "n1", "labels": {"nvidia.com/gpu.replicas": "4"}}}


def card(index: int, **fields: Any) -> CardReading:
    defaults: dict[str, Any] = {
        "memory_total_bytes": 24 * GIB, "memory_reserved_bytes": 0, "memory_used_bytes": 0, "energy_millijoules": 0,
        "utilization_ratio": 0.0, "power_watts": 20.0, "ecc_uncorrected": 0, "processes": (),
    }  # fmt: skip
    return CardReading(f"GPU-{index}", index, "L4", **(defaults | fields))


CARDS = (card(0), card(1))


def pod(name: str, *, cards: str | None = None, **fields: Any) -> dict[str, Any]:
    annotations = {} if cards is None else {
        "headroom.dev/assigned-cards": cards, "headroom.dev/assigned-vram-mib": "6144", "headroom.dev/assigned-mode": "slice",
    }  # fmt: skip
    return {
        "metadata": {"name": name, "namespace": "chat", "uid": f"uid-{name}", "annotations": annotations,
                     "labels": {"headroom.dev/project": "search"}},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "engine", "resources": {"limits": {"nvidia.com/gpu": "1", "headroom.dev/vram": "6Gi"}}}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"} | fields,
    }  # fmt: skip


class Script(ScriptedReader):
    """A scripted driver that can be made to hang."""

    hang: Callable[[float], None] | None = None
    reads = 0
    """So often it was asked."""

    def read(self, now: float) -> Reading:
        self.reads += 1
        if self.hang is not None:
            self.hang(now)
        return super().read(now)


class World:
    """One agent and all it talks to; `tick` is one cycle, five seconds after the last."""

    def __init__(self, api: ApiServer, kubelet: Kubelet, reader: "Script", tmp_path: Path) -> None:
        self.api, self.kubelet, self.reader, self.tmp_path = api, kubelet, reader, tmp_path
        self.now = 1000.0
        self.registry = CollectorRegistry()
        self.health = Health(self.registry)

    async def start(self, **settings: Any) -> None:
        options: dict[str, Any] = {"node": "n1", "settle_seconds": 30.0} | settings
        self.settings = AgentSettings(**options)
        self.kube = await connect(str(self.api.write_kubeconfig(self.tmp_path / "kubeconfig")))
        self.podresources = PodResources(str(self.kubelet.socket), timeout_seconds=0.5)
        account = Account(longest_gap_seconds=30.0)
        metrics = AgentMetrics(self.registry, node="n1", account=account, tariff=Tariff(budgets={"search": 100.0}))
        self.agent = Agent(
            self.settings, self.reader, account=account, metrics=metrics, health=self.health, podresources=self.podresources,
            processes=ProcessTable(self.tmp_path / "proc"), monotonic=lambda: self.now, wall=lambda: self.now,
        )  # fmt: skip
        self.cluster = follow(self.kube, self.settings, metrics, self.agent.pod_event)
        self.agent.attach(self.cluster)
        self.tasks = [asyncio.create_task(self.cluster.node.run()), asyncio.create_task(self.cluster.pods.run())]

    async def stop(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.podresources.close()
        await self.kube.close()

    async def synced(self) -> None:
        await self.cluster.node.wait_synced()
        await self.cluster.pods.wait_synced()

    async def tick(self, times: int = 1, seconds: float = 5.0) -> None:
        for _ in range(times):
            self.now += seconds
            await self.agent.cycle()
            await self.caught_up()

    async def caught_up(self) -> None:
        """Until the caches show what the API server holds."""
        await until(self._shows_all)

    def _shows_all(self) -> bool:
        seen: list[wire.Node | NodePod] = [*self.cluster.node.items().values(), *self.cluster.pods.items().values()]
        there = [item for item in (*self.api.all(NODES), *self.api.all(PODS)) if self._mine(item)]
        known = sorted(one.metadata.resource_version for one in seen)
        return known == sorted(one["metadata"]["resourceVersion"] for one in there)

    @staticmethod
    def _mine(item: dict[str, Any]) -> bool:
        return item["metadata"]["name"] == "n1" or item.get("spec", {}).get("nodeName") == "n1"

    def show(self, *cards: CardReading, **fields: Any) -> None:
        self.reader.show(Frame(cards=cards, **fields))

    def published(self) -> dict[str, bool]:
        text = self.api.get(NODES, "n1")["metadata"].get("annotations", {}).get("headroom.dev/cards", "[]")
        return {entry["id"]: entry["healthy"] for entry in json.loads(text)}

    def writes(self) -> int:
        return sum(request.method != "GET" for request in self.api.requests)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def place(self, index: int) -> dict[str, str]:
        return {"node": "n1", "card": f"GPU-{index}", "model": "L4"}

    def annotation(self, name: str) -> str:
        return self.api.get(PODS, name, "chat")["metadata"]["annotations"].get("headroom.dev/assigned-cards", "")


@asynccontextmanager
async def world_at(tmp_path: Path, **settings: Any) -> AsyncIterator[World]:
    async with ApiServer() as api, Kubelet(tmp_path / "kubelet.sock") as kubelet:
        api.put(NODES, json.loads(json.dumps(NODE)))
        api.put(NODES, {"metadata": {"name": "other"}})
        one = World(api, kubelet, Script((Frame(cards=CARDS),)), tmp_path)
        await one.start(**settings)
        try:
            await one.synced()
            yield one
        finally:
            await one.stop()
