"""Tables and results.json of serving runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from simulations.serving.laws.base import Entry
from simulations.serving.suite.results import Outcome, as_json
from simulations.serving.suite.tuning import Point, front

HEAD = (
    "law", "setting", "both %", "TTFT %", "ITL %", "TTFT p50 s", "TTFT p99 s", "GPU h", "x clairvoyant", "moves", "reversals",
    "cold starts", "dropped", "unfinished",
)  # fmt: skip


def setting_text(entry: Entry, parameters: Mapping[str, float]) -> str:
    """Parameters of a run that the grid varies, in words: `target 36, stable 300`; `default` for the documentation's."""
    if all(parameters.get(name) == value for name, value in entry.defaults.items()) and set(parameters) <= set(
        entry.defaults
    ):
        return "default"
    names = [n for n in parameters if parameters[n] != entry.defaults.get(n)] or list(parameters)
    return ", ".join(f"{name} {parameters[name]:g}" for name in names)


def row(title: str, setting: str, outcome: Outcome, clairvoyant_gpu_hours: float | None) -> tuple[str, ...]:
    """One line of the table."""
    ratio = f"{outcome.gpu_hours / clairvoyant_gpu_hours:.2f}" if clairvoyant_gpu_hours else "-"
    return (
        title,
        setting,
        f"{100 * outcome.attainment:.2f}",
        f"{100 * outcome.ttft_attainment:.2f}",
        f"{100 * outcome.itl_attainment:.2f}",
        _number(outcome.ttft_p50_seconds),
        _number(outcome.ttft_p99_seconds),
        f"{outcome.gpu_hours:.2f}",
        ratio,
        f"{outcome.moves:.0f}",
        f"{outcome.reversals:.0f}",
        f"{outcome.cold_starts:.0f}",
        f"{outcome.dropped:.0f}",
        f"{outcome.unfinished:.0f}",
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first two are text, the rest numbers."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    rule = ["-" * width if at < 2 else "-" * (width - 1) + ":" for at, width in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if at < 2 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        + " |"
        for line in (lines[0], rule, *lines[1:])
    )


def point_json(point: Point) -> dict[str, Any]:
    """A measured setting as plain values."""
    return {
        "law": point.law,
        "parameters": dict(point.parameters),
        "total": as_json(point.total),
        "workloads": {name: as_json(outcome) for name, outcome in point.by_workload.items()},
    }


def front_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    """The Pareto front of all points: more attainment only for more GPU hours."""
    return [
        {
            "law": point.law,
            "parameters": dict(point.parameters),
            "attainment": point.total.attainment,
            "gpu_hours": point.total.gpu_hours,
        }
        for point in front(points)
    ]
