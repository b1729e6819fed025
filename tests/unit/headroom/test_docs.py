"""The tables of docs/requests.md and docs/inventory.md say what the code does."""

import json
import re
from typing import Any

import pytest
import yaml

from headroom import wire
from headroom.domain.accelerators import ACCELERATORS, NVIDIA
from headroom.domain.node_cards import InventoryError, node_of
from headroom.domain.request import RequestError, request_of
from tests.paths import DOCS


def table(page: str, first_column: str) -> list[list[str]]:
    """The rows of the one table that begins with this heading, cells without their backquotes."""
    lines = (DOCS / page).read_text().splitlines()
    found: list[list[str]] = []
    for heading in (at for at, line in enumerate(lines) if line.startswith(f"| {first_column} |")):
        for line in lines[heading + 2 :]:
            if not line.startswith("|"):
                break
            found.append([cell.strip().strip("`") for cell in line.strip("|").split(" | ")])
    return found


def pod(limits: str) -> wire.Pod:
    spec = {"containers": [{"name": "c", "resources": {"limits": yaml.load(limits, yaml.BaseLoader)}}]}
    return wire.POD.decode(json.dumps({"metadata": {"name": "p"}, "spec": spec}).encode())


LIMITS = table("requests.md", "limits of a container")


@pytest.mark.parametrize("row", [row for row in LIMITS if len(row) == 4], ids=lambda row: row[0])
def test_dialects(row: list[str]) -> None:
    asked = request_of(pod(row[0]))
    assert asked is not None
    sizes = {f"{asked.vram_mib} MiB": asked.vram_mib, f"{asked.milli} thousandths": asked.milli}
    size = next((text for text, amount in sizes.items() if amount), "whole card, or its slice")
    assert [asked.mode.value, str(asked.count), size] == row[1:]


@pytest.mark.parametrize("row", [row for row in LIMITS if len(row) == 2], ids=lambda row: row[0])
def test_refused_pods(row: list[str]) -> None:
    with pytest.raises(RequestError) as caught:
        request_of(pod(row[0]))
    assert str(caught.value).endswith(f"container c: {row[1]}")


def test_every_accelerator_is_in_the_table() -> None:
    rows = table("inventory.md", "accelerator")
    assert len(rows) == len(ACCELERATORS)
    for kind, (_, resource, model, memory, _) in zip(ACCELERATORS, rows, strict=True):
        assert tuple(re.findall(r"[\w./-]+/[\w.]+", resource)) == kind.resources
        assert model == kind.product_labels[0]
        assert memory == (kind.memory_labels[0] if kind.memory_labels else "table")
    assert NVIDIA.shareable


def test_the_annotation_shown_is_read() -> None:
    shown = re.search(r"```json\n(.*?)```", (DOCS / "inventory.md").read_text(), re.DOTALL)
    assert shown is not None
    found = node_of(wire.Node(metadata=wire.Meta(name="n", annotations={"headroom.dev/cards": shown.group(1)})))
    assert [(card.model, card.usable_mib, card.slices) for card in found.cards] == [
        ("NVIDIA-L4", 22559, 4),
        ("Tesla-T4", 14909, 4),
    ]


REFUSED: list[tuple[dict[str, str], dict[str, Any], dict[str, Any], str | None]] = [
    ({"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.count": "2"}, {"nvidia.com/gpu": "8"}, {}, None),
    ({"nvidia.com/gpu.product": "Tesla-T4", "nvidia.com/gpu.count": "2"}, {"nvidia.com/gpu": "1"}, {"nvidia.com/gpu": "2"}, None),
    ({}, {"nvidia.com/gpu": "4"}, {}, None),
    (
        {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.sharing-strategy": "time-slicing"}, {"nvidia.com/gpu": "3"}, {}, None,
    ),
    ({}, {}, {}, "{not json"),
    ({}, {}, {}, '[{"id": "a", "model": "m", "vram_mib": 1}, {"id": "b", "model": "m", "vram_mib": -5}]'),
]  # fmt: skip


def test_refused_nodes() -> None:
    rows = table("inventory.md", "what is wrong")
    for (labels, allocatable, capacity, cards), (_, text) in zip(REFUSED, rows, strict=True):
        node = wire.Node(
            metadata=wire.Meta(name="n", labels=labels, annotations={"headroom.dev/cards": cards} if cards else {}),
            status=wire.NodeStatus(allocatable=allocatable, capacity=capacity),
        )
        with pytest.raises(InventoryError) as caught:
            node_of(node)
        assert str(caught.value).startswith("node n: " + text.rstrip("…"))
