"""The real `pynvml` path against the stub library: what is read, what is missing, and every way in which NVML fails."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.stub_nvml import stub_nvml

GIB = 2**30
NOT_SUPPORTED, NO_PERMISSION, UNKNOWN = 3, 4, 999
UNINITIALIZED, NOT_FOUND, DRIVER_NOT_LOADED, GPU_IS_LOST, RESET_REQUIRED = 1, 6, 9, 15, 16


@pytest.fixture
def stub(library: Path) -> Iterator[Any]:
    loaded = stub_nvml.Stub(library)
    loaded("reset", "cards 2")
    yield loaded
    loaded("reset")


@pytest.fixture
def slept() -> list[float]:
    """How long the reader has slept, each time."""
    return []


@pytest.fixture
def reader(stub: Any, slept: list[float]) -> Iterator[Any]:
    from agent.cards.nvml import NvmlReader

    one = NvmlReader(sleep=slept.append)
    yield one
    one.close()


def card(reading: Any, index: int = 0) -> Any:
    return next(card for card in reading.cards if card.index == index and not card.parent)


def test_a_reading_holds_what_the_driver_says(stub: Any, reader: Any) -> None:
    stub(
        "card 0 used 1073741824", "card 0 util 40", "card 0 memutil 20", "card 0 power 250500", "card 0 energy 123456789",
        "card 0 temp 61", "card 0 process 77 536870912 30", "card 0 process 78 268435456 10",
    )  # fmt: skip
    reading = reader.read(5.0)
    first = card(reading)
    assert (reading.at, reading.driver, len(reading.cards), reading.broken) == (5.0, "550.54.15", 2, ())
    assert (first.id, first.model) == ("GPU-00000000-0000-0000-0000-000000000000", "NVIDIA-A100-SXM4-80GB")
    assert (first.memory_total_bytes, first.memory_reserved_bytes, first.memory_used_bytes) == (
        80 * GIB,
        600 * 2**20,
        GIB,
    )
    assert (first.utilization_ratio, first.memory_utilization_ratio) == (0.4, 0.2)
    assert (first.power_watts, first.energy_millijoules, first.temperature_celsius) == (250.5, 123456789, 61.0)
    assert first.sm_ratio == pytest.approx(0.4)
    assert [(process.pid, process.memory_used_bytes, process.sm_ratio) for process in first.processes] == [
        (77, 536870912, 0.3),
        (78, 268435456, 0.1),
    ]
    assert reading.missing == ()


FIELDS = [
    ("total", "memory_total_bytes"),
    ("memory_v2", "memory_reserved_bytes"),
    ("util", "utilization_ratio"),
    ("power", "power_watts"),
    ("limit", "power_limit_watts"),
    ("energy", "energy_millijoules"),
    ("temp", "temperature_celsius"),
    ("ecc", "ecc_uncorrected"),
    ("pending", "row_remap_broken"),
    ("mig", "mig"),
    ("sm", "sm_ratio"),
]


@pytest.mark.parametrize(
    ("code", "why"), [(NOT_SUPPORTED, "not_supported"), (NO_PERMISSION, "no_permission"), (UNKNOWN, "failed")]
)
@pytest.mark.parametrize(("call", "field"), FIELDS)
def test_a_failing_call_makes_its_field_missing_and_no_other(
    stub: Any, reader: Any, call: str, field: str, code: int, why: str
) -> None:
    stub(f"card 0 fail {call} {code}")
    reading = reader.read(0.0)
    assert getattr(card(reading), field) == why
    expected = {
        "util": {"utilization_ratio", "memory_utilization_ratio"},
        "total": {"memory_total_bytes", "memory_reserved_bytes", "memory_used_bytes", "memory_free_bytes"},
    }.get(call, {field})
    assert {name for _, name, _ in reading.missing} == expected
    assert {card_id for card_id, _, _ in reading.missing} == {card(reading).id}


def test_processes_are_missing_only_when_no_list_can_be_had(stub: Any, reader: Any) -> None:
    stub("card 0 process 77 536870912 30", "card 0 fail graphics 3")
    assert [process.pid for process in card(reader.read(0.0)).processes] == [77]
    stub("card 0 fail processes 3", "card 0 fail mps 3")
    assert card(reader.read(0.0)).processes == "not_supported"


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("card 0 energy 18446744073709551615", "energy_millijoules"),
        ("card 0 energy 9223372036854775794", "energy_millijoules"),  # the mark that DCGM passes on
        ("card 0 ecc 18446744073709551615", "ecc_uncorrected"),
        ("card 0 power 4294967295", "power_watts"),
        ("card 0 util 4294967295", "utilization_ratio"),
        ("card 0 temp 4294967295", "temperature_celsius"),
    ],
)
def test_a_mark_for_no_value_is_not_a_value(stub: Any, reader: Any, line: str, field: str) -> None:
    stub(line)
    assert getattr(card(reader.read(0.0)), field) == "not_available"


def test_a_process_without_a_known_amount_is_still_a_process(stub: Any, reader: Any) -> None:
    stub("card 0 process 77 18446744073709551615 30")
    (process,) = card(reader.read(0.0)).processes
    assert (process.pid, process.memory_used_bytes) == (77, "not_available")


def test_drivers_without_the_second_memory_call_count_the_reserve_as_used(stub: Any, reader: Any) -> None:
    stub("card 0 used 1073741824", f"card 0 fail memory_v2 {NOT_SUPPORTED}")
    first = card(reader.read(0.0))
    assert (first.memory_reserved_bytes, first.memory_used_bytes) == ("not_supported", GIB + 600 * 2**20)


@pytest.mark.parametrize(("code", "reason"), [(GPU_IS_LOST, "lost"), (28, "lost"), (RESET_REQUIRED, "reset_required")])
def test_a_card_off_the_bus_is_broken_and_the_others_are_read(stub: Any, reader: Any, code: int, reason: str) -> None:
    before = card(reader.read(0.0)).id
    stub(f"card 0 fail all {code}")
    reading = reader.read(1.0)
    assert [(broken.index, broken.id, broken.reason) for broken in reading.broken] == [(0, before, reason)]
    assert [one.index for one in reading.cards] == [1]
    stub("card 0 fail all 0")
    assert len(reader.read(2.0).cards) == 2


def test_a_card_without_an_identity_is_broken(stub: Any, reader: Any) -> None:
    stub(f"card 1 fail uuid {UNKNOWN}")
    reading = reader.read(0.0)
    assert [(broken.index, broken.reason) for broken in reading.broken] == [(1, "unreadable")]


@pytest.mark.parametrize("code", [UNINITIALIZED, DRIVER_NOT_LOADED, 18])
def test_a_lost_driver_is_said_and_found_again(stub: Any, reader: Any, code: int) -> None:
    from agent.cards.reader import ReaderError

    reader.read(0.0)
    stub(f"driver {code}")
    for at in (1.0, 2.0):
        with pytest.raises(ReaderError, match="NVML"):
            reader.read(at)
    stub("driver 0")
    assert len(reader.read(3.0).cards) == 2


def test_mig_instances_are_cards_of_their_own(stub: Any, reader: Any) -> None:
    stub(
        "card 0 mig 1",
        "card 0 process 77 1024 0",
        f"card 0 instance MIG-a {40 * GIB} {GIB}",
        f"card 0 instance MIG-b {20 * GIB} 0",
    )
    reading = reader.read(0.0)
    parent = card(reading)
    assert (parent.mig, parent.allocatable, parent.processes) == (True, False, ())
    instances = [(one.id, one.memory_total_bytes, one.parent, one.allocatable) for one in reading.cards if one.parent]
    assert instances == [("MIG-a", 40 * GIB, parent.id, True), ("MIG-b", 20 * GIB, parent.id, True)]


def test_a_critical_xid_ends_the_wait_and_is_in_the_next_reading_once(stub: Any, reader: Any) -> None:
    first = card(reader.read(0.0)).id
    assert reader.wait(0.01) is False
    stub("event 0 8 79")
    assert reader.wait(5.0) is True
    assert [(fault.card, fault.xid) for fault in reader.read(1.0).faults] == [(first, 79)]
    assert reader.read(2.0).faults == ()


def test_a_card_that_knows_only_some_events_is_still_listened_to(stub: Any, reader: Any) -> None:
    stub("card 0 eventtypes 8", "card 1 eventtypes 0")
    reader.read(0.0)
    stub("event 0 8 48")
    assert reader.wait(5.0) is True
    assert [fault.xid for fault in reader.read(1.0).faults] == [48]


def test_waiting_goes_on_where_events_are_not_supported(stub: Any, reader: Any, slept: list[float]) -> None:
    stub("card 0 fail events 3", "card 1 fail events 3")
    reader.read(0.0)
    assert reader.wait(0.5) is False
    assert slept == [0.5]


def test_the_mean_share_of_a_process_is_of_new_samples_only(stub: Any, reader: Any) -> None:
    stub("card 0 process 77 1024 30")
    reader.read(0.0)
    stub("card 0 noprocesses", "card 0 process 77 1024 90")
    assert card(reader.read(1.0)).processes[0].sm_ratio == pytest.approx(0.9)


def test_a_reading_faster_than_the_sampling_keeps_the_last_share(stub: Any, library: Path) -> None:
    """The driver takes a sample of one process at a time, up to a second apart: no new one is not idle. After a while it is."""
    from agent.cards.nvml import NvmlReader

    clock = [0.0]
    reader = NvmlReader(sleep=lambda _: None, wall=lambda: clock[0])

    def read(at: float) -> Any:
        clock[0] = at
        return card(reader.read(at))

    stub("card 0 process 77 1024 30")
    assert read(0.0).processes[0].sm_ratio == pytest.approx(0.3)
    stub(f"card 0 fail sm {NOT_FOUND}")
    assert read(0.5).processes[0].sm_ratio == pytest.approx(0.3)
    assert read(1.9).sm_ratio == pytest.approx(0.3)
    assert read(2.5).processes[0].sm_ratio == 0.0
    reader.close()


def test_the_energy_counter_is_read_at_its_own_pace(stub: Any) -> None:
    """One call takes three quarters of a reading's time on a real card."""
    from agent.cards.nvml import NvmlReader

    reader = NvmlReader(sleep=lambda _: None, energy_seconds=30.0)
    seen = []
    for at in (0.0, 5.0, 29.0, 30.0, 35.0):
        stub(f"card 0 energy {1000 + int(at)}")
        one = card(reader.read(at))
        seen.append((one.energy_at, one.energy_millijoules))
    assert seen == [(0.0, 1000), (0.0, 1000), (0.0, 1000), (30.0, 1030), (30.0, 1030)]
    reader.close()


