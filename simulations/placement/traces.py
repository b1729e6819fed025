"""Reads node and pod lists in the columns of the openb traces (Alibaba cluster-trace-gpu-v2023), CSV or CSV.gz.

A card's capacity is 1,000 "MiB" here, one per thousandth: the traces state shares of a card and know nothing of memory.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from headroom.domain.model import Card, GpuNode, GpuRequest
from headroom.errors import HeadroomError

CARD_UNITS: Final = 1000
_NODE_COLUMNS: Final = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS: Final = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
_MOST_CARDS: Final = 64  # of one node: far above any machine, far below a typing error
_MOST_CPU_MILLI: Final = 10_000_000
_MOST_MEMORY_MIB: Final = 1_000_000_000


class TraceError(HeadroomError):
    """A list that cannot be used; the text names file, row and column."""

    def __init__(self, path: Path, problem: str, *, row: int | None = None, column: str = "") -> None:
        place = "".join([f", row {row}" if row is not None else "", f", column {column}" if column else ""])
        super().__init__(f"{path}{place}: {problem}")


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a list. `lifetime_seconds` is None for a pod that stays.

    `asked_units` says how much GPU it asks for in the fleet's unit (MiB, or thousandths of a card); None: from the request.
    """

    name: str
    request: GpuRequest
    lifetime_seconds: float | None = None
    asked_units: float | None = None

    @property
    def units(self) -> float:
        """What the pod asks for in total, in the fleet's unit."""
        return self.request.count * self.request.milli if self.asked_units is None else self.asked_units


def read_nodes(path: Path) -> list[GpuNode]:
    """The nodes of a list, in file order. Raises TraceError."""
    nodes: dict[str, GpuNode] = {}
    for row in _rows(path, _NODE_COLUMNS):
        name = row.text("sn")
        if name in nodes:
            raise row.error("sn", f"the name {name!r} occurs twice")
        count = row.number("gpu", _MOST_CARDS)
        model = row.text("model") if count else ""
        nodes[name] = GpuNode(
            name=name,
            cards=tuple(Card(id=str(index), index=index, model=model, vram_mib=CARD_UNITS) for index in range(count)),
            cpu_milli=row.number("cpu_milli", _MOST_CPU_MILLI),
            memory_mib=row.number("memory_mib", _MOST_MEMORY_MIB),
        )
    if not any(node.cards for node in nodes.values()):
        raise TraceError(path, "no node has a GPU")
    return list(nodes.values())


def read_pods(path: Path, nodes: list[GpuNode]) -> list[Pod]:
    """The pods of a list, in file order. Raises TraceError.

    A pod larger than any node is an error; one that is only too large for the nodes of its own models is not: the
    published lists have such pods, and count them as failed.
    """
    models = {card.model for node in nodes for card in node.cards}
    shapes = {(len(node.cards), node.cpu_milli, node.memory_mib) for node in nodes}
    pods: dict[str, Pod] = {}
    checked: set[GpuRequest] = set()
    for row in _rows(path, _POD_COLUMNS):
        pod = _pod(row, models)
        if pod.name in pods:
            raise row.error("name", f"the name {pod.name!r} occurs twice")
        if pod.request not in checked:
            _check_size(row, pod.request, shapes)
            checked.add(pod.request)
        pods[pod.name] = pod
    if not any(pod.request.count for pod in pods.values()):
        raise TraceError(path, "no pod asks for a GPU")
    return list(pods.values())


def _pod(row: "_Row", models: set[str]) -> Pod:
    count = row.number("num_gpu", _MOST_CARDS)
    milli = row.number("gpu_milli", CARD_UNITS)
    if count and not milli:
        raise row.error("gpu_milli", "is 0 although num_gpu is not")
    if count > 1 and milli != CARD_UNITS:
        raise row.error("gpu_milli", f"is {milli}; a pod on several cards takes whole ones ({CARD_UNITS})")
    wanted = frozenset(filter(None, row.optional("gpu_spec").split("|")))
    for model in sorted(wanted - models):
        raise row.error("gpu_spec", f"no node has cards of model {model!r}; known: {', '.join(sorted(models))}")
    created, deleted = row.seconds("creation_time"), row.seconds("deletion_time")
    if created is not None and deleted is not None and deleted < created:
        raise row.error("deletion_time", f"{deleted:g} is before creation_time {created:g}")
    return Pod(
        name=row.text("name"),
        request=GpuRequest(
            count=count,
            milli=milli if count else 0,
            cpu_milli=row.number("cpu_milli", _MOST_CPU_MILLI),
            memory_mib=row.number("memory_mib", _MOST_MEMORY_MIB),
            models=wanted if count else frozenset(),
        ),
        lifetime_seconds=None if created is None or deleted is None else deleted - created,
    )


def _check_size(row: "_Row", request: GpuRequest, shapes: set[tuple[int, int, int]]) -> None:
    for cards, cpu_milli, memory_mib in shapes:
        if cards >= request.count and cpu_milli >= request.cpu_milli and memory_mib >= request.memory_mib:
            return
    raise row.error("", "the pod is larger than any node")


class _Row:
    """One data row with typed access; row numbers count the header as row 1, as an editor shows them."""

    def __init__(self, path: Path, number: int, values: dict[str, str]) -> None:
        self._path, self._number, self._values = path, number, values

    def error(self, column: str, problem: str) -> TraceError:
        return TraceError(self._path, problem, row=self._number, column=column)

    def optional(self, column: str) -> str:
        return (self._values.get(column) or "").strip()

    def text(self, column: str) -> str:
        value = self.optional(column)
        if not value:
            raise self.error(column, "is empty")
        return value

    def number(self, column: str, largest: int) -> int:
        text = self.text(column)
        try:
            value = int(text)
        except ValueError:
            raise self.error(column, f"{text!r} is not a whole number") from None
        if not 0 <= value <= largest:
            raise self.error(column, f"{value} is not within 0..{largest}")
        return value

    def seconds(self, column: str) -> float | None:
        text = self.optional(column)
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            raise self.error(column, f"{text!r} is not a number of seconds") from None
        if not 0 <= value < float("inf"):
            raise self.error(column, f"{text} is not a time of 0 seconds or later")
        return value


def _rows(path: Path, required: tuple[str, ...]) -> Iterator[_Row]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), restval="", restkey="")
    missing = [column for column in required if column not in (reader.fieldnames or ())]
    if missing:
        raise TraceError(path, f"no column {missing[0]!r} in the header", row=1)
    empty = True
    try:
        for values in reader:
            empty = False
            if "" in values:
                raise TraceError(path, "has more values than the header has columns", row=reader.line_num)
            yield _Row(path, reader.line_num, values)
    except csv.Error as error:
        raise TraceError(path, f"is not CSV ({error})", row=reader.line_num) from error
    if empty:
        raise TraceError(path, "has no rows")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TraceError(path, error.strerror or "cannot be read") from error
    if path.suffix == ".gz" or data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(path, f"is not readable gzip ({error})") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TraceError(path, "is not UTF-8 text") from error
