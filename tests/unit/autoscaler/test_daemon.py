"""The autoscaler's daemon as a whole, between a scripted API server and a scripted Prometheus: how it starts and ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from autoscaler.daemon import AutoscalerDaemon, NotListedError
from autoscaler.settings import AutoscalerSettings
from headroom.kube.aio import connect
from tests.fakes.apiserver import ApiServer
from tests.fakes.prometheus import FakePrometheus
from tests.waiting import pass_time_until

GROUPS = "/apis/leaderworkerset.x-k8s.io/v1/leaderworkersets"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as running:
        yield running


@pytest.fixture
async def daemon(api: ApiServer, tmp_path: Path) -> AsyncIterator[AutoscalerDaemon]:
    kubeconfig = tmp_path / "kubeconfig"
    api.write_kubeconfig(kubeconfig)
    async with FakePrometheus().serve() as prometheus:
        kube = await connect(str(kubeconfig))
        settings = AutoscalerSettings(prometheus_url=prometheus.url, extender_url="", lease_namespace="default")
        made = AutoscalerDaemon(kube, settings)
        yield made
        await made.close()
        await kube.close()


@pytest.mark.parametrize("refused", [0, 3])
async def test_leader_worker_sets_may_be_installed_later(
    api: ApiServer, daemon: AutoscalerDaemon, refused: int
) -> None:
    api.fail("GET", "/leaderworkersets$", status=404, times=refused)
    api.put(GROUPS, {"metadata": {"name": "g"}, "spec": {"replicas": 2, "leaderWorkerTemplate": {"size": 3}}})
    running = asyncio.create_task(daemon.run())
    await pass_time_until(lambda: "LeaderWorkerSet/default/g" in daemon.world.workloads, seconds=300)
    assert daemon.world.workloads["LeaderWorkerSet/default/g"].pods_per_replica == 3
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_a_single_round_ends(daemon: AutoscalerDaemon) -> None:
    assert await daemon.once() == {}


async def test_a_single_round_gives_up_on_an_api_server_that_is_silent(
    api: ApiServer, daemon: AutoscalerDaemon
) -> None:
    released = api.stall("GET", "/pods$")
    round_ = asyncio.create_task(daemon.once())
    await pass_time_until(round_.done, seconds=31)
    with pytest.raises(NotListedError, match=r"has not listed .*pods.* within 30 s"):
        await round_
    released.set()
