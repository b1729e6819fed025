"""Request traces: reading public formats, copies for scale, and the rules for rows that cannot be used.

Formats: `azure` (CSV: TIMESTAMP, ContextTokens, GeneratedTokens), `mooncake` (JSON lines: timestamp in ms, input_length,
output_length, hash_ids), `generic` (CSV with a column for arrival in seconds, prompt and output tokens; names below).
Rows out of order are sorted, rows without a prompt or an output are left out; both are counted and reported. Anything else
that is wrong with a row ends the reading with the line number.
"""

import csv
import gzip
import itertools
import json
import math
import zlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TextIO

from headroom.errors import HeadroomError, why
from simulations.serving.engine.request import Request

FORMATS: Final = ("auto", "azure", "mooncake", "generic")
_ARRIVAL: Final = ("arrival_seconds", "arrival", "timestamp", "time", "arrival_time")
_PROMPT: Final = (
    "prompt_tokens",
    "input_tokens",
    "contexttokens",
    "request tokens",
    "input_length",
    "num_prefill_tokens",
)
_OUTPUT: Final = (
    "output_tokens",
    "generated_tokens",
    "generatedtokens",
    "response tokens",
    "output_length",
    "num_decode_tokens",
)
_LONGEST: Final = 10_000_000  # tokens; more is a broken row, not a request


class TraceError(HeadroomError):
    """A trace that cannot be read; the text names the file, the line and what is wrong."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of arrival; seconds count from the first one. Columns, since a week has millions of them."""

    name: str
    arrival_seconds: Sequence[float]
    prompt_tokens: Sequence[int]
    output_tokens: Sequence[int]
    blocks: Sequence[tuple[int, ...]] = ()
    """Prefix block hashes per request; empty when the trace has none."""
    notes: tuple[str, ...] = field(default=())
    """What was done to rows that could not be used as they were."""

    def __len__(self) -> int:
        return len(self.arrival_seconds)

    @property
    def span_seconds(self) -> float:
        """From the first arrival to the last."""
        return self.arrival_seconds[-1]

    def requests(self, most_tokens: float = math.inf) -> Iterator[Request]:
        """Fresh requests for one run, one at a time; those of more than `most_tokens` (prompt and output) are left out."""
        columns = (self.arrival_seconds, self.prompt_tokens, self.output_tokens)
        made = map(Request, *columns, self.blocks) if self.blocks else map(Request, *columns)
        if math.isinf(most_tokens):
            return made
        return (request for request in made if request.prompt_tokens + request.output_tokens <= most_tokens)

    def servable(self, most_tokens: float) -> int:
        """How many requests have at most so many tokens."""
        both = zip(self.prompt_tokens, self.output_tokens, strict=True)
        return sum(prompt + output <= most_tokens for prompt, output in both)

    def copies(self, count: int, shift_seconds: float) -> "Trace":
        """The trace laid over itself, each copy `shift_seconds` later than the one before, its end wrapped round to the start.

        More load of the same shape, without a ramp while the copies set in.
        """
        if count == 1:
            return self
        span = self.span_seconds
        rows = sorted(
            ((time + copy * shift_seconds) % span if span else 0.0, copy, at)
            for copy in range(count)
            for at, time in enumerate(self.arrival_seconds)
        )
        start = rows[0][0]
        return replace(
            self,
            name=f"{self.name} x{count}",
            arrival_seconds=array("d", [row[0] - start for row in rows]),
            prompt_tokens=array("l", [self.prompt_tokens[row[2]] for row in rows]),
            output_tokens=array("l", [self.output_tokens[row[2]] for row in rows]),
            blocks=tuple(_own(self.blocks[row[2]], row[1]) for row in rows) if self.blocks else (),
        )

    def part(self, start_seconds: float, duration_seconds: float) -> "Trace":
        """The requests of a stretch of time, counted from its own first arrival. Raises TraceError when it holds none."""
        end = start_seconds + duration_seconds
        kept = [at for at, time in enumerate(self.arrival_seconds) if start_seconds <= time < end]
        if not kept:
            raise TraceError(f"{self.name}: no request arrives between {start_seconds:g} s and {end:g} s")
        first = self.arrival_seconds[kept[0]]
        return replace(
            self,
            arrival_seconds=array("d", [self.arrival_seconds[at] - first for at in kept]),
            prompt_tokens=array("l", [self.prompt_tokens[at] for at in kept]),
            output_tokens=array("l", [self.output_tokens[at] for at in kept]),
            blocks=tuple(self.blocks[at] for at in kept) if self.blocks else (),
        )


def _own(blocks: tuple[int, ...], copy: int) -> tuple[int, ...]:
    """Hashes of a copy: other users, so prefixes are not shared between copies."""
    return tuple(block * 1024 + copy for block in blocks)


Row = tuple[float, int, int, tuple[int, ...]]


