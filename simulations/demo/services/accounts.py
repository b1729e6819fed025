"""What a run of the second chapter cost: card hours, money, energy, carbon."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from simulations.demo.fleet import BY_PRODUCT, CARD_TYPES, CardType
from simulations.demo.services.record import SideRecord
from simulations.embedded.store import CardRef

PUE: Final = 1.56
"""Energy of the data centre per energy of its machines: mean of Uptime Institute's survey, 2024."""
GRAMS_CO2_PER_KWH: Final = 475.0
"""World mean of electricity (IEA, 2019), which CodeCarbon falls back to."""
_JOULES_PER_KWH: Final = 3.6e6


@dataclass(frozen=True, slots=True)
class Account:
    """Totals of one side over the whole run."""

    title: str
    hours: float
    card_hours: float
    card_hours_by_type: Mapping[str, float]
    peak_cards: int
    busy_hours: float
    dollars: float
    kwh: float
    """Of the cards that were held, at the wall of the data centre (PUE included)."""
    co2_kg: float
    requests: int
    met: int
    by_service: tuple[float, ...]
    """Share of requests that met their objectives, by service."""
    replica_starts: int

    @property
    def attainment(self) -> float:
        """Share of requests that met both latency objectives."""
        return self.met / self.requests if self.requests else 1.0

    @property
    def busy_share(self) -> float:
        """How busy the cards were while they were held."""
        return self.busy_hours / self.card_hours if self.card_hours else 0.0


def card_watts(card: CardType, busy: float) -> float:
    """Power of a held card: idle draw plus a loaded process, and from there straight up to the board limit with the busy share."""
    floor = card.idle_watts + card.context_watts
    return floor + busy * (card.limit_watts - floor)


def account_of(side: SideRecord) -> Account:
    """Add up a finished run."""
    types: dict[CardRef, CardType] = {
        (node.name, card.index): BY_PRODUCT[card.model] for node in side.nodes for card in node.cards
    }
    tick_hours = side.tick_seconds / 3600
    by_type = {kind.short: 0.0 for kind in CARD_TYPES.values() if kind in types.values()}
    dollars = joules = busy_hours = 0.0
    for ref, held in side.held.items():
        kind, hours = types[ref], sum(held) * tick_hours
        by_type[kind.short] += hours
        dollars += hours * kind.dollars_per_hour
        for on, busy in zip(held, side.busy[ref], strict=True):
            if on:
                joules += card_watts(kind, busy) * side.tick_seconds
                busy_hours += busy * tick_hours
    kwh = joules * PUE / _JOULES_PER_KWH
    return Account(
        title=side.title,
        hours=side.end / 3600,
        card_hours=sum(by_type.values()),
        card_hours_by_type=by_type,
        peak_cards=max(map(sum, zip(*side.held.values(), strict=True))),
        busy_hours=busy_hours,
        dollars=dollars,
        kwh=kwh,
        co2_kg=kwh * GRAMS_CO2_PER_KWH / 1000,
        requests=side.requests,
        met=sum(service.met for service in side.services),
        by_service=tuple(service.attainment for service in side.services),
        replica_starts=sum(service.starts for service in side.services),
    )
