"""The embedded simulated cluster: API server, scheduler, kubelets and Deployments in virtual time.

Virtual time moves only when its owner runs the engine; Headroom's daemons talk to the cluster over HTTP and see nothing
unusual: lists, watches, bindings. The kubelets decide the truth: which card the device
plugin hands out, and whether a starting engine finds the memory it needs there.
"""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from headroom import names
from headroom.domain.model import Allocation, GpuNode
from simulations.embedded.api import ApiServer
from simulations.embedded.kube_scheduler import Extender, KubeScheduler
from simulations.embedded.store import CardRef, Key, Object, Store
from simulations.kwok.nodes import node_manifest
from simulations.virtual_time import Engine

_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
NAMESPACE: Final = "inference"


class Kubelets:
    """The device plugins and kubelets of all nodes: which pod holds which cards, and how much memory each card really gives.

    A pod with plugin devices gets the card the plugin prefers; a pinned one runs on the cards its annotation names.
    """

    def __init__(self, nodes: Sequence[GpuNode]) -> None:
        self._nodes = {node.name: node for node in nodes}
        self._devices = {node.name: [0] * len(node.cards) for node in nodes}
        self._plugin: set[str] = set()
        self.free_mib: dict[CardRef, int] = {
            (node.name, card.index): card.usable_mib for node in nodes for card in node.cards
        }
        self.cards: dict[str, tuple[CardRef, ...]] = {}
        """Cards by pod name, one per share."""
        self.need_mib: dict[str, int] = {}
        """Memory per share that the pod's engine really takes."""
        self.out_of_memory: list[str] = []
        """Pods that found too little memory on their card."""
        self.mispredicted: list[str] = []
        """Pods whose plugin picked another card than the scheduler had announced."""

    def start(self, pod: Object, need_mib: int) -> bool:
        """Give a bound pod its cards; False when it dies of too little memory."""
        meta, node = pod["metadata"], pod["spec"]["nodeName"]
        announced = self.announced(node, meta.get("annotations", {}))
        devices = sum(
            int(container["resources"]["limits"].get(names.RESOURCE_NVIDIA_GPU, 0))
            for container in pod["spec"]["containers"]
        )
        indexes = self._plugin_picks(node, devices) if devices else announced
        if devices:
            self._plugin.add(meta["name"])
            if sorted(indexes) != sorted(announced):
                self.mispredicted.append(meta["name"])
        refs = tuple((node, index) for index in indexes)
        self.cards[meta["name"]] = refs
        self.need_mib[meta["name"]] = need_mib
        for ref in refs:
            self.free_mib[ref] -= need_mib
        if any(self.free_mib[ref] < 0 for ref in refs):
            self.out_of_memory.append(meta["name"])
            return False
        return True

    def announced(self, node: str, annotations: dict[str, str]) -> list[int]:
        """Card indexes that a pod's annotations name."""
        index_of = {card.id: card.index for card in self._nodes[node].cards}
        text = annotations.get(names.ANNOTATION_ASSIGNED_CARDS, "")
        return [index_of[card] for card in text.split(",") if card in index_of]

    def _plugin_picks(self, node: str, devices: int) -> list[int]:
        given, cards = self._devices[node], self._nodes[node].cards
        sign = -1 if self._nodes[node].allocation is Allocation.PACKED else 1
        picked: list[int] = []
        for _ in range(devices):
            able = [i for i, card in enumerate(cards) if given[i] < card.slices]
            fresh = [i for i in able if i not in picked] or able
            best = min(fresh, key=lambda i: (sign * given[i], i))
            given[best] += 1
            picked.append(best)
        return picked

    def stop(self, name: str) -> None:
        """Take a pod's cards back."""
        refs = self.cards.pop(name, ())
        need = self.need_mib.pop(name, 0)
        for node, index in refs:
            self.free_mib[node, index] += need
            if name in self._plugin:
                self._devices[node][index] -= 1
        self._plugin.discard(name)


