"""Second chapter on the real control plane: emulated model servers under load, Headroom beside whole cards with an HPA law."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from headroom import names
from simulations.demo.fleet import CARD_TYPES
from simulations.demo.on_kwok.recorder import (
    LABEL_SIDE,
    SERVICES,
    SHARED,
    TICK_SECONDS,
    TTFT_SECONDS,
    WHOLE,
    Recorder,
    Service,
    SideRun,
    fleet,
    gauges_of,
)
from simulations.demo.report import Block
from simulations.demo.services.report import StoryChapter
from simulations.demo.view import FleetState, View
from simulations.embedded.store import CardRef
from simulations.kwok.cluster import Cluster
from simulations.kwok.emulator import Load, ServingEmulator
from simulations.kwok.process import free_port
from simulations.serving.laws import hpa
from simulations.serving.laws.hpa import Behaviour, pods_metric_wish

_HPA_TARGET: Final = 10.0
_HPA_SECONDS: Final = 1.5
_MOST_REPLICAS: Final = 5


class HpaLaw:
    """The HPA's rule on requests in the engine, with its down window a tenth of the usual 300 s."""

    def __init__(self) -> None:
        self._behaviour = Behaviour(
            {**hpa.DEFAULTS, "down_window": 30.0, "up_period": _HPA_SECONDS, "down_period": _HPA_SECONDS}
        )
        self._due = 0.0

    def wish(self, now: float, current: int, ready: int, inside: list[float]) -> int:
        """Replicas wanted now."""
        if now < self._due:
            return current
        self._due = now + _HPA_SECONDS
        wish = pods_metric_wish(inside, max(current - ready, 0), current, _HPA_TARGET)
        return min(max(self._behaviour.apply(now, current, wish), 1), _MOST_REPLICAS)


def _manifests() -> list[dict[str, Any]]:
    """Deployments of both sides, and Headroom's InferenceAutoscalers."""
    found: list[dict[str, Any]] = []
    annotations = {
        "headroom.dev/sim-cold-start-seconds": "4",
        "headroom.dev/sim-cold-start-max-seconds": "8",
        "headroom.dev/sim-drain-seconds": "0.5",
    }
    for side in (SHARED, WHOLE):
        for service in SERVICES:
            ask = {names.RESOURCE_VRAM: f"{service.vram_mib}Mi"} if side == SHARED else {names.RESOURCE_NVIDIA_GPU: "1"}
            limits = {"cpu": "1", "memory": "4Gi", **ask}
            spec = {
                "schedulerName": names.SCHEDULER_NAME if side == SHARED else "default-scheduler",
                "nodeSelector": {LABEL_SIDE: side, names.LABEL_GPU_PRODUCT: CARD_TYPES[service.card].product},
                "containers": [
                    {"name": "engine", "image": "vllm", "resources": {"limits": limits, "requests": limits}}
                ],
            }
            labels = {"app": service.name}
            template = {"metadata": {"labels": labels, "annotations": annotations}, "spec": spec}
            found.append(
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": {"name": service.name, "namespace": side},
                    "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
                }
            )
    found += [
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND_AUTOSCALER,
            "metadata": {"name": service.name, "namespace": SHARED},
            "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": service.name},
                "engine": "vllm",
                "maxReplicas": _MOST_REPLICAS,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 20, "policies": []}},
            },
        }
        for service in SERVICES
    ]
    return found


async def story(cluster: Cluster, scheduler_url: str, recorder: Recorder, seconds: int, view: View) -> StoryChapter:
    """Run both sides for so many seconds. The recorder's watch must be on."""
    assert cluster.prometheus is not None
    view.say(
        f"2. {seconds} s of load in real time: the autoscaler daemon and the extender beside whole cards with an HPA law"
    )
    with ServingEmulator(cluster.kubeconfig) as emulator:
        cluster.prometheus.scrape("engines", emulator.address)
        port = free_port()
        arguments = [
            "--port", str(port), "--host", "127.0.0.1", "--prometheus-url", cluster.prometheus.url, "--extender-url", scheduler_url,
            "--lease-namespace", "default", "--tick-seconds", "1", "--stale-seconds", "6",
            "--short-mean-seconds", "4", "--long-mean-seconds", "8", "--prometheus-timeout-seconds", "2",
        ]  # fmt: skip
        for side in (SHARED, WHOLE):
            for service in SERVICES:
                emulator.serve(f"{side}/{service.name}", _load(service, 0.0))
        await asyncio.to_thread(cluster.apply, _manifests())
        await asyncio.to_thread(
            lambda: cluster.daemon("autoscaler", *arguments, ready_url=f"http://127.0.0.1:{port}/readyz")
        )
        await _until_ready(recorder)
        recorder.restart_clock()
        sides = [SideRun(SHARED, "Headroom", recorder), SideRun(WHOLE, "Whole cards + HPA", recorder)]
        await _follow(cluster, emulator, recorder, sides, seconds, view)
    records = tuple(side.record(fleet(), float(seconds)) for side in sides)
    text = (
        f"{seconds} seconds on a real control plane. On Headroom's side the autoscaler daemon reads Prometheus and scales"
        " Deployments whose pods ask for memory; on the other an HPA law on requests in the engine scales pods that take whole cards."
        " Same load, same"
        " number of cards, at the same time."
    )
    return StoryChapter(records, text, _method())


