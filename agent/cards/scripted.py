"""Readings from a file instead of a driver: for nodes without cards (kwok), tests, demonstrations, and replay of a recording.

A script is one frame or several; each is written like the JSON that `headroom agent --once --json` prints, so that a recorded
reading is a script. Frames take effect `at` seconds after the first one, and the last one stays. A file is read again when it
changes. A card that states power but no energy counter gets one, integrated from its power.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from agent.cards.reader import (
    UNKNOWN_ERROR,
    BrokenCard,
    CardReading,
    Fault,
    Missing,
    ProcessUse,
    ReaderError,
    Reading,
    ScriptError,
    missing_fields,
)
from headroom.domain.links import Links, LinksError
from headroom.errors import why
from headroom.units import UnitError, parse_quantity

_POLL_SECONDS: Final = 0.1
_BYTES: Final = {
    entry.name for kind in (CardReading, ProcessUse) for entry in fields(kind) if entry.name.endswith("_bytes")
}
_NAMES: Final = {Missing: {reason.value: reason for reason in Missing}}


@dataclass(frozen=True, slots=True)
class Frame:
    """What a scripted node looks like from `at` seconds on."""

    at: float = 0.0
    driver: str = "scripted"
    driver_lost: str = ""
    """Not empty: nothing can be read, for this reason."""
    cards: tuple[CardReading, ...] = ()
    broken: tuple[BrokenCard, ...] = ()
    faults: tuple[Fault, ...] = ()
    """Told once, when the frame begins."""
    links: Links | None = None
    links_problem: str = ""


@dataclass(slots=True)
class _Meter:
    """An energy counter made from power."""

    joules: float = 0.0
    watts: float = 0.0


@dataclass(slots=True)
class ScriptedReader:
    """Implements `agent.cards.reader.Reader` over frames; `file` is watched when given."""

    frames: tuple[Frame, ...]
    file: Path | None = None
    sleep: Callable[[float], None] = time.sleep
    _started: float | None = None
    _read_at: float = 0.0
    _shown: int = -1
    _stamp: tuple[int, int] = (0, 0)
    _meters: dict[str, _Meter] = field(default_factory=dict)

    @classmethod
    def from_file(cls, file: Path) -> "ScriptedReader":
        """Load a script. Raises ScriptError."""
        reader = cls(load_script(file), file)
        reader._stamp = _stamp(file)
        return reader

    def show(self, *frames: Frame) -> None:
        """Replace the script; its clock starts anew, the energy counters go on."""
        self.frames, self._started, self._shown = frames, None, -1

    def read(self, now: float) -> Reading:
        """See Reader."""
        self._reload()
        if self._started is None:
            self._started = now
        elapsed = now - self._started
        at = max((index for index, frame in enumerate(self.frames) if frame.at <= elapsed), default=0)
        frame = self.frames[at]
        faults = frame.faults if at != self._shown else ()
        self._shown = at
        seconds, self._read_at = max(now - self._read_at, 0.0), now
        for meter in self._meters.values():
            meter.joules += meter.watts * seconds
        if frame.driver_lost:
            raise ReaderError(frame.driver_lost, out_of_reach=UNKNOWN_ERROR in frame.driver_lost)
        cards = tuple(self._metered(card) for card in frame.cards)
        missing = tuple(entry for card in cards for entry in missing_fields(card))
        return Reading(now, cards, frame.broken, faults, frame.driver, frame.links, frame.links_problem, missing)

    def wait(self, seconds: float) -> bool:
        """See Reader. A changed file counts as a fault, so that what it says is seen at once."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.sleep(min(left, _POLL_SECONDS))
            if self.file is not None and _stamp(self.file) != self._stamp:
                return True
        return False

    def close(self) -> None:
        """See Reader."""

    def _reload(self) -> None:
        if self.file is None or (stamp := _stamp(self.file)) == self._stamp:
            return
        try:
            self.show(*load_script(self.file))
        except ScriptError as error:
            raise ReaderError(str(error)) from error
        self._stamp = stamp

    def _metered(self, card: CardReading) -> CardReading:
        if card.energy_millijoules is not _METERED:
            return card
        watts = 0.0 if isinstance(card.power_watts, Missing) else card.power_watts
        meter = self._meters.setdefault(card.id, _Meter())
        meter.watts = watts
        return replace(card, energy_millijoules=int(meter.joules * 1000))


