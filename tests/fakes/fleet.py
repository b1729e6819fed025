"""The autoscaler's daemon in virtual time: a cluster of pods with exporters, a Prometheus that scrapes them, an API server in memory.

Everything between the decoded objects and the writes is the product's own. `fleet.tick()` is one round; the clocks of the
cluster, of Prometheus and of the daemon are `fleet.now`, and nothing sleeps.
"""

import datetime
import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from autoscaler.api.resource import DECODER
from autoscaler.daemon import AutoscalerDaemon
from autoscaler.law.decision import Wish
from autoscaler.observation.cluster.objects import POD_VIEW
from autoscaler.observation.cluster.workloads import WorkloadDecoder
from autoscaler.settings import AutoscalerSettings
from autoscaler.tick.outcome import Outcome
from headroom.kube.client import NotFound
from headroom.prometheus.series import Source
from headroom.wire import encode
from tests.fakes.scraping import Exposes, ScrapedPrometheus, Target

START = 1_800_000_000.0
LONG_AGO = START - 10_000


def stamp(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass
class Kube:
    """The API server as far as the autoscaler writes to it; what is written is kept."""

    replicas: dict[str, int] = field(default_factory=dict)
    """By the path of the object."""
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By namespace and name of the InferenceAutoscaler."""
    events: list[dict[str, Any]] = field(default_factory=list)
    writes: list[tuple[str, str]] = field(default_factory=list)
    changed: Callable[[str, int], None] = lambda path, replicas: None
    version: int = 0
    """The newest resourceVersion."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Any = (),
        body: Any = None,
        content_type: str = "",
        timeout_seconds: float = 0.0,
    ) -> bytes:
        if method != "GET":
            self.writes.append((method, path))
        if match := re.fullmatch(r"(.*)/scale", path):
            return self._scale(method, match.group(1), body)
        if match := re.search(r"/namespaces/([^/]+)/inferenceautoscalers/([^/]+)/status$", path):
            self.statuses[f"{match.group(1)}/{match.group(2)}"] = msgspec.json.decode(
                msgspec.json.encode(body["status"])
            )
        elif path.endswith("/events"):
            self.events.append(body)
        return b"{}"

    def _scale(self, method: str, path: str, body: Any) -> bytes:
        if path not in self.replicas:
            raise NotFound(f"{method} {path}: not found", code=404)
        if method == "PATCH":
            self.replicas[path] = body["spec"]["replicas"]
            self.changed(path, self.replicas[path])
        scale = {"metadata": {"resourceVersion": str(self.version)}, "spec": {"replicas": self.replicas[path]}}
        return msgspec.json.encode(scale)


