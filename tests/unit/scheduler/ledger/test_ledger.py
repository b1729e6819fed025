"""The ledger, event by event."""

from dataclasses import replace
from typing import Any

import pytest

from headroom import wire
from headroom.domain.assignment import annotations_of
from headroom.domain.model import Allocation, Card, GpuNode, GpuRequest, Mode, Placement, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.holding import Held
from scheduler.ledger.ledger import ChangeKind, HoldingState, Ledger, LedgerError, OverCommitError

L4_MIB = 22000


def whole(name: str = "n1", count: int = 2, **fields: Any) -> GpuNode:
    """A node whose cards go out whole."""
    cards = tuple(Card(f"GPU-{at}", at, "NVIDIA-L4", L4_MIB) for at in range(count))
    return GpuNode(name, cards, resource="nvidia.com/gpu", cpu_milli=8000, memory_mib=32000, **fields)


def shared(name: str = "n1", slices: int = 2, allocation: Allocation = Allocation.DISTRIBUTED) -> GpuNode:
    """A node with two time-sliced cards."""
    cards = tuple(Card(f"GPU-{at}", at, "Tesla-T4", 15000, slices=slices) for at in range(2))
    return GpuNode(name, cards, Sharing.TIME_SLICING, allocation, "nvidia.com/gpu", cpu_milli=8000, memory_mib=32000)


@pytest.fixture
def ledger() -> Ledger:
    made = Ledger(Fleet())
    made.apply_node(whole())
    return made


def pinned(mib: int, **host: Any) -> GpuRequest:
    return GpuRequest(count=1, mode=Mode.PINNED, vram_mib=mib, **host)


def on(node: str, card: int, mib: int) -> Placement:
    return Placement(node, (card,), (mib,), Mode.PINNED)


def bound(
    uid: str, limits: dict[str, str], node: str = "n1", *, name: str = "", started: str = "", **annotations: str
) -> wire.Pod:
    """A pod on a node; annotations without their prefix."""
    return wire.Pod(
        metadata=wire.Meta(
            name=name or uid,
            namespace="ns",
            uid=uid,
            annotations={f"headroom.dev/assigned-{key.replace('_', '-')}": text for key, text in annotations.items()},
        ),
        spec=wire.PodSpec(node_name=node, containers=(wire.Container(resources=wire.Resources(limits=dict(limits))),)),
        status=wire.PodStatus(phase="Running", start_time=started or None),
    )


def free(ledger: Ledger, node: str = "n1") -> list[int]:
    row = ledger.fleet.row_of[node]
    return ledger.fleet.free_mib[row, : len(ledger.fleet.nodes[node].cards)].tolist()


def used_slices(ledger: Ledger, node: str = "n1") -> list[int]:
    row = ledger.fleet.row_of[node]
    return ledger.fleet.plugin[row, : len(ledger.fleet.nodes[node].cards)].tolist()


# Reservations


def test_reserve_confirm_release(ledger: Ledger) -> None:
    request = pinned(9000, cpu_milli=500, memory_mib=1000)
    held = ledger.reserve("u1", "ns/a", request, on("n1", 1, 9000), expires_at=10, project="chat", priority=7)
    assert (held.state, held.project, held.priority) == (HoldingState.RESERVED, "chat", 7)
    assert free(ledger) == [22000, 13000]
    assert ledger.fleet.cpu_free_milli[ledger.fleet.row_of["n1"]] == 7500
    assert ledger.confirm("u1", "n1") is held
    assert (held.state, held.expires_at) == (HoldingState.BOUND, float("inf"))
    assert ledger.expire(1e9) == []
    assert ledger.release("u1") is held
    assert free(ledger) == [22000, 22000]
    assert ledger.release("u1") is None
    assert ledger.holdings == {}


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (on("n1", 0, 12001), on("n1", 0, 10000), "card GPU-0 of node n1 has 9999 MiB left, not 10000"),
        (on("n1", 0, 22000), on("n1", 0, 1), "0 MiB left, not 1"),
        (on("n1", 1, 1), on("n1", 1, 22000), "21999 MiB left, not 22000"),
    ],
)
def test_never_more_than_a_card_has(ledger: Ledger, first: Placement, second: Placement, words: str) -> None:
    ledger.reserve("u1", "ns/a", pinned(1), first, expires_at=10)
    before = ledger.dump(), free(ledger)
    with pytest.raises(OverCommitError, match=words):
        ledger.reserve("u2", "ns/b", pinned(1), second, expires_at=10)
    assert (ledger.dump(), free(ledger)) == before


