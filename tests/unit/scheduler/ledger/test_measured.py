"""One rule for free memory: whose the memory in use is, reading by reading. Sizes in GiB, times in seconds."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from headroom import wire
from headroom.domain.model import IDLE_MIB, Card, GpuNode, GpuRequest, Mode, Placement, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import CardUse, Ledger
from scheduler.placement import refusals

GIB = 1024
HOUR = 3600.0


def bound(name: str, gib: int, card: str, *, started: str = "") -> wire.Pod:
    """A pod on node n that asks for memory of one card and was given it."""
    annotations = {"assigned-cards": card, "assigned-vram-mib": str(gib * GIB), "assigned-mode": "pinned"}
    return wire.Pod(
        metadata=wire.Meta(
            name=name, namespace="ns", uid=f"uid-{name}", annotations={f"headroom.dev/{k}": v for k, v in annotations.items()}
        ),
        spec=wire.PodSpec(
            node_name="n", containers=(wire.Container(resources=wire.Resources(limits={"headroom.dev/vram": f"{gib}Gi"})),)
        ),
        status=wire.PodStatus(phase="Running", start_time=started or None),
    )  # fmt: skip


@dataclass
class World:
    """One node of 80 GiB cards, and the clock by which events and samples are stamped."""

    cards: int = 1
    slices: int = 1
    now: float = 10 * HOUR
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(Fleet(), unix_clock=lambda: self.now)
        cards = tuple(Card(f"GPU-{at}", at, "H100", 80 * GIB, slices=self.slices) for at in range(self.cards))
        sharing = Sharing.TIME_SLICING if self.slices > 1 else Sharing.EXCLUSIVE
        self.ledger.apply_node(GpuNode("n", cards, sharing, resource="nvidia.com/gpu"))

    def later(self, seconds: float = 15.0) -> "World":
        self.now += seconds
        return self

    def bind(self, name: str, gib: int, card: int = 0, **fields: Any) -> "World":
        self.later(1.0).ledger.apply(bound(name, gib, f"GPU-{card}", **fields))
        return self.later(1.0)

    def end(self, name: str) -> "World":
        assert self.later(1.0).ledger.release(f"uid-{name}") is not None
        return self.later(1.0)

    def read(self, *, age: float = 0.0, cards: dict[int, dict[str, Any]]) -> "World":
        """Take in a reading: GiB by card of `total`, `outside` (absent: processes are not known) and pods by name."""
        uses = {}
        for at, figures in cards.items():
            rest = dict(figures)
            total, outside = rest.pop("total"), rest.pop("outside", None)
            uses[f"GPU-{at}"] = CardUse(
                self.now - age,
                round(total * GIB),
                None if outside is None else round(outside * GIB),
                {f"ns/{pod}": round(gib * GIB) for pod, gib in rest.items()},
            )
        self.ledger.read("n", uses)
        assert self.ledger.check() == []
        return self.later(1.0)

    def agent(
        self, *, age: float = 0.0, card: int = 0, outside: float = 0.0, idle: float = 0.0, **pods: float
    ) -> "World":
        """The agent's word on one card; `idle` is in use by no process."""
        total = outside + idle + sum(pods.values())
        return self.read(age=age, cards={card: {"total": total, "outside": outside, **pods}})

    def dcgm(self, total: float, *, age: float = 0.0, card: int = 0) -> "World":
        """A total alone."""
        return self.read(age=age, cards={card: {"total": total}})

    @property
    def free(self) -> float:
        """GiB free on the first card."""
        return float(self.ledger.fleet.free_mib[0, 0]) / GIB

    def refusal(self, **request: Any) -> str | None:
        return refusals.refusal(self.ledger.fleet, GpuRequest(**request), 0)


WHOLE = (
    {"count": 1, "mode": Mode.PINNED},
    {"count": 1, "mode": Mode.PINNED, "milli": 1000},
    {"count": 1, "mode": Mode.SLICE, "resource": "nvidia.com/gpu"},
)


@pytest.mark.parametrize("request_", WHOLE, ids=["headroom.dev/gpu", "gpu-milli 1000", "nvidia.com/gpu"])
@pytest.mark.parametrize("slices", [1, 4])
@pytest.mark.parametrize("idle_mib", [0, 1, 4, IDLE_MIB])
@pytest.mark.parametrize("exporter", ["agent", "dcgm"])
def test_an_idle_card_that_shows_a_few_mib_in_use_is_unused(
    exporter: str, idle_mib: int, slices: int, request_: dict[str, Any]
) -> None:
    """Case s01: idle H100s show 2 to 4 MiB."""
    world = World(cards=8, slices=slices)
    total = idle_mib / GIB
    world.read(cards={at: {"total": total} | ({"outside": 0} if exporter == "agent" else {}) for at in range(8)})
    assert world.refusal(**request_) is None
    assert world.free == 80


def test_beyond_the_idle_allowance_all_of_it_counts() -> None:
    world = World().agent(idle=(IDLE_MIB + 1) / GIB)
    assert world.ledger.fleet.free_mib[0, 0] == 80 * GIB - IDLE_MIB - 1
    assert [world.refusal(**request) is None for request in WHOLE] == [False, False, False]


@pytest.mark.parametrize("exporter", ["agent", "dcgm"])
def test_a_few_mib_beside_a_half_card_pod_do_not_refuse_the_second_half(exporter: str) -> None:
    world = World().bind("half", 40).later(HOUR)
    if exporter == "agent":
        world.agent(half=40, idle=4 / GIB)
    else:
        world.dcgm(40 + 4 / GIB)
    assert world.refusal(count=1, vram_mib=40 * GIB) is None


