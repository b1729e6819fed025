"""Who chooses linked cards in slice mode: kubelet asks the device plugin, and takes what that prefers; without a preference, any.

A node of four cards of which 0 and 3 are linked, and 1 and 2.
"""

from collections.abc import Iterator

import pytest

from simulations.node.cluster import NodeCluster
from tests.node.installed import PODS, pod

LINKS = "0-3,1-2"
PAIRS = ({0, 3}, {1, 2})
PODS_ALONE = 6


@pytest.fixture(scope="module")
def four() -> Iterator[NodeCluster]:
    """A node of its own: the one of the other tests has two cards."""
    with NodeCluster.start(cards=4) as running:
        yield running


@pytest.fixture(autouse=True)
def tidy(four: NodeCluster) -> Iterator[None]:
    yield
    four.api.delete_all(
        (f"{PODS}/{one['metadata']['name']}" for one in four.pods("default")), {"gracePeriodSeconds": 0}
    )
    four.wait_for(lambda: not four.pods("default"), "the pods to go")
    four.stop_plugin()


def given(node: NodeCluster, name: str, devices: int) -> set[int]:
    """Create a pod that asks for so many devices; the cards that it sees, by their places."""
    node.api.request("POST", PODS, pod(name, {"nvidia.com/gpu": str(devices)}, schedulerName="default-scheduler"))
    seen = node.environment(name)["NVIDIA_VISIBLE_DEVICES"].split(",")
    return {node.cards.uuids.index(card) for card in seen}


def test_kubelet_takes_the_linked_cards_that_the_plugin_prefers(four: NodeCluster) -> None:
    four.start_plugin(1, "linked", links=LINKS)
    assert given(four, "first", 2) in PAIRS
    (asked,) = four.plugin_calls("GetPreferredAllocation")
    assert len(asked["available"]) == 4, "kubelet offers all free devices"
    (allocated,) = four.plugin_calls("Allocate")
    assert sorted(allocated["devices"]) == sorted(asked["chosen"])
    assert given(four, "second", 2) in PAIRS


def test_kubelet_takes_them_of_what_is_left(four: NodeCluster) -> None:
    four.start_plugin(1, "linked", links=LINKS)
    (one,) = given(four, "small", 1)
    (other_pair,) = (pair for pair in PAIRS if one not in pair)
    assert given(four, "large", 2) == other_pair


def test_without_a_preference_kubelet_takes_any(four: NodeCluster) -> None:
    """It does not ask, and what it takes follows no order that anybody states: so nothing is held of that here; `-s` shows it."""
    four.start_plugin(1, "none")
    taken = []
    for at in range(PODS_ALONE):
        taken.append(given(four, f"alone-{at}", 2))
        four.api.delete_all([f"{PODS}/alone-{at}"], {"gracePeriodSeconds": 0})
        four.wait_for(lambda: not four.pods("default"), "the pod to go")
    assert four.plugin_calls("GetPreferredAllocation") == []
    assert {len(cards) for cards in taken} == {2}
    print(f"kubelet alone took linked cards for {sum(cards in PAIRS for cards in taken)} of {PODS_ALONE} pods: {taken}")
