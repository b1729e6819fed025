"""First chapter of the demo: one stream of Deployments, placed three ways.

Headroom's side is the real extender, asked over HTTP by the simulated kube-scheduler, one pod at a time. The other two are the
baselines of `simulations.demo.placement.baselines`, over the same pods and the same cards.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headroom.domain.model import GpuNode
from simulations.demo.placement.baselines import (
    Outcome,
    Risk,
    pods_of,
    slicing_risk,
    usable_by_card,
    whole_cards,
)
from simulations.demo.placement.workload import InferenceDeployment, pod_template
from simulations.demo.view import FleetState, View
from simulations.embedded.cluster import Cluster, Kubelets
from simulations.embedded.kube_scheduler import KubeScheduler
from simulations.embedded.store import CardRef

_RISK_RUNS = 40
SLICES = 4
"""Time slices per card in the plain time-slicing baseline: the value of NVIDIA's own documentation example."""


@dataclass(frozen=True, slots=True)
class Method:
    """What one way of scheduling made of the stream."""

    key: str
    pods: int
    running: int
    """Pods that run: placed and not out of memory."""
    pending: int
    out_of_memory: int
    cards_in_use: int
    cards_needed: int
    """Cards that hold every pod of the stream; more than the fleet has where pods had to wait."""
    blocked_mib: int
    """Memory of the cards in use, which nobody else can have: usable MiB of whole cards, or what pods hold where cards are shared."""
    needed_blocked_mib: int
    """The same for every pod of the stream, those that had to wait included."""


@dataclass(frozen=True, slots=True)
class PlacementChapter:
    """Everything the report says about the first chapter."""

    nodes: tuple[GpuNode, ...]
    stream: tuple[InferenceDeployment, ...]
    need_mib: int
    """What all pods really need."""
    whole: Method
    headroom: Method
    risk_spread: Risk
    risk_packed: Risk
    placed: dict[str, tuple[float, tuple[CardRef, ...]]]
    """(time bound, cards) by pod, under Headroom."""
    whole_placed: dict[str, tuple[CardRef, ...]]
    deployment_of: dict[str, int]
    """Index into `stream` by pod."""
    mispredicted: int
    """Slices that the device plugin dealt on another card than announced."""
    asked: str
    """Who asked the extender, how often, and how long it took, in words."""


async def run_placement(
    cluster: Cluster, scheduler: KubeScheduler, stream: Sequence[InferenceDeployment], rng: random.Random, view: View
) -> PlacementChapter:
    """Send the stream through the extender in virtual time, then compute the two baselines."""
    calls = scheduler.extender.calls
    bound_at: dict[str, float] = {}
    deployment_of: dict[str, int] = {}
    for index, deployment in enumerate(stream):
        cluster.engine.run(deployment.arrival_seconds)
        cluster.apply(deployment.name, pod_template(deployment), deployment.replicas, deployment.vram_mib)
        await cluster.introduce()
        for name in await cluster.settle():
            bound_at[name] = cluster.engine.now
        for name in cluster.pods_of(deployment.name):
            deployment_of[name] = index
        view.placing(
            index + 1,
            len(stream),
            state_of(cluster.nodes, stream, cluster.kubelets, deployment_of, len(cluster.pending())),
        )
    asked = (
        "Headroom's side is the unmodified extender process, asked over HTTP by a simulated kube-scheduler against a"
        f" simulated API server: {calls.count('filter')} filter calls, median {calls.median_seconds('filter') * 1000:.1f} ms;"
        f" bind, the API write included, median {calls.median_seconds('bind') * 1000:.1f} ms (wall clock of this run)."
    )
    placed = {name: (bound_at[name], cards) for name, cards in cluster.kubelets.cards.items()}
    seen = Seen(cluster.kubelets, placed, deployment_of, cluster.pending())
    return chapter_of(cluster.nodes, stream, seen, asked, rng=rng, view=view)