def test_measured_use_counts_against_a_reservation(ledger: Ledger) -> None:
    ledger.fleet.set_measured(ledger.fleet.row_of["n1"], [15000, 0])
    with pytest.raises(OverCommitError, match="7000 MiB left"):
        ledger.reserve("u1", "ns/a", pinned(7001), on("n1", 0, 7001), expires_at=10)


def test_slices_run_out(ledger: Ledger) -> None:
    ledger.apply_node(shared("n2", slices=2))
    request = GpuRequest(count=2, mode=Mode.SLICE, resource="nvidia.com/gpu", vram_mib=100)
    ledger.reserve("u1", "ns/a", request, Placement("n2", (0, 0), (100, 100), Mode.SLICE), expires_at=10)
    assert used_slices(ledger, "n2") == [2, 0]
    with pytest.raises(OverCommitError, match="0 slices left, not 1"):
        ledger.reserve("u2", "ns/b", request, Placement("n2", (0, 1), (100, 100), Mode.SLICE), expires_at=10)


@pytest.mark.parametrize(
    ("placement", "count", "words"),
    [
        (on("n9", 0, 1), 1, "n9 is not known"),
        (on("n1", 2, 1), 1, "has 2 cards"),
        (on("n1", -1, 1), 1, "has 2 cards"),
        (on("n1", 0, -1), 1, "has 2 cards"),
        (on("n1", 0, 1), 2, "2 shares were asked for"),
        (Placement("n1", (0, 1), (1,), Mode.PINNED), 2, "2 shares were asked for"),
        (Placement("n1", (0, 0), (1, 1), Mode.PINNED), 2, "not all different"),
    ],
)
def test_placements_that_cannot_be(ledger: Ledger, placement: Placement, count: int, words: str) -> None:
    with pytest.raises(LedgerError, match=words):
        ledger.reserve("u1", "ns/a", GpuRequest(count=count, vram_mib=1), placement, expires_at=10)
    assert ledger.holdings == {}


def test_a_second_reservation_replaces_the_first(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/a", pinned(15000), on("n1", 0, 15000), expires_at=10)
    ledger.reserve("u1", "ns/a", pinned(20000), on("n1", 0, 20000), expires_at=20)
    assert free(ledger) == [2000, 22000]
    ledger.reserve("u2", "ns/b", pinned(20000), on("n1", 1, 20000), expires_at=20)
    with pytest.raises(OverCommitError):
        ledger.reserve("u1", "ns/a", pinned(20000), on("n1", 1, 20000), expires_at=30)
    assert free(ledger) == [2000, 2000]
    assert ledger.holdings["u1"].expires_at == 20
    assert ledger.expire(20) != []
    assert free(ledger) == [22000, 22000]


def test_renewing_a_reservation_moves_its_end_and_touches_nothing(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/a", pinned(500), on("n1", 0, 500), expires_at=10)
    clock = ledger.fleet.clock
    ledger.reserve("u1", "ns/a", pinned(500), on("n1", 0, 500), expires_at=30)
    assert ledger.fleet.clock == clock
    assert ledger.expire(29) == []
    assert [holding.uid for holding in ledger.expire(30)] == ["u1"]


def test_a_bound_pod_cannot_be_reserved_for(ledger: Ledger) -> None:
    ledger.apply(bound("u1", {"headroom.dev/vram": "1Gi"}, cards="GPU-0", vram_mib="1024", mode="pinned"))
    with pytest.raises(LedgerError, match="already bound to node n1"):
        ledger.reserve("u1", "ns/u1", pinned(1024), on("n1", 0, 1024), expires_at=10)


def test_confirming_what_is_not_there(ledger: Ledger) -> None:
    assert ledger.confirm("u1", "n1") is None
    ledger.reserve("u1", "ns/a", pinned(500), on("n1", 0, 500), expires_at=10)
    assert ledger.confirm("u1", "n2") is None
    assert ledger.holdings["u1"].state is HoldingState.RESERVED


# News of pods

VRAM = {"headroom.dev/vram": "9000Mi"}
GPU = {"nvidia.com/gpu": "1"}
STARTED = "2026-01-01T00:00:00Z"
"""Kubelet's word on where no agent tells of cards: the pod has been taken in."""


def test_the_binding_is_seen_after_the_bind(ledger: Ledger) -> None:
    placement = on("n1", 1, 9000)
    ledger.reserve("u1", "ns/u1", pinned(9000), placement, expires_at=10)
    ledger.confirm("u1", "n1")
    clock = ledger.fleet.clock
    seen = bound("u1", VRAM)
    seen.metadata.annotations = annotations_of(whole(), placement)
    change = ledger.apply(seen)
    assert (change.freed, change.problem) == ((), "")
    assert ledger.apply(seen).kind is ChangeKind.NONE
    assert free(ledger) == [22000, 13000]
    assert ledger.fleet.clock - clock <= 2


def test_news_of_an_unbound_pod_leaves_its_reservation(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 1, 9000), expires_at=10)
    assert ledger.apply(bound("u1", VRAM, node="")).kind is ChangeKind.NONE
    ledger.confirm("u1", "n1")
    ledger.apply(bound("u1", VRAM, node=""))
    assert free(ledger) == [22000, 13000]


def test_annotations_win_over_the_reservation(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 1, 9000), expires_at=10)
    change = ledger.apply(bound("u1", VRAM, cards="GPU-0", vram_mib="9000", mode="pinned"))
    assert (change.kind, change.freed) == (ChangeKind.HELD, ("n1",))
    assert free(ledger) == [13000, 22000]
    assert ledger.expire(1e9) == []


