"""`headroom demo --on node`, as `make demo-node` shows it, on the node of these tests."""

from simulations.demo.on_node import show
from tests.node.installed import Headroom


def test_the_demo_tells_its_story(headroom: Headroom) -> None:
    """Two on one card, a third beside it, a fourth that waits with the reason and then starts."""
    said: list[str] = []
    show(headroom.node, said.append)
    print("\n".join(said))
    cards = [line.strip() for line in said if line.startswith("  card")]
    both, alone, after = (sorted(cards[at : at + 2], key=len, reverse=True) for at in (0, 2, 4))
    assert both[0].endswith(": chat 30Gi, embeddings 22Gi")
    assert both[1].endswith(": free")
    assert alone == [both[0], both[1].replace("free", "translation 40Gi")]
    assert sorted(line.partition(": ")[2] for line in after) == ["embeddings 22Gi, summaries 45Gi", "translation 40Gi"]
    assert any(line.startswith("  summaries is Pending: 0/1 nodes are available") for line in said)
    assert sum("NVIDIA_VISIBLE_DEVICES=GPU-" in line for line in said) == 4
