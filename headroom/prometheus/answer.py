"""The answer to a query, read one series at a time: thousands of them need not be held at once."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from headroom.prometheus.errors import PrometheusAnswerError

_ODD_KEPT: Final = 100
_PROMQL_NOTES: Final = ("PromQL info", "PromQL warning")
"""How Prometheus' own remarks on an expression begin. The answer is whole all the same."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]
    """(Unix seconds, value), oldest first, at least one; finite values only."""


@dataclass(frozen=True, slots=True)
class OddSeries:
    """One series without a single finite value."""

    labels: Mapping[str, str]
    held: str
    """What it held instead: `NaN`, `+Inf`, `-Inf`, `a native histogram`."""


class _Found(msgspec.Struct):
    """One series as it is sent: a range vector has `values`, an instant vector `value`; native histograms come beside them."""

    metric: dict[str, str]
    value: msgspec.Raw = msgspec.Raw(b"")
    values: msgspec.Raw = msgspec.Raw(b"")
    histogram: msgspec.Raw = msgspec.Raw(b"")
    histograms: msgspec.Raw = msgspec.Raw(b"")


class _Data(msgspec.Struct, rename="camel"):
    result: msgspec.Raw


class _Body(msgspec.Struct, rename="camel"):
    data: _Data
    warnings: list[str] | None = None
    infos: list[str] | None = None
    is_partial: bool = False


_BODY: Final = msgspec.json.Decoder(_Body)
_FOUND: Final = msgspec.json.Decoder(_Found)
_ENTRIES: Final = msgspec.json.Decoder(list[msgspec.Raw])
# Numbers come as text. `+Inf`, which this decoder does not know, is left to the other one.
_POINTS: Final = msgspec.json.Decoder(tuple[tuple[float, float], ...], strict=False)
_SPELT_POINTS: Final = msgspec.json.Decoder(list[tuple[float, str]])
_POINT: Final = msgspec.json.Decoder(tuple[float, str])


class Answer:
    """The series of an answer, read while iterating, so that of thousands only the text is held.

    Series without a single finite value are left out; `odd` tells of them. Iterating raises PrometheusAnswerError for what
    is no query result. `shown` is the server's address as it may be shown.
    """

    def __init__(self, bodies: Sequence[bytes], shown: str) -> None:
        """Raises PrometheusAnswerError when a body is no answer of Prometheus."""
        self._shown = shown
        self._results: list[msgspec.Raw] = []
        self.warnings: tuple[str, ...] = ()
        """Why the answer is not the whole one (a store that is down): its sums may be too low. Empty when it is whole."""
        self.notes: tuple[str, ...] = ()
        """What Prometheus remarks on the expression; the answer is whole."""
        self.dropped_values = 0
        """Values so far that were no finite number."""
        self.odd: list[OddSeries] = []
        """The first hundred series so far without a finite value."""
        for body in bodies:
            self._read(body)

    @property
    def partial(self) -> bool:
        """Whether something is known to be missing."""
        return bool(self.warnings)

    def _read(self, content: bytes) -> None:
        try:
            body = _BODY.decode(content)
        except msgspec.ValidationError as error:
            raise PrometheusAnswerError(f"{self._shown} answered without a result: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PrometheusAnswerError(f"{self._shown} answered something that is not JSON") from error
        self._results.append(body.data.result)
        said = body.warnings or []
        warnings = [text for text in said if not text.startswith(_PROMQL_NOTES)]
        if body.is_partial and not warnings:
            warnings = ["the server says that its answer is partial"]
        notes = [text for text in said if text.startswith(_PROMQL_NOTES)] + (body.infos or [])
        self.warnings = tuple(dict.fromkeys((*self.warnings, *warnings)))
        self.notes = tuple(dict.fromkeys((*self.notes, *notes)))

    def __iter__(self) -> Iterator[Series]:
        try:
            for entry in self.entries():
                series = self._series(_FOUND.decode(entry))
                if series is not None:
                    yield series
        except (msgspec.MsgspecError, ValueError) as error:
            raise PrometheusAnswerError(f"{self._shown} answered something that is no query result: {error}") from error

    def entries(self) -> Iterator[msgspec.Raw]:
        """The series as text: `{"metric": {...}, "values": [[seconds, "value"], ...]}`, or with one `value`.

        For who reads a hundred thousand of them and needs a few labels of each. Raises msgspec.MsgspecError and ValueError.
        """
        for result in self._results:
            entries = _ENTRIES.decode(result)
            if len(entries) == 2 and not bytes(entries[0]).lstrip().startswith(b"{"):
                entries = [msgspec.Raw(b'{"metric":{},"value":' + bytes(result) + b"}")]  # a scalar
            yield from entries

    def _series(self, found: _Found) -> Series | None:
        if found.values:
            points = _points(found.values)
        elif found.value:
            at, value = _POINT.decode(found.value)
            points = ((at, float(value)),)
        elif found.histogram or found.histograms:
            self._note(found.metric, "a native histogram")
            return None
        else:
            raise ValueError("a series without a value")
        finite = tuple([point for point in points if math.isfinite(point[1])])
        self.dropped_values += len(points) - len(finite)
        if not finite:
            self._note(found.metric, _spelt(points[-1][1]) if points else "no value")
            return None
        return Series(found.metric, finite)

    def _note(self, labels: Mapping[str, str], held: str) -> None:
        if len(self.odd) < _ODD_KEPT:
            self.odd.append(OddSeries(labels, held))


def _spelt(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "+Inf" if value > 0 else "-Inf"


def _points(raw: msgspec.Raw) -> tuple[tuple[float, float], ...]:
    try:
        return _POINTS.decode(raw)
    except msgspec.ValidationError:
        return tuple([(at, float(value)) for at, value in _SPELT_POINTS.decode(raw)])