def read_trace(path: Path, form: str = "auto") -> Trace:
    """Read a trace file, gzip or plain. Raises TraceError."""
    try:
        with _open(path) as file:
            first = file.readline()
            file.seek(0)
            rows, dropped = _read(file, _detect(first, path) if form == "auto" else form, path)
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise TraceError(f"cannot read {path}: {why(error)}") from error
    if not rows:
        raise TraceError(
            f"{path} holds no usable request"
            + (f" ({dropped} rows without prompt or output tokens)" if dropped else "")
        )
    disorder = sum(later[0] < earlier[0] for earlier, later in itertools.pairwise(rows))
    if disorder:
        rows.sort(key=lambda row: row[0])
    notes = []
    if dropped:
        notes.append(f"{dropped} rows without prompt or output tokens were left out")
    if disorder:
        notes.append(f"{disorder} rows were out of order; the trace was sorted by arrival")
    start = rows[0][0]
    name = path.name
    for suffix in (".gz", ".csv", ".jsonl", ".json"):
        name = name.removesuffix(suffix)
    return Trace(
        name=name,
        arrival_seconds=array("d", [row[0] - start for row in rows]),
        prompt_tokens=array("l", [row[1] for row in rows]),
        output_tokens=array("l", [row[2] for row in rows]),
        blocks=tuple(row[3] for row in rows) if any(row[3] for row in rows) else (),
        notes=tuple(notes),
    )


def _open(path: Path) -> TextIO:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    if packed:
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _detect(first: str, path: Path) -> str:
    if first.lstrip().startswith("{"):
        return "mooncake"
    names = [name.strip().lower() for name in first.split(",")]
    if "contexttokens" in names and "timestamp" in names:
        return "azure"
    if not first.strip():
        raise TraceError(f"{path} is empty")
    return "generic"


def _read(file: TextIO, form: str, path: Path) -> tuple[list[Row], int]:
    source = _json_rows(file, path) if form == "mooncake" else _csv_rows(file, form, path)
    rows: list[Row] = []
    dropped = 0
    for row in source:
        if row[1] <= 0 or row[2] <= 0:
            dropped += 1
        else:
            rows.append(row)
    return rows, dropped


def _csv_rows(file: TextIO, form: str, path: Path) -> Iterator[Row]:
    reader = csv.reader(file)
    header = [name.strip().lower() for name in next(reader, [])]
    if form == "azure":
        columns = [_column(header, (name,), path) for name in ("timestamp", "contexttokens", "generatedtokens")]
        clock: Callable[[str], float] = _stamp
    else:
        columns = [_column(header, names, path) for names in (_ARRIVAL, _PROMPT, _OUTPUT)]
        clock = _seconds_or_stamp
    time_at, prompt_at, output_at = columns
    for row in reader:
        if not row:
            continue
        try:
            yield clock(row[time_at]), _tokens(row[prompt_at]), _tokens(row[output_at]), ()
        except (ValueError, IndexError) as error:
            raise TraceError(f"{path}, line {reader.line_num}: {_why(error, row)}") from error


def _why(error: Exception, row: object) -> str:
    return f"too few columns in {row!r}" if isinstance(error, IndexError) else f"{error} in {row!r}"


def _column(header: list[str], names: tuple[str, ...], path: Path) -> int:
    for name in names:
        if name in header:
            return header.index(name)
    raise TraceError(f"{path} has no column {' or '.join(names)}; its columns are {', '.join(header) or 'none'}")


def _stamp(text: str) -> float:
    return datetime.fromisoformat(text.strip()).timestamp()


def _seconds_or_stamp(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return _stamp(text)
    if not math.isfinite(value):
        raise ValueError(f"time {text!r} is not finite")
    return value


def _tokens(text: str) -> int:
    value = float(text)
    if not math.isfinite(value) or value != int(value) or abs(value) > _LONGEST:
        raise ValueError(f"{text!r} is not a number of tokens")
    return int(value)


def _json_rows(file: TextIO, path: Path) -> Iterator[Row]:
    for line_number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {line_number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise TraceError(f"{where}: not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise TraceError(f"{where}: not an object")
        hashes = entry.get("hash_ids", [])
        if not isinstance(hashes, list) or not all(isinstance(block, int) for block in hashes):
            raise TraceError(f"{where}: hash_ids must be a list of whole numbers")
        yield (
            _field(entry, "timestamp", where) / 1000,
            _tokens_of(entry, "input_length", where),
            _tokens_of(entry, "output_length", where),
            tuple(hashes),
        )


def _field(entry: dict[str, Any], name: str, where: str) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TraceError(f"{where}: {name} must be a number, not {value!r}")
    return float(value)


def _tokens_of(entry: dict[str, Any], name: str, where: str) -> int:
    try:
        return _tokens(str(_field(entry, name, where)))
    except ValueError as error:
        raise TraceError(f"{where}: {name}: {error}") from error
