"""The `headroom usage` command: GPU hours, energy, carbon and cost of a window, from Prometheus."""

import asyncio
import csv
import datetime
import io
import os
import time
from dataclasses import dataclass
from typing import Any, Final

import click
import msgspec

from agent.energy.tariff import load_tariff
from agent.usage.report import Grouping, Line, Report, Usage, build_report
from agent.usage.source import read_usage, step_for
from headroom.daemon.settings import load, options, setting
from headroom.errors import HeadroomError
from headroom.prometheus.client import PrometheusSource
from headroom.prometheus.series import DEVICE_JOBS, DeviceJobs
from headroom.prometheus.settings import PrometheusSettings
from headroom.units import UnitError, parse_duration_seconds

_OWN_VARIABLES: Final = ("HEADROOM_USAGE_PROMETHEUS", "HEADROOM_USAGE_TARIFF", "HEADROOM_USAGE_DEVICE_JOBS")
"""Variables of this command that are no settings of the connection."""


@dataclass(frozen=True, slots=True)
class UsageSettings(PrometheusSettings):
    """Where the agents' metrics are."""

    prometheus_url: str = setting("http://localhost:9090", reason="Where the agents' metrics are.")
    prometheus_timeout_seconds: float = setting(
        60.0, unit="s", minimum=0.1, maximum=3600.0, reason="Longest wait for one answer; a month takes a while."
    )


class UsageError(HeadroomError):
    """A window that makes no sense."""


@click.command()
@click.option(
    "--prometheus",
    "url",
    default=None,
    envvar="HEADROOM_USAGE_PROMETHEUS",
    help="Short for --prometheus-url. (HEADROOM_USAGE_PROMETHEUS)",
)
@options(UsageSettings)
@click.option(
    "--by",
    type=click.Choice([grouping.value for grouping in Grouping]),
    default="project",
    show_default=True,
    help="What a line of the report stands for.",
)
@click.option(
    "--from",
    "from_",
    default="24h",
    show_default=True,
    help="ISO 8601 time (UTC unless it says otherwise), or how long ago.",
)
@click.option("--to", default="0s", show_default=True, help="The same.")
@click.option(
    "--tariff",
    default=None,
    envvar="HEADROOM_USAGE_TARIFF",
    help="File with prices, PUE and grid intensity; see docs/usage.md. (HEADROOM_USAGE_TARIFF)",
)
@click.option("--output", "-o", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@click.option(
    "--step", default=None, help="Distance of the samples read; 0s takes every one. Default: by the window's length."
)
@click.option(
    "--device-jobs",
    default=",".join(DEVICE_JOBS),
    show_default=True,
    envvar="HEADROOM_USAGE_DEVICE_JOBS",
    help="Scrape jobs of the agents, as JOB or NAMESPACE:JOB, several by comma: their exported_ labels are believed."
    " (HEADROOM_USAGE_DEVICE_JOBS)",
)
@click.option("--timeout", default=None, help="Short for --prometheus-timeout-seconds.")
def main(
    url: str | None,
    by: str,
    from_: str,
    to: str,
    tariff: str | None,
    output: str,
    step: str | None,
    device_jobs: str,
    timeout: str | None,
    **flags: str | None,
) -> None:
    """Who used the cards: hours, energy, carbon and cost by project, namespace or card model."""
    now = time.time()
    start, end = moment("--from", from_, now), moment("--to", to, now)
    if not start < end:
        raise UsageError(f"--from {from_} is not before --to {to}")
    if start >= now:
        raise UsageError(f"--from {from_} is in the future")
    factors = load_tariff(tariff)
    seconds = None if step is None else _duration("--step", step)
    flags["prometheus_url"] = flags["prometheus_url"] or url
    if timeout is not None:
        flags["prometheus_timeout_seconds"] = str(_duration("--timeout", timeout, above_zero=True))
    environment = {key: value for key, value in os.environ.items() if key not in _OWN_VARIABLES}
    source = PrometheusSource.of(load(UsageSettings, flags, environment))
    jobs = DeviceJobs(entry.strip() for entry in device_jobs.split(",") if entry.strip())
    usage = asyncio.run(_read(source, start, min(end, now), seconds, jobs))
    report = build_report(usage, Grouping(by), factors)
    if end > now:
        report.notes.append(f"--to {to} is in the future: the report is of what has been so far")
    if not usage.cards:
        report.notes.append("no agent reported a card in this window")
    used_step = step_for(usage.end - usage.start) if seconds is None else seconds
    report.notes.append("every sample was read" if used_step == 0 else f"samples were read {used_step:g} s apart")
    click.echo({"table": table, "csv": as_csv, "json": as_json}[output](report), nl=False)


async def _read(
    source: PrometheusSource, start: float, end: float, step_seconds: float | None, jobs: DeviceJobs
) -> Usage:
    try:
        return await read_usage(source, start, end, step_seconds, jobs)
    finally:
        await source.close()


def moment(option: str, text: str, now: float) -> float:
    """Unix seconds of an ISO 8601 time, or of so long before `now`. Raises UsageError."""
    at = _moment(option, text, now)
    if at < 0:
        raise UsageError(f"{option}: {text!r} is before 1970")
    return at


def _moment(option: str, text: str, now: float) -> float:
    try:
        return now - parse_duration_seconds(text)
    except UnitError:
        pass
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"{option}: {text!r} is neither a time such as 2026-11-01T00:00 nor an age such as 7d"
        ) from error
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).timestamp()


