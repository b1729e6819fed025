"""kube-scheduler of the embedded simulated cluster: its queue and its cycle, in virtual time, with the real extender over HTTP.

What is modelled, after kube-scheduler 1.36: pods ordered by priority, then creation; in-tree filters for node selectors,
required node affinity, host anti-affinity, cordons and allocatable resources (those that the extender manages are left to it);
then the extender's filter over the names that are left, prioritize when more than one remains, bind. A pod that was refused
rests until something in the cluster changes for the better, with a back-off of 1 s doubling to 10 s. Not modelled: in-tree
scoring, preemption, volumes, spread constraints.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from headroom import names
from headroom.units import quantity_to_int, quantity_to_mib, quantity_to_milli
from simulations.embedded.daemons import until
from simulations.embedded.store import CardRef, Object, Store

MANAGED_RESOURCES: Final = (
    names.RESOURCE_VRAM,
    names.RESOURCE_GPU_MILLI,
    names.RESOURCE_GPU,
    names.RESOURCE_HAMI_MEMORY,
    names.RESOURCE_HAMI_MEMORY_PERCENT,
    names.RESOURCE_GPUSHARE_MEMORY,
)
_FIRST_BACKOFF_SECONDS: Final = 1.0
_LONGEST_BACKOFF_SECONDS: Final = 10.0

Resources = dict[str, int]
"""CPU in thousandths, memory in MiB, everything else as counts."""


@dataclass(slots=True)
class ExtenderCalls:
    """Wall-clock seconds of each call to the extender, by verb."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, verb: str, seconds: float) -> None:
        """Record a call."""
        self.seconds.setdefault(verb, []).append(seconds)

    def median_seconds(self, verb: str) -> float:
        """Median of a verb's calls; 0 when there were none."""
        values = sorted(self.seconds.get(verb, []))
        return values[len(values) // 2] if values else 0.0

    def count(self, verb: str) -> int:
        """Calls of a verb."""
        return len(self.seconds.get(verb, []))


class Extender:
    """The extender as kube-scheduler calls it (nodeCacheCapable: names only)."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url
        self.calls = ExtenderCalls()

    async def _call(self, verb: str, body: Object) -> Any:
        start = time.perf_counter()
        async with self._session.post(f"{self._url}/{verb}", json=body) as response:
            answer = await response.json(content_type=None)
        self.calls.add(verb, time.perf_counter() - start)
        return answer

    async def filter(self, pod: Object, node_names: list[str]) -> tuple[list[str], dict[str, str], str]:
        """(names left, reason by refused node, error)."""
        answer = _any_case(await self._call("filter", {"Pod": pod, "Nodes": None, "NodeNames": node_names}))
        refused = {**(answer.get("failednodes") or {}), **(answer.get("failedandunresolvablenodes") or {})}
        return answer.get("nodenames") or [], refused, answer.get("error") or ""

    async def prioritize(self, pod: Object, node_names: list[str]) -> dict[str, int]:
        """Score by node."""
        answer = await self._call("prioritize", {"Pod": pod, "Nodes": None, "NodeNames": node_names})
        return {_any_case(entry)["host"]: _any_case(entry)["score"] for entry in answer}

    async def bind(self, pod: Object, node: str) -> str:
        """Empty when the pod was bound, else the error."""
        meta = pod["metadata"]
        body = {"PodName": meta["name"], "PodNamespace": meta["namespace"], "PodUID": meta["uid"], "Node": node}
        return _any_case(await self._call("bind", body)).get("error") or ""

    async def fit(self, template: Object, limit: int) -> int:
        """How many more pods like this the fleet can hold, at most `limit`, by the extender's own answer."""
        answer = await self._call("v1/fit", {"pod": template, "limit": limit})
        return int(answer["fits"])

    async def _snapshot(self) -> Any:
        async with self._session.get(f"{self._url}/debug/snapshot") as response:
            return await response.json(content_type=None)

    async def until_waiting(self, pods: set[str]) -> None:
        """Wait until the extender has seen these pods (namespace/name). Raises DaemonError when it does not in time."""

        async def seen() -> bool:
            return pods <= set((await self._snapshot())["waiting"])

        await until(seen, what="the extender to see the pods that wait")

    async def held_mib(self) -> dict[CardRef, int]:
        """MiB by card that the extender's ledger holds, cards with nothing left out."""
        snapshot = await self._snapshot()
        return {
            (node["name"], index): card["held_mib"]
            for node in snapshot["fleet"]["nodes"]
            for index, card in enumerate(node["cards"])
            if card["held_mib"]
        }

    async def until_held(self, promised: dict[CardRef, int]) -> None:
        """Wait until the extender's ledger holds exactly this. Raises DaemonError when it does not in time."""

        async def equal() -> bool:
            return await self.held_mib() == promised

        await until(equal, what="the extender's ledger to agree with the pods")


def _any_case(answer: Object) -> Object:
    return {name.lower(): value for name, value in (answer or {}).items()}


@dataclass(slots=True)
class _Waiting:
    attempts: int = 0
    ready_at: float = 0.0
    resting: bool = False


class KubeScheduler:
    """Schedules the pending pods of one scheduler name. `now` is the cluster's virtual clock."""

    def __init__(self, store: Store, extender: Extender, now: Callable[[], float]) -> None:
        self._store = store
        self.extender = extender
        self._now = now
        self._waiting: dict[str, _Waiting] = {}
        self._changes = [store.watch(collection, 0) for collection in ("pods", "nodes")]
        self._used: dict[str, Resources] = {}
        self._counted: dict[str, tuple[str, Resources]] = {}

    async def run(self) -> int:
        """Try every pod that may be tried now; returns how many were bound."""
        self._take_changes()
        bound = 0
        for pod in self._due():
            try:
                bound += await self._schedule(pod)
            finally:
                self._take_changes()
        return bound

    def _due(self) -> list[Object]:
        now = self._now()
        due = []
        for pod in self._store.items("pods"):
            if pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            if pod["spec"].get("schedulerName") != names.SCHEDULER_NAME:
                continue
            waiting = self._waiting.setdefault(pod["metadata"]["uid"], _Waiting())
            if not waiting.resting and waiting.ready_at <= now:
                due.append(pod)
        due.sort(key=lambda pod: (-int(pod["spec"].get("priority", 0)), int(pod["metadata"]["resourceVersion"])))
        return due

    async def _schedule(self, pod: Object) -> bool:
        meta = pod["metadata"]
        left = self._in_tree(pod)
        refused: dict[str, str] = {}
        if left:
            left, refused, error = await self.extender.filter(pod, left)
            if error:
                return self._back_off(pod, error, rest=False)
        if not left:
            return self._back_off(pod, _summary(refused), rest=True)
        node = left[0]
        if len(left) > 1:
            scores = await self.extender.prioritize(pod, left)
            node = max(left, key=lambda name: (scores.get(name, 0), name))
        error = await self.extender.bind(pod, node)
        if error:
            return self._back_off(pod, error, rest=False)
        self._waiting.pop(meta["uid"], None)
        return True

    def _back_off(self, pod: Object, reason: str, *, rest: bool) -> bool:
        meta = pod["metadata"]
        waiting = self._waiting[meta["uid"]]
        waiting.attempts += 1
        waiting.resting = rest
        delay = min(_FIRST_BACKOFF_SECONDS * 2 ** (waiting.attempts - 1), _LONGEST_BACKOFF_SECONDS)
        waiting.ready_at = self._now() + delay
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason}

        def refuse(target: Object) -> None:
            target["status"]["conditions"] = [condition]

        self._store.update("pods", (meta["namespace"], meta["name"]), refuse)
        return False

    def _take_changes(self) -> None:
        """Follow bound pods and wake resting ones when a pod went or a node changed."""
        woken = False
        for watch in self._changes:
            while not watch.queue.empty():
                change = watch.queue.get_nowait()
                woken |= change.collection == "nodes" or change.kind == "DELETED"
                if change.collection == "pods":
                    self._follow(change.kind, change.after)
        if woken:
            for waiting in self._waiting.values():
                waiting.resting = False

    def _follow(self, kind: str, pod: Object) -> None:
        uid, node = pod["metadata"]["uid"], pod["spec"].get("nodeName", "")
        gone = kind == "DELETED" or pod["status"].get("phase") in ("Succeeded", "Failed")
        if kind == "DELETED":
            self._waiting.pop(uid, None)
        if gone and uid in self._counted:
            where, amounts = self._counted.pop(uid)
            _add(self._used[where], amounts, -1)
        elif node and not gone and uid not in self._counted:
            amounts = pod_resources(pod)
            self._counted[uid] = (node, amounts)
            _add(self._used.setdefault(node, {}), amounts, 1)

    def _in_tree(self, pod: Object) -> list[str]:
        wanted = pod_resources(pod)
        nominated = pod["status"].get("nominatedNodeName", "")
        taken = self._repelled_by(pod)
        left = [
            node["metadata"]["name"]
            for node in self._store.items("nodes")
            if not node["spec"].get("unschedulable")
            and node["metadata"]["name"] not in taken
            and _selected(pod["spec"], node)
            and self._has_room(node, wanted)
        ]
        return [nominated] if nominated in left else left

    def _repelled_by(self, pod: Object) -> set[str]:
        """Nodes that hold a pod which this one's required anti-affinity (by labels, on the host name) shuns."""
        affinity = (pod["spec"].get("affinity") or {}).get("podAntiAffinity") or {}
        selectors = [
            term["labelSelector"]["matchLabels"].items()
            for term in affinity.get("requiredDuringSchedulingIgnoredDuringExecution", ())
        ]
        if not selectors:
            return set()
        return {
            other["spec"]["nodeName"]
            for other in self._store.items("pods")
            if other["spec"].get("nodeName")
            and any(labels <= other["metadata"]["labels"].items() for labels in selectors)
        }

    def _has_room(self, node: Object, wanted: Resources) -> bool:
        used = self._used.get(node["metadata"]["name"], {})
        free = _amounts(node["status"]["allocatable"])
        return all(used.get(name, 0) + amount <= free.get(name, 0) for name, amount in wanted.items())