def test_a_clock_that_is_set_back_does_not_make_the_card_look_idle(stub: Any) -> None:
    from agent.cards.nvml import NvmlReader
    from agent.cards.reader import Missing

    wall = iter([10.0, 10.0, -10.0, -10.0, 10.0, 10.0])  # the stub's samples carry times just above 0
    reader = NvmlReader(sleep=lambda _: None, wall=lambda: next(wall))
    stub("card 0 process 77 1024 30")
    assert card(reader.read(0.0)).sm_ratio == pytest.approx(0.3)
    after = card(reader.read(1.0))
    assert (after.sm_ratio, after.processes[0].sm_ratio) == (Missing.NOT_AVAILABLE, Missing.NOT_AVAILABLE)
    stub("card 0 noprocesses", "card 0 process 77 1024 90")
    assert card(reader.read(2.0)).sm_ratio == pytest.approx(0.9)
    reader.close()


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_reads_once_in_a_process_of_its_own(library: Path, tmp_path: Path, as_json: bool) -> None:
    script = tmp_path / "cards.txt"
    script.write_text("reset\ncards 2\ncard 1 process 4321 1073741824 40\ncard 1 fail power 3\n")
    result = _agent(library, script, "--once", *(["--json"] if as_json else []))
    assert result.returncode == 0, result.stderr
    if as_json:
        reading = msgspec.json.decode(result.stdout)
        assert reading["cards"][1]["power_watts"] == "not_supported"
        assert reading["cards"][1]["processes"][0]["pid"] == 4321
    else:
        assert "power_watts: not_supported" in result.stdout
        assert "process 4321  1.0 GiB  no pod" in result.stdout


