"""Readings from a file: frames in time, quantities, recordings, changes, and clear words for what is wrong."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cards.reader import Missing, ReaderError, ScriptError
from agent.cards.scripted import ScriptedReader, load_script, parse_script

GIB = 2**30
CARD = {"id": "GPU-a", "index": 0, "model": "L4", "memory_total_bytes": "24Gi"}


def reader_of(*documents: Any) -> ScriptedReader:
    return ScriptedReader(parse_script(documents))


def test_frames_take_their_turn_and_the_last_one_stays() -> None:
    reader = reader_of(
        {"cards": [CARD | {"utilization_ratio": 0.1}]},
        {"at": 10, "cards": [CARD | {"utilization_ratio": 0.9}]},
        {"at": 20, "driver_lost": "driver unloaded"},
    )
    seen = [reader.read(at).cards[0].utilization_ratio for at in (100.0, 109.0, 110.0)]
    assert seen == [0.1, 0.1, 0.9]
    for at in (120.0, 500.0):
        with pytest.raises(ReaderError, match="driver unloaded"):
            reader.read(at)


def test_what_a_script_leaves_out_is_missing_and_not_zero() -> None:
    card = reader_of({"cards": [CARD | {"power_watts": "no_permission"}]}).read(0.0).cards[0]
    assert (card.memory_total_bytes, card.memory_used_bytes) == (24 * GIB, Missing.NOT_SUPPORTED)
    assert card.power_watts is Missing.NO_PERMISSION


def test_energy_follows_power_over_frames_and_outages() -> None:
    reader = reader_of(
        {"cards": [CARD | {"power_watts": 100}]},
        {"at": 10, "driver_lost": "away"},
        {"at": 20, "cards": [CARD | {"power_watts": 50}]},
    )
    energies = [reader.read(at).cards[0].energy_millijoules for at in (0.0, 5.0)]
    with pytest.raises(ReaderError):
        reader.read(10.0)
    energies += [reader.read(at).cards[0].energy_millijoules for at in (20.0, 30.0)]
    assert energies == [0, 500_000, 2_000_000, 2_500_000]


def test_a_stated_counter_is_left_as_it_is() -> None:
    reader = reader_of({"cards": [CARD | {"power_watts": 100, "energy_millijoules": 77}]})
    assert [reader.read(at).cards[0].energy_millijoules for at in (0.0, 9.0)] == [77, 77]


def test_faults_are_told_once() -> None:
    reader = reader_of({"cards": [CARD]}, {"at": 5, "cards": [CARD], "faults": [{"card": "GPU-a", "xid": 79}]})
    assert [len(reader.read(at).faults) for at in (0.0, 5.0, 6.0)] == [0, 1, 0]


def test_a_recording_of_readings_is_a_script(tmp_path: Path) -> None:
    original = reader_of({"cards": [CARD | {"power_watts": 100, "processes": [{"pid": 7, "memory_used_bytes": "1Gi"}]}],
                          "broken": [{"index": 1, "reason": "lost"}]})  # fmt: skip
    readings = [original.read(at) for at in (81_000.0, 81_005.0)]
    file = tmp_path / "recorded.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode(reading) for reading in readings) + b"\n")
    replayed = ScriptedReader(load_script(file))
    for at, reading in zip((3.0, 8.0), readings, strict=True):
        again = replayed.read(at)
        assert (again.cards, again.broken) == (reading.cards, reading.broken)


def test_a_changed_file_ends_the_wait_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "cards.yaml"
    file.write_text("cards: [{id: GPU-a, index: 0, model: L4}]\n")
    reader = ScriptedReader.from_file(file)
    assert len(reader.read(0.0).cards) == 1
    assert reader.wait(0.0) is False
    file.write_text("cards: []\ndriver: changed\n")
    assert reader.wait(5.0) is True
    assert (reader.read(1.0).cards, reader.read(1.0).driver) == ((), "changed")
    file.write_text("cards: [oops\n")
    with pytest.raises(ReaderError, match="neither YAML nor JSON"):
        reader.read(2.0)
    file.write_text("cards: [{id: GPU-b, index: 0, model: L4}]\n")
    assert reader.read(3.0).cards[0].id == "GPU-b"


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("text", "frame 0: must hold keys and values, not str"),
        ({"crads": []}, "frame 0: unknown key 'crads'"),
        ({"cards": ["GPU-a"]}, "card 0: must hold keys and values"),
        ({"cards": [CARD | {"colour": "green"}]}, "card 0: unknown key 'colour'"),
        ({"cards": [CARD | {"memory_total_bytes": "lots"}]}, "memory_total_bytes: 'lots' is not a quantity"),
        ({"cards": [CARD | {"power_watts": "much"}]}, r"cards\[0\].power_watts"),
        ({"cards": [{"index": 0, "model": "L4"}]}, "missing required field `id`"),
        ({"at": "soon"}, r"\$.at"),
    ],
)
def test_what_is_wrong_is_named(document: str | dict[str, Any], words: str) -> None:
    with pytest.raises(ScriptError, match=words):
        parse_script([document])


def test_an_empty_or_absent_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(ScriptError, match=r"empty.yaml: holds no frame"):
        load_script(tmp_path / "empty.yaml")
    with pytest.raises(ScriptError, match=r"absent.yaml: cannot be read"):
        load_script(tmp_path / "absent.yaml")
