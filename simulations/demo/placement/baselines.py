"""What the same pods need without Headroom: whole cards, and plain time-slicing.

Both baselines get more than their due: a pod's author knows how much memory it needs and pins it to card models that have it;
whole cards are chosen best-fit (the smallest card that holds the pod), which kube-scheduler by itself does not do; and both may
use every node, whatever pool Headroom's side keeps it for.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from headroom.domain.model import GpuNode
from simulations.demo.placement.workload import InferenceDeployment
from simulations.embedded.store import CardRef


@dataclass(frozen=True, slots=True)
class Pod:
    """One replica of a Deployment."""

    name: str
    deployment: InferenceDeployment

    @property
    def need_mib(self) -> int:
        """Memory over all its cards."""
        return self.deployment.vram_mib * self.deployment.offer.cards


@dataclass(slots=True)
class Outcome:
    """Where a way of scheduling put the pods."""

    placed: dict[str, tuple[CardRef, ...]] = field(default_factory=dict)
    """Cards by pod, one per share."""
    unplaced: list[str] = field(default_factory=list)
    crashed: list[str] = field(default_factory=list)
    """Pods that found too little memory left on their card when they started: out of memory."""
    overbooked: set[CardRef] = field(default_factory=set)
    """Cards whose pods together need more than the card has."""

    @property
    def cards_in_use(self) -> set[CardRef]:
        """Cards that hold at least one pod."""
        return {card for cards in self.placed.values() for card in cards}

    def exposed(self) -> list[str]:
        """Pods on an overbooked card: any of them can be the one that runs out of memory."""
        return sorted(pod for pod, cards in self.placed.items() if self.overbooked.intersection(cards))


def pods_of(stream: Sequence[InferenceDeployment]) -> list[Pod]:
    """All replicas in the order of the stream."""
    return [Pod(f"{deployment.name}-{at}", deployment) for deployment in stream for at in range(deployment.replicas)]


def usable_by_card(nodes: Sequence[GpuNode]) -> dict[CardRef, int]:
    """MiB that pods may hold, by card."""
    return {(node.name, card.index): card.usable_mib for node in nodes for card in node.cards}


def whole_cards(nodes: Sequence[GpuNode], pods: Sequence[Pod]) -> Outcome:
    """Every share gets a card of its own: the smallest free ones that hold it, all on one node. Arrival order."""
    free = {node.name: {card.index: card for card in node.cards} for node in nodes}
    outcome = Outcome()
    for pod in pods:
        best: tuple[int, str, list[int]] | None = None
        for node in nodes:
            able = [i for i, card in free[node.name].items() if pod.deployment.fits(card.model, card.usable_mib)]
            if len(able) < pod.deployment.offer.cards:
                continue
            chosen = sorted(able, key=lambda i, n=node.name: (free[n][i].vram_mib, i))[: pod.deployment.offer.cards]  # type: ignore[misc]
            rank = (free[node.name][chosen[0]].vram_mib, node.name, chosen)
            if best is None or rank < best:
                best = rank
        if best is None:
            outcome.unplaced.append(pod.name)
            continue
        _, name, cards = best
        for index in cards:
            del free[name][index]
        outcome.placed[pod.name] = tuple((name, index) for index in cards)
    return outcome


def time_slicing(
    nodes: Sequence[GpuNode], pods: Sequence[Pod], *, slices: int, packed: bool, rng: random.Random
) -> Outcome:
    """Every card advertises `slices` slices and nothing about memory: kube-scheduler counts slices, the plugin deals them.

    Nodes: `packed` takes the node with the most slices given out (NodeResourcesFit MostAllocated), else the one with
    the largest free share (LeastAllocated, the default); ties are broken at random, as kube-scheduler does.
    Cards: the device plugin deals the card with the fewest slices given out, ties to the lowest index.
    A pod that starts on a card without enough memory left crashes; its slice stays taken, as the pod is restarted for ever.
    """
    given = {node.name: [0] * len(node.cards) for node in nodes}
    left = usable_by_card(nodes)
    wanted: dict[CardRef, int] = dict.fromkeys(left, 0)
    outcome = Outcome()
    for pod in pods:
        shares = pod.deployment.offer.cards
        able = [
            node
            for node in nodes
            if pod.deployment.fits(node.cards[0].model, node.cards[0].usable_mib)
            and slices * len(node.cards) - sum(given[node.name]) >= shares
            and len(node.cards) >= shares
        ]
        if not able:
            outcome.unplaced.append(pod.name)
            continue
        sign = -1 if packed else 1
        node = min(able, key=lambda n: (sign * sum(given[n.name]) / (slices * len(n.cards)), rng.random()))
        cards = sorted(range(len(node.cards)), key=lambda i, n=node.name: (given[n][i], i))[:shares]  # type: ignore[misc]
        refs = tuple((node.name, index) for index in cards)
        outcome.placed[pod.name] = refs
        for ref in refs:
            given[node.name][ref[1]] += 1
            wanted[ref] += pod.deployment.vram_mib
        if all(left[ref] >= pod.deployment.vram_mib for ref in refs):
            for ref in refs:
                left[ref] -= pod.deployment.vram_mib
        else:
            outcome.crashed.append(pod.name)
    usable = usable_by_card(nodes)
    outcome.overbooked = {ref for ref, mib in wanted.items() if mib > usable[ref]}
    return outcome


@dataclass(frozen=True, slots=True)
class Risk:
    """Out-of-memory figures of plain time-slicing over many arrival orders: mean, and the 5th to 95th percentile."""

    runs: int
    crashed_mean: float
    crashed_low: int
    crashed_high: int
    exposed_mean: float
    cards_mean: float
    unplaced_mean: float


def slicing_risk(
    nodes: Sequence[GpuNode], pods: Sequence[Pod], *, slices: int, packed: bool, runs: int, rng: random.Random
) -> Risk:
    """Repeat `time_slicing` with shuffled arrival orders."""
    crashed, exposed, cards, unplaced = [], [], [], []
    for _ in range(runs):
        order = list(pods)
        rng.shuffle(order)
        outcome = time_slicing(nodes, order, slices=slices, packed=packed, rng=rng)
        crashed.append(len(outcome.crashed))
        exposed.append(len(outcome.exposed()))
        cards.append(len(outcome.cards_in_use))
        unplaced.append(len(outcome.unplaced))
    crashed.sort()
    return Risk(
        runs=runs,
        crashed_mean=sum(crashed) / runs,
        crashed_low=crashed[int(0.05 * (runs - 1))],
        crashed_high=crashed[int(0.95 * (runs - 1))],
        exposed_mean=sum(exposed) / runs,
        cards_mean=sum(cards) / runs,
        unplaced_mean=sum(unplaced) / runs,
    )
