"""Health and inventory: withdrawn at once, back after a settled time, and an annotation that changes only with the cards."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from agent.cards.inventory import Inventory, Known, cards_of_annotation, plugin_owns_instances, slices_of
from agent.cards.reader import BrokenCard, CardReading, Fault, Missing, Reading
from agent.cards.verdicts import HealthTracker, Verdict
from headroom import wire
from headroom.domain.model import Card
from headroom.domain.node_cards import encode_cards, node_of
from headroom.names import ANNOTATION_NODE_CARDS

GIB = 2**30
FINE = Verdict(True)


def card(name: str = "GPU-a", **fields: Any) -> CardReading:
    defaults: dict[str, Any] = {
        "index": 0,
        "model": "L4",
        "memory_total_bytes": 24 * GIB,
        "memory_reserved_bytes": 0,
        "ecc_uncorrected": 0,
    }
    return CardReading(id=name, **(defaults | fields))


def reading(at: float, *cards: CardReading, broken: Iterable[BrokenCard] = (), faults: Iterable[Fault] = ()) -> Reading:
    return Reading(at, cards, tuple(broken), tuple(faults))


TROUBLES = [
    pytest.param(reading(10, broken=[BrokenCard(0, "lost", "GPU-a")]), "lost", id="fell off the bus"),
    pytest.param(reading(10, broken=[BrokenCard(0, "reset_required", "GPU-a")]), "reset_required", id="wants a reset"),
    pytest.param(reading(10), "gone", id="no longer listed"),
    pytest.param(reading(10, card(memory_total_bytes=Missing.FAILED)), "unreadable", id="memory cannot be read"),
    pytest.param(reading(10, card(row_remap_broken=True)), "row_remap", id="row remapping failed"),
    pytest.param(reading(10, card(ecc_uncorrected=1)), "ecc", id="a new uncorrected error"),
    pytest.param(reading(10, card(), faults=[Fault("GPU-a", 79)]), "xid 79", id="critical Xid"),
    pytest.param(reading(10, card(), faults=[Fault("GPU-a", 0)]), "ecc", id="double-bit error event"),
]


@pytest.mark.parametrize(("bad", "reason"), TROUBLES)
def test_trouble_withdraws_a_card_at_once_and_a_settled_time_gives_it_back(bad: Reading, reason: str) -> None:
    tracker = HealthTracker(settle_seconds=60)
    assert tracker.update(reading(0, card())) == {"GPU-a": FINE}
    assert tracker.update(bad) == {"GPU-a": Verdict(False, reason)}
    well = card(ecc_uncorrected=bad.cards[0].ecc_uncorrected if bad.cards else 0)
    assert tracker.update(reading(69.9, well)) == {"GPU-a": Verdict(False, reason)}
    assert tracker.update(reading(70, well)) == {"GPU-a": FINE}


@pytest.mark.parametrize(("bad", "reason"), TROUBLES[:5])
def test_trouble_that_lasts_keeps_the_card_away_even_without_a_settled_time(bad: Reading, reason: str) -> None:
    tracker = HealthTracker(settle_seconds=0)
    tracker.update(reading(0, card()))
    for at in (10, 20):
        assert tracker.update(replace(bad, at=at)) == {"GPU-a": Verdict(False, reason)}


@pytest.mark.parametrize("xid", [13, 31, 43, 45, 68, 109])
def test_errors_of_programs_are_not_errors_of_the_card(xid: int) -> None:
    tracker = HealthTracker(settle_seconds=60)
    assert tracker.update(reading(0, card(), faults=[Fault("GPU-a", xid)])) == {"GPU-a": FINE}


def test_errors_from_before_the_agent_started_are_not_held_against_a_card() -> None:
    tracker = HealthTracker(settle_seconds=60)
    assert tracker.update(reading(0, card(ecc_uncorrected=7))) == {"GPU-a": FINE}
    assert tracker.update(reading(1, card(ecc_uncorrected=Missing.NOT_SUPPORTED))) == {"GPU-a": FINE}
    assert tracker.update(reading(2, card(ecc_uncorrected=7))) == {"GPU-a": FINE}
    # A reset sets the count back; that is no error.
    assert tracker.update(reading(3, card(ecc_uncorrected=0))) == {"GPU-a": FINE}


def test_a_lost_driver_withdraws_every_card_ever_seen() -> None:
    tracker = HealthTracker(settle_seconds=60)
    tracker.expect(["GPU-old"])
    tracker.update(reading(0, card("GPU-a"), card("GPU-b", index=1)))
    assert {verdict.reason for verdict in tracker.lost(5).values()} == {"driver_lost"}
    assert not any(verdict.healthy for verdict in tracker.lost(5).values())


def test_instances_go_with_their_card() -> None:
    tracker = HealthTracker(settle_seconds=60)
    parent, instance = card("GPU-a", mig=True), card("MIG-1", parent="GPU-a", ecc_uncorrected=Missing.NOT_SUPPORTED)
    tracker.update(reading(0, parent, instance))
    verdicts = tracker.update(reading(1, parent, instance, faults=[Fault("GPU-a", 79)]))
    assert verdicts["MIG-1"] == Verdict(False, "xid 79")


def published(
    inventory: Inventory, seen: Reading | None, unhealthy: tuple[str, ...] = (), slices: int = 1
) -> tuple[Card, ...]:
    verdicts = dict.fromkeys(unhealthy, Verdict(False, "lost"))
    return inventory.update(seen, verdicts, slices)


def test_cards_are_described_in_whole_mib_that_promise_nothing_that_is_not_there() -> None:
    seen = reading(0, card(memory_total_bytes=24 * GIB + 2**20 - 1, memory_reserved_bytes=450 * 2**20 + 1))
    assert published(Inventory(), seen, slices=4) == (Card("GPU-a", 0, "L4", 24576, 451, 4, True),)


def test_a_card_that_cannot_be_read_stays_in_sight_as_unhealthy() -> None:
    inventory = Inventory()
    first = published(inventory, reading(0, card("GPU-a"), card("GPU-b", index=1)))
    lost = published(inventory, reading(1, card("GPU-b", index=1), broken=[BrokenCard(0, "lost", "GPU-a")]), ("GPU-a",))
    assert [(one.id, one.healthy, one.vram_mib) for one in lost] == [("GPU-a", False, 24576), ("GPU-b", True, 24576)]
    assert published(inventory, None, ("GPU-a", "GPU-b")) == tuple(replace(one, healthy=False) for one in first)


@pytest.mark.parametrize("total", [0, 2**20 - 1, -1, Missing.FAILED])
def test_a_total_that_cannot_be_voids_nothing(total: int | Missing) -> None:
    inventory = Inventory()
    seen = reading(0, card("GPU-a"), card("GPU-b", index=1))
    before = published(inventory, seen)
    assert published(inventory, reading(1, card("GPU-a", memory_total_bytes=total), card("GPU-b", index=1))) == before
    assert published(Inventory(), reading(0, card(memory_total_bytes=total))) == ()
    too_much = published(Inventory(), reading(0, card(memory_total_bytes=2**30, memory_reserved_bytes=2**40)))
    assert (too_much[0].vram_mib, too_much[0].reserve_mib) == (1024, 1024)


def test_what_a_predecessor_published_is_taken_over() -> None:
    inventory = Inventory()
    inventory.expect((Card("GPU-dead", 3, "L4", 24576, 100, 2),))
    cards = published(inventory, reading(0, card("GPU-a")), ("GPU-dead",))
    assert [(one.id, one.index, one.healthy) for one in cards] == [("GPU-a", 0, True), ("GPU-dead", 1, False)]


def test_the_order_of_discovery_does_not_matter() -> None:
    one, two = card("GPU-a", index=1), card("GPU-b", index=0)
    assert published(Inventory(), reading(0, one, two)) == published(Inventory(), reading(0, two, one))


def test_a_breathing_reserve_does_not_rewrite_the_node() -> None:
    inventory = Inventory()
    before = published(inventory, reading(0, card(memory_reserved_bytes=450 * 2**20)))
    assert published(inventory, reading(1, card(memory_reserved_bytes=440 * 2**20))) == before
    assert published(inventory, reading(2, card(memory_reserved_bytes=460 * 2**20)))[0].reserve_mib == 460


def test_a_partitioned_card_gives_way_to_its_instances_and_comes_back() -> None:
    inventory = Inventory()
    published(inventory, reading(0, card("GPU-a")), slices=4)
    parted = reading(1, card("GPU-a", mig=True), card("MIG-1", parent="GPU-a"), card("MIG-2", parent="GPU-a"))
    cards = published(inventory, parted, slices=4)
    assert [(one.id, one.index, one.slices) for one in cards] == [("MIG-1", 0, 4), ("MIG-2", 1, 4)]
    whole = published(inventory, reading(2, card("GPU-a", mig=False)), slices=4)
    assert [one.id for one in whole] == ["GPU-a"]


def test_instances_that_the_device_plugin_names_itself_are_not_given_out_twice() -> None:
    parted = reading(0, card("GPU-a", mig=True), card("MIG-1", parent="GPU-a"), card("GPU-b", index=1))
    assert [one.id for one in Inventory().update(parted, {}, known=Known(instances=False))] == ["GPU-b"]
    assert plugin_owns_instances(node(capacity={"nvidia.com/mig-3g.40gb": "2"}))
    assert not plugin_owns_instances(node(capacity={"nvidia.com/mig-3g.40gb": "0", "nvidia.com/gpu": "2"}))


def node(
    labels: dict[str, str] | None = None,
    capacity: dict[str, str | int | float] | None = None,
    annotation: str | None = None,
) -> wire.Node:
    annotations = {} if annotation is None else {ANNOTATION_NODE_CARDS: annotation}
    meta = wire.Meta(name="n", labels=labels or {}, annotations=annotations)
    return wire.Node(metadata=meta, status=wire.NodeStatus(capacity=capacity or {}))


@pytest.mark.parametrize(
    ("labels", "capacity", "slices"),
    [
        ({"nvidia.com/gpu.replicas": "4"}, {}, 4),
        ({"nvidia.com/gpu.replicas": "0"}, {}, 1),
        ({"nvidia.com/gpu.replicas": "many"}, {"nvidia.com/gpu": "16"}, 8),
        ({}, {"nvidia.com/gpu": "16"}, 8),
        ({}, {"nvidia.com/gpu.shared": 6}, 3),
        ({}, {"nvidia.com/gpu": "-3"}, 1),
        ({}, {}, 1),
        pytest.param({"nvidia.com/gpu.replicas": "1"}, {"nvidia.com/gpu": "24"}, 12, id="S10 k8s-device-plugin#732, gfd#76"),
        pytest.param({"nvidia.com/gpu.replicas": "16384"}, {"nvidia.com/gpu": "32768"}, 16384, id="S05 k8s-device-plugin#1433"),
        pytest.param({}, {"nvidia.com/gpu": "32768"}, 16384, id="S05 without labels"),
        pytest.param({"cloud.google.com/gke-max-shared-clients-per-gpu": "3"}, {"nvidia.com/gpu": "6"}, 3, id="N06e GKE"),
        pytest.param({"nvidia.com/gpu.replicas": "4"}, {"nvidia.com/gpu": "4"}, 2, id="what kubelet counts wins over a label"),
        pytest.param({"nvidia.com/gpu.replicas": "4"}, {"nvidia.com/gpu": "5"}, 4, id="an odd number: the label"),
        pytest.param({"nvidia.com/gpu.replicas": "1"}, {"nvidia.com/gpu": "5"}, 3, id="never too few for what is advertised"),
        pytest.param({"nvidia.com/gpu.replicas": "1"}, {"nvidia.com/gpu": "1"}, 1, id="S18 a card withheld from the plugin"),
        pytest.param(
            {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.count": "4"}, {"nvidia.com/gpu": "16"}, 4,
            id="S08 bottlerocket#4418: instances are counted by the label",
        ),
    ],
)  # fmt: skip
def test_slices_come_from_what_the_plugin_advertises_and_from_the_label(
    labels: dict[str, Any], capacity: dict[str, Any], slices: int
) -> None:
    assert slices_of(node(labels, capacity), 2) == slices


def test_while_kubelet_starts_anew_the_devices_are_those_last_known() -> None:
    """kubelet counts 0 of a resource that it has had; found on a real node, where cards became whole ones for a moment."""
    starting = node({}, {"nvidia.com/gpu": "0"})
    inventory = Inventory()
    assert [one.slices for one in published(inventory, reading(0, card()), slices=slices_of(starting, 1))] == [1], (
        "never told"
    )
    assert [
        one.slices
        for one in published(inventory, reading(1, card()), slices=slices_of(node({}, {"nvidia.com/gpu": "4"}), 1))
    ] == [4]
    assert [one.slices for one in published(inventory, reading(2, card()), slices=slices_of(starting, 1))] == [4]
    assert [
        one.slices
        for one in published(inventory, reading(3, card()), slices=slices_of(node({}, {"nvidia.com/gpu": "1"}), 1))
    ] == [1], "unshared"


def test_time_sliced_instances_are_published_as_they_are_advertised() -> None:
    """S08 (bottlerocket#4418): MIG single, four instances by four replicas."""
    labels = {
        "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb-SHARED", "nvidia.com/gpu.count": "4",
        "nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.sharing-strategy": "time-slicing",
    }  # fmt: skip
    parent, model = card("GPU-a", mig=True), "NVIDIA-A100-SXM4-40GB-MIG-1g.5gb"
    kids = [card(f"MIG-{at}", parent="GPU-a", model=model, memory_total_bytes=4864 * 2**20) for at in range(4)]
    devices: dict[str, str | int | float] = {"nvidia.com/gpu": "16"}
    cards = published(Inventory(), reading(0, parent, *kids), slices=slices_of(node(labels, devices), 4))
    described = node(labels, devices, encode_cards(cards))
    described.status.allocatable = devices
    assert [one.slices for one in node_of(described).cards] == [4] * 4


@pytest.mark.parametrize("text", [None, "", "no json", "{}", '[{"id": ""}]'])
def test_an_annotation_that_cannot_be_read_names_no_cards(text: str | None) -> None:
    assert cards_of_annotation(node(annotation=text)) == ()


def test_the_annotation_is_read_back_as_it_was_written() -> None:
    cards = published(Inventory(), reading(0, card("GPU-a"), card("GPU-b", index=1)), ("GPU-b",), slices=2)
    assert cards_of_annotation(node(annotation=encode_cards(cards))) == cards


# Memory that the driver does not tell


def test_unified_memory_is_published_without_a_size_or_with_the_configured_one() -> None:
    """N02 (gpu-operator#1794): NVML has no memory of its own to report for a GB10."""
    gb10 = reading(0, card("GPU-gb10", model="NVIDIA-GB10", memory_total_bytes=Missing.NOT_SUPPORTED))
    assert HealthTracker(60).update(gb10) == {"GPU-gb10": FINE}
    assert published(Inventory(), gb10) == (Card("GPU-gb10", 0, "NVIDIA-GB10", 0),)
    assert published(Inventory(unified_memory_mib=110_000), gb10) == (Card("GPU-gb10", 0, "NVIDIA-GB10", 110_000),)


def test_a_card_that_stops_to_tell_its_memory_keeps_what_it_said() -> None:
    inventory = Inventory(unified_memory_mib=110_000)
    before = published(inventory, reading(0, card()))
    assert published(inventory, reading(5, card(memory_total_bytes=Missing.NOT_SUPPORTED))) == before


# Cards that are not Headroom's to give


@pytest.mark.parametrize("word", ["GPU-b", "1", "NVIDIA T1000 8GB", "nvidia-t1000-8gb"])
def test_an_excluded_card_is_left_to_others(word: str) -> None:
    """S18 (k8s-device-plugin#81, #197, #935)."""
    seen = reading(0, card("GPU-a"), card("GPU-b", index=1, model="NVIDIA-T1000-8GB"))
    assert [one.id for one in published(Inventory(excluded=(word,)), seen)] == ["GPU-a"]


def test_an_excluded_card_stays_in_sight_while_somebody_has_it() -> None:
    inventory = Inventory(excluded=("GPU-b",))
    seen = reading(0, card("GPU-a"), card("GPU-b", index=1))
    for known in (Known(held=frozenset({"GPU-b"})), Known(offered={"GPU-a": 1, "GPU-b": 1})):
        shown = inventory.update(seen, {}, known=known)
        assert [(one.id, one.healthy) for one in shown] == [("GPU-a", True), ("GPU-b", False)]
        assert inventory.reasons == {"GPU-b": Verdict(False, "excluded")}
    assert [one.id for one in inventory.update(seen, {}, known=Known())] == ["GPU-a"]


def test_instances_of_an_excluded_card_are_excluded_with_it() -> None:
    parted = reading(0, card("GPU-a", mig=True), card("MIG-1", parent="GPU-a"), card("GPU-b", index=1))
    assert [one.id for one in published(Inventory(excluded=("GPU-a",)), parted)] == ["GPU-b"]


def test_cards_that_only_drive_a_screen_are_left_out() -> None:
    """S17 (gfd#27)."""
    station = reading(0, card("GPU-a"), card("GPU-d", index=1, model="NVIDIA-DGX-Display"))
    assert [one.id for one in published(Inventory(), station)] == ["GPU-a"]


def test_a_card_withheld_from_the_device_plugin_is_not_published() -> None:
    """S18: eight cards, of which the plugin was given one."""
    inventory = Inventory()
    seen = reading(0, card("GPU-a"), card("GPU-b", index=1))
    assert [one.id for one in inventory.update(seen, {}, known=Known(offered={"GPU-a": 4}))] == ["GPU-a"]
    assert [one.slices for one in inventory.update(seen, {}, known=Known(offered={"GPU-a": 4}))] == [4]


def test_a_card_that_the_device_plugin_no_longer_hands_out_is_withdrawn_and_comes_back() -> None:
    inventory = Inventory()
    seen = reading(0, card("GPU-a"), card("GPU-b", index=1))
    both = Known(offered={"GPU-a": 1, "GPU-b": 1})
    assert all(one.healthy for one in inventory.update(seen, {}, known=both))
    away = inventory.update(seen, {}, known=Known(offered={"GPU-a": 1}))
    assert [(one.id, one.healthy) for one in away] == [("GPU-a", True), ("GPU-b", False)]
    assert inventory.reasons == {"GPU-b": Verdict(False, "withheld")}
    assert all(one.healthy for one in inventory.update(seen, {}, known=both))


# Cards that were replaced


def swapped(at: float, broken: Iterable[BrokenCard] = ()) -> Reading:
    return reading(at, card("GPU-0"), card("GPU-9", index=1), broken=broken)


def test_a_replaced_card_is_forgotten_after_a_day() -> None:
    """N23 (NVSentinel#1585, tensor-fusion#736): GPU-1 was swapped for GPU-9, and the agent restarted."""
    inventory, tracker = Inventory(), HealthTracker(60)
    old = (Card("GPU-0", 0, "L4", 24576), Card("GPU-1", 1, "L4", 24576))
    inventory.expect(old)
    tracker.expect(one.id for one in old)
    for hour in range(24):
        seen = swapped(3600.0 * hour)
        shown = inventory.update(seen, tracker.update(seen))
        assert [(one.id, one.healthy) for one in shown] == [("GPU-0", True), ("GPU-1", False), ("GPU-9", True)]
    shown = inventory.update(swapped(86_400.0), tracker.update(swapped(86_400.0)))
    assert [(one.id, one.healthy) for one in shown] == [("GPU-0", True), ("GPU-9", True)]
    assert inventory.forgotten == ("GPU-1",)
    tracker.forget("GPU-1")
    assert set(tracker.update(swapped(86_405.0))) == {"GPU-0", "GPU-9"}
    assert inventory.update(swapped(86_405.0), {})
    assert inventory.forgotten == ()


def test_a_replaced_card_is_forgotten_at_once_when_somebody_says_so() -> None:
    inventory = Inventory()
    inventory.expect((Card("GPU-1", 1, "L4", 24576),))
    told = Known(replaced=frozenset({"GPU-1", "GPU-0"}))
    assert [one.id for one in inventory.update(swapped(0.0), {}, known=told)] == ["GPU-0", "GPU-9"]


@pytest.mark.parametrize(
    ("seen", "known"),
    [
        pytest.param(swapped(1e9, [BrokenCard(1, "lost", "GPU-1")]), Known(), id="it is there and broken"),
        pytest.param(swapped(1e9, [BrokenCard(1, "unreadable")]), Known(), id="a broken card cannot say its name"),
        pytest.param(swapped(1e9), Known(held=frozenset({"GPU-1"})), id="a pod holds it"),
    ],
)
def test_a_card_that_may_still_be_there_is_not_forgotten(seen: Reading, known: Known) -> None:
    inventory = Inventory()
    inventory.expect((Card("GPU-1", 1, "L4", 24576),))
    inventory.update(replace(seen, at=0.0), {}, known=known)
    assert "GPU-1" in [one.id for one in inventory.update(seen, {}, known=known)]
