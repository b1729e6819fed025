"""From the chapters' figures to what the report's templates and script read."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headroom import __version__
from headroom.domain.model import GpuNode
from simulations.demo.fleet import BY_PRODUCT, sorted_nodes
from simulations.demo.placement.baselines import Risk
from simulations.demo.placement.chapter import SLICES, Method, PlacementChapter
from simulations.embedded.store import CardRef


@dataclass(frozen=True, slots=True)
class Kpi:
    """A headline figure and what it is compared with."""

    key: str
    name: str
    value: str
    unit: str = ""
    against: str = ""
    change: str = ""


@dataclass(frozen=True, slots=True)
class Block:
    """A heading and sentences of the method section."""

    title: str
    lines: tuple[str, ...]


def gib(mib: float) -> str:
    """Whole GiB with a thousands separator."""
    return f"{mib / 1024:,.0f}"


def change(ours: float, theirs: float) -> str:
    """Relative difference as people say it: `52 % fewer` is minus 52 %."""
    return f"{(ours - theirs) / theirs:+.0%}".replace("-", "−").replace("%", " %") if theirs else ""


def node_rows(nodes: Sequence[GpuNode]) -> list[dict[str, Any]]:
    """Nodes as the script draws them, by card type and name."""
    return [
        {
            "name": node.name,
            "type": BY_PRODUCT[node.cards[0].model].short,
            "cards": [card.usable_mib for card in node.cards],
        }
        for node in sorted_nodes(nodes)
    ]


_SHARED_NOTE: Final = (
    "Memory decides whether replicas can live together, not whether they are fast together: replicas that share a card also share its"
    " compute. This chapter is about memory only."
)


def placement_page(chapter: PlacementChapter) -> dict[str, Any]:
    """What placement.html names."""
    usable = {(node.name, card.index): card.usable_mib for node in chapter.nodes for card in node.cards}
    mean = sum(usable.values()) / len(usable)
    return {
        "headroom": chapter.headroom,
        "whole": chapter.whole,
        "spread": chapter.risk_spread,
        "packed": chapter.risk_packed,
        "spread_running": running_mean(chapter.headroom.pods, chapter.risk_spread),
        "packed_running": running_mean(chapter.headroom.pods, chapter.risk_packed),
        "stream_count": len(chapter.stream),
        "card_count": len(usable),
        "need_gib": gib(chapter.need_mib),
        "headroom_gib": gib(chapter.headroom.needed_blocked_mib),
        "whole_gib": gib(chapter.whole.blocked_mib),
        "whole_needed_gib": gib(chapter.whole.needed_blocked_mib),
        "spread_gib": gib(chapter.risk_spread.cards_mean * mean),
        "packed_gib": gib(chapter.risk_packed.cards_mean * mean),
        "slices": SLICES,
    }


def placement_data(chapter: PlacementChapter, models: Sequence[str]) -> dict[str, Any]:
    """What placement.js draws."""
    nodes = sorted_nodes(chapter.nodes)
    row_of = {node.name: row for row, node in enumerate(nodes)}

    def share(name: str, ref: CardRef, start: float) -> list[Any]:
        deployment = (
            chapter.stream[chapter.deployment_of[name]] if name in chapter.deployment_of else _owner(chapter, name)
        )
        return [
            row_of[ref[0]],
            ref[1],
            models.index(deployment.offer.model),
            deployment.vram_mib,
            round(start),
            f"{name} ({deployment.label})",
        ]

    total_cards = len({(node.name, card.index) for node in nodes for card in node.cards})
    return {
        "nodes": node_rows(chapter.nodes),
        "models": sorted({models.index(deployment.offer.model) for deployment in chapter.stream}),
        "last": round(max(deployment.arrival_seconds for deployment in chapter.stream)) + 1,
        "shares": [share(name, ref, start) for name, (start, refs) in chapter.placed.items() for ref in refs],
        "whole_shares": [
            share(name, ref, _owner(chapter, name).arrival_seconds)
            for name, refs in chapter.whole_placed.items()
            for ref in refs
        ],
        "methods": [
            _method_row("Headroom", chapter.headroom, total_cards),
            _method_row("Whole cards", chapter.whole, total_cards),
            _risk_method_row("Time-slicing, spread", chapter.headroom.pods, chapter.risk_spread),
            _risk_method_row("Time-slicing, packed", chapter.headroom.pods, chapter.risk_packed),
        ],
    }


def _owner(chapter: PlacementChapter, pod: str) -> Any:
    name = pod.rsplit("-", 1)[0]
    return next(deployment for deployment in chapter.stream if deployment.name == name)


def _method_row(name: str, method: Method, total_cards: int) -> dict[str, Any]:
    text = f"{method.cards_needed} cards"
    if method.cards_needed > total_cards:
        text += f" (the fleet has {total_cards})"
    return {
        "name": name,
        "running": method.running,
        "pods": method.pods,
        "cards_needed": method.cards_needed,
        "cards_text": text,
    }


def _risk_method_row(name: str, pods: int, risk: Risk) -> dict[str, Any]:
    """Of time-slicing, whose outcome depends on the order of arrival: the means that the table shows."""
    return {
        "name": name,
        "running": running_mean(pods, risk),
        "pods": pods,
        "cards_needed": round(risk.cards_mean),
        "cards_text": f"{risk.cards_mean:.0f} cards, and {risk.crashed_mean:.0f} replicas die of it",
    }


def running_mean(pods: int, risk: Risk) -> int:
    """Replicas that run in the mean over the orders of arrival, whole."""
    return round(pods - risk.crashed_mean - risk.unplaced_mean)


def placement_lines(chapter: PlacementChapter) -> list[str]:
    """The first chapter for the terminal: a small table."""
    ours, whole, spread, packed = chapter.headroom, chapter.whole, chapter.risk_spread, chapter.risk_packed
    rows = [
        ("", "cards", "GiB taken", "running", "waiting", "out of memory"),
        (
            "Headroom",
            f"{ours.cards_needed}",
            gib(ours.needed_blocked_mib),
            f"{ours.running}",
            f"{ours.pending}",
            f"{ours.out_of_memory}",
        ),
        (
            "Whole cards",
            f"{whole.cards_needed}",
            gib(whole.needed_blocked_mib),
            f"{whole.running}",
            f"{whole.pending}",
            "0",
        ),
        _risk_row("Time-slicing, spread", ours.pods, spread),
        _risk_row("Time-slicing, packed", ours.pods, packed),
    ]
    lines = [
        f"{name:<22}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, (8, 11, 9, 9, 24), strict=True))
        for name, *cells in rows
    ]
    return [f"What {ours.pods} replicas that need {gib(chapter.need_mib)} GiB take:", *lines, ""]


def _risk_row(name: str, pods: int, risk: Risk) -> tuple[str, str, str, str, str, str]:
    died = f"{risk.crashed_mean:.0f} ({risk.crashed_low} to {risk.crashed_high})"
    return name, f"{risk.cards_mean:.0f}", "", f"{running_mean(pods, risk)}", f"{risk.unplaced_mean:.0f}", died


def placement_method(chapter: PlacementChapter) -> list[Block]:
    """How the first chapter was made."""
    return [
        Block(
            "Same pods, three ways",
            (
                chapter.asked,
                "Simulated kubelets check the outcome: they deal the time slices themselves, add up what each card really holds,"
                f" and count replicas that do not fit (Headroom: {chapter.headroom.out_of_memory}) and slices dealt on another"
                f" card than announced ({chapter.mispredicted}).",
                "Memory of a replica = weights at the chosen quantisation + key-value cache of its context budget + engine"
                " overhead, from the models' published shapes.",
                _SHARED_NOTE,
            ),
        )
    ]


def footer(command: str, seconds: float) -> str:
    """What made the page."""
    return f"headroom {__version__}, {command}, {seconds:.0f} s. All figures come from this run."
