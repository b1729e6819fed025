"""Who may say what is held: an assignment counts as far as it agrees with the pod's demand, else the larger of the two does."""

from typing import Any

import pytest

from headroom import wire
from headroom.domain.model import Card, GpuNode, Sharing
from scheduler.ledger.fleet import Fleet
from scheduler.ledger.ledger import Ledger

GIB = 1024
NODE_MIB = 80 * GIB


def ledger_of(cards: int = 2, slices: int = 1, **card: Any) -> Ledger:
    made = Ledger(Fleet())
    found = tuple(Card(f"GPU-{at}", at, "H100", NODE_MIB, slices=slices, **card) for at in range(cards))
    sharing = Sharing.TIME_SLICING if slices > 1 else Sharing.EXCLUSIVE
    made.apply_node(GpuNode("n", found, sharing, resource="nvidia.com/gpu"))
    return made


def pod(limits: dict[str, str], cards: str = "", vram_mib: str = "", mode: str = "", name: str = "p") -> wire.Pod:
    written = {"cards": cards, "vram-mib": vram_mib, "mode": mode}
    return wire.Pod(
        metadata=wire.Meta(
            name=name, namespace="ns", uid=f"uid-{name}",
            annotations={f"headroom.dev/assigned-{key}": text for key, text in written.items() if text},
        ),
        spec=wire.PodSpec(node_name="n", containers=(wire.Container(resources=wire.Resources(limits=dict(limits))),)),
        status=wire.PodStatus(phase="Running"),
    )  # fmt: skip


def held(ledger: Ledger) -> list[int]:
    row = ledger.fleet.row_of["n"]
    assert ledger.check() == []
    return ledger.fleet.held_mib[row, : len(ledger.fleet.nodes["n"].cards)].tolist()


WHOLE = {"nvidia.com/gpu": "1"}


