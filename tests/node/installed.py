"""Headroom's daemons as processes of a real node, and the pods that tests make there."""

import json
from functools import partial
from typing import Any, Final

from headroom import names
from simulations.kwok.process import Component
from simulations.node.cluster import NODE_NAME, NodeCluster
from simulations.node.images.basic import BUSYBOX
from simulations.node.installation import AGENT, EXTENDER, install

PODS: Final = "/api/v1/namespaces/default/pods"


class Headroom:
    """Headroom's daemons on the node, what they say, and pods that ask them for cards."""

    def __init__(self, node: NodeCluster) -> None:
        self.node = node
        install(node, "--settle-seconds", "2", "--interval-seconds", "1")

    def cards(self) -> list[dict[str, Any]]:
        """The node's cards as the agent has published them."""
        text = self.node.node()["metadata"].get("annotations", {}).get(names.ANNOTATION_NODE_CARDS, "[]")
        cards: list[dict[str, Any]] = json.loads(text)
        return cards

    def snapshot(self) -> dict[str, Any]:
        """The extender's view."""
        page: dict[str, Any] = json.loads(self.node.get(f"{EXTENDER}/debug/snapshot"))
        return page

    def ledger(self) -> list[dict[str, Any]]:
        """The extender's cards of the node."""
        return [card for one in self.snapshot()["fleet"]["nodes"] for card in one["cards"]]

    def metrics(self, daemon: str = AGENT) -> dict[str, float]:
        """Every series of a daemon's page, by its whole name."""
        lines = [line for line in self.node.get(f"{daemon}/metrics").splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def create(self, *bodies: dict[str, Any]) -> None:
        """Create pods of the default namespace."""
        for body in bodies:
            self.node.api.request("POST", PODS, body)

    def pod(self, name: str) -> dict[str, Any]:
        """One pod."""
        return self.node.pod(name)

    def assigned(self, name: str) -> tuple[str, ...]:
        """The cards that a pod is annotated with."""
        text = self.pod(name)["metadata"].get("annotations", {}).get(names.ANNOTATION_ASSIGNED_CARDS, "")
        return tuple(text.split(",")) if text else ()

    def bound(self, name: str) -> tuple[str, ...]:
        """Waits until a pod is bound; the cards that were foretold."""
        self.node.wait_for(lambda: self.pod(name)["spec"].get("nodeName"), f"{name} to be bound: {self.refusal(name)}")
        return self.assigned(name)

    def refusal(self, name: str) -> str:
        """Why a pod is not bound (yet)."""
        return self.node.refusal("default", name)

    def started(self, *some: str) -> None:
        """Waits until these pods run (or have ended well)."""
        for name in some:
            self.node.wait_for(partial(self._runs, name), f"{name} to run")

    def _runs(self, name: str) -> bool:
        return self.phase(name) in ("Running", "Succeeded")

    def phase(self, name: str) -> str:
        """A pod's phase, with the reason when it has failed."""
        status = self.pod(name)["status"]
        return f"{status['phase']} {status.get('reason', '')}".strip()

    def environment(self, name: str) -> dict[str, str]:
        """What `env` printed in a pod's container."""
        return self.node.environment(name)

    def given(self) -> dict[str, tuple[str, ...]]:
        """Pod -> cards, as kubelet says."""
        found: dict[str, tuple[str, ...]] = {}
        for device in self.node.held_devices():
            found[device.pod] = (*found.get(device.pod, ()), device.id.partition("::")[0])
        return found

    def events(self, reason: str) -> list[str]:
        """Messages of the events of a reason in the default namespace."""
        items = self.node.api.items("/apis/events.k8s.io/v1/namespaces/default/events")
        return [f"{item['regarding']['name']}: {item['note']}" for item in items if item["reason"] == reason]

    def delete(self, *some: str) -> None:
        """Delete pods and wait until they are gone."""
        self.node.api.delete_all((f"{PODS}/{name}" for name in some), {"gracePeriodSeconds": 0})
        there = lambda: {item["metadata"]["name"] for item in self.node.pods("default")}  # noqa: E731
        self.node.wait_for(lambda: not there() & set(some), f"{', '.join(some)} to go")

    def label(self, **labels: str | None) -> None:
        """Set labels of the node, or take them away."""
        self.node.api.patch(f"/api/v1/nodes/{NODE_NAME}", {"metadata": {"labels": labels}})

    def share(self, replicas: int = 4, policy: str = "distributed", **plugin: Any) -> Component:
        """Start a device plugin that makes so many devices of each card; wait until the extender counts on them."""
        self.label(**{names.LABEL_ALLOCATION: policy, names.LABEL_GPU_REPLICAS: None})
        component = self.node.start_plugin(replicas, policy, **plugin)
        self.node.wait_for(
            lambda: [card["slices"] for card in self.ledger()] == [replicas] * 2, f"{replicas} devices a card"
        )
        return component

    def clean(self) -> None:
        """No pod, no device plugin, cards as they come."""
        self.node.kubectl("delete", "deployments,statefulsets,services", "-l", "test=node", "--wait=false")
        self.delete(*(item["metadata"]["name"] for item in self.node.pods("default")))
        self.label(**{names.LABEL_ALLOCATION: None, names.LABEL_GPU_REPLICAS: None})
        self.node.kubectl("delete", "events", "--all", "--wait=false")
        self.node.cards.say()
        self.node.stop_plugin()
        self.node.wait_for(lambda: all(not card["held_mib"] for card in self.ledger()), "the ledger to be empty")


def pod(name: str, limits: dict[str, str], *, command: str = "env; sleep 36000", **spec: Any) -> dict[str, Any]:
    """A pod of one busybox container."""
    container = {"name": "main", "image": BUSYBOX, "command": ["sh", "-c", command], "resources": {"limits": limits}}
    body = {"containers": [container], "terminationGracePeriodSeconds": 0, "restartPolicy": "Never", **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": body}
