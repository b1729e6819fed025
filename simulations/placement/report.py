"""Writes results.json, results.csv, the tables and the plots of a placement study: all of them, or none."""

import csv
import json
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from headroom.errors import HeadroomError
from simulations.placement.replay import Record
from simulations.placement.tables import groups

_KEPT_LOADS: Final = (*range(5, 80, 5), *range(80, 501))
_CSV_LOADS: Final = tuple(range(10, 501, 10))


class ReportError(HeadroomError):
    """The results could not be written."""


def write_results(out: Path, records: Sequence[Record], tables: str) -> list[str]:
    """Write everything, `tables` as Markdown, to a folder beside `out` first, then move it into place. Returns remarks for the user.

    Raises ReportError, and then `out` is as it was.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ReportError(f"{out}: {error.strerror}") from error
    try:
        remarks = _write(draft, records, tables)
        out.mkdir(exist_ok=True)
        for file in sorted(draft.iterdir()):
            os.replace(file, out / file.name)
    except OSError as error:
        raise ReportError(f"{out}: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return [*remarks, f"results are in {out}"]


def as_plain(record: Record) -> dict[str, Any]:
    """One record with plain values; shares at every fifth percent of arrived load, at every percent from 80 on."""
    plain: dict[str, Any] = {"trace": record.trace, "policy": record.policy, "seed": record.seed}
    for name in ("alloc_at", "frag_at", "frag_of_idle_at"):
        values: dict[int, float] = getattr(record, name)
        plain[name] = {str(load): round(values[load], 4) for load in _KEPT_LOADS if load in values}
    if record.timeline:
        plain["timeline_hours"] = {
            f"{at:g}": [round(value, 4) for value in values] for at, values in record.timeline.items()
        }
        plain["refused_percent"] = round(record.refused_percent, 4)
    return plain | {"pods": record.pods, "failed": record.failed, "seconds": round(record.seconds, 3)}


def read_results(path: Path) -> list[Record]:
    """Records of an earlier `results.json`. Raises ReportError."""
    try:
        return [_from_plain(plain) for plain in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path}: not the results of an earlier run ({error})") from error


def _from_plain(plain: dict[str, Any]) -> Record:
    record = Record(plain["trace"], plain["policy"], int(plain["seed"]))
    for name in ("alloc_at", "frag_at", "frag_of_idle_at"):
        setattr(record, name, {int(load): float(share) for load, share in plain[name].items()})
    for at, (allocated, fragmented) in plain.get("timeline_hours", {}).items():
        record.timeline[float(at)] = (float(allocated), float(fragmented))
    record.refused_percent = float(plain.get("refused_percent", 0.0))
    record.pods, record.failed, record.seconds = int(plain["pods"]), int(plain["failed"]), float(plain["seconds"])
    return record


def _write(folder: Path, records: Sequence[Record], tables: str) -> list[str]:
    (folder / "tables.md").write_text(tables + "\n")
    plain = [as_plain(record) for record in records]
    (folder / "results.json").write_text(json.dumps(plain, indent=1) + "\n")
    with (folder / "results.csv").open("w", newline="") as file:
        loads = [load for load in _CSV_LOADS if any(str(load) in record["alloc_at"] for record in plain)]
        writer = csv.writer(file, lineterminator="\n")
        shares = [f"{name}_{load}" for name in ("alloc", "frag", "frag_of_idle") for load in loads]
        writer.writerow(["trace", "policy", "seed", *shares, "pods", "failed", "seconds"])
        for record in plain:
            values = [
                record[name].get(str(load), "") for name in ("alloc_at", "frag_at", "frag_of_idle_at") for load in loads
            ]
            head = [record["trace"], record["policy"], record["seed"]]
            writer.writerow([*head, *values, record["pods"], record["failed"], record["seconds"]])
    return _plots(folder, records)


def _plots(folder: Path, records: Sequence[Record]) -> list[str]:
    try:
        import matplotlib as mpl
    except ImportError:
        return ["no plots: matplotlib is not installed (pip install 'headroom[plots]')"]
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "headroom"
    for trace in dict.fromkeys(record.trace for record in records):
        mine = [record for record in records if record.trace == trace]
        if any(record.timeline for record in mine):
            _plot(folder / f"{trace}-allocation-over-time.svg", mine, lambda r: {at: v[0] for at, v in r.timeline.items()},
                  "hours", "allocated GPU, % of the cluster")  # fmt: skip
            continue
        _plot(folder / f"{trace}-unallocated.svg", mine, lambda r: {at: min(at, 100) - v for at, v in r.alloc_at.items()},
              "arrived load, % of the cluster", "arrived (at most 100 %) but not allocated, % of the cluster")  # fmt: skip
        _plot(folder / f"{trace}-fragmentation.svg", mine, lambda r: r.frag_at,
              "arrived load, % of the cluster", "fragmented GPU, % of the cluster")  # fmt: skip
    return []


def _plot(path: Path, records: Sequence[Record], read: Callable[[Record], dict[Any, float]], x: str, y: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    for (_, policy), group in groups(records).items():
        curves = [read(record) for record in group]
        places = sorted(set.intersection(*[set(curve) for curve in curves]))
        axes.plot(places, [statistics.fmean(curve[at] for curve in curves) for at in places], label=policy)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
