"""The sides of the second chapter at their best: for each service, of some settings, the one that does best on the demo's own load.

    python -m simulations.demo.tune --seed 7

prints what `TUNED` holds. Nobody knows his load beforehand, so this is more than a user can do. A setting is best when it takes the
fewest card hours of those with which the service keeps its objective for 99 % of the requests, or the most requests in time where none
does.
"""

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Final

from simulations.demo.fleet import build_fleet
from simulations.demo.services.record import SideRecord
from simulations.demo.services.scenario import STORY_FLEET
from simulations.demo.services.side import Side
from simulations.demo.services.supply import WholeCards
from simulations.serving.laws.base import Parameters
from simulations.serving.laws.catalogue import LAWS

KEPT: Final = 0.99
TRIED: Final[Mapping[str, Sequence[Parameters]]] = {
    "headroom": tuple({"share": share} for share in (0.9, 0.95, 0.98, 0.99)),
    **{
        law: tuple({"target": target, "down_window": window} for target in targets for window in (60.0, 300.0, 900.0))
        for law, targets in (
            ("hpa-gpu", (60.0, 80.0, 90.0, 97.0)),
            ("keda-running", (4.0, 8.0, 12.0, 16.0, 24.0, 36.0)),
        )
    },
}
TUNED: Final[Mapping[str, Mapping[str, Parameters]]] = {
    "headroom": {
        "chat": {"share": 0.95},
        "code": {"share": 0.9},
        "documents": {"share": 0.95},
        "agents": {"share": 0.9},
        "assistant": {"share": 0.9},
        "expert": {"share": 0.9},
        "mail": {"share": 0.9},
        "translate": {"share": 0.9},
        "contracts": {"share": 0.9},
        "speech": {"share": 0.9},
        "search": {"share": 0.9},
        "moderation": {"share": 0.9},
    },
    "hpa-gpu": {
        "chat": {"target": 90.0, "down_window": 60.0},
        "code": {"target": 97.0, "down_window": 60.0},
        "documents": {"target": 80.0, "down_window": 900.0},
        "agents": {"target": 97.0, "down_window": 300.0},
        "assistant": {"target": 90.0, "down_window": 60.0},
        "expert": {"target": 97.0, "down_window": 60.0},
        "mail": {"target": 90.0, "down_window": 60.0},
        "translate": {"target": 97.0, "down_window": 60.0},
        "contracts": {"target": 97.0, "down_window": 60.0},
        "speech": {"target": 60.0, "down_window": 60.0},
        "search": {"target": 60.0, "down_window": 60.0},
        "moderation": {"target": 60.0, "down_window": 60.0},
    },
    "keda-running": {
        "chat": {"target": 16.0, "down_window": 900.0},
        "code": {"target": 12.0, "down_window": 60.0},
        "documents": {"target": 16.0, "down_window": 900.0},
        "agents": {"target": 16.0, "down_window": 900.0},
        "assistant": {"target": 24.0, "down_window": 60.0},
        "expert": {"target": 36.0, "down_window": 60.0},
        "mail": {"target": 4.0, "down_window": 60.0},
        "translate": {"target": 4.0, "down_window": 60.0},
        "contracts": {"target": 4.0, "down_window": 60.0},
        "speech": {"target": 4.0, "down_window": 60.0},
        "search": {"target": 4.0, "down_window": 60.0},
        "moderation": {"target": 4.0, "down_window": 60.0},
    },
}


def card_seconds(side: SideRecord, service: int) -> float:
    """How long the replicas of a service held cards."""
    held = [share for share in side.shares if share.service == service]
    return sum((side.end if share.end is None else share.end) - share.start for share in held)


def best(runs: Sequence[tuple[Parameters, SideRecord]], service: int) -> Parameters:
    """The setting that does best for one service."""

    def rank(run: tuple[Parameters, SideRecord]) -> tuple[bool, float]:
        share = run[1].services[service].attainment
        return (False, card_seconds(run[1], service)) if share >= KEPT else (True, -share)

    return min(runs, key=rank)[0]


def rival(law: str, parameters: Mapping[str, Parameters], title: str, *, seed: int, hours: float) -> SideRecord:
    """A whole run on whole cards; `parameters` of the law by service."""
    nodes = build_fleet(STORY_FLEET, random.Random(seed))
    side = Side(nodes, WholeCards(nodes), LAWS[law], parameters, seed=seed, hours=hours)
    asyncio.run(side.run(lambda *_: None))
    return side.record(title)
