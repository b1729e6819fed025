"""The agent's cycle with a scripted driver: cards that are published and withdrawn, drivers that hang or are lost."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from agent.cards.reader import BrokenCard, Fault
from agent.cards.scripted import Frame
from agent.cycle import OutOfReachError
from headroom.domain.links import Links
from tests.fakes.apiserver import ApiServer
from tests.fakes.kubelet import Kubelet
from tests.unit.agent.world import CARDS, GIB, NODE, NODES, Script, World, card, world_at
from tests.waiting import pass_time, pass_time_until, turns, until


async def test_cards_are_published_once_and_nothing_is_written_while_nothing_changes(world: World) -> None:
    await world.tick()
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert json.loads(world.api.get(NODES, "n1")["metadata"]["annotations"]["headroom.dev/cards"])[0]["slices"] == 4
    await world.tick(20)
    assert world.writes() == 1
    assert world.health.ready


async def test_a_sick_card_is_withdrawn_in_the_same_cycle_and_back_after_the_settled_time(world: World) -> None:
    await world.tick()
    world.show(card(1), broken=(BrokenCard(0, "lost", "GPU-0"),))
    await world.tick()
    assert world.published() == {"GPU-0": False, "GPU-1": True}
    assert world.value("headroom_card_healthy", **world.place(0)) == 0
    assert world.value("headroom_agent_card_withdrawals_total", reason="lost") == 1
    assert world.value("headroom_agent_broken_cards", reason="lost") == 1
    world.show(*CARDS)
    await world.tick(5)
    assert world.published()["GPU-0"] is False
    await world.tick(1)
    assert world.published()["GPU-0"] is True
    assert world.writes() == 3


async def test_a_fault_that_the_driver_reports_withdraws_its_card(world: World) -> None:
    await world.tick()
    world.show(*CARDS, faults=(Fault("GPU-1", 79), Fault("GPU-0", 31)))
    await world.tick()
    assert world.published() == {"GPU-0": True, "GPU-1": False}
    assert world.value("headroom_agent_card_faults_total", xid="79") == 1


async def test_a_lost_driver_withdraws_everything_and_exports_no_old_values(world: World) -> None:
    await world.tick(2)
    assert world.value("headroom_card_memory_used_bytes", **world.place(0)) == 0
    world.reader.show(Frame(driver_lost="NVML: Driver Not Loaded"))
    world.now += 5
    assert await world.agent.cycle() is False
    assert world.published() == {"GPU-0": False, "GPU-1": False}
    assert world.value("headroom_card_memory_used_bytes", **world.place(0)) is None
    assert world.value("headroom_agent_driver_up") == 0
    assert world.value("headroom_agent_readings_total", result="failed") == 1
    assert not world.health.ready
    world.show(*CARDS)
    await world.tick(7)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert world.health.ready


async def test_links_are_published_on_change_and_taken_away_when_they_cannot_be_told(world: World) -> None:
    """What is known of the cards themselves does not depend on it."""

    def links() -> str | None:
        found: str | None = world.api.get(NODES, "n1")["metadata"]["annotations"].get("headroom.dev/links")
        return found

    world.show(*CARDS, links=Links(("GPU-0", "GPU-1"), (("NV4",),)))
    await world.tick(3)
    assert json.loads(links() or "") == {"cards": ["GPU-0", "GPU-1"], "paths": ["NV4"]}
    writes = world.writes()
    await world.tick(5)
    assert world.writes() == writes
    world.show(driver_lost="NVML: gone")
    await world.tick()
    assert links() is not None
    world.show(*CARDS, links_problem="how far GPU-0 is from GPU-1 is not told")
    await world.tick(2)
    assert links() is None
    assert set(world.published()) == {"GPU-0", "GPU-1"}


async def test_an_agent_that_starts_without_a_driver_withdraws_what_its_predecessor_published(tmp_path: Path) -> None:
    async with world_at(tmp_path) as world:
        await world.tick()
    async with ApiServer() as api, Kubelet(tmp_path / "kubelet2.sock") as kubelet:
        api.put(NODES, json.loads(json.dumps(world.api.get(NODES, "n1"))))
        later = World(api, kubelet, Script((Frame(driver_lost="no driver"),)), tmp_path)
        await later.start()
        await later.synced()
        assert await later.agent.cycle() is False
        assert later.published() == {"GPU-0": False, "GPU-1": False}
        await later.stop()


async def test_an_agent_without_a_driver_and_without_a_past_writes_nothing(world: World) -> None:
    world.reader.show(Frame(driver_lost="no driver"))
    await world.agent.cycle()
    assert world.writes() == 0


async def test_an_outage_of_the_api_server_leaves_readings_and_metrics_untouched(world: World) -> None:
    await world.tick()
    await world.api.stop()
    world.now += 5
    assert await world.agent.cycle() is True
    assert world.value("headroom_agent_readings_total", result="ok") == 2
    await world.api.start()
    await world.tick()


async def test_a_capacity_that_an_earlier_version_left_behind_is_taken_away(world: World) -> None:
    """kubelet would refuse pods by it. The cards of other resources stay."""
    node = world.api.get(NODES, "n1")
    stale = {"headroom.dev/vram": str(48 * GIB), "nvidia.com/gpu": "2"}
    world.api.put(NODES, node | {"status": {"capacity": dict(stale), "allocatable": dict(stale)}})
    await world.tick(3)
    status = world.api.get(NODES, "n1")["status"]
    assert status["capacity"] == status["allocatable"] == {"nvidia.com/gpu": "2"}
    writes = world.writes()
    await world.tick(3)
    assert world.writes() == writes, "once"


async def test_a_driver_that_hangs_is_reported_and_its_answer_waited_for_only_once(
    world: World,
) -> None:
    calls: list[float] = []
    answered: list[float] = []
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang(now: float) -> None:
        calls.append(now)
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result()
        answered.append(now)

    world.reader.hang = hang
    for _ in range(2):
        cycle = asyncio.create_task(world.agent.cycle())
        await until(lambda: calls)
        await pass_time_until(cycle.done, seconds=21)
        assert await cycle is False
    assert len(calls) == 1
    release.set()
    await until(lambda: answered)
    await turns()
    assert await world.agent.cycle() is True


async def test_the_daemon_survives_a_cycle_that_fails_for_a_reason_nobody_foresaw(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = asyncio.Event()

    async def explode() -> bool:
        failed.set()
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(world.agent, "cycle", explode)
    task = asyncio.create_task(world.agent.run())
    await asyncio.wait_for(failed.wait(), 5)
    await turns()
    assert not task.done()
    assert world.value("headroom_agent_cycle_errors_total") == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_container_that_lost_the_cards_for_good_ends_and_withdraws_none(world: World) -> None:
    """A08 (nvidia-container-toolkit#48, #1227): every NVML call answers Unknown Error, the cards are well."""
    await world.tick()
    world.reader.show(Frame(driver_lost="NVML: Unknown Error"))
    await world.tick(720)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert world.value("headroom_agent_driver_up") == 0
    with pytest.raises(OutOfReachError, match="a new one may have them"):
        await asyncio.wait_for(world.agent.run(), 5)


async def goes_on(world: World) -> bool:
    """Whether the agent, once it has read again, does not end."""
    before, running = world.reader.reads, asyncio.create_task(world.agent.run())
    await until(lambda: running.done() or world.reader.reads > before)
    await pass_time(1.0)
    ended = running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return not ended


async def test_cards_out_of_reach_for_a_moment_end_nothing(world: World) -> None:
    await world.tick()
    world.reader.show(Frame(driver_lost="NVML: Unknown Error"))
    await world.tick(3)
    world.show(*CARDS)
    await world.tick(20)
    assert world.published() == {"GPU-0": True, "GPU-1": True}
    assert await goes_on(world)


async def test_a_new_container_that_reaches_no_card_either_withdraws_them(world: World) -> None:
    world.api.put(NODES, NODE | {"metadata": NODE["metadata"] | {"annotations": {"headroom.dev/cards": json.dumps(
        [{"id": "GPU-0", "index": 0, "model": "L4", "vram_mib": 24576}])}}})  # fmt: skip
    await world.caught_up()
    world.reader.show(Frame(driver_lost="NVML: Unknown Error"))
    await world.tick(30)
    assert world.published() == {"GPU-0": False}
    assert await goes_on(world)


async def test_cards_that_the_device_plugin_withholds_are_not_published(tmp_path: Path) -> None:
    """S18 (k8s-device-plugin#81, #197, #935), by kubelet's own list of what its plugins hand out."""
    async with world_at(tmp_path) as world:
        world.kubelet.allocatable = [("nvidia.com/gpu", f"GPU-1::{at}") for at in range(3)] + [("rdma/hca", "mlx5_0")]
        await world.tick()
        assert world.published() == {"GPU-1": True}
        assert json.loads(world.api.get(NODES, "n1")["metadata"]["annotations"]["headroom.dev/cards"])[0]["slices"] == 3
        # A plugin that starts anew hands out nothing for a moment: that is no word on what it withholds.
        world.kubelet.allocatable = []
        await world.tick(15)
        assert world.published() == {"GPU-1": True}
        world.kubelet.allocatable = [("nvidia.com/gpu", "GPU-0"), ("nvidia.com/gpu", "GPU-1")]
        await world.tick(15)
        assert world.published() == {"GPU-0": True, "GPU-1": True}


async def test_one_command_forgets_a_replaced_card_and_ends_its_alert(world: World) -> None:
    """N23 (NVSentinel#1585): `kubectl annotate node n1 headroom.dev/forget-cards=GPU-1`."""
    await world.tick()
    world.show(card(0), replace(card(1), id="GPU-9"))
    await world.tick()
    assert world.published() == {"GPU-0": True, "GPU-1": False, "GPU-9": True}
    assert world.value("headroom_card_healthy", **world.place(1)) == 0
    body = json.loads(json.dumps(world.api.get(NODES, "n1")))
    body["metadata"]["annotations"]["headroom.dev/forget-cards"] = "GPU-1"
    world.api.put(NODES, body)
    await world.caught_up()
    await world.tick(2)
    assert world.published() == {"GPU-0": True, "GPU-9": True}
    assert world.value("headroom_card_healthy", **world.place(1)) is None
