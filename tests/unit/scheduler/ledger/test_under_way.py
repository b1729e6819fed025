"""Pods in slice mode until kubelet's word on their cards is in: case s05 and the burst on the real kubelet."""

from dataclasses import replace

import pytest

from headroom import names, wire
from headroom.domain.assignment import annotations_of
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.books import PATIENCE_SECONDS
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger, OverCommitError
from scheduler.placement.placer import Placer
from scheduler.placement.policies.registry import policy_by_name
from scheduler.placement.victims import Occupant, fits_without

GIB = 1024
RESOURCE = "nvidia.com/gpu"
NOW = 1_800_000_000.0
STARTED = "2027-01-15T08:00:00Z"  # NOW
NEVER = 1e18


class Node:
    """A node with two cards of 80 GiB, four devices each, whose agent tells of cards."""

    def __init__(self, allocation: Allocation = Allocation.DISTRIBUTED, *, tells_cards: bool = True) -> None:
        self.now = NOW
        self.ledger = Ledger(Fleet(), unix_clock=lambda: self.now)
        cards = tuple(Card(f"GPU-{at}", at, "A100", 80 * GIB, 0, 4) for at in range(2))
        self.node = GpuNode(
            "n", cards, allocation=allocation, resource=RESOURCE, cpu_milli=64000, memory_mib=400000, tells_cards=tells_cards
        )  # fmt: skip
        self.ledger.apply_node(self.node)
        self.placer = Placer(self.ledger.fleet, policy_by_name("headroom"))

    def pod(
        self, name: str, gib: int, card: int, *, told: bool = True, started: bool = True, leaving: bool = False
    ) -> None:
        """A bound pod as the API server shows it."""
        request = GpuRequest(1, mode=Mode.SLICE, vram_mib=gib * GIB, resource=RESOURCE)
        written = annotations_of(self.node, Placement("n", (card,), (gib * GIB,), Mode.SLICE))
        written[names.ANNOTATION_KUBELET_CARDS] = f"GPU-{card}" if told else ""
        limits = {RESOURCE: "1", "headroom.dev/vram": f"{request.vram_mib}Mi"}
        metadata = {"name": name, "namespace": "ns", "uid": name, "annotations": written}
        if leaving:
            metadata["deletionTimestamp"] = STARTED
        status = {"startTime": STARTED} if started else {}
        body = {
            "metadata": metadata,
            "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": limits}}]},
            "status": status,
        }
        self.ledger.apply(wire.POD.decode(wire.encode(body)))
        assert self.ledger.check() == []

    def place(self, name: str, gib: int) -> int | None:
        """Reserve for a pod; the card that is foretold, None where it does not fit."""
        request = GpuRequest(1, mode=Mode.SLICE, vram_mib=gib * GIB, resource=RESOURCE)
        placement = self.placer.best(request)
        if placement is None:
            return None
        self.ledger.reserve(name, f"ns/{name}", request, placement, expires_at=NEVER)
        assert self.ledger.check() == []
        return placement.cards[0]

    @property
    def free_gib(self) -> list[int]:
        return (self.ledger.fleet.free_mib[0, :2] // GIB).tolist()


def test_pods_that_kubelet_may_take_in_in_the_other_order() -> None:
    """s05: A (60 GiB) goes to the empty card; B (5 GiB) could go first, which leaves A the card with 10 GiB."""
    node = Node()
    node.pod("X", 70, 0)
    assert node.place("A", 60) == 1
    assert node.place("B", 5) is None
    node.pod("A", 60, 1)  # kubelet's word
    assert node.place("B", 5) is not None


def test_a_pod_that_is_being_deleted_may_be_gone_before_kubelet_takes_the_next_one_in() -> None:
    """s05's second half: two devices are given of card 0, one of card 1; when Y is gone the plugin may take card 0 for A."""
    node = Node()
    for name, gib, card in (("X", 70, 0), ("Y", 5, 0), ("Z", 5, 1)):
        node.pod(name, gib, card)
    assert node.place("early", 60) == 1
    node.ledger.release("early")
    node.pod("Y", 5, 0, leaving=True)
    assert node.place("A", 60) is None


def test_a_pod_that_ends_unannounced_widens_what_pods_under_way_may_hold() -> None:
    """Nobody can foresee it; from then on no further pod is promised what A may have on either card."""
    node = Node()
    for name, gib, card in (("X", 70, 0), ("Y", 5, 0), ("Z", 5, 1)):
        node.pod(name, gib, card)
    assert node.place("A", 60) == 1
    assert node.free_gib == [5, 15]
    node.ledger.release("Y")
    assert node.free_gib == [0, 15]
    assert node.ledger.fleet.over(0).tolist()[:2] == [True, False]


@pytest.mark.parametrize(
    ("of_a", "of_b", "fits"),
    [
        pytest.param(1, 0, False, id="79 and 15 GiB, two devices each: the plugin may take the full card"),
        pytest.param(0, 1, True, id="64 and 30 GiB"),
    ],
)
def test_a_burst_on_cards_that_are_alike_to_the_plugin(of_a: int, of_b: int, fits: bool) -> None:
    """20, 5 and 15 GiB on cards with 10 and 59 GiB held: on the real kubelet 94 GiB came to lie on one card of 79.

    Foretold is 30 and 64 GiB, with room for 15 more on either card; 15 and 79 is as likely.
    """
    node = Node()
    node.pod("light", 10, 0)
    node.pod("full", 59, 1)
    assert node.place("a", 20) is not None
    assert node.place("b", 5) is not None
    assert node.place("c", 15) is None
    node.pod("a", 20, of_a)
    node.pod("b", 5, of_b)
    assert (node.place("c", 15) is not None) == fits


def test_a_card_that_is_reserved_stands_until_the_word_is_in() -> None:
    node = Node()
    assert node.place("A", 50) == 0
    assert node.free_gib == [30, 30]
    node.pod("A", 50, 0, told=False, started=False)
    assert node.free_gib == [30, 30]
    node.pod("A", 50, 0, told=False)
    assert node.free_gib == [30, 30], "kubelet has started it, and its word is still out"
    node.pod("A", 50, 1)
    assert node.free_gib == [80, 30]


def test_a_silent_agent_is_waited_for_so_long_and_no_longer() -> None:
    node = Node()
    node.pod("A", 50, 0, told=False)
    node.now = NOW + PATIENCE_SECONDS
    assert node.ledger.trust() == []
    node.now += 1
    assert node.ledger.trust() == ["n"]
    assert node.free_gib == [30, 80]
    assert node.ledger.trusted == 1
    node.pod("A", 50, 0, told=False)
    assert node.free_gib == [30, 80], "what the API server shows again changes nothing"


def test_where_no_agent_tells_the_start_of_the_pod_has_to_do() -> None:
    node = Node(tells_cards=False)
    node.pod("A", 50, 0, told=False, started=False)
    assert node.free_gib == [30, 30]
    node.pod("A", 50, 0, told=False)
    assert node.free_gib == [30, 80]


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_node_that_goes_takes_what_was_known_of_its_agent_with_it(comes_back: bool) -> None:
    """A restart, which knows nothing of the node as it was, must find the same ledger."""
    node = Node(tells_cards=False)
    node.pod("A", 50, 0, told=False)
    node.ledger.forget_node("n")
    assert list(node.ledger.unsettled) == ["A"]
    restarted = Node(tells_cards=False)
    restarted.ledger.forget_node("n")
    restarted.pod("A", 50, 0, told=False)
    if comes_back:
        for each in (node, restarted):
            each.ledger.apply_node(each.node)
        assert node.free_gib == [30, 80]
        assert not node.ledger.unsettled
    assert node.ledger.check() == []
    assert node.ledger.dump() == restarted.ledger.dump()


def test_an_agent_that_begins_to_tell_is_waited_for() -> None:
    node = Node(tells_cards=False)
    node.pod("A", 50, 0, told=False)
    node.ledger.apply_node(replace(node.node, tells_cards=True))
    assert list(node.ledger.unsettled) == ["A"]
    assert node.free_gib == [30, 30]


def test_pods_of_long_ago_are_not_under_way_after_a_restart() -> None:
    node = Node()
    node.now = NOW + 3600
    node.pod("A", 50, 0, told=False)
    assert node.free_gib == [30, 80]


def test_a_word_about_other_cards_than_those_assigned_is_none() -> None:
    """The author of a pod cannot write it beforehand, either: the binding takes it away."""
    node = Node()
    assert annotations_of(node.node, Placement("n", (0,), (1,), Mode.SLICE))[names.ANNOTATION_KUBELET_CARDS] == ""
    body = annotations_of(node.node, Placement("n", (0,), (50 * GIB,), Mode.SLICE))
    body[names.ANNOTATION_KUBELET_CARDS] = "GPU-1"
    limits = {RESOURCE: "1", "headroom.dev/vram": f"{50 * GIB}Mi"}
    pod = {
        "metadata": {"name": "A", "namespace": "ns", "uid": "A", "annotations": body},
        "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": limits}}]},
        "status": {"startTime": STARTED},
    }
    node.ledger.apply(wire.POD.decode(wire.encode(pod)))
    assert node.free_gib == [30, 30]


