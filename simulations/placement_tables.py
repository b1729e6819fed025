"""Tables of placement studies, as Markdown that also reads well on a terminal."""

import csv
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

from headroom.errors import HeadroomError
from simulations.placement_replay import Record

ALLOCATION_LOADS: Final = (50, 70, 90, 100, 130)
FRAGMENT_LOADS: Final = (50, 70, 90)
_PUBLISHED_NAMES: Final = {
    "random": "Random", "dotprod": "DotProd", "gpuclustering": "GpuClustering", "gpupacking": "GpuPacking",
    "bestfit": "BestFit", "fgd": "FGD",
}  # fmt: skip
_SMALLEST_MARGIN: Final = 0.3  # points, where the published deviation is smaller than half of it


class PublishedError(HeadroomError):
    """The file of published figures cannot be used."""


def groups(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    """Records by trace and policy, in order of first appearance."""
    grouped: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        grouped.setdefault((record.trace, record.policy), []).append(record)
    return grouped


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (0 for a single value)."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def _cell(records: Sequence[Record], read: Callable[[Record], float | None], digits: int = 2) -> str:
    values = [value for record in records if (value := read(record)) is not None]
    if not values:
        return "-"
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f}" if len(values) > 1 else f"{mean:.{digits}f}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(text)


def summary_table(records: Sequence[Record]) -> str:
    """Allocation and fragmentation by arrived load, failures and seconds, for each trace and policy."""
    loads = [load for load in ALLOCATION_LOADS if any(load in record.alloc_at for record in records)]
    head = ["trace", "policy", *[f"alloc % at {load}" for load in loads]]
    head += [f"frag % of idle at {load}" for load in FRAGMENT_LOADS] + [
        "frag % of cluster at 90",
        "failed pods",
        "seconds",
    ]
    rows = []
    for (trace, policy), group in groups(records).items():
        row = [trace, policy, *[_cell(group, lambda record, at=load: record.alloc_at.get(at)) for load in loads]]  # type: ignore[misc]
        row += [_cell(group, lambda record, at=load: record.frag_of_idle_at.get(at)) for load in FRAGMENT_LOADS]  # type: ignore[misc]
        row += [
            _cell(group, lambda record: record.frag_at.get(90)),
            _cell(group, lambda record: float(record.failed), 0),
        ]
        row.append(_cell(group, lambda record: record.seconds, 1))
        rows.append(row)
    return table(head, rows)


def matrix_table(records: Sequence[Record], load: int) -> str:
    """Mean allocation at one arrived load: a line per trace, a column per policy, and the mean over traces."""
    grouped = groups(records)
    traces, policies = (list(dict.fromkeys(key[at] for key in grouped)) for at in (0, 1))
    means: dict[tuple[str, str], float] = {}
    for key, group in grouped.items():
        values = [record.alloc_at[load] for record in group if load in record.alloc_at]
        if values:
            means[key] = statistics.fmean(values)
    rows = [[trace, *[f"{means[trace, p]:.2f}" if (trace, p) in means else "-" for p in policies]] for trace in traces]
    whole = [trace for trace in traces if all((trace, policy) in means for policy in policies)]
    if len(whole) > 1:
        rows.append(["mean", *[f"{statistics.fmean(means[trace, p] for trace in whole):.2f}" for p in policies]])
    return table([f"alloc % at {load}", *policies], rows)


def timeline_table(records: Sequence[Record]) -> str:
    """Allocation, fragmentation and refusals by simulated time, for studies with departures."""
    times = sorted({at for record in records for at in record.timeline})
    shown = [times[round(part * (len(times) - 1) / 5)] for part in range(6)] if times else []
    head = [
        "policy",
        *[f"alloc % at {at:g} h" for at in shown],
        "mean alloc %",
        "mean refused GPU %",
        "failed pods",
        "seconds",
    ]
    rows = []
    for (_, policy), group in groups(records).items():
        row = [policy, *[_cell(group, lambda record, hour=at: record.timeline[hour][0]) for at in shown]]  # type: ignore[misc]
        row.append(_cell(group, lambda record: statistics.fmean(value[0] for value in record.timeline.values())))
        row.append(_cell(group, lambda record: record.refused_percent))
        row.append(_cell(group, lambda record: float(record.failed), 0))
        row.append(_cell(group, lambda record: record.seconds, 1))
        rows.append(row)
    return table(head, rows)


def read_published(path: Path) -> dict[tuple[str, str, int], tuple[float, float]]:
    """Published mean and deviation of the allocation by (workload, policy, load). Raises PublishedError."""
    figures: dict[tuple[str, str, int], tuple[float, float]] = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = (row["workload"], row["policy"], int(row["arrived_load_percent"]))
                figures[key] = (float(row["mean_gpu_allocation_percent"]), float(row["std"]))
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise PublishedError(f"{path}: not a table of published figures ({error})") from error
    return figures


def published_table(records: Sequence[Record], path: Path) -> str:
    """Ours beside the published figure, and whether it lies within 2 deviations (at least 0.3 points)."""
    figures = read_published(path)
    rows = []
    for (trace, policy), group in groups(records).items():
        for load in (100, 130):
            published = figures.get((trace, _PUBLISHED_NAMES.get(policy.removesuffix("-learned"), "FGD"), load))
            values = [record.alloc_at[load] for record in group if load in record.alloc_at]
            if published is None or not values:
                continue
            mean, deviation = published
            ours = statistics.fmean(values)
            margin = max(2 * deviation, _SMALLEST_MARGIN)
            anchored = policy in _PUBLISHED_NAMES
            verdict = ("yes" if abs(ours - mean) <= margin else "NO") if anchored else "-"
            against = "same policy" if anchored else "FGD"
            rows.append(
                [
                    trace,
                    policy,
                    str(load),
                    f"{ours:.2f}",
                    against,
                    f"{mean:.2f} ± {deviation:.2f}",
                    f"{ours - mean:+.2f}",
                    verdict,
                ]
            )
    return table(["trace", "policy", "load %", "ours", "published", "figure", "difference", "within margin"], rows)
