"""The link matrix of a node, from the stub library through `pynvml` to the annotation's words."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cards.scripted import parse_script
from tests.stub_nvml import stub_nvml

NOT_SUPPORTED, UNKNOWN, GPU_IS_LOST = 3, 999, 15
PIX, PHB, NODE = 10, 30, 40
CARD = "GPU-00000000-0000-0000-0000-{:012}".format


@pytest.fixture
def stub(library: Path) -> Iterator[Any]:
    loaded = stub_nvml.Stub(library)
    loaded("reset", "cards 4")
    yield loaded
    loaded("reset")


@pytest.fixture
def reader(stub: Any) -> Iterator[Any]:
    from agent.cards.nvml import NvmlReader

    one = NvmlReader()
    yield one
    one.close()


def bridge(stub: Any, one: int, other: int, links: int = 1) -> None:
    for _ in range(links):
        stub(f"card {one} nvlink {other}", f"card {other} nvlink {one}")


def near(stub: Any, level: int, *cards: int) -> None:
    for one in cards:
        stub(*(f"card {one} level {other} {level}" for other in cards if other != one))


def test_bridged_pairs_on_two_sockets(stub: Any, reader: Any) -> None:
    bridge(stub, 0, 1, 4)
    bridge(stub, 2, 3, 4)
    near(stub, NODE, 0, 1)
    near(stub, NODE, 2, 3)
    reading = reader.read(0.0)
    assert reading.links.cards == tuple(map(CARD, range(4)))
    assert reading.links.paths == (("NV4", "SYS", "SYS"), ("SYS", "SYS"), ("NV4",))
    assert reading.links_problem == ""


def test_a_switch_links_every_card_with_every_other(stub: Any, reader: Any) -> None:
    for card in range(4):
        stub(*[f"card {card} nvlink switch"] * (12 if card else 11))
    assert reader.read(0.0).links.paths == (("NV11",) * 3, ("NV12",) * 2, ("NV12",))


def test_pcie_levels_and_pairs_without_p2p(stub: Any, reader: Any) -> None:
    near(stub, PHB, 0, 1, 2, 3)
    near(stub, PIX, 0, 1)
    stub("card 2 p2p 3 1", "card 3 p2p 2 1")
    reading = reader.read(0.0)
    assert (reading.links.paths, reading.links_problem) == ((("PIX", "PHB", "PHB"), ("PHB", "PHB"), ("-PHB",)), "")


@pytest.mark.parametrize(
    ("lines", "path", "words"),
    [
        (["card 0 nvlink 1", "card 0 nvlink 1", "card 1 nvlink 0"], "NV1", "has 2 NVLinks to {1}, which has 1"),
        (["card 0 level 1 10", "card 1 level 0 40"], "NODE", "tell two topology levels"),
        (["card 0 p2p 1 5"], "-SYS", "disagree on P2P"),
    ],
)
def test_where_two_cards_contradict_each_other_the_worse_answer_counts(
    stub: Any, reader: Any, lines: list[str], path: str, words: str
) -> None:
    stub(*lines)
    reading = reader.read(0.0)
    assert reading.links.paths[0][0] == path
    assert words.replace("{1}", CARD(1)) in reading.links_problem


def test_one_side_that_does_not_answer_is_made_up_for_by_the_other(stub: Any, reader: Any) -> None:
    stub(f"card 0 fail level {UNKNOWN}", f"card 0 fail p2p {NOT_SUPPORTED}", "card 1 level 0 40")
    assert reader.read(0.0).links.paths[0] == ("NODE", "SYS", "SYS")


def test_a_pair_of_which_nobody_tells_leaves_no_matrix_but_a_reason(stub: Any, reader: Any) -> None:
    stub(*(f"card {card} fail level {NOT_SUPPORTED}" for card in (1, 2)))
    reading = reader.read(0.0)
    assert reading.links is None
    assert reading.links_problem == (
        f"how far {CARD(1)} is from {CARD(2)} is not told: nvmlDeviceGetTopologyCommonAncestor: not_supported"
    )
    assert len(reading.cards) == 4


def test_a_single_card_and_partitioned_cards_have_no_links(stub: Any, reader: Any) -> None:
    stub("card 1 mig 1", "card 2 mig 1", "card 3 mig 1")
    assert (reader.read(0.0).links, reader.read(0.0).links_problem) == (None, "")


def test_links_are_asked_for_when_other_cards_are_there_and_after_ten_minutes(stub: Any, reader: Any) -> None:
    bridge(stub, 0, 1)
    assert reader.read(0.0).links.paths[0][0] == "NV1"
    bridge(stub, 0, 1)
    assert reader.read(599.0).links.paths[0][0] == "NV1"
    assert reader.read(600.0).links.paths[0][0] == "NV2"
    stub(f"card 3 fail all {GPU_IS_LOST}")
    reading = reader.read(601.0)
    assert reading.links.cards == tuple(map(CARD, range(3)))
    assert [card.reason for card in reading.broken] == ["lost"]


def test_a_recorded_reading_with_links_is_a_script() -> None:
    (frame,) = parse_script([{"cards": [], "links": {"cards": ["a", "b"], "paths": [["NV4"]]}}])
    assert frame.links is not None
    assert frame.links.paths == (("NV4",),)


def test_a_script_whose_links_do_not_hold_together_says_so() -> None:
    from agent.cards.reader import ScriptError

    with pytest.raises(ScriptError, match="frame 0: 2 cards need 1 rows, not 2"):
        parse_script([{"links": {"cards": ["a", "b"], "paths": [["NV4"], []]}}])
