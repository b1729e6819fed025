"""The published protocol on a real control plane: kube-scheduler and the extender place the pods, on nodes that kwok plays.

The extender is asked about every pod, those without a GPU included, as the policies are in one process. What differs from
there: the workload profile is learned and the plan renewed by the clock, CPU and host memory are kube-scheduler's to check,
and FGD breaks ties as the extender does.
"""

import asyncio
import random
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from headroom import names
from headroom.domain.assignment import assignment_of
from headroom.domain.model import GpuNode, GpuRequest, Mode, Placement
from headroom.errors import HeadroomError
from headroom.kube.client import Gone, KubeClient, Unreachable
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import hold
from scheduler.placement.profile import Profile
from simulations.kwok.cluster import Cluster, scheduler_config
from simulations.kwok.process import free_port
from simulations.placement.replay import Meter, Record, build_fleet, shuffled, tuned
from simulations.placement.traces import Pod

_PODS: Final = "/api/v1/namespaces/default/pods"
_IN_FLIGHT: Final = (
    8  # pods under way at a time; kube-scheduler decides on one after the other, in the order of creation
)
_PLAN_SECONDS: Final = 10.0
_LONGEST_SECONDS: Final = 120.0  # for one pod; kube-scheduler's longest back-off is 10 s


class ReplayError(HeadroomError):
    """The control plane left a pod without an answer."""


def run_on_kwok(
    nodes: Sequence[GpuNode], pods: Sequence[Pod], *, trace: str, policy: str, seed: int, load: float
) -> Record:
    """One run; the same shuffle, clones and order of node names as `run_published` has for this seed.

    Raises BuildError, ComponentError, ClusterError and ReplayError.
    """
    rng = random.Random(seed)
    cluster_units = 1000 * sum(len(node.cards) for node in nodes)
    arrivals = tuned(shuffled(pods, rng), cluster_units, load, rng)
    fleet = build_fleet(nodes, rng)
    record = Record(trace, policy, seed)
    meter = Meter(fleet, Profile.from_requests(pod.request for pod in pods))
    port = free_port()
    with Cluster.start(nodes=map(_with_card_ids, fleet.nodes.values()), scheduler_config=_config(port)) as cluster:
        # It was needed for the service account only.
        cluster.component("kube-controller-manager").stop()
        cluster.daemon(
            "scheduler", "--port", str(port), "--policy", policy, "--place-pods-without-gpu", "true",
            "--naming-ahead", "false", "--preemption", "false", "--plan-every-seconds", str(_PLAN_SECONDS),
            "--log-level", "WARNING", ready_url=f"http://127.0.0.1:{port}/readyz", timeout_seconds=120.0,
        )  # fmt: skip
        asyncio.run(_drive(cluster, fleet, arrivals, meter, record))
    record.alloc_at, record.frag_at, record.frag_of_idle_at = meter.alloc_at, meter.frag_at, meter.frag_of_idle_at
    return record


def _config(extender_port: int) -> dict[str, Any]:
    """An extender without managed resources is asked about all pods; what it guards is then ignored by another setting."""
    config = scheduler_config(extender_url=f"http://127.0.0.1:{extender_port}", scheduler_names=(names.SCHEDULER_NAME,))
    arguments = {"ignoredResourceGroups": [names.DOMAIN]}
    config["profiles"][0]["pluginConfig"] = [{"name": "NodeResourcesFit", "args": arguments}]
    return config


def _with_card_ids(node: GpuNode) -> GpuNode:
    """The node with card ids that are unique in the cluster."""
    return replace(node, cards=tuple(replace(card, id=f"{node.name}-{card.index}") for card in node.cards))


def pod_manifest(name: str, request: GpuRequest) -> dict[str, Any]:
    """The pod as a user would write it."""
    limits = {"cpu": f"{request.cpu_milli}m", "memory": f"{request.memory_mib}Mi"}
    if request.count >= 1:
        limits[names.RESOURCE_GPU_MILLI] = str(request.milli)
    if request.count > 1:
        limits[names.RESOURCE_GPU] = str(request.count)
    spec: dict[str, Any] = {
        "schedulerName": names.SCHEDULER_NAME,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "containers": [{"name": "main", "image": "none", "resources": {"limits": limits, "requests": limits}}],
    }
    if request.models:
        wanted = {"key": names.LABEL_GPU_PRODUCT, "operator": "In", "values": sorted(request.models)}
        term = {"nodeSelectorTerms": [{"matchExpressions": [wanted]}]}
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"}, "spec": spec}


