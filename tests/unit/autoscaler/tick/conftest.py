"""A daemon of the autoscaler whose clock is turned by hand."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.autoscaler_bench import Bench
from tests.fakes.prometheus import FakePrometheus


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    prometheus = FakePrometheus()
    async with ApiServer() as api, prometheus.serve():
        kubeconfig = tmp_path / "kubeconfig"
        api.write_kubeconfig(kubeconfig)
        one = Bench(api, prometheus, kubeconfig)
        yield one
        await one.stop()


@pytest.fixture
async def busy(bench: Bench) -> Bench:
    """Four replicas with ten requests each: neither more nor fewer are needed."""
    bench.workload(replicas=4)
    for pod in bench.loads:
        bench.loads[pod] = 10.0
    bench.object()
    await bench.start()
    await bench.tick(6)
    assert bench.replicas() == 4
    return bench
