"""On a machine with an NVIDIA card: the readings of the real driver. Run with `-m gpu`; left out everywhere else."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cards.reader import Missing
from agent.cards.scripted import ScriptedReader, load_script

pytestmark = pytest.mark.gpu


@pytest.fixture
def reading() -> Iterator[Any]:
    from agent.cards.nvml import NvmlReader

    reader = NvmlReader()
    yield reader.read(0.0)
    reader.close()


def test_the_driver_names_its_cards_and_their_memory(reading: Any) -> None:
    assert reading.driver
    assert reading.broken == ()
    for card in reading.cards:
        assert card.id.startswith(("GPU-", "MIG-"))
        assert not isinstance(card.memory_total_bytes, Missing)
        assert 0 <= card.memory_used_bytes <= card.memory_total_bytes
        assert " " not in card.model


def test_readings_are_sane_or_missing(reading: Any) -> None:
    for card in reading.cards:
        if not isinstance(card.utilization_ratio, Missing):
            assert 0 <= card.utilization_ratio <= 1
        if not isinstance(card.power_watts, Missing):
            assert 1 < card.power_watts < 2000


def test_a_process_on_the_card_is_seen(reading: Any) -> None:
    assert all(not isinstance(card.processes, Missing) for card in reading.cards if card.mig is not True)


def test_a_recording_of_the_card_can_be_replayed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headroom", "agent", "--once", "--json"]
    recorded = subprocess.run(command, capture_output=True, check=True, env=os.environ, timeout=60).stdout
    (tmp_path / "card.json").write_bytes(recorded)
    replayed = ScriptedReader(load_script(tmp_path / "card.json")).read(0.0)
    assert len(replayed.cards) == len(msgspec.json.decode(recorded)["cards"])


BURNER = Path(__file__).with_name("burner.py")
WATCH_SECONDS = 30
SMALL, LARGE = (2048, 0.25), (4096, 0.75)


@pytest.fixture
def burners() -> Iterator[Any]:
    """Two processes of known size (MiB) and duty on the first card, both at work."""
    started = []
    for mib, duty in (SMALL, LARGE):
        command = [sys.executable, str(BURNER), str(mib), str(duty), str(WATCH_SECONDS + 30)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield started
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.timeout(180)
def test_two_processes_are_attributed_by_size_and_duty(burners: Any) -> None:
    """Memory by process to within what a context takes; time on the card about one to three, over half a minute."""
    from agent.cards.nvml import NvmlReader

    reader: Any = NvmlReader()
    shares: tuple[list[float], list[float]] = ([], [])
    pids = [process.pid for process in burners]
    end = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < end:
        processes = {process.pid: process for process in reader.read(time.monotonic()).cards[0].processes}
        for at, (pid, (mib, _)) in enumerate(zip(pids, (SMALL, LARGE), strict=True)):
            assert mib <= processes[pid].memory_used_bytes / 2**20 <= mib + 1024
            shares[at].append(processes[pid].sm_ratio)
        time.sleep(1.0)
    reader.close()
    small, large = (sum(values) / len(values) for values in shares)
    print(f"share of the multiprocessors: {small:.2f} and {large:.2f} for duties of {SMALL[1]} and {LARGE[1]}")
    assert 2.0 <= large / small <= 4.5


@pytest.mark.timeout(180)
def test_readings_faster_than_the_sampling_never_look_idle(burners: Any) -> None:
    from agent.cards.nvml import NvmlReader

    reader: Any = NvmlReader()
    busy = burners[1].pid
    reader.read(0.0)
    time.sleep(3.0)
    seen = []
    for at in range(40):
        (process,) = [one for one in reader.read(3.0 + at * 0.05).cards[0].processes if one.pid == busy]
        seen.append(process.sm_ratio)
        time.sleep(0.05)
    reader.close()
    assert min(seen) > 0.0


def test_a_reading_is_quick_where_the_energy_counter_is_not_asked(reading: Any) -> None:
    """Printed for the documentation; the counter took three quarters of a reading on an H200."""
    from agent.cards.nvml import NvmlReader

    for pace in (0.0, 1e9):
        reader = NvmlReader(energy_seconds=pace)
        reader.read(0.0)
        began = time.perf_counter()
        for at in range(20):
            reader.read(1.0 + at)
        print(
            f"one reading, energy asked {'each time' if not pace else 'once'}: {(time.perf_counter() - began) / 20 * 1e3:.2f} ms"
        )
        reader.close()
    assert reading.cards
