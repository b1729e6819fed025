"""In which unit a cluster counts gpushare's memory."""

from typing import Any

import pytest

from headroom import wire
from headroom.domain.dialects.customs import gpushare_unit
from headroom.domain.dialects.gpushare import unit_mib_of


@pytest.mark.parametrize(
    ("devices", "unit_mib"),
    [
        pytest.param(
            {"aliyun.com/gpu-mem": "8192", "aliyun.com/gpu-count": "1"},
            1,
            id="R11 gpushare#16: one card of 8 GiB in MiB",
        ),
        ({"aliyun.com/gpu-mem": "8", "aliyun.com/gpu-count": "1"}, 1024),
        ({"aliyun.com/gpu-mem": "1128", "aliyun.com/gpu-count": "8"}, 1024),
        ({"aliyun.com/gpu-mem": "16k", "aliyun.com/gpu-count": "2"}, 1),
        ({"aliyun.com/gpu-mem": "8192"}, 1),
        ({"aliyun.com/gpu-mem": "0", "aliyun.com/gpu-count": "1"}, None),
        ({"aliyun.com/gpu-mem": "lots"}, None),
        ({"nvidia.com/gpu": "8"}, None),
    ],
)
def test_a_node_tells_the_unit_by_what_it_advertises(devices: dict[str, Any], unit_mib: int | None) -> None:
    assert unit_mib_of(wire.Node(status=wire.NodeStatus(allocatable=devices))) == unit_mib


@pytest.mark.parametrize(
    ("setting", "nodes", "unit_mib"),
    [
        ("auto", [], 1024),
        ("auto", [1, 1], 1),
        ("auto", [1024], 1024),
        ("auto", [1, 1024], 0),
        ("MiB", [1024], 1),
        ("GiB", [1], 1024),
    ],
)
def test_a_cluster_has_the_unit_of_its_nodes_unless_it_is_set(setting: str, nodes: list[int], unit_mib: int) -> None:
    assert gpushare_unit(setting, nodes) == unit_mib
