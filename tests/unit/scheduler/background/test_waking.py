"""Refused pods are tried again when memory comes free in ways that kube-scheduler cannot see, and only then."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from headroom import wire
from scheduler.cluster.changes import Freed
from scheduler.cluster.pod_entry import Stage
from tests.fakes.apiserver import ApiServer
from tests.fakes.extender import NAMESPACES, NODES, PODS, Running, extender, node, pod

WAKE = "headroom.dev/vram-freed"


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as server:
        server.put(NODES, node("gpu", 80))
        yield server


def wakes(api: ApiServer) -> int:
    return len([ask for ask in api.asked("PATCH", "^/api/v1/nodes/") if WAKE in ask.body["metadata"]["annotations"]])


async def refuse(running: Running, count: int, vram: str = "60Gi") -> list[dict[str, Any]]:
    pods = [await running.create(pod(f"waits-{at}", vram=vram)) for at in range(count)]
    for body in pods:
        assert (await running.filter(body))["NodeNames"] == []
    return pods


async def test_an_expired_reservation_wakes_all_refused_pods_with_one_write(api: ApiServer, tmp_path: Path) -> None:
    async with extender(
        api, tmp_path, reservation_seconds=60.0, sweep_seconds=1.0, preemption=False, naming_ahead=False
    ) as running:
        holder = await running.create(pod("holder", vram="60Gi"))
        await running.filter(holder)
        pods = await refuse(running, 20)
        await running.in_time(lambda: wakes(api) > 0)
        await running.calm(6 * running.daemon.settings.wake_delay_seconds)
        assert wakes(api) == 1
        assert (await running.filter(pods[0]))["NodeNames"] == ["gpu"]


async def test_a_node_that_went_before_it_could_be_annotated_does_not_swallow_the_room_on_others(
    api: ApiServer, tmp_path: Path
) -> None:
    api.put(NODES, node("gpu2", 80))
    async with extender(
        api, tmp_path, reservation_seconds=60.0, sweep_seconds=1.0, preemption=False, naming_ahead=False
    ) as running:
        for name in ("gpu", "gpu2"):
            await running.filter(await running.create(pod(f"holds-{name}", vram="60Gi")), name)
        await refuse(running, 1)
        api.fail("PATCH", "/nodes/", status=404)
        await running.in_time(lambda: wakes(api) == 2)
        assert len({ask.path for ask in api.asked("PATCH", "^/api/v1/nodes/")}) == 2


async def test_a_wake_that_fails_is_tried_again(api: ApiServer, tmp_path: Path) -> None:
    async with extender(
        api, tmp_path, reservation_seconds=60.0, sweep_seconds=1.0, preemption=False, naming_ahead=False
    ) as running:
        await running.filter(await running.create(pod("holder", vram="60Gi")))
        await refuse(running, 1)
        api.fail("PATCH", "/nodes/gpu$", status=500, times=2)
        await running.in_time(lambda: wakes(api) == 3)
        await running.calm(6 * running.daemon.settings.wake_delay_seconds)
        assert wakes(api) == 3


async def test_nobody_is_woken_for_room_that_is_of_no_use(api: ApiServer, tmp_path: Path) -> None:
    """s32; `headroom bench stalls` has its time."""
    async with extender(
        api, tmp_path, reservation_seconds=60.0, sweep_seconds=1.0, preemption=False, naming_ahead=False
    ) as running:
        await running.filter(await running.create(pod("holder", vram="10Gi")))
        await refuse(running, 3, vram="79Gi")
        await running.place(await running.create(pod("stays", vram="60Gi")))
        await running.in_time(lambda: not running.daemon.state.ledger.reservations())
        await running.calm(6 * running.daemon.settings.wake_delay_seconds)
        assert wakes(api) == 0


async def test_the_end_of_a_pod_is_left_to_kube_scheduler_which_sees_it_itself(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
        await running.place(await running.create(pod("holder", vram="60Gi")))
        await refuse(running, 5)
        # Refused long before: kube-scheduler surely hears of the deletion after its own refusal.
        for entry in running.daemon.state.pods.at(Stage.REFUSED):
            assert entry.refusal is not None
            entry.refusal = replace(entry.refusal, at=entry.refusal.at - 60)
        api.remove(PODS, "holder")
        await running.calm(6 * running.daemon.settings.wake_delay_seconds)
        assert wakes(api) == 0


async def test_the_end_of_a_pod_just_before_it_shows_in_our_watch_wakes(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
        await running.place(await running.create(pod("holder", vram="60Gi")))
        await refuse(running, 5)
        api.remove(PODS, "holder")
        await running.until(lambda: wakes(api) == 1)
        await running.calm(6 * running.daemon.settings.wake_delay_seconds)
        assert wakes(api) == 1


async def test_a_hidden_cause_is_not_forgotten_when_a_visible_one_follows(api: ApiServer, tmp_path: Path) -> None:
    async with extender(api, tmp_path, wake_delay_seconds=0.2, preemption=False, naming_ahead=False) as running:
        running.daemon.waker.freed(Freed("gpu", 7, 0.0, seen_by_scheduler=False))
        running.daemon.waker.freed(Freed("gpu", 8, 1.0, seen_by_scheduler=True))
        assert list(running.daemon.waker._freed.values()) == [Freed("gpu", 8, 1.0, seen_by_scheduler=False)]


async def test_a_node_that_went_named_for_a_quota_s_sake_is_no_error(api: ApiServer, tmp_path: Path) -> None:
    """A quota that was raised is told of on whichever node fits; that one need not be among the nodes where room came free."""
    namespace = {"metadata": {"name": "default", "annotations": {"headroom.dev/max-vram": "10Gi"}}}
    api.put(NAMESPACES, namespace)
    async with extender(api, tmp_path, preemption=False, naming_ahead=False) as running:
        await running.caught_up()
        api.put(NODES, node("full", 10))
        await refuse(running, 1)
        await running.calm(6 * running.daemon.settings.wake_delay_seconds)
        api.fail("PATCH", "/nodes/gpu$", status=404)
        namespace["metadata"]["annotations"] = {"headroom.dev/max-vram": "70Gi"}
        running.daemon.waker.freed(Freed("full", 10**6, 1e9, seen_by_scheduler=False))
        running.daemon.state.on_namespace("MODIFIED", "default", wire.NAMESPACE.decode(wire.encode(namespace)))
        await running.until(lambda: wakes(api) >= 2)
        assert await running.metric("headroom_cycle_failures_total", task="wake") == 0
        assert await running.metric("headroom_wakes_total", result="failed") == 1
        assert await running.metric("headroom_wakes_total", result="written") == 1
