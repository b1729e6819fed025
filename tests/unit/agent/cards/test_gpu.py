"""On a machine with an NVIDIA card: the readings of the real driver. Run with `-m gpu`; left out everywhere else."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agent.cards.reader import Missing
from agent.cards.scripted import ScriptedReader, load_script

pytestmark = pytest.mark.gpu


@pytest.fixture
def reading():
    from agent.cards.nvml import NvmlReader

    reader = NvmlReader()
    yield reader.read(0.0)
    reader.close()


def test_the_driver_names_its_cards_and_their_memory(reading) -> None:
    assert reading.driver
    assert reading.broken == ()
    for card in reading.cards:
        assert card.id.startswith(("GPU-", "MIG-"))
        assert not isinstance(card.memory_total_bytes, Missing)
        assert 0 <= card.memory_used_bytes <= card.memory_total_bytes
        assert " " not in card.model


def test_readings_are_sane_or_missing(reading) -> None:
    for card in reading.cards:
        if not isinstance(card.utilization_ratio, Missing):
            assert 0 <= card.utilization_ratio <= 1
        if not isinstance(card.power_watts, Missing):
            assert 1 < card.power_watts < 2000


def test_a_process_on_the_card_is_seen(reading) -> None:
    assert all(not isinstance(card.processes, Missing) for card in reading.cards if card.mig is not True)


def test_a_recording_of_the_card_can_be_replayed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "headroom", "agent", "--once", "--json"]
    recorded = subprocess.run(command, capture_output=True, check=True, env=os.environ, timeout=60).stdout
    (tmp_path / "card.json").write_bytes(recorded)
    replayed = ScriptedReader(load_script(tmp_path / "card.json")).read(0.0)
    assert len(replayed.cards) == len(msgspec.json.decode(recorded)["cards"])
