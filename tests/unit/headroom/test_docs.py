"""The tables of docs/requests.md and docs/inventory.md say what the code does."""

import json
import re
from typing import Any

import pytest
import yaml

from headroom import wire
from headroom.domain.accelerators import ACCELERATORS, NVIDIA
from headroom.domain.dialects.table import ANNOTATIONS
from headroom.domain.node_cards import InventoryError, node_of
from headroom.domain.request import RequestError, demand_of, ignored_words, request_of
from tests.paths import DOCS
from tools.write import WRITERS, old


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


def limits(**amounts: str) -> str:
    return json.dumps(amounts)


LIMITS = table("requests.md", "limits of a container")


@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: str(writer.__name__))
def test_what_is_written_from_code_is_what_the_code_says(writer: Any) -> None:
    assert old(writer.files()) == [], "run `make tables`"


@pytest.mark.parametrize("row", [row for row in LIMITS if len(row) == 5], ids=lambda row: row[0])
def test_dialects(row: list[str]) -> None:
    asked = request_of(pod(row[0]))
    assert asked is not None
    sizes = {f"{asked.vram_mib} MiB": asked.vram_mib, f"{asked.milli} thousandths": asked.milli}
    size = next((text for text, amount in sizes.items() if amount), "whole card, or its slice")
    assert [asked.mode.value, str(asked.count), size] == row[2:]


def annotated(name: str, value: str) -> wire.Pod:
    found = pod("{nvidia.com/gpumem: 3000}")
    found.metadata.annotations[name] = value
    return found


@pytest.mark.parametrize("row", table("requests.md", "word"), ids=lambda row: row[0])
def test_words_of_other_schedulers(row: list[str]) -> None:
    """Each row of the table: honoured, ignored with an Event, or refused."""
    word, _, fate = row
    plain = request_of(pod("{nvidia.com/gpumem: 3000}"))
    if not word.startswith("annotation"):
        amount = limits(**{word: "1"})
        if fate.startswith("ignored"):
            beside = pod(limits(**{"nvidia.com/gpumem": "3000", word: "1"}))
            assert request_of(beside) == plain
            assert any(text.startswith(f"{word}: 1: ") for text in ignored_words(beside, demand_of(beside)))
            assert (request_of(pod(amount)) is not None) == ("alone, it asks for a whole card" in fate)
        else:
            beside_memory = limits(**{word: "1", "aliyun.com/gpu-mem": "4"})
            assert request_of(pod(beside_memory if word == "aliyun.com/gpu-count" else amount)) is not None
        return
    name = word.split("`")[1]
    entry = ANNOTATIONS[name]
    if fate.startswith("honoured by the admission policy"):
        bare = pod("{cpu: 1}")
        bare.metadata.annotations[name] = entry.example
        with pytest.raises(RequestError, match="admission policy"):
            request_of(bare)
        return
    noted = annotated(name, entry.example)
    if fate.startswith("ignored"):
        assert request_of(noted) == plain
        assert any(name in text for text in ignored_words(noted, demand_of(noted)))
    else:
        assert request_of(noted) != plain
        assert ignored_words(noted, demand_of(noted)) == ()
    if "is refused" in fate:
        with pytest.raises(RequestError, match=name):
            request_of(annotated(name, entry.refused))


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