def test_a_reservation_that_could_put_too_much_on_a_card_is_refused() -> None:
    node = Node()
    node.pod("X", 70, 0)
    assert node.place("A", 60) == 1
    request = GpuRequest(1, mode=Mode.SLICE, vram_mib=5 * GIB, resource=RESOURCE)
    with pytest.raises(OverCommitError, match="whichever the device plugin picks"):
        node.ledger.reserve("B", "ns/B", request, Placement("n", (1,), (5 * GIB,), Mode.SLICE), expires_at=NEVER)


def test_a_plugin_that_packs_leaves_no_doubt() -> None:
    node = Node(Allocation.PACKED)
    node.pod("X", 10, 0)
    assert node.place("A", 20) == 0
    assert node.free_gib == [50, 80]


def test_a_node_gives_no_more_devices_than_it_has() -> None:
    """Three on card 0 and three on card 1 are given; two are left, both foretold of the card that the words then prove full."""
    node = Node()
    for at in range(3):
        node.pod(f"a{at}", 1, 0)
        node.pod(f"b{at}", 1, 1)
    assert node.place("c", 1) == 0
    node.pod("c", 1, 0, told=False)
    assert node.place("d", 1) == 1
    node.pod("c", 1, 1)  # kubelet's word: the other card, of which d was foretold too
    assert node.ledger.fleet.slices_free[0, :2].tolist() == [1, 0]
    assert node.place("e", 1) is None


