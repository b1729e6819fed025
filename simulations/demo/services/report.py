"""The second chapter for the report and the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headroom.domain.model import GpuNode
from simulations.demo.fleet import BY_PRODUCT, CARD_TYPES, sorted_nodes
from simulations.demo.report import Block, Kpi, change, node_rows
from simulations.demo.services.accounts import GRAMS_CO2_PER_KWH, PUE, Account, account_of
from simulations.demo.services.record import ServiceRecord, SideRecord
from simulations.demo.services.side import METRIC_DELAY_SECONDS, TICK_SECONDS, Side
from simulations.demo.view import FleetState

_GOOD: Final = 0.99
_DRAWN: Final = 3
"""Sides with a curve of their own; further ones are columns of the table."""


@dataclass(frozen=True, slots=True)
class StoryChapter:
    """Finished runs with their accounts, Headroom first, whole cards with an HPA second."""

    sides: tuple[SideRecord, ...]
    text: str
    """What the two sides are, for the opening of the chapter."""
    method: tuple[Block, ...]

    @property
    def accounts(self) -> tuple[Account, ...]:
        """One per side."""
        return tuple(account_of(side) for side in self.sides)

    @property
    def names(self) -> tuple[str, ...]:
        """Titles of the sides."""
        return tuple(side.title for side in self.sides)


def percent(share: float) -> str:
    """One decimal, never rounded up to 100."""
    return f"{min(share, 0.999) if share < 1 else 1.0:.1%}".replace("%", " %")


def card_time(hours: float, largest: float) -> str:
    """Card hours, or card minutes where even the largest figure is below five hours."""
    return f"{hours:.1f}" if largest >= 5 else f"{hours * 60:.1f}"


def time_unit(largest: float) -> str:
    """The unit that `card_time` uses."""
    return "hours" if largest >= 5 else "minutes"


def money(dollars: float) -> str:
    """Whole dollars, with cents for small sums."""
    return f"${dollars:,.0f}" if dollars >= 20 else f"${dollars:.2f}"


def energy(kwh: float) -> str:
    """kWh, or Wh for small amounts."""
    return f"{kwh:.1f} kWh" if kwh >= 1 else f"{kwh * 1000:.0f} Wh"


def carbon(kilograms: float) -> str:
    """kg, or g for small amounts."""
    return f"{kilograms:.1f} kg" if kilograms >= 1 else f"{kilograms * 1000:.0f} g"


def story_kpis(chapter: StoryChapter) -> list[Kpi]:
    """Headlines for people who pay and people who promise."""
    ours, theirs = chapter.accounts[:2]
    other, most = chapter.names[1], theirs.card_hours
    return [
        Kpi("card-hours", f"GPU card {time_unit(most)}", card_time(ours.card_hours, most), "",
            f"{other}: {card_time(theirs.card_hours, most)}", change(ours.card_hours, theirs.card_hours)),
        Kpi("cost", "Cost of those cards", money(ours.dollars), "", f"{other}: {money(theirs.dollars)}",
            change(ours.dollars, theirs.dollars)),
        Kpi("attainment", "Requests within their objective", percent(ours.attainment), "",
            f"{other}: {percent(theirs.attainment)}"),
        Kpi("co2", f"Electricity, making {carbon(ours.co2_kg)} of CO₂", energy(ours.kwh), "",
            f"{other}: {energy(theirs.kwh)}", change(ours.kwh, theirs.kwh)),
    ]  # fmt: skip


def story_page(chapter: StoryChapter) -> dict[str, Any]:
    """What story.html names."""
    accounts = chapter.accounts
    ours, most = accounts[0], accounts[1].card_hours
    side = chapter.sides[0]
    rows = [
        _row("Requests within their objective", [percent(account.attainment) for account in accounts]),
        _row(
            "Worst service",
            [percent(min(account.by_service)) for account in accounts],
            bad=[min(account.by_service) < _GOOD for account in accounts],
        ),
        _row(
            f"Services that kept {_GOOD:.0%}".replace("%", " %"),
            [f"{_kept(account)} of {len(account.by_service)}" for account in accounts],
            bad=[_kept(account) < len(account.by_service) for account in accounts],
        ),
        _row(f"GPU card {time_unit(most)} held", [card_time(account.card_hours, most) for account in accounts]),
        *(
            _row(kind, [card_time(account.card_hours_by_type[kind], most) for account in accounts], part=True)
            for kind in ours.card_hours_by_type
        ),
        _row("Most cards at once", [str(account.peak_cards) for account in accounts]),
        _row("Time that held cards were busy", [percent(account.busy_share) for account in accounts]),
        _row("Cost", [money(account.dollars) for account in accounts]),
        _row("Electricity", [energy(account.kwh) for account in accounts]),
        _row("Carbon dioxide", [carbon(account.co2_kg) for account in accounts]),
        _row("Replica starts", [str(account.replica_starts) for account in accounts]),
    ]
    prices = ", ".join(f"{card.short} ${card.dollars_per_hour:.2f}" for card in CARD_TYPES.values())
    cards = sum(len(node.cards) for node in side.nodes)
    return {
        "title": f"{len(side.services)} services, {ours.requests:,} requests, {cards} cards",
        "text": chapter.text,
        "other": chapter.names[1],
        "third": chapter.names[2] if len(chapter.names) > 2 else "",
        "columns": chapter.names,
        "rows": rows,
        "assumptions": (
            f"Assumed: prices per card hour {prices}; power from idle with a loaded process up to the board limit in proportion to the"
            f" busy time; PUE {PUE}; {GRAMS_CO2_PER_KWH:.0f} g CO₂ per kWh (world mean). A card that nobody holds is counted as free for"
            " others: no cost, no power. Hosts are left out."
        ),
    }


def _row(name: str, cells: Sequence[str], *, part: bool = False, bad: Sequence[bool] = ()) -> dict[str, Any]:
    flags = bad or [False] * len(cells)
    return {"name": name, "cells": list(zip(cells, flags, strict=True)), "part": part}


def _kept(account: Account) -> int:
    return sum(share >= _GOOD for share in account.by_service)


def story_data(chapter: StoryChapter, models: Sequence[str]) -> dict[str, Any]:
    """What story.js draws."""
    first = chapter.sides[0]
    nodes = sorted_nodes(first.nodes)
    row_of = {node.name: row for row, node in enumerate(nodes)}
    demand = [
        round(sum(values), 2) for values in zip(*(service.track.demand for service in first.services), strict=True)
    ]
    # What runs out after the last request has come is no outage, and is not drawn.
    ticks = max(at for at, value in enumerate(demand) if value > 0) + 1
    busiest = first.times[demand.index(max(demand))]
    named = [models.index(service.model) for service in first.services]
    return {
        "nodes": node_rows(first.nodes),
        "times": [round(time) for time in first.times[:ticks]],
        "last": round(first.times[ticks - 1]),
        "opening": round(busiest),
        "demand": demand[:ticks],
        "sides": [
            _side_data(side, name, row_of, ticks, whole_map=at < 2)
            for at, (side, name) in enumerate(zip(chapter.sides[:_DRAWN], chapter.names, strict=False))
        ],
        "services": [
            {
                "name": service.name,
                "model": named[at],
                "shade": named[:at].count(named[at]),
                "what": service.what,
                "promise": service.promise,
                "ttft": service.ttft_seconds,
                "demand": [round(value, 2) for value in service.track.demand[:ticks]],
                "met": [percent(side.services[at].attainment) for side in chapter.sides[:2]],
            }
            for at, service in enumerate(first.services)
        ],
    }


def _side_data(side: SideRecord, name: str, row_of: dict[str, int], ticks: int, *, whole_map: bool) -> dict[str, Any]:
    return {
        "name": name,
        "cards": [sum(values) for values in zip(*side.held.values(), strict=True)][:ticks],
        "queue": [sum(values) for values in zip(*(service.track.queue for service in side.services), strict=True)][
            :ticks
        ],
        "shares": [
            [
                row_of[share.card[0]],
                share.card[1],
                share.service,
                share.mib,
                _round(share.start),
                _round(share.ready),
                _round(share.end),
                share.pod,
            ]
            for share in side.shares
        ]
        if whole_map
        else [],
        "services": [_track_data(service, ticks) for service in side.services] if whole_map else [],
    }


def _round(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def _track_data(service: ServiceRecord, ticks: int) -> dict[str, Any]:
    track = service.track
    return {
        "ready": track.ready[:ticks],
        "queue": track.queue[:ticks],
        "ttft": [None if value is None else round(value, 2) for value in track.ttft[:ticks]],
    }


def story_lines(chapter: StoryChapter) -> list[str]:
    """The second chapter for the terminal: a small table."""
    most = chapter.accounts[1].card_hours
    head = f"{'':<22}{'card ' + time_unit(most):>14}{'cost':>9}{'energy':>11}{'CO2':>9}{'within objective':>19}"
    rows = [
        f"{name:<22}{card_time(account.card_hours, most):>14}{money(account.dollars):>9}{energy(account.kwh):>11}"
        f"{carbon(account.co2_kg):>9}{percent(account.attainment):>19}"
        for name, account in zip(chapter.names, chapter.accounts, strict=True)
    ]
    return [
        f"What {chapter.accounts[0].requests:,} requests to {len(chapter.sides[0].services)} services took:",
        head,
        *rows,
        "",
    ]


def story_state(side: Side) -> FleetState:
    """The fleet at this moment of a run."""
    held: dict[tuple[str, int], list[tuple[int, int]]] = {}
    for share in side.open_shares():
        held.setdefault(share.card, []).append((share.service, share.mib))
    return FleetState(tuple(side.nodes), held)


def service_lines(side: Side) -> list[str]:
    """A line per service: what it is asked, what it has, how it does."""
    lines = []
    for lane in side.lanes:
        track, objective = lane.track, lane.service.objective
        ttft = track.ttft[-1]
        shown = "     -" if ttft is None else f"{ttft:5.2f}s"
        late = " late" if ttft is not None and ttft > objective.ttft_seconds else ""
        lines.append(
            f"  {lane.service.name:<11}{track.demand[-1]:6.1f} req/s   replicas {track.ready[-1]}/{track.replicas[-1]}"
            f"   waiting {track.queue[-1]:<4} first token p95 {shown}{late}"
        )
    return lines


def story_method(nodes: Sequence[GpuNode], *, placements: int, audits: int, out_of_memory: int) -> tuple[Block, ...]:
    """How the second chapter was made, and what it cannot say."""
    kinds = {BY_PRODUCT[node.cards[0].model].short for node in nodes}
    return (
        Block(
            "Services under load",
            (
                "Headroom's replicas are pods of the simulated cluster, placed by the unmodified extender process over HTTP"
                f" ({placements} placements); wanted replicas come from autoscaler.decide, the function that the autoscaler"
                " daemon runs, and capacity from the extender's own fit answer.",
                f"After pods had gone, the extender's ledger was compared with the pods card by card {audits} times and agreed;"
                f" {out_of_memory} replicas ran out of memory.",
                "Serving is simulated: continuous batching in virtual time, iteration times from the cards' data sheets"
                f" ({', '.join(sorted(kinds))}), requests from seeded patterns, cold starts by phase. Replicas that share a card"
                " slow each other by the share of time the neighbours kept it busy, as time-slicing does.",
                f"Metrics are {METRIC_DELAY_SECONDS:.0f} s old when a law sees them; every law decides each {TICK_SECONDS:.0f} s"
                " within the same bounds, from the same warm start. The HPA follows GPU utilisation at 80 %, KEDA the requests"
                " inside at 16 per replica, both with the defaults of their documentation. Headroom is told each service's objective, to"
                " be kept for 98 % of the requests. Tuned, each service has the setting that was best for it on the load of seed 7"
                " (Headroom: 4 shares to be kept; HPA: 12 pairs of target and stabilisation window; KEDA: 18): the fewest card"
                " hours with which 99 % of its requests keep their objective. No user knows his load that well beforehand.",
                "Each request counts as met when its time to first token and its mean time per token are within the service's objective;"
                " one that did not finish counts as missed.",
            ),
        ),
        Block(
            "Limits",
            (
                "Speeds follow from published card and model figures, not from measurements of these pairs; relative results depend on"
                " them less than absolute ones.",
                "Contention for a shared card is averaged over 15 seconds; short collisions inside that time are not seen.",
                "One load, one fleet, one seed: run it with another --seed. docs/results.md compares scaling laws on public traces.",
                "Nodes are never switched off or on; a free card costs nothing here, and something in a fleet that is paid for anyway.",
            ),
        ),
    )


def story_text(side: SideRecord) -> str:
    """Opening of the chapter on the simulated cluster."""
    return (
        f"{side.end / 60:.0f} minutes of load on a mixed fleet, the same requests on every side. Headroom gives each replica the"
        " memory it asks for, on cards it shares, and scales by the work that arrives. The other sides give each replica a whole"
        " card: scaled by the HPA on GPU utilisation, which buys its latency with idle cards, or by KEDA on the requests inside,"
        " which saves cards by starting them late. The last three columns show the same sides with the best setting for each service,"
        " found beforehand on this very load."
    )