_METERED: Final = -1
"""Stands in a frame for an energy counter that follows the power."""


def load_script(file: Path) -> tuple[Frame, ...]:
    """Frames of a YAML, JSON or JSON-lines file, in order of time. Raises ScriptError."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".jsonl":
            documents = [msgspec.json.decode(line) for line in text.splitlines() if line.strip()]
        else:
            documents = list(yaml.load_all(text, Loader=_LOADER))
    except (OSError, UnicodeDecodeError) as error:
        raise ScriptError(f"{file}: cannot be read: {why(error)}") from error
    except (yaml.YAMLError, msgspec.DecodeError) as error:
        raise ScriptError(f"{file}: is neither YAML nor JSON: {error}") from error
    return parse_script(documents, name=str(file))


def parse_script(documents: Sequence[Any], *, name: str = "script") -> tuple[Frame, ...]:
    """Frames from plain values. Raises ScriptError naming the frame, the field and the value."""
    frames = []
    for number, document in enumerate(document for document in documents if document is not None):
        where = f"{name}: frame {number}"
        if not isinstance(document, dict):
            raise ScriptError(f"{where}: must hold keys and values, not {type(document).__name__}")
        known = {entry.name for entry in fields(Frame)} | {
            "missing"
        }  # a recording lists what was missing; it says so by field too
        if unknown := sorted(map(str, document.keys() - known)):
            raise ScriptError(f"{where}: unknown key {unknown[0]!r}")
        plain = {key: value for key, value in document.items() if key != "missing"}
        if isinstance(plain.get("cards"), list):
            plain["cards"] = [_card(card, f"{where}, card {at}") for at, card in enumerate(plain["cards"])]
        frames.append(_convert(plain, Frame, where))
    if not frames:
        raise ScriptError(f"{name}: holds no frame")
    first = min(frame.at for frame in frames)
    # A recording carries the clock of the machine it was made on.
    return tuple(sorted((replace(frame, at=frame.at - first) for frame in frames), key=lambda frame: frame.at))


def _card(plain: Any, where: str) -> dict[str, Any]:
    card = _sized(plain, where)
    if isinstance(card.get("processes"), list):
        card["processes"] = [_sized(process, f"{where}, process {at}") for at, process in enumerate(card["processes"])]
    if "power_watts" in card and "energy_millijoules" not in card:
        card["energy_millijoules"] = _METERED
    for name in card.keys() - {entry.name for entry in fields(CardReading)}:
        raise ScriptError(f"{where}: unknown key {name!r}")
    return card


def _sized(plain: Any, where: str) -> dict[str, Any]:
    """Bytes may be written as quantities, `40Gi`."""
    if not isinstance(plain, dict):
        raise ScriptError(f"{where}: must hold keys and values, not {type(plain).__name__}")
    sized = dict(plain)
    for key, value in plain.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ScriptError(f"{where}: {key}: {value} is not a number")
        if key not in _BYTES or not isinstance(value, str) or value in _NAMES[Missing]:
            continue
        try:
            sized[key] = math.floor(parse_quantity(value))
        except UnitError as error:
            raise ScriptError(f"{where}: {key}: {error}") from error
    return sized


def _convert(plain: dict[str, Any], kind: type[Frame], where: str) -> Frame:
    try:
        frame = msgspec.convert(plain, kind)
        if frame.links is not None:
            frame.links.check()
    except (msgspec.ValidationError, LinksError) as error:
        raise ScriptError(f"{where}: {error}") from error
    return frame


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
