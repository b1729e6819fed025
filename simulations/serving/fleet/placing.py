"""Cards for replicas, by the scheduler's own placement code over one fleet that all models share."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from headroom.domain.model import Card, GpuNode, GpuRequest, Placement
from headroom.errors import HeadroomError
from scheduler.ledger.fleet import Fleet
from scheduler.placement.placer import Placer
from scheduler.placement.policies.registry import policy_by_name
from simulations.serving.engine.hardware import Pair


class FleetError(HeadroomError):
    """A fleet that cannot serve what is asked of it."""


def uniform_fleet(card: str, vram_mib: int, nodes: int, cards_per_node: int) -> list[GpuNode]:
    """Equal nodes of one card model."""
    return [
        GpuNode(
            name=f"{card.lower()}-{number:03d}",
            cards=tuple(
                Card(id=str(index), index=index, model=card, vram_mib=vram_mib) for index in range(cards_per_node)
            ),
        )
        for number in range(nodes)
    ]


@dataclass(slots=True)
class SharedFleet:
    """One fleet and what its replicas hold."""

    nodes: Sequence[GpuNode]
    policy: str = "headroom"
    fleet: Fleet = field(init=False)
    placer: Placer = field(init=False)

    def __post_init__(self) -> None:
        self.fleet = Fleet(rows=len(self.nodes))
        for node in self.nodes:
            self.fleet.upsert_node(node)
        self.placer = Placer(self.fleet, policy_by_name(self.policy))

    def cards_for(self, pair: Pair) -> "PairCards":
        """The door through which one model takes cards. Raises FleetError when not even an empty fleet holds a replica."""
        request = GpuRequest(count=pair.cards, vram_mib=pair.vram_mib, models=frozenset({pair.card}))
        if not any(
            sum(card.model == pair.card and card.usable_mib >= pair.vram_mib for card in node.cards) >= pair.cards
            for node in self.nodes
        ):
            raise FleetError(
                f"no node of the fleet can hold one replica of {pair.name}: {pair.cards} cards with {pair.vram_mib} MiB each"
            )
        return PairCards(self, request)

    def held_mib(self) -> int:
        """Memory that replicas hold on all cards."""
        return int(self.fleet.held_mib.sum())


@dataclass(slots=True)
class PairCards:
    """Takes and gives cards of one request class; remembers where its image has been pulled."""

    shared: SharedFleet
    request: GpuRequest
    nodes_seen: set[str] = field(default_factory=set)
    _room: tuple[int, int, int] = (-1, 0, 0)
    """(fleet clock, limit asked, answer): the same question on an unchanged fleet is not worked out again."""

    def take(self) -> Placement | None:
        """Cards for one replica, or None."""
        shared = self.shared
        shared.placer.observe(self.request, 0.0)
        placement = shared.placer.best(self.request)
        if placement is not None:
            row = shared.fleet.row_of[placement.node]
            shared.fleet.take(row, placement.cards, placement.share_mib, plugin=False)
        return placement

    def give(self, placement: Placement) -> None:
        """The cards back."""
        fleet = self.shared.fleet
        fleet.give(fleet.row_of[placement.node], placement.cards, placement.share_mib, plugin=False)

    def room(self, limit: int) -> int:
        """How many more replicas fit now, at most `limit`."""
        clock, asked, answer = self._room
        if clock == self.shared.fleet.clock and (limit <= asked or answer < asked):
            return min(answer, limit)
        taken: list[Placement] = []
        while len(taken) < limit:
            placement = self.take()
            if placement is None:
                break
            taken.append(placement)
        for placement in taken:
            self.give(placement)
        self._room = (self.shared.fleet.clock, limit, len(taken))
        return len(taken)

    def new_on(self, node: str) -> bool:
        """Whether the image was not on the node yet; from now on it is."""
        new = node not in self.nodes_seen
        self.nodes_seen.add(node)
        return new
