"""What the extender learns of the pods to come, and when it plans for them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NODES, PODS, extender, node, pod

HOUR = 3600.0


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("big", *[80] * 8))
        yield server


async def test_the_first_pods_are_planned_for_without_waiting_for_the_clock(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, naming_ahead=False, plan_every_seconds=HOUR) as running:
        policy = running.daemon.state.placer.policy
        await running.until(lambda: policy.version == 1)
        for at in range(20):
            await running.create(pod(f"llm-{at}", vram="20Gi"))
        await running.until(lambda: policy.version == 2)
        for at in range(20, 40):
            await running.create(pod(f"llm-{at}", vram="20Gi"))
        await running.until(lambda: policy.version == 3)


async def test_pods_bound_before_the_start_are_learned_from_and_others_counted_once(
    api: ApiServer, tmp_path: Path
) -> None:
    for at in range(3):
        api.put(PODS, pod(f"old-{at}", vram="20Gi", nodeName="big"))
    api.put(PODS, pod("web", nodeName="big"))
    async with extender(api, tmp_path, naming_ahead=False) as running:
        profile = running.daemon.state.placer.profile
        assert profile.seen == 3
        fresh = await running.create(pod("new", vram="30Gi"))
        await running.place(fresh)
        await running.caught_up()
        assert profile.seen == 4
        assert sorted(kind.vram_mib for kind in profile.profile().kinds) == [20480, 30720]


async def test_a_plan_by_pods_comes_before_the_decision_on_the_last_of_them_and_never_by_the_clock(
    api: ApiServer, tmp_path: Path
) -> None:
    async with extender(api, tmp_path, naming_ahead=False, plan_every_pods=3, plan_every_seconds=1.0) as running:
        policy = running.daemon.state.placer.policy
        versions = []
        for at in range(7):
            await running.place(await running.create(pod(f"llm-{at}", vram="5Gi")))
            versions.append(policy.version)
        first = versions[0]
        assert [version - first for version in versions] == [0, 0, 1, 1, 1, 2, 2]
