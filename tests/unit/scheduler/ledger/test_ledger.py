"""The ledger, event by event."""

import pytest

from headroom.domain.assignment import annotations_of
from headroom.domain.model import GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.holding import Held
from scheduler.ledger.ledger import ChangeKind, HoldingState, Ledger, LedgerError, OverCommitError
from tests.unit.scheduler.ledger.events import VRAM, bound, free, on, pinned, shared, used_slices, whole

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