def test_bound_elsewhere_than_reserved(ledger: Ledger) -> None:
    ledger.apply_node(whole("n2"))
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 1, 9000), expires_at=10)
    change = ledger.apply(bound("u1", VRAM, "n2", cards="GPU-1", vram_mib="9000", mode="pinned"))
    assert change.freed == ("n1",)
    assert (free(ledger), free(ledger, "n2")) == ([22000, 22000], [22000, 13000])


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_pod_gives_back(ledger: Ledger, phase: str) -> None:
    pod = bound("u1", VRAM, cards="GPU-0", vram_mib="9000", mode="pinned")
    ledger.apply(pod)
    pod.status.phase = phase
    change = ledger.apply(pod)
    assert (change.kind, change.freed) == (ChangeKind.RELEASED, ("n1",))
    assert ledger.apply(pod).kind is ChangeKind.NONE
    assert free(ledger) == [22000, 22000]


def test_a_terminating_pod_still_holds(ledger: Ledger) -> None:
    pod = bound("u1", VRAM, cards="GPU-0", vram_mib="9000", mode="pinned")
    pod.metadata.deletion_timestamp = "2026-01-01T00:00:00Z"
    ledger.apply(pod)
    assert free(ledger) == [13000, 22000]


def test_a_reservation_never_ends_what_another_pod_of_the_name_holds(ledger: Ledger) -> None:
    """Which of two pods of one name is the later one only the watch can tell (see `scheduler.cluster.pods.records`)."""
    ledger.apply(bound("u1", VRAM, name="web-0", cards="GPU-0", vram_mib="9000", mode="pinned"))
    ledger.reserve("u2", "ns/web-0", pinned(500), on("n1", 1, 500), expires_at=10)
    assert free(ledger) == [13000, 21500]
    ledger.reserve("u3", "ns/web-0", pinned(500), on("n1", 1, 500), expires_at=10)
    assert free(ledger) == [13000, 21000]


# While a binding is under way


def being_bound(ledger: Ledger, card: int = 0) -> None:
    ledger.reserve("u1", "ns/p", pinned(9000), on("n1", card, 9000), expires_at=10)
    ledger.begin_binding("u1")


def test_time_does_not_end_what_is_being_bound(ledger: Ledger) -> None:
    being_bound(ledger)
    assert ledger.expire(10_000) == []
    assert ledger.expire(float("inf")) == []
    assert free(ledger) == [13000, 22000]


