"""What the agent's cycle exports and tells of memory and energy, by card and by pod."""

from dataclasses import replace
from typing import Any

import pytest

from agent.cards.reader import CardReading, Missing, ProcessUse
from tests.unit.agent.world import CARDS, GIB, PODS, World, card, pod


async def test_memory_and_energy_are_exported_by_card_and_by_pod_apart(world: World) -> None:
    world.api.put(PODS, pod("server", cards="GPU-0"))
    await world.caught_up()
    busy = card(
        0, memory_used_bytes=9 * GIB, utilization_ratio=0.5, energy_millijoules=0,
        processes=(ProcessUse(1, 6 * GIB, 0.4, pod_uid="uid-server"), ProcessUse(2, 2 * GIB, 0.1, pod_uid="uid-nobody")),
    )  # fmt: skip
    world.show(busy, card(1))
    await world.tick()
    world.show(replace(busy, energy_millijoules=1_000_000), card(1))
    await world.tick()
    place, who = world.place(0), {"namespace": "chat", "pod": "server", "project": "search"}
    assert world.value("headroom_card_memory_used_bytes", **place) == 9 * GIB
    assert world.value("headroom_pod_memory_used_bytes", **place, **who, container="") == 6 * GIB
    assert world.value("headroom_card_unattributed_memory_bytes", **place) == 2 * GIB
    assert world.value("headroom_card_energy_joules_total", **place, source="measured") == 1000
    parts = [
        world.value("headroom_pod_energy_joules_total", **place, **who, source="measured"),
        world.value("headroom_card_idle_energy_joules_total", **place, source="measured"),
        world.value("headroom_card_unattributed_energy_joules_total", **place, source="measured"),
    ]
    assert parts == pytest.approx([800, 0, 200])
    assert world.value("headroom_pod_busy_seconds_total", **place, **who) == pytest.approx(2.0)
    assert world.value("headroom_project_budget", project="search", currency="") == 100


async def test_a_missing_field_is_counted_and_its_series_is_absent(world: World) -> None:
    world.show(card(0, power_watts=Missing.NOT_SUPPORTED), card(1))
    frame = world.reader.frames[0]
    await world.tick()
    assert frame.cards[0].power_watts is Missing.NOT_SUPPORTED
    assert world.value("headroom_card_power_watts", **world.place(0)) is None
    assert world.value("headroom_card_power_watts", **world.place(1)) == 20
    assert world.value("headroom_agent_missing_fields", field="power_watts", reason="not_supported") == 1


async def test_memory_of_a_partitioned_card_is_counted_once_and_its_energy_once(world: World) -> None:
    instance = CardReading(
        "MIG-a", 0, "L4-MIG", memory_total_bytes=12 * GIB, memory_used_bytes=GIB, parent="GPU-0", processes=()
    )
    world.show(card(0, mig=True, memory_used_bytes=GIB), instance)
    await world.tick()
    used = [
        sample.labels["card"]
        for family in world.registry.collect() if family.name == "headroom_card_memory_used_bytes"
        for sample in family.samples
    ]  # fmt: skip
    powered = [
        sample.labels["card"]
        for family in world.registry.collect() if family.name == "headroom_card_power_watts"
        for sample in family.samples
    ]  # fmt: skip
    assert (used, powered) == (["MIG-a"], ["GPU-0"])
    assert world.published() == {"MIG-a": True}


def pinned_pod(name: str, card_id: str) -> dict[str, Any]:
    """A pod that Headroom pinned, with 6 GiB."""
    body = pod(name, cards=card_id)
    body["metadata"]["annotations"]["headroom.dev/assigned-mode"] = "pinned"
    body["spec"]["containers"][0]["resources"] = {"limits": {"headroom.dev/vram": "6Gi"}}
    return body


def events(world: World, reason: str) -> list[tuple[str, str]]:
    asked = [request.body for request in world.api.asked("POST", "/events$")]
    return [(event["regarding"]["uid"], event["note"]) for event in asked if event["reason"] == reason]


async def test_a_pinned_pod_on_a_card_that_is_not_its_own_and_one_beyond_its_share_are_told_of(world: World) -> None:
    """Nothing stops a process from looking at all cards of its node, or from taking more than it was given."""
    world.api.put(PODS, pinned_pod("greedy", "GPU-0"))
    world.api.put(PODS, pinned_pod("stray", "GPU-0"))
    await world.caught_up()
    world.show(
        card(0, memory_used_bytes=8 * GIB, processes=(ProcessUse(1, 8 * GIB, pod_uid="uid-greedy"),)),
        card(1, memory_used_bytes=2 * GIB, processes=(ProcessUse(2, 2 * GIB, pod_uid="uid-stray"),)),
    )
    await world.tick(4)
    assert events(world, "MemoryBeyondShare") == [
        ("uid-greedy", "this pod uses 8.0 GiB of card GPU-0, of which it was given 6.0 GiB")
    ]
    assert events(world, "CardNotItsOwn") == [
        ("uid-stray", "this pod uses 2.0 GiB of card GPU-1, which was not given to it")
    ]
    greedy = world.place(0) | {"namespace": "chat", "pod": "greedy", "project": "search", "kind": "over_share"}
    assert world.value("headroom_pod_memory_excess_bytes", **greedy) == 2 * GIB
    stray = world.place(1) | {"namespace": "chat", "pod": "stray", "project": "search", "kind": "foreign_card"}
    assert world.value("headroom_pod_memory_excess_bytes", **stray) == 2 * GIB
    assert world.value("headroom_agent_trespasses_total", kind="over_share") == 1
    world.show(*CARDS)
    await world.tick(2)
    assert world.value("headroom_pod_memory_excess_bytes", **greedy) is None
    assert len(world.api.asked("POST", "/events$")) == 2


async def test_an_event_that_could_not_be_written_is_written_later(world: World) -> None:
    world.api.put(PODS, pinned_pod("greedy", "GPU-0"))
    await world.caught_up()
    world.show(card(0, processes=(ProcessUse(1, 8 * GIB, pod_uid="uid-greedy"),)), card(1))
    world.api.fail("POST", "/events$", times=1)
    await world.tick(6)
    assert len(world.api.asked("POST", "/events$")) == 2
    assert world.value("headroom_agent_trespasses_total", kind="over_share") == 1


async def test_memory_outside_pods_is_exported_only_where_it_is_known_of_every_process(world: World) -> None:
    mine = ProcessUse(1, GIB, pod_uid="uid-server")
    world.api.put(PODS, pod("server", cards="GPU-0"))
    await world.caught_up()
    for processes, known in (
        ((), 0.0),
        ((mine,), 0.0),
        ((mine, ProcessUse(2, 2 * GIB, pod_uid="uid-nobody")), 2.0 * GIB),
        ((mine, ProcessUse(3, 2 * GIB)), None),  # gone before it could be looked up
        ((mine, ProcessUse(4, Missing.NOT_AVAILABLE, pod_uid="uid-server")), None),
        (Missing.NO_PERMISSION, None),
    ):
        world.show(card(0, memory_used_bytes=4 * GIB, processes=processes), card(1))
        await world.tick()
        assert world.value("headroom_card_unattributed_memory_bytes", **world.place(0)) == known
