"""Fixtures on a real node: kubelet, containerd and runc run pods; cards are the stub's. See docs/testing.md.

One node serves all tests. Headroom's daemons run as processes inside it; tests/image runs them from the image.
"""

from collections.abc import Iterator

import pytest

from simulations.node.cluster import NodeCluster
from tests.node.installed import Headroom


@pytest.fixture(scope="session")
def node() -> Iterator[NodeCluster]:
    """The node and its control plane. Its start fails, and with it every test, where something that it needs is missing."""
    with NodeCluster.start() as running:
        yield running


@pytest.fixture(scope="session")
def installed(node: NodeCluster) -> Headroom:
    """Headroom's daemons on the node, once for all tests."""
    return Headroom(node)


@pytest.fixture
def headroom(installed: Headroom) -> Iterator[Headroom]:
    """Headroom on a node without pods; the node is left so again."""
    yield installed
    installed.clean()
