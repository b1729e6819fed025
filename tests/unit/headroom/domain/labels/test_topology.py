"""What pods say of their group's topology, and which labels a level stands for."""

from typing import Any

import pytest

from headroom import wire
from headroom.domain.groups import GroupError, group_of, topology_alone
from headroom.domain.labels.topology import LEVELS, PREFERRED, labels_of, words_of

TOPOLOGY = "headroom.dev/group-topology"
OWN = {"headroom.dev/group": "g", "headroom.dev/group-size": "4"}
LWS = "leaderworkerset.sigs.k8s.io/"


def pod(annotations: dict[str, str], labels: dict[str, str] | None = None) -> wire.Pod:
    meta: dict[str, Any] = {"name": "p", "namespace": "models", "annotations": annotations, "labels": labels or {}}
    return wire.POD.decode(wire.encode({"metadata": meta, "spec": {}}))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(pod(OWN), "", id="nothing said"),
        pytest.param(pod({**OWN, TOPOLOGY: ""}), "", id="nothing in it"),
        pytest.param(pod({**OWN, TOPOLOGY: "rack"}), "rack", id="a level"),
        pytest.param(pod(OWN, {TOPOLOGY: "zone"}), "zone", id="as a label"),
        pytest.param(pod({**OWN, TOPOLOGY: "example.com/row"}), "example.com/row", id="the key of a label"),
        pytest.param(pod({**OWN, TOPOLOGY: "row"}), "row", id="a key without a prefix"),
        pytest.param(
            pod({LWS + "size": "2", TOPOLOGY: "accelerator"}, {LWS + "name": "llama", LWS + "group-index": "0"}),
            "accelerator",
            id="a group of any kind",
        ),
    ],
)
def test_the_topology_of_a_group(body: wire.Pod, expected: str) -> None:
    group = group_of(body)
    assert group is not None
    assert group.topology == expected


@pytest.mark.parametrize(
    "value", ["one rack", "/rack", "example.com/", "a/b/c", "-rack", "x" * 64, "Example.com/x", "räck"]
)
def test_what_is_no_topology_is_told_with_pod_field_and_value(value: str) -> None:
    with pytest.raises(
        GroupError, match=r"is neither a level.*accelerator, rack.*nor the key of a node label"
    ) as error:
        group_of(pod({**OWN, TOPOLOGY: value}))
    assert TOPOLOGY in str(error.value)
    assert "models/p" in str(error.value)


def test_a_topology_without_a_group_is_told_to_have_no_effect() -> None:
    assert topology_alone(pod({TOPOLOGY: "rack"})) == (f"annotation {TOPOLOGY}: rack: the pod is in no group",)
    assert topology_alone(pod({})) == ()


def test_levels_and_keys() -> None:
    assert labels_of("zone") == ("topology.kubernetes.io/zone",)
    assert labels_of("example.com/row") == ("example.com/row",)
    assert (words_of("rack"), words_of("example.com/row")) == ("one rack", "one domain of the label example.com/row")
    assert list(LEVELS) == ["host", "accelerator", "rack", "block", "datacenter", "zone", "region"]
    preferred = [key for keys in PREFERRED for key in keys]
    assert "kubernetes.io/hostname" not in preferred
    assert len(preferred) == len(set(preferred)) == sum(map(len, LEVELS.values())) - 1
