"""How cards are linked: what the annotation says, and what of it cannot be."""

import json
from dataclasses import replace
from typing import Any

import pytest

from headroom import names, wire
from headroom.domain.links import Links, LinksError, decode_links, encode_links, gbytes_per_second
from headroom.domain.model import Card
from headroom.domain.node_cards import encode_cards, node_of

PAIRS = Links(("a", "b", "c", "d"), (("NV4", "SYS", "SYS"), ("SYS", "SYS"), ("NV4",)))
NV4, SYS = 100, 8


def node(links: str | None, *ids: str, **more: Any) -> wire.Node:
    cards = tuple(Card(card, at, "NVIDIA-A40", 46068, **more) for at, card in enumerate(ids))
    annotations = {names.ANNOTATION_NODE_CARDS: encode_cards(cards)}
    if links is not None:
        annotations[names.ANNOTATION_NODE_LINKS] = links
    return wire.Node(wire.Meta(name="n", annotations=annotations))


def test_the_annotation_is_compact_and_read_back_as_it_was() -> None:
    text = encode_links(PAIRS)
    assert json.loads(text) == {"cards": ["a", "b", "c", "d"], "paths": ["NV4 SYS SYS", "SYS SYS", "NV4"]}
    assert decode_links(text) == PAIRS
    eight = Links(tuple(f"GPU-{at:036}" for at in range(8)), tuple(("NV12",) * (7 - at) for at in range(7)))
    assert len(encode_links(eight)) < 600


def test_the_matrix_follows_the_nodes_own_order_of_cards() -> None:
    found = node_of(node(encode_links(PAIRS), "c", "a", "d", "b"))
    assert found.link_gbytes_per_second == (
        (0, SYS, NV4, SYS),
        (SYS, 0, SYS, NV4),
        (NV4, SYS, 0, SYS),
        (SYS, NV4, SYS, 0),
    )
    assert found.problems == ()


def test_equal_paths_leave_nothing_to_choose() -> None:
    """An NVSwitch machine: all sets of cards are alike, and placement is as without a matrix."""
    switched = Links(("a", "b", "c"), (("NV18", "NV18"), ("NV18",)))
    assert node_of(node(encode_links(switched), "a", "b", "c")).link_gbytes_per_second == ()
    assert node_of(node(None, "a", "b", "c")).link_gbytes_per_second == ()


def test_a_card_that_the_matrix_misses_counts_as_worst_and_is_told() -> None:
    two = encode_links(Links(("a", "b"), (("NV4",),)))
    found = node_of(node(two, "a", "b", "c"))
    assert found.link_gbytes_per_second == ((0, NV4, SYS // 2), (NV4, 0, SYS // 2), (SYS // 2, SYS // 2, 0))
    assert found.problems == ("headroom.dev/links: does not name c",)
    assert node_of(node(two, "x", "y")).link_gbytes_per_second == ()
    # A card that is shown as sick is not asked, so nobody is to blame.
    assert node_of(node(two, "x", "y", healthy=False)).problems == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("NV4", "is no matrix of links"),
        ('{"cards": ["a", "b"]}', "is no matrix of links"),
        ('{"cards": ["a", "b"], "paths": ["NV4", "NV4"]}', "2 cards need 1 rows, not 2"),
        ('{"cards": ["a", "b", "c"], "paths": ["NV4", "NV4"]}', "row 0 needs 2 paths, not 1"),
        ('{"cards": ["a", "a"], "paths": ["NV4"]}', "card a is named twice"),
        ('{"cards": ["a", "b"], "paths": ["NV0"]}', "path 'NV0': must be NV and a number of links"),
        ('{"cards": ["a", "b"], "paths": ["fast"]}', "path 'fast'"),
        (json.dumps({"cards": list(map(str, range(65))), "paths": []}), "65 cards: at most 64"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_and_the_cards_stay(text: str, words: str) -> None:
    with pytest.raises(LinksError, match=words[:20]):
        decode_links(text)
    found = node_of(node(text, "a", "b"))
    (problem,) = found.problems
    assert problem.startswith(f"headroom.dev/links: {words}")
    assert found.link_gbytes_per_second == ()
    assert [card.id for card in found.cards] == ["a", "b"]


def test_paths_rank_as_nvidia_ranks_them_and_without_p2p_each_is_worse() -> None:
    order = ["NV18", "NV2", "NV1", "PIX", "PXB", "PHB", "NODE", "SYS"]
    assert [gbytes_per_second(word) for word in order] == sorted(map(gbytes_per_second, order), reverse=True)
    assert all(gbytes_per_second(f"-{word}") < gbytes_per_second(word) for word in order)


def test_links_without_cards_are_a_matrix_of_nothing() -> None:
    replace(PAIRS, cards=(), paths=()).check()
