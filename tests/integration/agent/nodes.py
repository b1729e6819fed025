"""KWOK nodes with scripted agents, pods that ask for their cards, and a kubelet that answers."""

import asyncio
import json
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from simulations.kwok.cluster import Cluster
from simulations.kwok.process import Component, free_port
from tests.fakes.kubelet import Kubelet

MODEL = "NVIDIA-L4"
VRAM_MIB = 24576


class Node:
    """A kwok node with a scripted agent; `show` changes what the agent reads, at once."""

    def __init__(self, cluster: Cluster, folder: Path, name: str, cards: int) -> None:
        self.cluster, self.name, self.cards = cluster, name, cards
        self.script, self.socket, self.port = folder / f"{name}.yaml", folder / f"{name}.sock", free_port()
        self.show()

    def card(self, index: int) -> str:
        return f"GPU-{self.name}-{index}"

    def show(self, *, used_mib: dict[int, int] | None = None, lost: tuple[int, ...] = ()) -> None:
        cards = [
            {
                "id": self.card(index), "index": index, "model": MODEL, "memory_total_bytes": f"{VRAM_MIB}Mi",
                "memory_reserved_bytes": 0, "memory_used_bytes": f"{(used_mib or {}).get(index, 0)}Mi",
                "utilization_ratio": 0.0, "power_watts": 20, "processes": [],
            }
            for index in range(self.cards) if index not in lost
        ]  # fmt: skip
        broken = [{"index": index, "id": self.card(index), "reason": "lost"} for index in lost]
        part = self.script.with_suffix(".part")
        part.write_text(yaml.safe_dump({"cards": cards, "broken": broken}))
        part.rename(self.script)

    def start_agent(self, *flags: str, kubeconfig: Path | None = None) -> Component:
        return self.cluster.daemon(
            "agent", "--node", self.name, "--script", str(self.script), "--interval-seconds", "1", "--settle-seconds", "1",
            "--host", "127.0.0.1", "--port", str(self.port), *(flags or ("--podresources-socket", str(self.socket))),
            name=f"agent-{self.name}", ready_url=f"http://127.0.0.1:{self.port}/readyz", kubeconfig=kubeconfig,
        )  # fmt: skip

    def published(self) -> dict[str, bool]:
        node = self.cluster.api.get(f"/api/v1/nodes/{self.name}")
        return {
            card["id"]: card["healthy"]
            for card in json.loads(node["metadata"]["annotations"].get("headroom.dev/cards", "[]"))
        }

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return answer.read().decode()


@contextmanager
def kubelet_at(socket: Path) -> Iterator[Kubelet]:
    """A kubelet that answers while the test waits: it lives in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    kubelet = Kubelet(socket)
    asyncio.run_coroutine_threadsafe(kubelet.start(), loop).result(10)
    try:
        yield kubelet
    finally:
        asyncio.run_coroutine_threadsafe(kubelet.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def ask(
    cluster: Cluster, namespace: str, name: str, mib: int, *, scheduler: str = "headroom", devices: int = 0
) -> None:
    limits = {"headroom.dev/vram": f"{mib}Mi"} if mib else {}
    if devices:
        limits["nvidia.com/gpu"] = str(devices)
    container = {"name": "engine", "image": "server", "resources": {"limits": limits}}
    spec = {"schedulerName": scheduler, "terminationGracePeriodSeconds": 0, "containers": [container]}
    body = {"metadata": {"name": name, "labels": {"pod": name}}, "spec": spec}
    cluster.api.request("POST", f"/api/v1/namespaces/{namespace}/pods", body)


def annotation(cluster: Cluster, namespace: str, name: str, key: str = "assigned-cards") -> str:
    meta = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods/{name}")["metadata"]
    return meta.get("annotations", {}).get(f"headroom.dev/{key}", "")