class Fleet:
    """A daemon and all that it looks at."""

    def __init__(
        self,
        prometheus: ScrapedPrometheus | None = None,
        *,
        source: Source | None = None,
        start: float = START,
        **settings: Any,
    ) -> None:
        """`source` answers in place of the model; `start` is where the clocks begin."""
        self.now, self._long_ago = start, start - 10_000
        self.kube, self.prometheus = Kube(), prometheus or ScrapedPrometheus(start)
        self.kube.changed = self._rescaled
        flags: dict[str, Any] = {"extender_url": "", "keda": False, **settings}
        self.daemon = AutoscalerDaemon(
            self.kube,  # type: ignore[arg-type]
            AutoscalerSettings(**flags),
            alone=True,
            source=source or self.prometheus,
            monotonic=lambda: self.now,
            unix_clock=lambda: self.now,
        )
        self.world = self.daemon.world
        self._workloads: dict[str, dict[str, Any]] = {}
        self.outcomes: Mapping[str, Outcome] = {}
        self._generation = itertools.count(1)

    # The cluster

    def deployment(self, name: str = "llm", replicas: int = 4, kind: str = "Deployment", **more: Any) -> None:
        """A workload that has settled at so many replicas; its pods are made apart."""
        body: dict[str, Any] = {
            "metadata": {"name": name, "namespace": "default", "generation": 1},
            "spec": {"replicas": replicas, "template": {"spec": {"containers": [{"name": "server"}]}}},
            "status": {
                "observedGeneration": 1,
                "replicas": replicas,
                "updatedReplicas": replicas,
                "readyReplicas": replicas,
            },
        }
        for part, values in more.items():
            body[part] = {**body.get(part, {}), **values}
        path = f"/apis/apps/v1/namespaces/default/{kind.lower()}s/{name}"
        if kind == "LeaderWorkerSet":
            path = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/default/leaderworkersets/{name}"
        self._workloads[path] = {"kind": kind, **body}
        self.kube.replicas[path] = replicas
        self._show(path)

    def rescale(self, replicas: int) -> None:
        """Somebody else changes the count of the only workload."""
        path = next(iter(self.kube.replicas))
        self.kube.replicas[path] = replicas
        self._rescaled(path, replicas)

    def _rescaled(self, path: str, replicas: int) -> None:
        body = self._workloads[path]
        body["spec"]["replicas"] = replicas
        for count in ("replicas", "updatedReplicas", "readyReplicas"):
            body["status"][count] = replicas
        self._show(path)

    def _show(self, path: str) -> None:
        body = self._workloads[path]
        self.kube.version += 1
        body["metadata"]["resourceVersion"] = str(self.kube.version)
        workload = WorkloadDecoder(body["kind"]).decode(encode({k: v for k, v in body.items() if k != "kind"}))
        self.world.on_workload("MODIFIED", f"default/{workload.name}", workload)

    def pod(
        self, name: str, owner: str = "llm", *, ip: str = "", ready: bool = True, ready_at: float | None = None,
        labels: Mapping[str, str] | None = None, owners: list[dict[str, Any]] | None = None, node: str = "n",
        metadata: Mapping[str, Any] | None = None, **status: Any,
    ) -> None:  # fmt: skip
        """A pod of a Deployment, ready for long."""
        ready_at = self._long_ago if ready_at is None else ready_at
        created = stamp(ready_at - 60)
        conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": created}]
        if ready:
            conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": stamp(ready_at)})
        body = {
            "metadata": {
                "name": name, "namespace": "default", "creationTimestamp": created,
                "labels": {"pod-template-hash": "5d9f", **(labels or {})},
                "ownerReferences": owners or [{"kind": "ReplicaSet", "name": f"{owner}-5d9f", "controller": True}],
                **(metadata or {}),
            },
            "spec": {"nodeName": node},
            "status": {"phase": "Running", "podIP": ip, "conditions": conditions, **status},
        }  # fmt: skip
        self.world.on_pod("MODIFIED", f"default/{name}", POD_VIEW.decode(encode(body)))

    def pods(self, count: int = 4, owner: str = "llm") -> list[str]:
        """Pods `OWNER-5d9f-0` and so on, with addresses 10.0.0.1 and so on; their names."""
        names = [f"{owner}-5d9f-{number}" for number in range(count)]
        for number, name in enumerate(names):
            self.pod(name, owner, ip=f"10.0.0.{number + 1}", node=f"n{number}")
        return names

    def gone(self, name: str) -> None:
        """The pod is deleted."""
        self.world.on_pod(
            "DELETED", f"default/{name}", POD_VIEW.decode(encode({"metadata": {"name": name, "namespace": "default"}}))
        )

    def object(self, name: str = "llm", **spec: Any) -> None:
        """An InferenceAutoscaler that reads running requests, 10 a replica, with a window of a minute; None leaves a field out."""
        whole: dict[str, Any] = {
            "scaleTargetRef": {"kind": "Deployment", "name": name}, "engine": "vllm", "minReplicas": 1, "maxReplicas": 20,
            "signals": [{"name": "running", "type": "running", "target": 10}],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}, **spec,
        }  # fmt: skip
        body = {
            "metadata": {"name": name, "namespace": "default", "uid": name, "generation": next(self._generation)},
            "spec": {key: value for key, value in whole.items() if value is not None},
        }
        self.world.on_resource("MODIFIED", f"default/{name}", DECODER.decode(encode(body)))

    # Prometheus

    def scrape(self, of: str, exposes: Exposes, *, job: str = "podmon/llm", ip: str | None = None, port: int = 8000,
               target: Mapping[str, Any] | None = None, **labels: str | None) -> Target:  # fmt: skip
        """Scrape a pod as a PodMonitor does; `target` has fields of the Target, a label of None is left out."""
        number = of.rpartition("-")[2]
        address = ip or (f"10.0.0.{int(number) + 1}" if number.isdigit() else "10.9.9.9")
        whole: dict[str, str | None] = {
            "namespace": "default",
            "pod": of,
            "job": job,
            "instance": f"{address}:{port}",
            **labels,
        }
        made = Target({name: value for name, value in whole.items() if value}, exposes, **(target or {}))
        self.prometheus.targets.append(made)
        return made

    # Rounds

    async def tick(self, times: int = 1, each: Callable[[], None] | None = None) -> list[int]:
        """So many rounds, 15 s apart; the replicas of the only workload after each. `each` is called before a round."""
        trail = []
        for _ in range(times):
            if each is not None:
                each()
            self.prometheus.now = self.now
            self.outcomes = await self.daemon.loop.tick()
            self.now += 15.0
            trail.append(next(iter(self.kube.replicas.values())))
        return trail

    @property
    def replicas(self) -> int:
        return next(iter(self.kube.replicas.values()))

    def status(self, name: str = "llm") -> dict[str, Any]:
        return self.kube.statuses.get(f"default/{name}", {})

    def signal(self, signal: str = "running", name: str = "llm") -> dict[str, Any]:
        found = [one for one in self.status(name).get("signals", ()) if one["name"] == signal]
        return found[0] if found else {}

    def wish(self, signal: str = "running", name: str = "llm") -> Wish:
        """What a signal asked for in the last round; the status may be a minute old."""
        return next(wish for wish in self.outcomes[f"default/{name}"].decision.wishes if wish.name == signal)

    def rules(self, name: str = "llm") -> set[str]:
        return {str(reason.rule) for reason in self.outcomes[f"default/{name}"].decision.reasons}

    def failures(self) -> float:
        """Exceptions that the guard of an object caught."""
        counter = self.daemon.metrics.tick_failures
        return sum(
            sample.value for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total")
        )

    async def close(self) -> None:
        await self.daemon.close()