def test_no_other_reservation_takes_its_place(ledger: Ledger) -> None:
    being_bound(ledger)
    with pytest.raises(LedgerError, match="being bound to node n1"):
        ledger.reserve("u1", "ns/p", pinned(9000), on("n1", 1, 9000), expires_at=10)
    assert free(ledger) == [13000, 22000]


def test_a_sum_that_is_not_that_of_the_pods_is_found(ledger: Ledger) -> None:
    being_bound(ledger, card=1)
    ledger.confirm("u1", "n1")
    assert ledger.check() == []
    ledger.books.priorities[7] += 1
    assert "priorities are counted as" in ledger.check()[0]
    del ledger.books.priorities[7]
    ledger.books.by_namespace["ns"] = ledger.books.by_namespace["ns"].plus(Held(1, 0))
    assert "namespaces are counted as" in ledger.check()[0]


def test_neither_the_end_of_the_node_nor_of_the_card_ends_it(ledger: Ledger) -> None:
    being_bound(ledger, card=1)
    assert ledger.forget_node("n1") == []
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    assert ledger.apply_node(GpuNode("n1", (), cpu_milli=8000, memory_mib=32000)) == []
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    assert ledger.check() == []
    assert ledger.confirm("u1", "n1") is not None
    assert ledger.holdings["u1"].state is HoldingState.BOUND


def test_what_the_api_server_says_replaces_it(ledger: Ledger) -> None:
    being_bound(ledger)
    ledger.apply(bound("u1", VRAM, cards="GPU-1", vram_mib="9000", mode="pinned"))
    assert free(ledger) == [22000, 13000]
    assert ledger.reservations() == []


def test_the_watch_may_show_a_binding_before_its_answer_comes(ledger: Ledger) -> None:
    """As after an answer that came first: the reservation is the bound pod's entry, and no row changes."""
    held = ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 0, 9000), expires_at=10, project="ns")
    ledger.begin_binding("u1")
    clock = ledger.fleet.clock
    seen = bound("u1", VRAM)
    seen.metadata.annotations = annotations_of(whole(), held.placement)
    change = ledger.apply(seen)
    assert (change.kind, change.holding, change.freed, change.problem) == (ChangeKind.HELD, held, (), "")
    assert (held.state, held.expires_at) == (HoldingState.BOUND, float("inf"))
    assert (ledger.fleet.clock, ledger.reservations()) == (clock, [])
    assert dict(ledger.priorities) == {0: 1}
    assert ledger.apply(seen).kind is ChangeKind.NONE
    assert ledger.confirm("u1", "n1") is held
    assert ledger.check() == []


def test_only_a_reservation_can_be_bound_by(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="no reservation"):
        ledger.begin_binding("u1")
    ledger.apply(bound("u1", VRAM, cards="GPU-0", vram_mib="9000", mode="pinned"))
    with pytest.raises(LedgerError, match="no reservation"):
        ledger.begin_binding("u1")


def test_pods_without_cards_hold_cpu_and_memory(ledger: Ledger) -> None:
    ledger.apply(bound("u1", {"cpu": "1500m", "memory": "1Gi"}))
    row = ledger.fleet.row_of["n1"]
    assert (ledger.fleet.cpu_free_milli[row], ledger.fleet.memory_free_mib[row]) == (6500, 30976)
    assert free(ledger) == [22000, 22000]
    ledger.release("u1")
    assert ledger.fleet.cpu_free_milli[row] == 8000


# Pods of other schedulers


@pytest.mark.parametrize(
    ("node", "pods", "slices", "left"),
    [
        pytest.param(whole(), [GPU], [1, 0], [0, 22000], id="a whole card"),
        pytest.param(whole(), [GPU, GPU], [1, 1], [0, 0], id="two whole cards"),
        pytest.param(shared(), [GPU], [1, 0], [7500, 15000], id="a slice takes its part of the card"),
        pytest.param(shared(), [GPU, GPU], [1, 1], [7500, 7500], id="distributed"),
        pytest.param(shared(allocation=Allocation.PACKED), [GPU, GPU], [2, 0], [0, 15000], id="packed"),
        pytest.param(shared(), [GPU | {"headroom.dev/vram": "4000Mi"}], [1, 0], [11000, 15000], id="a slice with a size"),
        pytest.param(shared(), [{"nvidia.com/gpu": "3"}], [2, 1], [0, 7500], id="three devices for one pod"),
        pytest.param(whole(), [VRAM], [0, 0], [13000, 22000], id="memory only, no cards written"),
        pytest.param(whole(), [{"amd.com/gpu": "1", "nvidia.com/gpu": "1"}], [1, 0], [0, 22000], id="not understood"),
        pytest.param(whole(), [{"nvidia.com/mig-1g.10gb": "1"}], [0, 0], [22000, 22000], id="devices of no concern"),
    ],
)  # fmt: skip
def test_predicted_cards(node: GpuNode, pods: list[dict[str, str]], slices: list[int], left: list[int]) -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(node)
    for number, limits in enumerate(pods):
        assert ledger.apply(bound(f"u{number}", limits, started=STARTED)).kind is ChangeKind.HELD
    assert used_slices(ledger) == slices
    assert free(ledger) == left
    assert ledger.check() == []


