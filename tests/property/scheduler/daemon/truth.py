"""What is true: the objects of an API server and the order of their changes, with the rules of the real one that matter here.

No fault happens in here; those are between this and its clients (`weather`). The checks at the end of the file know nothing of
Headroom but its annotations: they say what must hold whatever an extender does.
"""

import asyncio
import contextlib
import copy
import itertools
import json
from collections.abc import Callable
from typing import Any

Object = dict[str, Any]
CARD_MIB = 80 * 1024
MARK = "headroom.dev/assigned-"
MODEL_LABEL = "nvidia.com/gpu.product"


class Refusal(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


def node_object(name: str, models: tuple[str, ...], *, readable: bool = True) -> Object:
    cards = [
        {"id": f"{name}-g{at}", "index": at, "model": model, "vram_mib": CARD_MIB, "slices": 1}
        for at, model in enumerate(models)
    ]
    return {
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name},
            "annotations": {"headroom.dev/cards": json.dumps(cards) if readable else "[oops"},
        },
        "spec": {},
        "status": {"allocatable": {"cpu": "64", "memory": "512Gi", "pods": "110"}},
    }


class Truth:
    """Pods, nodes and leases. `clock` gives the time that goes into the log."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._versions, self._uids = itertools.count(1), itertools.count(1)
        self.version = 0
        self.pods: dict[str, Object] = {}
        self.nodes: dict[str, Object] = {}
        self.namespaces: dict[str, Object] = {}
        self.leases: dict[str, Object] = {}
        self.log: list[tuple[int, float, str, str, Object]] = []
        """(version, time, kind of object, kind of event, object), oldest first."""
        self.forgotten = 0
        """A watch from before this version gets 410."""
        self.bound_at: dict[str, float] = {}
        self.most_quota_gib: int | None = None
        """The most that the namespace's quota ever was; None where it has none."""
        self.excused: set[str] = set()
        """Cards that somebody other than Headroom has put pods on."""
        self.wrongs: list[str] = []
        self._changed = asyncio.Event()

    async def change(self, seconds: float) -> None:
        """Return at the next change, or after so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def record(self, event: str, kind: str, body: Object) -> None:
        self.version = next(self._versions)
        body["metadata"]["resourceVersion"] = str(self.version)
        self.log.append((self.version, self._clock(), kind, event, copy.deepcopy(body)))
        self._changed.set()
        self._changed = asyncio.Event()

    # What people and controllers do

    def add_pod(self, name: str, gib: int, **spec: Any) -> Object:
        body: Object = {
            "metadata": {
                "name": name, "namespace": "default", "uid": f"u{next(self._uids)}",
                "creationTimestamp": f"2026-01-01T00:00:{int(self._clock()) % 60:02d}Z", "annotations": {},
            },
            "spec": {
                "schedulerName": "headroom",
                "containers": [{"name": "c", "resources": {"limits": {"headroom.dev/vram": f"{gib}Gi"}}}],
                **spec,
            },
            "status": {"phase": "Pending"},
        }  # fmt: skip
        self.pods[name] = body
        self.record("ADDED", "pods", body)
        return body

    def add_foreign_pod(self, name: str, node: str, card: str, gib: int) -> None:
        """Another scheduler binds a pod with a card written on it, without asking."""
        self.excused.add(card)
        pod = self.add_pod(name, gib, schedulerName="other")
        pod["metadata"]["annotations"] |= {
            MARK + "cards": card,
            MARK + "vram-mib": str(gib * 1024),
            MARK + "mode": "pinned",
        }
        pod["spec"]["nodeName"] = node
        self.change_pod(name)

    def change_pod(self, name: str) -> None:
        self.record("MODIFIED", "pods", self.pods[name])
        self._look(name)

    def remove_pod(self, name: str) -> None:
        self.record("DELETED", "pods", self.pods.pop(name))

    def set_node(self, body: Object) -> None:
        name = body["metadata"]["name"]
        event = "MODIFIED" if name in self.nodes else "ADDED"
        self.nodes[name] = body
        self.record(event, "nodes", body)

    def remove_node(self, name: str) -> None:
        self.record("DELETED", "nodes", self.nodes.pop(name))

    def set_quota(self, gib: int) -> None:
        body = {"metadata": {"name": "default", "annotations": {"headroom.dev/max-vram": f"{gib}Gi"}}}
        self.most_quota_gib = max(gib, self.most_quota_gib or 0)
        event = "MODIFIED" if self.namespaces else "ADDED"
        self.namespaces["default"] = body
        self.record(event, "namespaces", body)

    # What the API server does

    def find(self, name: str) -> Object:
        if name not in self.pods:
            raise Refusal(404, f'pods "{name}" not found')
        return self.pods[name]

    def bind(self, name: str, body: Object) -> None:
        pod, wanted = self.find(name), body["metadata"]
        meta, where = pod["metadata"], f'Operation cannot be fulfilled on pods/binding "{name}"'
        if wanted["uid"] != meta["uid"]:
            raise Refusal(409, f"{where}: Precondition failed: UID in precondition: {wanted['uid']}")
        version = wanted.get("resourceVersion", "")
        if version and version != meta["resourceVersion"]:
            raise Refusal(409, f"{where}: Precondition failed: ResourceVersion in precondition: {version}")
        if meta.get("deletionTimestamp"):
            raise Refusal(409, f"{where}: pod {name} is being deleted, cannot be assigned to a host")
        if pod["spec"].get("schedulingGates"):
            raise Refusal(409, f"{where}: pod {name} has non-empty .spec.schedulingGates")
        if there := pod["spec"].get("nodeName"):
            raise Refusal(409, f'{where}: pod {name} is already assigned to node "{there}"')
        pod["spec"]["nodeName"] = body["target"]["name"]
        meta["annotations"] |= wanted.get("annotations", {})
        self.bound_at[meta["uid"]] = self._clock()
        self.change_pod(name)

    def patch_status(self, name: str, change: Object) -> Object:
        pod = self.find(name)
        uid = change.get("metadata", {}).get("uid")
        if uid and uid != pod["metadata"]["uid"]:
            raise Refusal(409, f"Precondition failed: UID in precondition: {uid}")
        before = copy.deepcopy(pod)
        pod["metadata"]["annotations"] |= change.get("metadata", {}).get("annotations", {})
        for key, value in change.get("status", {}).items():
            if value is None:
                pod["status"].pop(key, None)
            else:
                pod["status"][key] = value
        if pod != before:
            self.change_pod(name)
        return pod

    # What must hold

    def held(self, scheduler: str = "") -> dict[str, dict[str, int]]:
        """MiB by card id and pod UID, of pods that are bound and have not ended; with `scheduler`, of its pods only."""
        found: dict[str, dict[str, int]] = {}
        for pod in self.pods.values():
            notes = pod["metadata"]["annotations"]
            if (
                pod["spec"].get("nodeName")
                and pod["status"]["phase"] not in ("Succeeded", "Failed")
                and (not scheduler or pod["spec"]["schedulerName"] == scheduler)
            ):
                cards = notes.get(MARK + "cards", "").split(",")
                sizes = notes.get(MARK + "vram-mib", "").split(",")
                for card in filter(None, cards):
                    found.setdefault(card, {})[pod["metadata"]["uid"]] = int(sizes[0])
        return found

    def card_for(self, pod: Object) -> str | None:
        """A card on which a pod would fit, within the quota that there is now."""
        held = self.held()
        wanted = pod["spec"].get("nodeSelector", {}).get(MODEL_LABEL)
        limits = pod["spec"]["containers"][0]["resources"]["limits"]
        need = int(limits["headroom.dev/vram"].removesuffix("Gi")) * 1024
        if self.namespaces:
            quota = self.namespaces["default"]["metadata"]["annotations"]["headroom.dev/max-vram"]
            if need + sum(sum(of_card.values()) for of_card in held.values()) > int(quota.removesuffix("Gi")) * 1024:
                return None
        for node, models in MODELS.items():
            for at, model in enumerate(models):
                card = f"{node}-g{at}"
                if (not wanted or wanted == model) and CARD_MIB - sum(held.get(card, {}).values()) >= need:
                    return card
        return None

    def _look(self, name: str) -> None:
        """Look at every change of a pod: no card is given twice, and it is one that the pod admits."""
        pod = self.pods[name]
        node = pod["spec"].get("nodeName")
        if not node:
            return
        held = self.held()
        if self.most_quota_gib is not None and pod["spec"]["schedulerName"] == "headroom":
            total = sum(sum(of_card.values()) for of_card in self.held(scheduler="headroom").values())
            if total > self.most_quota_gib * 1024:
                self.wrongs.append(f"pods hold {total} MiB, their namespace may have {self.most_quota_gib} GiB")
        for card in filter(None, pod["metadata"]["annotations"].get(MARK + "cards", "").split(",")):
            self.excused &= held.keys()
            total = sum(held.get(card, {}).values())
            if total > CARD_MIB and card not in self.excused:
                self.wrongs.append(f"card {card} holds {total} of {CARD_MIB} MiB: {held[card]}")
            wanted = pod["spec"].get("nodeSelector", {}).get(MODEL_LABEL)
            model = MODELS[card.split("-")[0]][int(card.rsplit("g", 1)[1])]
            if wanted and wanted != model:
                self.wrongs.append(f"pod {name} admits {wanted} and was given {card}, which is {model}")


MODELS = {"n0": ("A100",), "n1": ("A100", "H100")}
