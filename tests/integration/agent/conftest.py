"""A node with a scripted agent."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from headroom.domain.model import GpuNode
from simulations.kwok.cluster import Cluster
from simulations.kwok.nodes import Description, uniform_nodes
from simulations.kwok.process import Component
from tests.integration.agent.nodes import MODEL, VRAM_MIB, Node


@pytest.fixture
def node_with_agent(cluster: Cluster, gpu_nodes: Callable[..., None], tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Makes nodes whose cards nobody has described but their agents."""
    agents: list[Component] = []

    def make(name: str, *, cards: int = 2, slices: int = 1, resource: str = "", agent: bool = True) -> Node:
        (shape,) = uniform_nodes(1, cards=cards, model=MODEL, vram_mib=VRAM_MIB, slices=slices, resource=resource)
        bare = GpuNode(
            name=name, cards=shape.cards, sharing=shape.sharing, resource=resource, cpu_milli=64_000, memory_mib=65_536
        )
        gpu_nodes([bare], Description.LABELS)
        node = Node(cluster, tmp_path, name, cards)
        if agent:
            agents.append(node.start_agent())
            cluster.wait_for(lambda: len(node.published()) == cards, f"the cards of {name}")
        return node

    yield make
    for one in agents:
        one.stop()
