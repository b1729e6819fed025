"""The whole advice as one value: maps, findings, cards and money by model."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agent.energy.tariff import Tariff
from headroom import wire
from headroom.domain.model import GpuNode
from scheduler.ledger.holding import FINISHED_PHASES
from simulations.advise.findings import Findings, find
from simulations.advise.reading import Export
from simulations.advise.replay import Map, described, today, with_headroom
from simulations.advise.tenants import Rules, Tenant, tenants_of
from simulations.advise.use import Use

HOURS_PER_MONTH: Final = 730.0


@dataclass(frozen=True, slots=True)
class ModelLine:
    """Cards of one model: in the fleet, held today, and held if the same pods were placed by memory."""

    model: str
    cards: int
    held: int
    would: int
    hour_price: float | None

    @property
    def month_saved(self) -> float | None:
        """Money a month for the cards that come free; None without a price."""
        return None if self.hour_price is None else (self.held - self.would) * self.hour_price * HOURS_PER_MONTH


@dataclass(frozen=True, slots=True)
class Advice:
    """What is told."""

    nodes: Mapping[str, GpuNode]
    tenants: list[Tenant]
    waiting: int
    """Pods with a GPU demand that run nowhere."""
    now: Map
    then: Map
    lines: tuple[ModelLine, ...]
    findings: Findings
    measured: int
    """Tenants whose use is known."""
    problems: list[str]
    currency: str

    @property
    def fleet(self) -> int:
        """Cards that there are."""
        return sum(line.cards for line in self.lines)

    @property
    def held(self) -> int:
        """Cards held today."""
        return sum(line.held for line in self.lines)

    @property
    def would(self) -> int:
        """Cards that would do, those of pods that could not be placed anew included."""
        return sum(line.would for line in self.lines)

    @property
    def saved(self) -> int:
        """Cards that come free."""
        return self.held - self.would

    @property
    def month_saved(self) -> float | None:
        """Money a month; None where no card has a price."""
        priced = [line.month_saved for line in self.lines if line.month_saved is not None]
        return sum(priced) if priced else None


def advise(export: Export, use: Mapping[str, Use], tariff: Tariff, rules: Rules) -> Advice:
    """Read, replay, compare. What cannot be understood is named in `problems` and left out."""
    problems = list(export.unread)
    nodes = described(export.nodes, problems)
    tenants, waiting = tenants_of(export.pods, nodes, use, problems)
    mine = {tenant.pod.metadata.uid for tenant in tenants}
    others = [pod for pod in export.pods if pod.metadata.uid not in mine and _runs(pod)]
    raw = {node.metadata.name: node for node in export.nodes}
    now = today(nodes, tenants)
    then = with_headroom(nodes, raw, tenants, others, rules)
    return Advice(
        nodes=nodes,
        tenants=tenants,
        waiting=len(waiting),
        now=now,
        then=then,
        lines=_lines(nodes, tenants, now, then, tariff),
        findings=find(tenants, nodes, now, export.scalers, rules),
        measured=sum(tenant.use.peak_mib is not None for tenant in tenants),
        problems=problems,
        currency=tariff.currency,
    )


def _runs(pod: wire.Pod) -> bool:
    return bool(pod.spec.node_name) and pod.status.phase not in FINISHED_PHASES


def _lines(
    nodes: Mapping[str, GpuNode], tenants: list[Tenant], now: Map, then: Map, tariff: Tariff
) -> tuple[ModelLine, ...]:
    cards = Counter(card.model for node in nodes.values() for card in node.cards)
    held, would = now.held_by_model(nodes), then.held_by_model(nodes)
    # Whoever could not be placed anew keeps the cards that he has.
    stays = set(then.unplaced)
    for (node, at), pods in now.cards.items():
        if any(index in stays for index, _ in pods):
            would[nodes[node].cards[at].model] += 1
    return tuple(
        ModelLine(model, cards[model], held[model], min(would[model], held[model]), tariff.price_of(model))
        for model in sorted(cards)
    )