@pytest.mark.parametrize(
    ("limits", "written", "expected", "words"),
    [
        pytest.param(
            {"headroom.dev/vram": "60Gi"}, {"cards": "GPU-0", "vram_mib": "61440", "mode": "pinned"},
            [61440, 0], "", id="as Headroom writes it",
        ),
        pytest.param(
            {"headroom.dev/vram": "60Gi"}, {"cards": "GPU-0", "vram_mib": "1", "mode": "pinned"},
            [61440, 0], "assigned-vram-mib: 1: the pod asks for 61440 MiB of each card", id="L18, s04: HAMi PR#3074 a share made small",
        ),
        pytest.param(
            {"headroom.dev/vram": "60Gi"}, {"cards": "GPU-0", "vram_mib": "0", "mode": "pinned"},
            [61440, 0], "assigned-vram-mib: 0", id="s04: a share made nothing",
        ),
        pytest.param(
            {"headroom.dev/vram": "1Mi"}, {"cards": "GPU-0,GPU-1", "vram_mib": "999999999", "mode": "pinned"},
            [NODE_MIB, NODE_MIB], "2 cards: the pod asks for 1", id="s04: every card of the node, and never more than they have",
        ),
        pytest.param(
            WHOLE, {"cards": "GPU-0", "vram_mib": "1024", "mode": "pinned"},
            [NODE_MIB, 0], "pinned: the device plugin picks the cards of a pod that asks for nvidia.com/gpu",
            id="L06: HAMi#3041 copied from a pinned pod",
        ),
        pytest.param(
            WHOLE, {"cards": "GPU-elsewhere", "vram_mib": "1024", "mode": "pinned"},
            [NODE_MIB, 0], "the device plugin picks the cards", id="L07: HAMi#987, #1106 copied from another node's pod",
        ),
        pytest.param(
            WHOLE, {"cards": "GPU-1", "vram_mib": "1", "mode": "slice"},
            [0, NODE_MIB], "what the pod asks for is 81920 MiB of card GPU-1", id="a whole card made small",
        ),
        pytest.param(
            {"headroom.dev/gpu-milli": "500"}, {"cards": "GPU-1", "vram_mib": "10", "mode": "pinned"},
            [0, NODE_MIB // 2], "what the pod asks for is 40960 MiB", id="thousandths made small",
        ),
        pytest.param(
            {"headroom.dev/vram": "10Gi"}, {"cards": "GPU-1", "vram_mib": "10240", "mode": "slice"},
            [0, 10240], "slice: the pod asks for no device", id="no device, yet called a slice",
        ),
        pytest.param(
            {"headroom.dev/gpu": "2"}, {"cards": "GPU-1", "vram_mib": str(NODE_MIB), "mode": "pinned"},
            [NODE_MIB, NODE_MIB], "1 card: the pod asks for 2", id="fewer cards than it asks for: the rest is somewhere",
        ),
        pytest.param(
            WHOLE, {"cards": "GPU-1", "vram_mib": str(NODE_MIB - 300), "mode": "slice"},
            [0, NODE_MIB], "", id="what is known of the card may have changed a little since",
        ),
        pytest.param(
            WHOLE, {"cards": "GPU-1", "vram_mib": str(NODE_MIB + 300), "mode": "slice"},
            [0, NODE_MIB], "", id="never more than the card has",
        ),
        pytest.param(
            {"headroom.dev/vram": "lots"}, {"cards": "GPU-1", "vram_mib": "7", "mode": "pinned"},
            [0, 7], "not a quantity", id="a demand that cannot be read: as written",
        ),
    ],
)  # fmt: skip
def test_the_larger_of_what_is_written_and_what_is_asked_for(
    limits: dict[str, str], written: dict[str, str], expected: list[int], words: str
) -> None:
    ledger = ledger_of()
    change = ledger.apply(pod(limits, **written))
    assert words in change.problem
    assert bool(change.problem) == bool(words)
    assert held(ledger) == expected
    assert ledger.apply(pod(limits, **written)).kind == "none"


def test_a_slice_is_a_device_of_the_plugins_whatever_is_written() -> None:
    """K06: the whole card of a pod that wrote an assignment of its own is given to nobody else."""
    ledger = ledger_of(cards=1)
    ledger.apply(pod(WHOLE, cards="GPU-0", vram_mib="1", mode="pinned"))
    row = ledger.fleet.row_of["n"]
    assert (ledger.fleet.plugin[row, 0], ledger.fleet.pinned[row, 0], ledger.fleet.free_mib[row, 0]) == (1, 0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cards": "GPU-1", "vram_mib": "71680", "mode": "pinned"}, "GPU-1: changed since the binding, which gave GPU-0"),
        ({"cards": "GPU-elsewhere", "vram_mib": "71680", "mode": "pinned"}, "GPU-elsewhere: changed since the binding"),
        ({}, "none: changed since the binding, which gave GPU-0"),
        ({"cards": "GPU-1", "vram_mib": "1", "mode": "pinned"}, "asks for 71680 MiB of each card; headroom.dev/assigned-cards"),
    ],
    ids=["s04: onto a neighbour's card", "off the node", "L19: removed altogether", "moved and made small"],
)  # fmt: skip
def test_a_pod_that_headroom_pinned_stays_where_it_was_put(change: dict[str, str], words: str) -> None:
    ledger = ledger_of()
    hog = {"headroom.dev/vram": "70Gi"}
    ledger.apply(pod(hog, "GPU-0", "71680", "pinned"))
    ledger.apply(pod({"headroom.dev/vram": "40Gi"}, "GPU-1", "40960", "pinned", name="victim"))
    told = ledger.apply(pod(hog, **change))
    assert words in told.problem
    assert told.freed == ()
    assert held(ledger) == [71680, 40960]
    assert ledger.overcommitted() == []
    assert ledger.apply(pod(hog, "GPU-0", "71680", "pinned")).problem == ""
    assert held(ledger) == [71680, 40960]


def test_what_the_agent_says_of_a_slice_still_moves_it() -> None:
    ledger = ledger_of(slices=2)
    ledger.apply(pod(WHOLE, "GPU-0", str(NODE_MIB // 2), "slice"))
    told = ledger.apply(pod(WHOLE, "GPU-1", str(NODE_MIB // 2), "slice"))
    assert told.problem == ""
    assert held(ledger) == [0, NODE_MIB // 2]


def test_a_card_of_unknown_memory_holds_what_is_asked_for() -> None:
    ledger = Ledger(Fleet())
    ledger.apply_node(GpuNode("n", (Card("GPU-0", 0, "GB10", 0),), resource="nvidia.com/gpu"))
    assert ledger.apply(pod(WHOLE, "GPU-0", "0", "slice")).problem == ""
    assert held(ledger) == [1]