class Seen(NamedTuple):
    """What came of a stream on Headroom's side."""

    kubelets: Kubelets
    placed: dict[str, tuple[float, tuple[CardRef, ...]]]
    """By pod: when it was bound, and its cards."""
    deployment_of: dict[str, int]
    """By pod: its place in the stream."""
    pending: list[str]


def chapter_of(
    nodes: Sequence[GpuNode],
    stream: Sequence[InferenceDeployment],
    seen: Seen,
    asked: str,
    *,
    rng: random.Random,
    view: View,
) -> PlacementChapter:
    """Judge the outcome by what the kubelets saw, show it, and compute the baselines for the same pods."""
    kubelets, placed, deployment_of, pending = seen
    view.picture(state_of(nodes, stream, kubelets, deployment_of, len(pending)), model_names(stream))
    pods = pods_of(stream)
    whole = whole_cards(nodes, pods)
    spread, packed = (
        slicing_risk(nodes, pods, slices=SLICES, packed=packed, runs=_RISK_RUNS, rng=rng) for packed in (False, True)
    )
    owner = {pod.name: pod.deployment for pod in pods}

    def waiting_in(outcome: Outcome) -> list[InferenceDeployment]:
        return [owner[name] for name in outcome.unplaced]

    headroom = Outcome(placed=dict(kubelets.cards), unplaced=pending, crashed=list(kubelets.out_of_memory))
    return PlacementChapter(
        nodes=tuple(nodes),
        stream=tuple(stream),
        need_mib=sum(pod.need_mib for pod in pods),
        whole=_method("whole", nodes, len(pods), whole, waiting_in(whole)),
        headroom=_method("headroom", nodes, len(pods), headroom, [stream[deployment_of[name]] for name in pending]),
        risk_spread=spread,
        risk_packed=packed,
        placed=placed,
        whole_placed=whole.placed,
        deployment_of=deployment_of,
        mispredicted=len(kubelets.mispredicted),
        asked=asked,
    )


def _method(
    key: str, nodes: Sequence[GpuNode], pods: int, outcome: Outcome, waiting: Sequence[InferenceDeployment]
) -> Method:
    """Figures of an outcome; each pod that waits is given the smallest cards it could have, the least that would have to be bought."""
    usable = usable_by_card(nodes)
    blocked = sum(usable[ref] for ref in outcome.cards_in_use)
    return Method(
        key=key,
        pods=pods,
        running=len(outcome.placed) - len(outcome.crashed),
        pending=len(outcome.unplaced),
        out_of_memory=len(outcome.crashed),
        cards_in_use=len(outcome.cards_in_use),
        cards_needed=len(outcome.cards_in_use) + sum(deployment.offer.cards for deployment in waiting),
        blocked_mib=blocked,
        needed_blocked_mib=blocked + sum(_smallest_cards_mib(nodes, deployment) for deployment in waiting),
    )


def _smallest_cards_mib(nodes: Sequence[GpuNode], deployment: InferenceDeployment) -> int:
    sizes = [card.usable_mib for node in nodes for card in node.cards if deployment.fits(card.model, card.usable_mib)]
    return min(sizes) * deployment.offer.cards


def model_names(stream: Sequence[InferenceDeployment]) -> list[str]:
    """The models of a stream in the order of their numbers."""
    return sorted({deployment.offer.model for deployment in stream})


def state_of(
    nodes: Sequence[GpuNode],
    stream: Sequence[InferenceDeployment],
    kubelets: Kubelets,
    deployment_of: dict[str, int],
    pending: int,
) -> FleetState:
    """The fleet at this moment, for the terminal."""
    held: dict[CardRef, list[tuple[int, int]]] = {}
    models = model_names(stream)
    for name, refs in kubelets.cards.items():
        deployment = stream[deployment_of[name]]
        for ref in refs:
            held.setdefault(ref, []).append((models.index(deployment.offer.model), deployment.vram_mib))
    return FleetState(tuple(nodes), held, pods=len(kubelets.cards) + pending, pending=pending)
