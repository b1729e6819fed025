"""What bound pods hold: predicted of a device plugin, or written on them."""

from typing import Any

import pytest

from headroom.domain.model import Allocation, GpuNode, GpuRequest, Mode, Placement
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import ChangeKind, Ledger
from tests.unit.scheduler.ledger.events import GPU, STARTED, VRAM, bound, free, on, pinned, shared, used_slices, whole

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
