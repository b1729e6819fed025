"""A real LLM engine (llama.cpp's server with a small model) on a real node, under real load. See docs/testing.md."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.kwok.process import free_port
from simulations.node.cluster import NodeCluster
from simulations.node.installation import EXTENDER, install
from simulations.node.llama.build import find
from tests.paths import CRD


@pytest.fixture(scope="session")
def built() -> Path:
    """Folder of the server and the model; a failure where they have not been built."""
    return find()


@pytest.fixture(scope="session")
def node(built: Path) -> Iterator[NodeCluster]:
    """A node with Prometheus and Headroom's daemons, the autoscaler with the haste of a test."""
    with NodeCluster.start(prometheus=True) as running:
        install(running)
        running.install_crd(CRD)
        assert running.prometheus is not None
        port = free_port()
        running.daemon(
            "autoscaler",
            "--port", str(port), "--prometheus-url", running.prometheus.url, "--extender-url", EXTENDER,
            "--lease-namespace", "default", "--tick-seconds", "1", "--stale-seconds", "10",
            "--short-mean-seconds", "4", "--long-mean-seconds", "8", ready_url=f"http://127.0.0.1:{port}/readyz",
        )  # fmt: skip
        yield running
