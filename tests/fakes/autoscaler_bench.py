"""The autoscaler's daemon between a scripted API server and a scripted Prometheus, its clock turned by hand."""

import asyncio
import contextlib
import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from autoscaler.adapters.kinds import Kinds
from autoscaler.daemon import AutoscalerDaemon
from autoscaler.settings import AutoscalerSettings
from autoscaler.tick.tick import Loop
from headroom.kube.aio import connect
from tests.fakes.apiserver import ApiServer
from tests.fakes.prometheus import FakePrometheus
from tests.waiting import turns, until

IA = "/apis/headroom.dev/v1alpha1/inferenceautoscalers"
DEPLOYMENTS = "/apis/apps/v1/deployments"
PODS = "/api/v1/pods"
HPAS = "/apis/autoscaling/v2/horizontalpodautoscalers"
START = 1_800_000_000.0


def stamp(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Bench:
    """A daemon whose clock is turned by hand, between a scripted API server and a scripted Prometheus."""

    def __init__(self, api: ApiServer, prometheus: FakePrometheus, kubeconfig: Path) -> None:
        self.api, self.prometheus, self._kubeconfig = api, prometheus, kubeconfig
        self.now = START
        self.ahead = 0.0
        """Seconds that the clock of this machine is ahead of the others'."""
        self.loads: dict[str, float] = {}
        self.age = 2.0
        self.extra: list[tuple[dict[str, str], list[tuple[float, float]]]] = []
        self.metric = "vllm:num_requests_running"

    async def restart(self, **settings: Any) -> None:
        """Another daemon with other settings; what the first one knew is gone."""
        await self.stop()
        await self.start(**settings)

    async def start(self, **settings: Any) -> None:
        self.kube = await connect(str(self._kubeconfig))
        flags: dict[str, Any] = {
            "extender_url": "", "prometheus_timeout_seconds": 0.5, "tick_seconds": 15.0,
            "prometheus_url": self.prometheus.url, **settings,
        }  # fmt: skip
        self.daemon = AutoscalerDaemon(
            self.kube,
            AutoscalerSettings(**flags),
            alone=True,
            monotonic=lambda: self.now,
            unix_clock=lambda: self.now + self.ahead,
        )
        self.loop: Loop = self.daemon.loop
        self._tasks = [asyncio.create_task(reflector.run()) for reflector in self.daemon._reflectors.values()]
        for reflector in self.daemon._reflectors.values():
            await reflector.wait_synced()
        self.kinds = Kinds(self.kube, self.daemon.world, "", self._begin, retry_seconds=60.0)
        await self.kinds.follow_wanted()

    def _begin(self, _: str, work: Callable[[], Awaitable[None]]) -> None:
        self._tasks.append(asyncio.ensure_future(work()))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.daemon.close()
        await self.kube.close()

    # The cluster

    def workload(self, name: str = "llm", replicas: int = 2, **more: Any) -> None:
        spec = {"replicas": replicas, "template": {"spec": {"containers": [{"name": "server"}]}}, **more}
        status = {"replicas": replicas, "updatedReplicas": replicas}
        self.api.put(DEPLOYMENTS, {"metadata": {"name": name, "generation": 1}, "spec": spec, "status": status})
        for number in range(replicas):
            self.pod(f"{name}-5d9f-{number}", name)

    def pod(self, pod: str, owner: str = "llm", *, ready: bool = True, load: float | None = 5.0, **more: Any) -> None:
        reference = {"kind": "ReplicaSet", "name": f"{owner}-5d9f", "controller": True}
        long_ago = stamp(START - 10_000)
        conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": long_ago}]
        if ready:
            conditions.append({"type": "Ready", "status": "True", "lastTransitionTime": long_ago})
        meta = {
            "name": pod, "labels": {"pod-template-hash": "5d9f"}, "ownerReferences": [reference],
            "creationTimestamp": long_ago, **more.pop("metadata", {}),
        }  # fmt: skip
        body = {
            "metadata": meta, "spec": {"nodeName": more.pop("node", "n")},
            "status": {"phase": "Running", "conditions": conditions, **more},
        }  # fmt: skip
        self.api.put(PODS, body)
        if load is not None:
            self.loads[pod] = load

    def object(self, name: str = "llm", target: str | None = None, generation: int = 1, **spec: Any) -> None:
        body = {
            "metadata": {"name": name, "generation": generation},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": target or name}, "engine": "vllm",
                "minReplicas": 1, "maxReplicas": 10,
                "signals": [{"name": "running", "type": "running", "target": 10}],
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}, **spec,
            },
        }  # fmt: skip
        with contextlib.suppress(KeyError):
            body["status"] = self.api.get(IA, name)["status"]
        self.api.put(IA, body)

    # A tick

    def script(self) -> None:
        """Answer as Prometheus would now: five scrapes of every pod's gauges, the newest `age` old."""
        at = [self.now - self.age - 15.0 * back for back in range(4, -1, -1)]
        found = [*self.extra]
        for pod, load in self.loads.items():
            labels = {"namespace": "default", "pod": pod}
            found.append(({"__name__": self.metric, **labels}, [(t, load) for t in at]))
            found.append(({"__name__": "vllm:num_requests_waiting", **labels}, [(t, 0.0) for t in at]))
        self.prometheus.forget()
        self.prometheus.now = self.now
        self.prometheus.answer("num_requests", *found)
        self.prometheus.answer_scalar("^vector", self.now, self.now)
        self.prometheus.answer(r"^vector\(time", ({}, [(self.now, self.now)]))

    async def settle(self) -> None:
        """Let the watches catch up."""
        await turns()
        with contextlib.suppress(TimeoutError):  # an object that is refused is never shown
            await until(self._shows_all, seconds=0.5)
        await turns()

    def _shows_all(self) -> bool:
        seen = {key: o.metadata.resource_version for key, o in self.daemon.world.resources.items()}
        there = [o["metadata"] for o in self.api.all(IA)]
        return all(seen.get(f"default/{meta['name']}") == meta["resourceVersion"] for meta in there)

    async def lose_the_lease_during(self, method: str, path: str) -> None:
        """A tick, in which the lease is lost while a call that matches is under way."""
        before = len(self.api.asked(method, path))
        answered = self.api.stall(method, path)
        ticking = asyncio.create_task(self.tick())
        await until(lambda: len(self.api.asked(method, path)) > before)
        self.daemon.alone = False
        answered.set()
        await ticking

    async def tick(self, times: int = 1) -> None:
        for _ in range(times):
            await self.settle()
            self.script()
            await self.loop.tick()
            self.now += 15.0
        await self.settle()

    def replicas(self, name: str = "llm") -> int:
        return int(self.api.get(DEPLOYMENTS, name)["spec"]["replicas"])

    def condition(self, kind: str, name: str = "llm") -> dict[str, Any]:
        conditions = self.api.get(IA, name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def writes(self, pattern: str) -> list[Any]:
        return [r for method in ("PATCH", "PUT", "POST") for r in self.api.asked(method, pattern)]