@pytest.fixture(params=[(), ("amd.com/gpu",), ("habana.ai/gaudi", "amd.com/gpu")], ids="others: {}".format)
def beside_others(request: pytest.FixtureRequest) -> Node:
    """The node, which came after nodes whose devices have other names."""
    node = Node()
    node.ledger.forget_node("n")
    node.ledger.fleet.resource_code = {"": 0}
    for at, resource in enumerate(request.param):
        node.ledger.apply_node(replace(node.node, name=f"other{at}", resource=resource))
    node.ledger.apply_node(node.node)
    return node


def test_the_books_are_found_in_order_whatever_other_resources_there_are(beside_others: Node) -> None:
    """`/debug/snapshot?check` named a breach on every node with a pod under way."""
    assert beside_others.place("A", 50) is not None
    assert beside_others.ledger.check() == []


@pytest.mark.parametrize("under_way", [True, False])
def test_pods_under_way_count_when_victims_are_chosen(beside_others: Node, under_way: bool) -> None:
    """Once the small pod is gone, A may come second and to be on the card of X: nothing is gained by its eviction."""
    beside_others.pod("X", 60, 0)
    beside_others.pod("low", 20, 0)
    if under_way:
        assert beside_others.place("A", 60) == 1
    fleet, low = beside_others.ledger.fleet, beside_others.ledger.holdings["low"]
    victim = Occupant("low", "ns", "low", 0, low.placement)
    request = GpuRequest(1, mode=Mode.SLICE, vram_mib=5 * GIB, resource=RESOURCE)
    assert fits_without(fleet, fleet.row_of["n"], [victim], request) != under_way