def test_devices_are_predicted_in_the_order_in_which_kubelet_took_the_pods_in() -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(shared())
    ledger.apply(bound("late", GPU, started="2026-01-01T00:00:09Z"))
    assert ledger.holdings["late"].placement.cards == (0,)
    ledger.apply(bound("early", GPU, started="2026-01-01T00:00:01Z"))
    assert ledger.holdings["early"].placement.cards == (0,)
    assert ledger.holdings["late"].placement.cards == (1,)
    ledger.release("early")
    assert ledger.holdings["late"].placement.cards == (0,)


def test_a_reservation_never_moves_what_was_predicted() -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(shared())
    ledger.apply(bound("z", GPU, started=STARTED))
    request = GpuRequest(count=1, mode=Mode.SLICE, resource="nvidia.com/gpu", vram_mib=14000)
    ledger.reserve("a", "ns/a", request, Placement("n1", (1,), (14000,), Mode.SLICE), expires_at=10)
    assert ledger.holdings["z"].placement.cards == (0,)
    ledger.confirm("a", "n1")
    ledger.apply(bound("y", {}))
    assert ledger.holdings["z"].placement.cards == (0,)
    assert ledger.overcommitted() == []


def test_reality_may_over_commit_and_is_told() -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(whole(count=1))
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 0, 9000), expires_at=10)
    ledger.confirm("u1", "n1")
    ledger.apply(bound("f1", GPU))
    assert ledger.overcommitted() == [("n1", "GPU-0", 31000, 22000)]
    assert free(ledger) == [0]
    ledger.apply(bound("f2", GPU))
    assert ledger.overcommitted() == [("n1", "GPU-0", 53000, 22000)], "more devices than the node has"
    assert ledger.check() == []


@pytest.mark.parametrize(
    ("annotations", "words", "left"),
    [
        ({"cards": "GPU-7", "vram_mib": "9000", "mode": "pinned"}, "has not the cards", [22000, 22000]),
        ({"cards": "GPU-1", "vram_mib": "much", "mode": "pinned"}, "'much': not MiB", [13000, 22000]),
        ({"cards": "GPU-1", "vram_mib": "-5", "mode": "pinned"}, "not MiB", [13000, 22000]),
        ({"cards": "GPU-1", "vram_mib": "9000"}, "neither pinned nor slice", [13000, 22000]),
        ({"cards": "GPU-1,", "vram_mib": "9000", "mode": "pinned"}, "an empty card id", [13000, 22000]),
        ({"cards": "GPU-1", "vram_mib": "1,2", "mode": "pinned"}, "not one size per card", [13000, 22000]),
        ({"cards": "1", "vram_mib": "9000", "mode": "pinned"}, "", [22000, 13000]),
        (
            {"cards": "GPU-0,GPU-1", "vram_mib": "10,20", "mode": "pinned"},
            "2 cards: the pod asks for 1",
            [13000, 13000],
        ),
    ],
)
def test_what_is_written_on_a_pod(ledger: Ledger, annotations: dict[str, Any], words: str, left: list[int]) -> None:
    change = ledger.apply(bound("u1", VRAM, **annotations))
    assert words in change.problem
    assert ("u1" in ledger.problems) == bool(words)
    again = ledger.apply(bound("u1", VRAM, **annotations))
    assert (again.kind, again.problem) == (ChangeKind.NONE, change.problem)
    assert free(ledger) == left
    ledger.release("u1")
    assert ledger.problems == {}
    assert free(ledger) == [22000, 22000]