class Cluster:
    """Nodes, Deployments, pods and the parts that move them. Create it, then `apply`, `settle`, `add` and `remove`."""

    def __init__(self, nodes: Sequence[GpuNode], rng: random.Random) -> None:
        self.engine = Engine()
        self.nodes = list(nodes)
        self.store = Store(self.timestamp)
        self.kubelets = Kubelets(nodes)
        self.api = ApiServer(self.store, self._evicted)
        self._rng = rng
        self._templates: dict[str, Object] = {}
        self._needs: dict[str, int] = {}
        self._scheduler: KubeScheduler | None = None
        self.moves = 0
        """Pods that got cards or gave them back, ever."""
        self.removed = 0
        """Pods that went since somebody last set this to 0; the extender learns of them by its watch, a moment later."""
        for node in self.nodes:
            self.store.create("nodes", node_manifest(node))

    def timestamp(self) -> str:
        """Virtual time as Kubernetes writes it."""
        return (_EPOCH + timedelta(seconds=self.engine.now)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def use_scheduler(self, extender: Extender) -> KubeScheduler:
        """Start kube-scheduler with this extender."""
        self._scheduler = KubeScheduler(self.store, extender, lambda: self.engine.now)
        return self._scheduler

    def apply(self, name: str, template: Object, replicas: int, need_mib: int) -> None:
        """Create a Deployment. `need_mib` is what each of its shares really takes on a card."""
        self._templates[name] = template
        self._needs[name] = need_mib
        self.add(name, replicas)

    def has(self, name: str) -> bool:
        """Whether there is a Deployment of this name."""
        return name in self._templates

    def add(self, name: str, replicas: int) -> None:
        """Scale a Deployment up by so many pods. Down: see `remove`."""
        for _ in range(replicas):
            self._create_pod(name)

    def _create_pod(self, deployment: str) -> str:
        template = self._templates[deployment]
        suffix = "".join(self._rng.choices("bcdfghjklmnpqrstvwxz2456789", k=5))
        meta = {
            "name": f"{deployment}-{suffix}",
            "namespace": NAMESPACE,
            "labels": template["metadata"].get("labels", {}),
            "annotations": template["metadata"].get("annotations", {}),
        }
        pod: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": meta,
            "spec": template["spec"],
            "status": {"phase": "Pending"},
        }
        self.store.create("pods", pod)
        return str(meta["name"])

    def remove(self, name: str) -> None:
        """Delete a pod now (its drain is over) and give its cards back."""
        pod = self.store.delete("pods", (NAMESPACE, name))
        self.kubelets.stop(name)
        if pod["spec"].get("nodeName"):
            self.removed += 1
            self.moves += 1

    def owner(self, pod: str) -> str:
        """The Deployment a pod belongs to, by their names."""
        return pod.rsplit("-", 1)[0]

    def promised_mib(self) -> dict[CardRef, int]:
        """MiB by card that the annotations of bound pods speak of; what the extender's ledger should hold."""
        promised: dict[CardRef, int] = {}
        for pod in self.store.items("pods"):
            node, annotations = pod["spec"].get("nodeName"), pod["metadata"].get("annotations", {})
            if not node:
                continue
            mib = int(annotations.get(names.ANNOTATION_ASSIGNED_VRAM_MIB, "0").split(",")[0])
            for index in self.kubelets.announced(node, annotations):
                promised[node, index] = promised.get((node, index), 0) + mib
        return promised

    def pods_of(self, deployment: str) -> list[str]:
        """Names of a Deployment's pods."""
        return [
            pod["metadata"]["name"]
            for pod in self.store.items("pods")
            if self.owner(pod["metadata"]["name"]) == deployment
        ]

    def _evicted(self, namespace: str, name: str) -> None:
        self.store.get("pods", (namespace, name))
        self.remove(name)
        self.add(self.owner(name), 1)

    async def settle(self) -> list[str]:
        """Let the scheduler try every pod that is due, and the kubelets start what was bound; returns pods that started."""
        assert self._scheduler is not None, "use_scheduler comes first"
        await self._scheduler.run()
        started = []
        for pod in list(self.store.items("pods")):
            name = pod["metadata"]["name"]
            if pod["spec"].get("nodeName") and name not in self.kubelets.cards:
                self.kubelets.start(pod, self._needs[self.owner(name)])
                self._set_phase((NAMESPACE, name), "Running")
                started.append(name)
                self.moves += 1
        return started

    async def introduce(self) -> None:
        """Wait until the extender has seen every pod without a node: what it learns of the workload is then no race."""
        assert self._scheduler is not None, "use_scheduler comes first"
        await self._scheduler.extender.until_waiting({f"{NAMESPACE}/{name}" for name in self.pending()})

    def _set_phase(self, key: Key, phase: str) -> None:
        def change(pod: Object) -> None:
            pod["status"]["phase"] = phase
            pod["status"]["startTime"] = self.timestamp()

        self.store.update("pods", key, change)

    def pending(self) -> list[str]:
        """Names of pods without a node."""
        return [pod["metadata"]["name"] for pod in self.store.items("pods") if not pod["spec"].get("nodeName")]
