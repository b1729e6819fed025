"""What slice mode's caution costs: pods with memory on time-sliced cards, while kubelet's word on the last ones is still out.

The fleet and the mix of `simulations.placement.vram`, every card as four devices of a plugin that deals `distributed` and takes anyone
among equals; of the mix, what wants part of one card. At any moment so many pods, the latest, are under way: kubelet deals their
devices in the order of their binding, and its word on each comes as many pods later. Compared with a scheduler that believes its own
foretelling at once: it uses more, and some cards get more than they have.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import click

from headroom import names, wire
from headroom.domain.assignment import annotations_of
from headroom.domain.model import Allocation, GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger, LedgerError
from scheduler.placement.placer import Placer
from scheduler.placement.policies.registry import policy_by_name
from simulations.placement.vram import Mix, make_mix, nodes

DEVICES: Final = 4
_RESOURCE: Final = names.RESOURCE_NVIDIA_GPU
_STARTED: Final = "2026-01-01T00:00:00Z"
_NEVER: Final = 1e18


def sliced_nodes() -> list[GpuNode]:
    """The fleet of the scenario with each card as four devices, on nodes whose agent tells of cards."""
    return [
        replace(
            node,
            cards=tuple(replace(card, id=f"{node.name}-{card.index}", slices=DEVICES) for card in node.cards),
            resource=_RESOURCE,
            allocation=Allocation.DISTRIBUTED,
            tells_cards=True,
        )
        for node in nodes()
    ]


def draw(mix: Mix, rng: random.Random) -> GpuRequest:
    """A request of the mix that wants part of one card, in slice mode."""
    while True:
        request = mix.draw(rng)
        if request.count == 1 and request.vram_mib:
            return replace(request, mode=Mode.SLICE, resource=_RESOURCE)


@dataclass(frozen=True, slots=True)
class _Bound:
    """A pod that kubelet has yet to start."""

    name: str
    request: GpuRequest
    node: GpuNode
    placement: Placement


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run came to."""

    asked_mib: int
    allocated_mib: int
    """At the pods' first attempt."""
    refused: int
    later_mib: int
    """Of what was refused at first, what fits once kubelet's word on all pods is in."""
    fleet_mib: int
    overcommitted: int
    """Cards on which pods were promised more than there is, at any moment."""


class Run:
    """One ledger, and kubelets that deal devices."""

    def __init__(self, seed: int, under_way: int, cautious: bool) -> None:
        self._rng, self._chance = random.Random(seed), random.Random(seed + 1)
        self._under_way, self._cautious = under_way, cautious
        self.ledger = Ledger(Fleet())
        fleet = sliced_nodes()
        for node in fleet:
            self.ledger.apply_node(node)
        self._nodes = {node.name: node for node in fleet}
        self._placer = Placer(self.ledger.fleet, policy_by_name("headroom"))
        self._waiting: deque[_Bound] = deque()
        self._given = {node.name: [0] * len(node.cards) for node in fleet}
        self._loads = {node.name: [0] * len(node.cards) for node in fleet}
        self._over: set[tuple[str, int]] = set()
        self._made = 0

    def outcome(self, load: float) -> Outcome:
        """Pods arrive until `load` times the fleet's memory was asked for."""
        mix, total = make_mix(self._rng), int(self.ledger.fleet.usable_mib.sum())
        asked = allocated = 0
        refused: list[GpuRequest] = []
        while asked < load * total:
            request = draw(mix, self._rng)
            asked += request.vram_mib
            if self._arrive(request):
                allocated += request.vram_mib
            else:
                refused.append(request)
        self._tell(0)
        self._under_way = 0
        later = sum(request.vram_mib for request in refused if self._arrive(request))
        return Outcome(asked, allocated, len(refused), later, total, len(self._over))

    def _arrive(self, request: GpuRequest) -> bool:
        placement = self._placer.best(request)
        if placement is None:
            return False
        self._made += 1
        pod = _Bound(f"pod-{self._made}", request, self._nodes[placement.node], placement)
        try:
            self.ledger.reserve(pod.name, f"ns/{pod.name}", request, placement, expires_at=_NEVER)
        except LedgerError:
            return False
        self._show(pod, placement.cards, told=not self._cautious)
        self._waiting.append(pod)
        self._tell(self._under_way)
        return True

    def _tell(self, left: int) -> None:
        """Kubelet deals devices to the oldest, until so many are left under way, and the ledger hears of it."""
        while len(self._waiting) > left:
            pod = self._waiting.popleft()
            given, loads = self._given[pod.node.name], self._loads[pod.node.name]
            fewest = min(given)
            at = self._chance.choice([card for card, number in enumerate(given) if number == fewest])
            given[at] += 1
            loads[at] += pod.request.vram_mib
            if loads[at] > pod.node.cards[at].usable_mib:
                self._over.add((pod.node.name, at))
            self._show(pod, (at,), told=True)

    def _show(self, pod: _Bound, cards: tuple[int, ...], *, told: bool) -> None:
        """The pod as the API server shows it to the extender."""
        placement = replace(pod.placement, cards=cards)
        written = annotations_of(pod.node, placement)
        if told:
            written[names.ANNOTATION_KUBELET_CARDS] = ",".join(pod.node.cards[at].id for at in cards)
        limits = {_RESOURCE: "1", names.RESOURCE_VRAM: f"{pod.request.vram_mib}Mi"}
        body: dict[str, Any] = {
            "metadata": {"name": pod.name, "namespace": "ns", "uid": pod.name, "annotations": written},
            "spec": {"nodeName": pod.node.name, "containers": [{"name": "c", "resources": {"limits": limits}}]},
            "status": {"startTime": _STARTED},
        }
        self.ledger.apply(wire.POD.decode(wire.encode(body)))


def table(seeds: Sequence[int], under_way: Sequence[int], load: float) -> str:
    """Means over the seeds, as Markdown."""
    lines = [
        "| pods under way | scheduler | memory given at first, % | given once all words are in, % | cards over-committed |",
        "|---|---|---|---|---|",
    ]
    for number in under_way:
        for cautious in (True, False):
            runs = [Run(seed, number, cautious).outcome(load) for seed in seeds]
            first = sum(100 * one.allocated_mib / one.fleet_mib for one in runs) / len(runs)
            later = sum(100 * (one.allocated_mib + one.later_mib) / one.fleet_mib for one in runs) / len(runs)
            over = sum(one.overcommitted for one in runs) / len(runs)
            side = "cautious" if cautious else "believes itself"
            lines.append(f"| {number} | {side} | {first:.2f} | {later:.2f} | {over:.1f} |")
    return "\n".join(lines)


@click.command()
@click.option("--seeds", default=2, show_default=True, type=click.IntRange(1, 100), help="Runs of each kind.")
@click.option("--load", default=1.0, show_default=True, help="Memory asked for over the fleet's memory.")
@click.option(
    "--under-way", default="0,10,50,200", show_default=True, help="Pods whose cards kubelet has not told yet."
)
def main(seeds: int, load: float, under_way: str) -> None:
    """Print what slice mode's caution costs in memory given out, and what it prevents."""
    click.echo(table(range(42, 42 + seeds), [int(number) for number in under_way.split(",")], load))