def test_cards_written_on_a_pod_that_asks_for_none(ledger: Ledger) -> None:
    change = ledger.apply(bound("u1", {"cpu": "1"}, cards="GPU-0", vram_mib="9000", mode="pinned"))
    assert "asks for none" in change.problem
    assert free(ledger) == [22000, 22000]


@pytest.mark.parametrize(
    ("resource", "amount", "mode", "taken"),
    [
        ("nvidia.com/gpu-llm", "1", "slice", True),  # the plugin's resource under another name
        ("example.com/accelerator", 2, "slice", True),
        ("nvidia.com/gpu-llm", "0", "slice", False),
        ("nvidia.com/gpu-llm", "1", "pinned", False),  # an agent never writes that
        ("cpu", "1", "slice", False),
        ("hugepages-2Mi", "1Gi", "slice", False),
        ("volumes.kubernetes.io/fast", "1", "slice", False),
    ],
)
def test_slices_reported_under_a_resource_that_is_not_known(
    resource: str, amount: str | int, mode: str, taken: bool
) -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(shared(slices=2))
    pod = bound("f1", {resource: str(amount)}, cards="GPU-1", vram_mib="7500", mode=mode, started=STARTED)
    change = ledger.apply(pod)
    assert change.problem == ("" if taken else "cards are written on a pod that asks for none")
    assert free(ledger) == ([15000, 7500] if taken else [15000, 15000])
    assert used_slices(ledger) == ([0, 1] if taken else [0, 0])
    assert ledger.check() == []
    ledger.release("f1")
    assert free(ledger) == [15000, 15000]


def test_a_reported_slice_stays_accounted_when_its_card_is_gone() -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(shared(slices=2))
    reported = bound("f1", {"nvidia.com/gpu-llm": "1"}, cards="GPU-7", vram_mib="7500", mode="slice", started=STARTED)
    assert "GPU-7" in ledger.apply(reported).problem
    assert free(ledger) == [7500, 15000], "somewhere on the node"
    assert ledger.check() == []


# News of nodes


def test_pods_wait_for_their_node(ledger: Ledger) -> None:
    ledger.apply(bound("u1", VRAM, "n2", cards="GPU-1", vram_mib="9000", mode="pinned"))
    ledger.apply(bound("u2", GPU, "n2", started=STARTED))
    assert ledger.check() == []
    ledger.apply_node(whole("n2"))
    assert free(ledger, "n2") == [0, 13000]


def test_a_node_that_goes_and_returns(ledger: Ledger) -> None:
    ledger.apply(bound("u1", VRAM, cards="GPU-1", vram_mib="9000", mode="pinned"))
    ledger.reserve("u2", "ns/u2", pinned(500), on("n1", 0, 500), expires_at=10)
    ledger.forget_node("n1")
    assert list(ledger.holdings) == ["u1"], "the reservation ended with its node"
    assert ledger.check() == []
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    ledger.forget_node("n1")
    ledger.release("u1")
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 22000]


def test_holdings_follow_their_card_to_another_position(ledger: Ledger) -> None:
    ledger.apply(bound("u1", VRAM, cards="GPU-1", vram_mib="9000", mode="pinned"))
    swapped = GpuNode("n1", tuple(reversed(whole().cards)), resource="nvidia.com/gpu")
    ledger.apply_node(swapped)
    assert free(ledger) == [13000, 22000]
    assert ledger.holdings["u1"].placement.cards == (0,)


def test_index_numbers_become_ids_when_an_agent_arrives() -> None:
    ledger = Ledger(Fleet())
    plain = tuple(Card(str(at), at, "NVIDIA-L4", L4_MIB) for at in range(2))
    ledger.apply_node(GpuNode("n1", plain))
    ledger.apply(bound("u1", VRAM, cards="1", vram_mib="9000", mode="pinned"))
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    assert ledger.problems == {}


