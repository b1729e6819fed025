"""The demo on a real control plane: kube-apiserver, kube-scheduler, controller manager and Prometheus as processes, kwok's nodes.

Real time, so it is short, and everything slow is ten times quicker than in life: cold starts of 4 to 8 s, metrics of one second,
windows of 20 to 30 s. The extender and the autoscaler are the daemons themselves. Both sides of the second chapter run at once, each
in its own namespace on nodes of its own: Headroom beside whole cards under an HPA law that reads the same metrics.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from headroom import names
from headroom.domain.model import GpuNode
from headroom.kube import calls
from headroom.kube.reflector import Reflector
from headroom.wire import DELETED, POD, Pod
from simulations.demo.fleet import PLACEMENT_FLEET, build_fleet, total_usable_mib
from simulations.demo.on_kwok.recorder import SHARED, WHOLE, Recorder, side_nodes
from simulations.demo.on_kwok.services import story
from simulations.demo.placement.chapter import PlacementChapter, Seen, chapter_of, state_of
from simulations.demo.placement.workload import draw_stream, pod_template
from simulations.demo.report import gib, placement_lines
from simulations.demo.services.report import StoryChapter
from simulations.demo.view import View
from simulations.embedded.cluster import NAMESPACE, Kubelets
from simulations.embedded.kube_scheduler import MANAGED_RESOURCES
from simulations.embedded.store import Object
from simulations.kwok.cluster import Cluster, scheduler_config
from simulations.kwok.process import free_port

FACTS: Final = (
    "Real API server, scheduler, controller manager and Prometheus; nodes, pods and model servers are simulated; time runs ten times"
    " faster than in life."
)
CRD: Final = Path(__file__).resolve().parents[3] / "deploy" / "base" / "crd-inferenceautoscalers.yaml"
_PLACE_SECONDS: Final = 90.0


async def run(
    seed: int, deployments: int, seconds: int, out: Path, view: View
) -> tuple[PlacementChapter, StoryChapter]:
    """Both chapters on one control plane."""
    rng = random.Random(seed)
    nodes = build_fleet(PLACEMENT_FLEET, rng)
    view.say(
        "Starting a real control plane: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, kwok, Prometheus"
    )
    port = free_port()
    with Cluster.start(nodes=[*nodes, *side_nodes()], prometheus=True) as cluster:
        config = scheduler_config(
            extender_url=f"http://127.0.0.1:{port}",
            scheduler_names=(names.SCHEDULER_NAME,),
            managed_resources=(*MANAGED_RESOURCES, f"{names.RESOURCE_NVIDIA_GPU}!"),
        )
        cluster.add_scheduler("headroom-kube-scheduler", config)
        scheduler_url = f"http://127.0.0.1:{port}"
        cluster.daemon("scheduler", "--host", "127.0.0.1", "--port", str(port), ready_url=f"{scheduler_url}/readyz")
        for namespace in (NAMESPACE, SHARED, WHOLE):
            manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
            await asyncio.to_thread(cluster.api.request, "POST", "/api/v1/namespaces", manifest)
        await asyncio.to_thread(cluster.install_crd, CRD)
        placement = await _placement(cluster, nodes, deployments, rng, view)
        for line in placement_lines(placement):
            view.say(line)
        recorder = Recorder()
        async with _watching(cluster, recorder.on_pod):
            chapter = await story(cluster, scheduler_url, recorder, seconds, view)
        for name in ("scheduler", "autoscaler", "headroom-kube-scheduler"):
            (out / f"kwok-{name}.log").write_bytes(cluster.component(name).log.read_bytes())
    return placement, chapter


@contextlib.asynccontextmanager
async def _watching(cluster: Cluster, on_pod: Any) -> AsyncIterator[None]:
    """Tell `on_pod(kind, key, pod)` of every change of a pod while the block runs."""
    kube = await cluster.client()
    reflector = Reflector(kube, calls.PODS, POD, on_pod)
    task = asyncio.create_task(reflector.run())
    try:
        await reflector.wait_synced()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await kube.close()


def deployment_object(
    namespace: str, name: str, template: Object, replicas: int, annotations: dict[str, str]
) -> Object:
    """An apps/v1 Deployment of a pod template; `annotations` tell kwok how the pods behave."""
    labels = {**template["metadata"]["labels"], "app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels, "annotations": annotations}, "spec": template["spec"]},
        },
    }


class _Judge:
    """Follows the pods of the placement chapter: when they were bound, and what the simulated kubelets make of it."""

    def __init__(self, nodes: list[GpuNode], needs: dict[str, int], began: float) -> None:
        self.kubelets = Kubelets(nodes)
        self.bound_at: dict[str, float] = {}
        self.app_of: dict[str, str] = {}
        self.pending: set[str] = set()
        self._needs, self._began = needs, began

    def on_pod(self, kind: str, _: str, pod: Pod) -> None:
        name, app = pod.metadata.name, pod.metadata.labels.get("app", "")
        if pod.metadata.namespace != NAMESPACE or kind == DELETED or app not in self._needs:
            return
        self.app_of[name] = app
        if not pod.spec.node_name:
            self.pending.add(name)
        elif name not in self.bound_at:
            self.pending.discard(name)
            self.bound_at[name] = time.monotonic() - self._began
            self.kubelets.start(msgspec.to_builtins(pod), self._needs[app])


async def _placement(
    cluster: Cluster, nodes: list[GpuNode], deployments: int, rng: random.Random, view: View
) -> PlacementChapter:
    stream = draw_stream(rng, deployments)
    total = sum(deployment.replicas for deployment in stream)
    view.say(
        f"1. Placing {total} replicas of {len(stream)} Deployments on {sum(len(node.cards) for node in nodes)} cards"
        f" ({gib(total_usable_mib(nodes))} GiB), by kube-scheduler and the extender"
    )
    began = time.monotonic()
    judge = _Judge(nodes, {deployment.name: deployment.vram_mib for deployment in stream}, began)
    index_of = {deployment.name: index for index, deployment in enumerate(stream)}
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"

    def deployment_of() -> dict[str, int]:
        return {pod: index_of[app] for pod, app in judge.app_of.items()}

    async with _watching(cluster, judge.on_pod):
        for index, deployment in enumerate(stream):
            stream[index] = replace(deployment, arrival_seconds=time.monotonic() - began)
            manifest = deployment_object(NAMESPACE, deployment.name, pod_template(deployment), deployment.replicas, {})
            await asyncio.to_thread(cluster.api.request, "POST", path, manifest)
            view.placing(
                index + 1, len(stream), state_of(nodes, stream, judge.kubelets, deployment_of(), len(judge.pending))
            )
        deadline = time.monotonic() + _PLACE_SECONDS
        while len(judge.bound_at) < total and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
    last = max(judge.bound_at.values())
    asked = (
        "Headroom's side is the unmodified extender process behind an unmodified kube-scheduler on a real API server:"
        f" {len(judge.bound_at)} pods bound within {last:.1f} s of the first Deployment; the last Deployment arrived after"
        f" {stream[-1].arrival_seconds:.1f} s."
    )
    placed = {name: (judge.bound_at[name], cards) for name, cards in judge.kubelets.cards.items()}
    seen = Seen(judge.kubelets, placed, deployment_of(), sorted(judge.pending))
    return chapter_of(nodes, stream, seen, asked, rng=rng, view=view)