def _load(service: Service, share: float, crowding: float = 1.0) -> Load:
    """The service's load, on replicas that take `crowding` times as long as alone."""
    alone = Load(service.load(share), prompt_tokens=service.prompt_tokens, output_tokens=service.output_tokens)
    return replace(
        alone,
        base_seconds=alone.base_seconds * crowding,
        per_sequence_seconds=alone.per_sequence_seconds * crowding,
        per_prompt_token_seconds=alone.per_prompt_token_seconds * crowding,
    )


def _crowding(recorder: Recorder, side: str, service: int, gauges: Mapping[str, Mapping[str, float]]) -> float:
    """Mean over the service's replicas of 1 plus the load of each neighbour on the card (full from four requests on)."""
    pods = recorder.pods[side]
    load = {name: min(gauge.get("num_requests_running", 0.0) / 4, 1.0) for name, gauge in gauges.items()}
    crowds = [
        1.0
        + sum(
            load.get(other, 0.0)
            for other, neighbour in pods.items()
            if other != name and any(share.card == held.card for share in neighbour.shares for held in life.shares)
        )
        for name, life in pods.items()
        if life.service == service and life.ready
    ]
    return sum(crowds) / len(crowds) if crowds else 1.0


async def _until_ready(recorder: Recorder) -> None:
    for _ in range(300):
        if all(recorder.counts(side, at)[1] for side in (SHARED, WHOLE) for at in range(len(SERVICES))):
            return
        await asyncio.sleep(0.1)


async def _follow(
    cluster: Cluster, emulator: ServingEmulator, recorder: Recorder, sides: list[SideRun], seconds: int, view: View
) -> None:
    laws = [HpaLaw() for _ in SERVICES]
    gauges: dict[str, dict[str, dict[str, float]]] = {SHARED: {}, WHOLE: {}}
    while (now := time.monotonic() - recorder.began) < seconds:
        share = now / seconds
        for side in sides:
            for at, service in enumerate(SERVICES):
                emulator.serve(
                    f"{side.key}/{service.name}",
                    _load(service, share, _crowding(recorder, side.key, at, gauges[side.key])),
                )
        gauges = await asyncio.to_thread(gauges_of, emulator.address)
        for side in sides:
            side.sample(now, share, gauges[side.key])
        await _scale_whole(cluster, recorder, laws, gauges[WHOLE], now)
        state, lines = _state(recorder), _lines(sides)
        view.serving("Headroom", share, f"second {now:.0f}", state, lines)
        await asyncio.sleep(max(recorder.began + len(sides[0].times) * TICK_SECONDS - time.monotonic(), 0.05))


async def _scale_whole(
    cluster: Cluster, recorder: Recorder, laws: list[HpaLaw], gauges: Mapping[str, Mapping[str, float]], now: float
) -> None:
    for at, service in enumerate(SERVICES):
        wanted, ready = recorder.counts(WHOLE, at)
        inside = [
            gauges[name].get("num_requests_waiting", 0.0) + gauges[name].get("num_requests_running", 0.0)
            for name, life in recorder.pods[WHOLE].items()
            if life.service == at and life.ready and name in gauges
        ]
        wish = laws[at].wish(now, wanted, ready, inside)
        if wish != wanted:
            path = f"/apis/apps/v1/namespaces/{WHOLE}/deployments/{service.name}/scale"
            await asyncio.to_thread(cluster.api.patch, path, {"spec": {"replicas": wish}})


def _state(recorder: Recorder) -> FleetState:
    held: dict[CardRef, list[tuple[int, int]]] = {}
    for life in recorder.pods[SHARED].values():
        for share in life.shares:
            held.setdefault(share.card, []).append((share.service, share.mib))
    return FleetState(tuple(fleet()), held)


def _lines(sides: list[SideRun]) -> list[str]:
    lines = []
    for at, service in enumerate(SERVICES):
        ours, theirs = sides[0].tracks[at], sides[1].tracks[at]
        lines.append(
            f"  {service.name:<11}{ours.demand[-1]:6.1f} req/s   replicas: Headroom {ours.ready[-1]}/{ours.replicas[-1]},"
            f" whole cards {theirs.ready[-1]}/{theirs.replicas[-1]}   waiting {ours.queue[-1]} and {theirs.queue[-1]}"
        )
    return lines


def _method() -> tuple[Block, ...]:
    return (
        Block(
            "Services under load",
            (
                "kube-apiserver, kube-scheduler, kube-controller-manager, etcd and Prometheus are the real programs; kwok plays the nodes."
                " The extender and the autoscaler are Headroom's own daemons, unmodified.",
                "Model servers are emulated as a fluid with continuous batching; they export vLLM's metrics, one second apart."
                " Replicas on one card slow each other (on average over a service); a card counts as busy while any"
                " request runs on it.",
                "Time is ten times faster than in life: cold starts of 4 to 8 s, down windows of 20 s (Headroom) and 30 s (HPA), which"
                f" targets {_HPA_TARGET:.0f} requests in the engine per replica. Both sides may run {_MOST_REPLICAS} replicas of a"
                " service.",
                f"A request is met when its first token comes within {TTFT_SECONDS:g} s, read from the servers' histograms.",
            ),
        ),
        Block(
            "Limits",
            (
                "A short run shows that the parts work together; its savings depend on a few scaling moves. The embedded demo and"
                " docs/results.md are the place for figures.",
            ),
        ),
    )