def test_the_command_says_that_the_driver_is_missing(library: Path, tmp_path: Path) -> None:
    script = tmp_path / "cards.txt"
    script.write_text(f"driver {DRIVER_NOT_LOADED}\n")
    result = _agent(library, script, "--once")
    assert (result.returncode, result.stdout) == (1, "")
    assert "error: NVML: Driver Not Loaded" in result.stderr


def _agent(library: Path, script: Path, *flags: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"LD_LIBRARY_PATH": str(library.parent), "STUB_NVML_SCRIPT": str(script)}
    command = [sys.executable, "-m", "headroom", "agent", *flags]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_says_that_the_library_cannot_be_loaded(tmp_path: Path) -> None:
    broken = tmp_path / stub_nvml.SONAME
    broken.write_text("no library")
    result = _agent(broken, tmp_path / "none", "--once")
    assert (result.returncode, result.stdout) == (1, "")
    assert "error: NVML: NVML Shared Library Not Found" in result.stderr


def test_an_identity_that_is_no_text_is_none(stub: Any, reader: Any) -> None:
    assert stub._library.stub_apply(b"card 0 uuid \xff\xfe") == 0
    reading = reader.read(0.0)
    assert [(broken.index, broken.reason) for broken in reading.broken] == [(0, "unreadable")]
    assert len(reading.cards) == 1


def test_closing_while_a_call_hangs_leaves_the_library_alone(
    stub: Any, reader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cards.nvml._PATIENCE_SECONDS", 0.01)
    reader.read(0.0)
    with reader._in_driver:
        reader.close()
    assert reader._started
    reader.close()
    assert not reader._started


def test_a_card_lost_while_waiting_ends_the_wait(stub: Any, reader: Any) -> None:
    reader.read(0.0)
    stub(f"card 1 fail all {GPU_IS_LOST}")
    assert reader.wait(5.0) is True
    assert [broken.index for broken in reader.read(1.0).broken] == [1]
    # The lost card does not wake the agent again and again, and the other one still does.
    assert reader.wait(0.01) is False
    stub("event 0 8 79")
    assert reader.wait(5.0) is True
    assert [fault.xid for fault in reader.read(2.0).faults] == [79]