class _Outcomes:
    """What became of each pod, from the watch: its Pod object once bound, or None once it was found unschedulable."""

    def __init__(self, kube: KubeClient) -> None:
        self._kube = kube
        self._waiting: dict[str, asyncio.Future[dict[str, Any] | None]] = {}

    def expect(self, name: str) -> "asyncio.Future[dict[str, Any] | None]":
        """A future for a pod about to be created."""
        future = self._waiting[name] = asyncio.get_running_loop().create_future()
        return future

    async def follow(self) -> None:
        """Watch pods for ever; after a lost connection or an expired version, list again."""
        while True:
            listed = msgspec.json.decode(await self._kube.request("GET", _PODS))
            for pod in listed["items"]:
                self._see(pod)
            try:
                async for event in self._kube.watch(_PODS, listed["metadata"]["resourceVersion"]):
                    if event.type in ("ADDED", "MODIFIED"):
                        self._see(msgspec.json.decode(event.object))
            except (Gone, Unreachable):
                await asyncio.sleep(0.2)

    def _see(self, pod: dict[str, Any]) -> None:
        future = self._waiting.get(pod["metadata"]["name"])
        if future is None or future.done():
            return
        if pod["spec"].get("nodeName"):
            future.set_result(pod)
        elif any(
            each["type"] == "PodScheduled" and each["status"] == "False" and each.get("reason") == "Unschedulable"
            for each in pod["status"].get("conditions", [])
        ):
            future.set_result(None)


async def _drive(cluster: Cluster, fleet: Fleet, arrivals: Sequence[Pod], meter: Meter, record: Record) -> None:
    kube = await cluster.client()
    outcomes = _Outcomes(kube)
    follower = asyncio.create_task(outcomes.follow())
    pending: deque[tuple[Pod, str, asyncio.Future[dict[str, Any] | None]]] = deque()
    began = told = time.monotonic()
    try:
        for number, pod in enumerate(arrivals):
            name = f"pod-{number:05d}"
            future = outcomes.expect(name)
            await kube.request("POST", _PODS, body=pod_manifest(name, pod.request))
            pending.append((pod, name, future))
            if len(pending) >= _IN_FLIGHT:
                await _settle(kube, fleet, meter, record, *pending.popleft())
            if time.monotonic() - told > 10:
                told = time.monotonic()
                left = (told - began) / (number + 1) * (len(arrivals) - number - 1)
                print(f"{number + 1}/{len(arrivals)} pods, {left / 60:.0f} min left", file=sys.stderr, flush=True)
        while pending:
            await _settle(kube, fleet, meter, record, *pending.popleft())
    finally:
        follower.cancel()
        await kube.close()


async def _settle(
    kube: KubeClient,
    fleet: Fleet,
    meter: Meter,
    record: Record,
    pod: Pod,
    name: str,
    future: "asyncio.Future[dict[str, Any] | None]",
) -> None:
    """Wait for a pod's outcome, mirror it in the fleet, and take a refused pod away, since each has one attempt.

    A refused pod does no harm until then: nothing ever comes free, so that it could not be placed later either.
    """
    try:
        bound = await asyncio.wait_for(future, _LONGEST_SECONDS)
    except TimeoutError:
        raise ReplayError(f"pod {name} was neither bound nor refused within {_LONGEST_SECONDS:.0f} s") from None
    record.pods += 1
    if bound is None:
        record.failed += 1
        meter.arrival(pod.units, 0)
        await kube.request("DELETE", f"{_PODS}/{name}")
        return
    placement = placement_of(bound)
    hold(fleet, pod.request, placement)
    meter.arrival(pod.units, sum(placement.share_mib))


def placement_of(pod: dict[str, Any]) -> Placement:
    """Where a bound pod's shares are, from what the binding wrote on it; card ids end in the card's position."""
    node = pod["spec"]["nodeName"]
    assignment = assignment_of(pod["metadata"].get("annotations") or {})
    if assignment is None:
        return Placement(node, (), (), Mode.PINNED)
    cards = tuple(int(card.rsplit("-", 1)[1]) for card in assignment.cards)
    return Placement(node, cards, assignment.share_mib, assignment.mode)