def _duration(option: str, text: str, *, above_zero: bool = False) -> float:
    try:
        seconds = parse_duration_seconds(text)
    except UnitError as error:
        raise UsageError(f"{option}: {error}") from error
    if above_zero and seconds <= 0:
        raise UsageError(f"{option}: {text!r} is not above 0")
    return seconds


def record(line: Line, report: Report) -> dict[str, Any]:
    """A line with everything its figures rest on, for CSV and JSON; None where a figure is not known."""
    tariff = report.tariff
    return {
        report.by.value: line.name,
        "gpu_hours_reserved": round(line.gpu_hours_reserved, 4),
        "gpu_hours_busy": _rounded(line.gpu_hours_busy, 4),
        "idle_share": _rounded(line.idle_share, 4),
        "kwh": round(line.kwh, 9),
        "kwh_measured": round(line.kwh_measured, 9),
        "kwh_estimated": round(line.kwh_estimated, 9),
        "kg_co2e": round(line.kg_co2e, 9),
        "cost": _rounded(line.cost, 4),
        "currency": tariff.currency,
        "tokens": _rounded(line.tokens, 0),
        "kwh_per_1000_tokens": _rounded(line.kwh_per_1000_tokens, 12),
        "cost_per_1000_tokens": _rounded(line.cost_per_1000_tokens, 6),
        "coverage": _rounded(line.coverage, 4),
        "pue": tariff.pue,
        "pue_source": tariff.pue_source,
        "grams_per_kwh": tariff.grams_per_kwh,
        "grams_year": tariff.grams_year,
        "grams_source": tariff.grams_source,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def as_json(report: Report) -> str:
    """The report as one JSON object."""
    content = {
        "from": _stamp(report.start),
        "to": _stamp(report.end),
        "by": report.by.value,
        "lines": [record(line, report) for line in report.all_lines()],
        "notes": report.notes,
    }
    return msgspec.json.format(msgspec.json.encode(content)).decode() + "\n"


def as_csv(report: Report) -> str:
    """The lines as CSV, with the window in each so that files can be joined."""
    window = {"from": _stamp(report.start), "to": _stamp(report.end)}
    rows = [window | record(line, report) for line in report.all_lines()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def table(report: Report) -> str:
    """The report for people."""
    tariff = report.tariff
    heads = [
        report.by.value,
        "GPU h reserved",
        "GPU h busy",
        "idle",
        "kWh",
        "energy",
        "kg CO2e",
        f"cost {tariff.currency}".rstrip(),
    ]
    heads += ["tokens", "kWh/1k tok", "cost/1k tok", "coverage"]
    rows = [heads, *(_cells(line) for line in report.all_lines())]
    widths = [max(len(row[at]) for row in rows) for at in range(len(heads))]
    lines = [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    rule = "-" * len(lines[0])
    body = [lines[0], rule, *lines[1:-3], *([rule] if report.lines else []), *lines[-3:]]
    head = f"{_stamp(report.start)} to {_stamp(report.end)}"
    basis = [
        f"kg CO2e = kWh x PUE {tariff.pue:g} ({tariff.pue_source}) x {tariff.grams_per_kwh:g} g/kWh"
        f" ({tariff.grams_source}, {tariff.grams_year})",
        *report.notes,
    ]
    return "\n".join([head, "", *(line.rstrip() for line in body), "", *basis]) + "\n"


def _cells(line: Line) -> list[str]:
    return [
        line.name,
        f"{line.gpu_hours_reserved:.2f}",
        _shown(line.gpu_hours_busy, ".2f"),
        _shown(line.idle_share, ".1%"),
        f"{line.kwh:.3f}",
        line.energy_source,
        f"{line.kg_co2e:.3f}",
        _shown(line.cost, ".2f"),
        _shown(line.tokens, ".0f"),
        _shown(line.kwh_per_1000_tokens, ".6f"),
        _shown(line.cost_per_1000_tokens, ".5f"),
        _shown(line.coverage, ".1%"),
    ]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _stamp(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
