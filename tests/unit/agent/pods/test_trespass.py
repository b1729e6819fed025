"""Pods that use more than their share, or a card that is not theirs."""

from typing import Any

import pytest

from agent.pods.index import NODE_POD, NodePod, PodIndex, PodKey
from agent.pods.trespass import Finding, Trespass, Watch, find
from headroom.domain.model import Card
from headroom.wire import encode

GIB = 2**30
CARDS = (Card("GPU-a", 0, "L4", 24576, slices=4), Card("GPU-b", 1, "L4", 24576, slices=4))
VRAM = {"headroom.dev/vram": "8Gi"}
SLICE = {"nvidia.com/gpu": "1"}
KEY = PodKey("chat", "p", "chat")


def pod(limits: dict[str, str], cards: str = "", mode: str = "pinned", mib: str = "8192", **fields: Any) -> NodePod:
    written = {"assigned-cards": cards, "assigned-vram-mib": mib, "assigned-mode": mode} if cards else {}
    return NODE_POD.decode(
        encode(
            {
                "metadata": {
                    "name": "p", "namespace": "chat", "uid": "uid-p",
                    "annotations": {f"headroom.dev/{key}": text for key, text in written.items()},
                },
                "spec": {"nodeName": "n", "containers": [{"name": "c", "resources": {"limits": limits}}], **fields},
                "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"},
            }
        )
    )  # fmt: skip


def look(
    one: NodePod, gib: float, card: str = "GPU-a", devices: tuple[str, ...] = ()
) -> list[tuple[str, float, float]]:
    held = {("chat", "p"): tuple((device, "c") for device in devices)} if devices else {}
    found = find({(KEY, card): round(gib * GIB)}, PodIndex([one]), held, CARDS, 256 * 2**20)
    return [(each.kind.value, each.used_bytes / GIB, each.share_bytes / GIB) for each in found]


@pytest.mark.parametrize(
    ("one", "gib", "card", "devices", "expected"),
    [
        pytest.param(pod(VRAM, "GPU-a"), 8.0, "GPU-a", (), [], id="within its share"),
        pytest.param(pod(VRAM, "GPU-a"), 8.2, "GPU-a", (), [], id="a little beyond it"),
        pytest.param(pod(VRAM, "GPU-a"), 9.0, "GPU-a", (), [("over_share", 9.0, 8.0)], id="beyond it"),
        pytest.param(pod(VRAM, "GPU-a"), 3.0, "GPU-b", (), [("foreign_card", 3.0, 0.0)], id="on another card"),
        pytest.param(pod(VRAM, "GPU-a"), 0.2, "GPU-b", (), [], id="a context on another card"),
        pytest.param(
            pod(VRAM, "GPU-a", mib="20480"), 20.0, "GPU-a", (), [("over_share", 20.0, 8.0)], id="its own word is no share"
        ),
        pytest.param(pod(VRAM), 3.0, "GPU-b", (), [], id="not assigned yet, as far as is known"),
        pytest.param(pod(SLICE), 6.0, "GPU-b", ("GPU-b",), [], id="its slice"),
        pytest.param(pod(SLICE), 7.0, "GPU-b", ("GPU-b",), [("over_share", 7.0, 6.0)], id="more than its slice"),
        pytest.param(pod(SLICE), 12.0, "GPU-b", ("GPU-b", "GPU-b"), [], id="two slices of one card"),
        pytest.param(
            pod(SLICE, "GPU-a"), 3.0, "GPU-a", ("GPU-b",), [("foreign_card", 3.0, 0.0)],
            id="s37: pinned by its own word, kubelet gave another card",
        ),
        pytest.param(pod(SLICE, "GPU-a", mode="slice"), 6.0, "GPU-b", (), [], id="predicted, kubelet has not said"),
        pytest.param(pod({"cpu": "1"}), 3.0, "GPU-a", (), [("foreign_card", 3.0, 0.0)], id="asks for no card"),
        pytest.param(pod({}), 3.0, "GPU-a", (), [("foreign_card", 3.0, 0.0)], id="asks for nothing"),
        pytest.param(pod({"nvidia.com/gpu": "0"} | VRAM, "GPU-a"), 3.0, "GPU-b", (), [("foreign_card", 3.0, 0.0)], id="K13"),
        pytest.param(pod({"nvidia.com/gpu-llm": "1"}), 3.0, "GPU-a", (), [], id="a device by a name unknown here"),
        pytest.param(pod({}, resourceClaims=[{"name": "gpu"}]), 3.0, "GPU-a", (), [], id="a claim"),
        pytest.param(pod({"headroom.dev/vram": "lots"}, "GPU-b"), 3.0, "GPU-a", (), [], id="a demand that cannot be read"),
        pytest.param(pod(VRAM, "GPU-gone"), 3.0, "GPU-a", (), [], id="its card is called otherwise now"),
    ],
)  # fmt: skip
def test_who_uses_what_it_was_not_given(
    one: NodePod, gib: float, card: str, devices: tuple[str, ...], expected: list[tuple[str, float, float]]
) -> None:
    assert look(one, gib, card, devices) == expected


def test_two_readings_in_a_row_make_a_finding_and_it_is_new_once() -> None:
    watch, one = Watch(), Finding(KEY, "uid-p", "GPU-a", 9 * GIB, 8 * GIB)
    more = Finding(KEY, "uid-p", "GPU-a", 10 * GIB, 8 * GIB)
    assert one.kind is Trespass.OVER_SHARE
    assert watch.confirm([one]) == ([], [])
    assert watch.confirm([more]) == ([more], [more])
    assert watch.confirm([one]) == ([one], [])
    assert watch.confirm([]) == ([], [])
    assert watch.confirm([one]) == ([], [])
    assert watch.confirm([one]) == ([one], [one])