def test_an_undeclared_process_counts_beside_pods_that_have_not_loaded_yet() -> None:
    """Case s07: a stranger of 30 GiB and two loading pods of 40 GiB on a card of 80."""
    world = World().agent(outside=30)
    assert world.free == 50
    world.bind("a", 40)
    assert world.free == 10
    assert world.agent(outside=30).free == 10
    assert world.agent(outside=30, a=12).free == 10
    assert world.agent(outside=30, a=40).free == 10
    assert world.agent(outside=0, a=40).free == 40


def test_the_same_by_totals_alone() -> None:
    world = World().dcgm(30)
    assert world.free == 50
    world.bind("a", 40)
    assert world.free == 10, "bound since the reading: on top of it"
    for total in (30, 42, 70, 70):
        assert world.later().dcgm(total).free == 10
    assert world.later(HOUR).dcgm(70).free == 10
    assert world.later().dcgm(40).free == 40


def test_by_totals_a_pod_that_ran_before_the_reading_is_part_of_it() -> None:
    world = World().bind("a", 40, started="2026-01-01T00:00:00Z")
    world.now = 1_800_000_000.0
    assert world.dcgm(40).free == 40
    assert world.dcgm(55).free == 25
    assert world.dcgm(3).free == 40


def test_more_than_its_share_counts_and_goes_with_the_pod() -> None:
    world = World().bind("greedy", 20).bind("fair", 20).later()
    assert world.agent(greedy=35, fair=20).free == 25
    assert world.agent(greedy=35, fair=1).free == 25
    world.end("greedy")
    assert world.free == 60


def test_a_deleted_pods_memory_does_not_block_its_successor() -> None:
    """Case s07: nothing came free until the next reading, though docs/scheduler.md said so."""
    for by_pod in (True, False):
        world = World().bind("old", 60).later(HOUR)
        world = world.agent(old=60) if by_pod else world.dcgm(60)
        assert world.end("old").free == 80
        assert world.refusal(count=1, vram_mib=60 * GIB) is None
        # A reading made before the end, but read after it.
        world = world.agent(age=3, old=60) if by_pod else world.dcgm(60, age=3)
        assert world.free == 80


@pytest.mark.parametrize("successor", [False, True])
def test_what_a_later_reading_still_shows_is_nobodys(successor: bool) -> None:
    world = World().bind("old", 60).later(HOUR).agent(old=60).end("old").later()
    if successor:
        world.bind("new", 10)
    world.agent(outside=60)
    assert world.free == 20 - 10 * successor
    assert world.agent(outside=0).free == 80 - 10 * successor


def test_a_later_reading_under_the_name_of_a_pod_that_is_gone_is_nobodys_too() -> None:
    world = World().bind("old", 60).later(HOUR).agent(old=60).end("old").later()
    assert world.agent(old=60).free == 20
    world = World().bind("old", 60).later(HOUR).dcgm(60).end("old").later()
    assert world.dcgm(60).free == 20


def test_a_namesake_is_not_charged_with_its_predecessors_memory() -> None:
    """A StatefulSet's pod comes back under its name while Prometheus still shows the earlier one."""
    world = World().bind("db-0", 60).later(HOUR).agent(**{"db-0": 60}).end("db-0")
    taken_before = world.now
    world.later(5).ledger.apply(bound("db-0", 10, "GPU-0"))
    world.later(1)
    world.agent(age=world.now - taken_before + 2, **{"db-0": 60})
    assert world.free == 70


def test_memory_on_a_card_that_is_not_the_pods_is_nobodys_there() -> None:
    world = World(cards=2).bind("a", 40, card=1).later()
    assert world.agent(card=0, a=30).free == 50
    assert world.ledger.fleet.free_mib[0, 1] == 40 * GIB


def test_a_card_without_a_reading_goes_by_what_pods_declare() -> None:
    world = World().bind("a", 20).later().agent(outside=30, a=35)
    assert world.free == 15
    assert world.read(cards={}).free == 60


def test_a_card_that_is_described_anew_keeps_what_was_measured() -> None:
    world = World().agent(outside=30)
    node = world.ledger.fleet.nodes["n"]
    world.ledger.apply_node(GpuNode("n", node.cards, node.sharing, resource="nvidia.com/gpu", labels={"a": "b"}))
    assert world.free == 50
    more = (*node.cards, Card("GPU-1", 1, "H100", 80 * GIB))
    world.ledger.apply_node(GpuNode("n", more, node.sharing, resource="nvidia.com/gpu"))
    assert world.free == 50


def test_a_reservation_is_on_top_of_any_reading() -> None:
    world = World().agent(outside=30)
    world.ledger.reserve(
        "u", "ns/u", GpuRequest(1, vram_mib=40 * GIB), Placement("n", (0,), (40 * GIB,)), expires_at=1e9
    )
    assert world.free == 10
    assert world.agent(outside=30).free == 10
    assert world.dcgm(30).free == 10


def test_a_pods_news_does_not_lose_what_it_uses() -> None:
    world = World().bind("a", 20).later().agent(a=35)
    world.ledger.apply(bound("a", 20, "GPU-0", started="2026-01-01T00:00:00Z"))
    assert world.free == 45
    assert world.ledger.check() == []