def pod_resources(pod: Object) -> Resources:
    """What NodeResourcesFit counts of a pod: the containers' requests, without what the extender manages."""
    total: Resources = {"pods": 1}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources", {})
        _add(total, _amounts(resources.get("requests") or resources.get("limits") or {}), 1)
    return {name: amount for name, amount in total.items() if name not in MANAGED_RESOURCES}


def _amounts(quantities: dict[str, str]) -> Resources:
    amounts = {}
    for name, text in quantities.items():
        if name == "cpu":
            amounts[name] = quantity_to_milli(text)
        elif name == "memory":
            amounts[name] = quantity_to_mib(text)
        elif name not in MANAGED_RESOURCES:
            amounts[name] = quantity_to_int(text)
    return amounts


def _add(total: Resources, amounts: Resources, sign: int) -> None:
    for name, amount in amounts.items():
        total[name] = total.get(name, 0) + sign * amount


def _selected(spec: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels", {})
    if any(labels.get(name) != value for name, value in (spec.get("nodeSelector") or {}).items()):
        return False
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required:
        return True
    return any(
        all(_matches(expression, labels) for expression in term["matchExpressions"])
        for term in required["nodeSelectorTerms"]
    )


def _matches(expression: Object, labels: dict[str, str]) -> bool:
    value, operator, values = labels.get(expression["key"]), expression["operator"], expression.get("values", [])
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    return (value is not None) is (operator == "Exists")


def _summary(refused: dict[str, str]) -> str:
    counts: dict[str, int] = {}
    for reason in refused.values():
        counts[reason] = counts.get(reason, 0) + 1
    reasons = [f"{count} {reason}" for reason, count in sorted(counts.items())]
    return "0 nodes are available: " + (", ".join(reasons) if reasons else "none has the resources or labels") + "."