def test_a_card_that_is_gone_is_booked_on_no_healthy_one(ledger: Ledger) -> None:
    """s26: a card falls off the bus, or MIG is cut anew, under pinned pods; those see no other card."""
    ledger.apply_node(whole(count=3))
    ledger.apply(bound("u1", VRAM, cards="GPU-2", vram_mib="9000", mode="pinned"))
    both = {"headroom.dev/gpu": "2", "headroom.dev/vram": "9000Mi"}
    ledger.apply(bound("u2", both, cards="GPU-2,GPU-1", vram_mib="9000,9000", mode="pinned"))
    ledger.reserve("u3", "ns/u3", pinned(20000), on("n1", 0, 20000), expires_at=10)
    held = ledger.held_in("ns")
    assert ledger.apply_node(whole(count=2)) == []
    assert free(ledger) == [2000, 13000]
    assert list(ledger.problems) == ["u1", "u2"]
    assert "has not the cards written on the pod: GPU-2" in ledger.problems["u2"]
    assert ledger.held_in("ns") == held, "a quota counts what a pod was given until it ends"
    assert ledger.check() == []
    ledger.apply_node(whole(count=3))
    assert free(ledger) == [2000, 13000, 4000]
    assert ledger.problems == {}
    assert ledger.check() == []
    ledger.apply_node(whole(count=2))
    for uid in ("u1", "u2", "u3"):
        ledger.release(uid)
    assert free(ledger) == [22000, 22000]
    assert ledger.check() == []


def test_a_reservation_ends_with_any_of_its_cards(ledger: Ledger) -> None:
    """s26: of two cards one went."""
    request = GpuRequest(count=2, mode=Mode.PINNED, vram_mib=9000)
    ledger.reserve("u1", "ns/u1", request, Placement("n1", (0, 1), (9000, 9000), Mode.PINNED), expires_at=10)
    assert [holding.uid for holding in ledger.apply_node(whole(count=1))] == ["u1"]
    assert free(ledger) == [22000]


def test_where_cards_are_known_by_position_alone_one_that_was_given_by_id_counts_on_some_card(ledger: Ledger) -> None:
    """The agent's annotation was lost: labels tell the cards, and none of their positions says which card is GPU-1."""
    ledger.apply(bound("u1", VRAM, cards="GPU-1", vram_mib="9000", mode="pinned"))
    ledger.apply_node(GpuNode("n1", tuple(Card(str(at), at, "NVIDIA-L4", L4_MIB) for at in range(2))))
    assert sorted(free(ledger)) == [13000, 22000]
    ledger.apply_node(whole())
    assert free(ledger) == [22000, 13000]
    assert ledger.problems == {}


def test_reservations_end_where_the_card_can_no_longer_keep_them(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 0, 9000), expires_at=10)
    ledger.reserve("u2", "ns/u2", pinned(9000), on("n1", 1, 9000), expires_at=10)
    cards = (whole().cards[0], Card("GPU-1", 1, "NVIDIA-L4", L4_MIB, healthy=False))
    ledger.apply_node(GpuNode("n1", cards, resource="nvidia.com/gpu"))
    assert list(ledger.holdings) == ["u1"]
    ledger.apply_node(whole(count=0))
    assert ledger.holdings == {}


def test_what_bound_pods_hold_of_a_withdrawn_card_stays(ledger: Ledger) -> None:
    """The driver is gone for a while: every card is unhealthy, pods run on, and nothing is counted twice when it is back."""
    ledger.apply(bound("u1", VRAM, cards="GPU-0", vram_mib="9000", mode="pinned"))
    sick = tuple(replace(card, healthy=False) for card in whole().cards)
    for cards, left in ((sick, [0, 0]), (whole().cards, [13000, 22000])):
        assert ledger.apply_node(replace(whole(), cards=cards)) == []
        assert free(ledger) == left
        assert ledger.fleet.held_mib[ledger.fleet.row_of["n1"], :2].tolist() == [9000, 0]
        assert ledger.check() == []


def test_cordoning_changes_no_holding(ledger: Ledger) -> None:
    ledger.reserve("u1", "ns/u1", pinned(9000), on("n1", 0, 9000), expires_at=10)
    ledger.apply_node(whole(schedulable=False))
    assert free(ledger) == [13000, 22000]
    assert not ledger.fleet.schedulable[ledger.fleet.row_of["n1"]]
    clock = ledger.fleet.clock
    ledger.apply_node(whole(schedulable=False))
    assert ledger.fleet.clock == clock, "the same description again is no news"
