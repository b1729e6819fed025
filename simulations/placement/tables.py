"""Tables of placement studies, as Markdown that also reads well on a terminal."""

import csv
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from headroom.errors import HeadroomError
from simulations.placement.replay import Record

ALLOCATION_LOADS: Final = (50, 70, 90, 100, 130)
FRAGMENT_LOADS: Final = (50, 70, 90)
_PUBLISHED_NAMES: Final = {
    "random": "Random", "dotprod": "DotProd", "gpuclustering": "GpuClustering", "gpupacking": "GpuPacking",
    "bestfit": "BestFit", "fgd": "FGD",
}  # fmt: skip
_PUBLISHED_FGD: Final = "FGD, published"
_SMALLEST_MARGIN: Final = 0.3  # points, where the published deviation is smaller than half of it

Figures = dict[tuple[str, str, int], tuple[float, float]]
"""Published mean and deviation of the allocation by (workload, policy, load)."""


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


def matrix_table(
    records: Sequence[Record], load: int, *, published: Figures | None = None, bounds: Mapping[str, float] | None = None
) -> str:
    """Mean allocation at one arrived load: a line per trace, a column per policy, and the means over the traces.

    Where they are known, beside them: FGD's published figure, the bound of the trace, and how far `headroom` is above `fgd`
    and above that figure. A column's mean is over the traces that have a figure in it; there is none of the published
    figures themselves, which not all traces have.
    """
    figures = _means(records, load)
    traces, policies = (list(dict.fromkeys(key[at] for key in groups(records))) for at in (0, 1))
    columns = {p: {trace: mean for (trace, policy), mean in figures.items() if policy == p} for p in policies}
    fgd = {trace: mean for (trace, policy, at), (mean, _) in (published or {}).items() if (policy, at) == ("FGD", load)}
    headroom = columns.get("headroom", {})
    extra = {
        _PUBLISHED_FGD: {trace: fgd[trace] for trace in traces if trace in fgd},
        "bound": {trace: bounds[trace] for trace in traces if trace in bounds} if bounds else {},
    }
    gains = {
        "headroom - fgd": _difference(headroom, columns.get("fgd", {})),
        "headroom - published": _difference(headroom, extra[_PUBLISHED_FGD]),
    }
    columns |= {name: column for name, column in extra.items() if column}
    gains = {name: column for name, column in gains.items() if column}
    rows = [
        [trace, *[f"{column[trace]:.2f}" if trace in column else "-" for column in columns.values()]]
        + [f"{gain[trace]:+.2f}" if trace in gain else "-" for gain in gains.values()]
        for trace in traces
    ]
    if len(traces) > 1:
        whole = [trace for trace in traces if all(trace in columns[policy] for policy in policies)]
        means = ["" if name == _PUBLISHED_FGD else _mean_cell(column, whole) for name, column in columns.items()]
        rows.append(["mean", *means, *[f"{statistics.fmean(gain.values()):+.2f}" for gain in gains.values()]])
    return table([f"alloc % at {load}", *columns, *gains], rows)


def _means(records: Sequence[Record], load: int) -> dict[tuple[str, str], float]:
    means: dict[tuple[str, str], float] = {}
    for key, group in groups(records).items():
        values = [record.alloc_at[load] for record in group if load in record.alloc_at]
        if values:
            means[key] = statistics.fmean(values)
    return means


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    return {trace: one[trace] - other[trace] for trace in one if trace in other}


def _mean_cell(column: Mapping[str, float], traces: Sequence[str]) -> str:
    values = [column[trace] for trace in traces if trace in column]
    return f"{statistics.fmean(values):.2f}" if values else "-"


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


def read_published(path: Path) -> Figures:
    """The published figures. Raises PublishedError."""
    figures: Figures = {}
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                key = (row["workload"], row["policy"], int(row["arrived_load_percent"]))
                figures[key] = (float(row["mean_gpu_allocation_percent"]), float(row["std"]))
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise PublishedError(f"{path}: not a table of published figures ({error})") from error
    return figures


def published_table(records: Sequence[Record], figures: Figures) -> str:
    """Ours beside the published figure, whether it lies within 2 deviations (at least 0.3 points), and which do not."""
    rows = []
    for load in (100, 130):
        for (trace, policy), ours in _means(records, load).items():
            anchored = policy in _PUBLISHED_NAMES
            published = figures.get((trace, _PUBLISHED_NAMES.get(policy, "FGD"), load))
            if published is None:
                continue
            mean, deviation = published
            within = abs(ours - mean) <= max(2 * deviation, _SMALLEST_MARGIN)
            verdict = ("yes" if within else "NO") if anchored else "-"
            figure = f"{mean:.2f} ± {deviation:.2f}"
            against = "same policy" if anchored else "FGD"
            rows.append([trace, policy, str(load), f"{ours:.2f}", against, figure, f"{ours - mean:+.2f}", verdict])
    head = ["trace", "policy", "load %", "ours", "published", "figure", "difference", "within margin"]
    outside = [row for row in rows if row[-1] == "NO"]
    same = sum(row[-1] != "-" for row in rows)
    text = f"{table(head, rows)}\n\n{same - len(outside)} of {same} figures of the same policy are within the margin"
    return f"{text}; outside are:\n\n{table(head, outside)}" if outside else f"{text}."
