"""`headroom usage` over an hour of compressed time in a real Prometheus, held against what the cards truly drew."""

import asyncio
import csv
import datetime
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agent.energy.tariff import Tariff
from agent.usage.report import Grouping
from simulations.usage.hour import HOUR, START, Outcome, prometheus_of, run_hour, write_metrics

PRICES = Tariff(currency="EUR", card_hour_prices={"NVIDIA-A100-SXM4-80GB": 2.5, "*": 0.5})


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[Grouping, Outcome]:
    groupings = list(Grouping)
    found = asyncio.run(run_hour(tmp_path_factory.mktemp("hour"), groupings, PRICES))
    return dict(zip(groupings, found, strict=True))


@pytest.mark.parametrize("by", list(Grouping))
def test_the_report_adds_up_to_what_the_cards_drew(outcomes: dict[Grouping, Outcome], by: Grouping) -> None:
    report, truth = outcomes[by].report, outcomes[by].true_kwh
    assert report.total.kwh == pytest.approx(truth, rel=0.001)
    assert sum(line.kwh for line in report.all_lines()[:-1]) == pytest.approx(report.total.kwh, rel=1e-9)
    assert sum(line.gpu_hours_reserved for line in report.all_lines()[:-1]) == pytest.approx(
        report.total.gpu_hours_reserved
    )
    assert sum(line.cost or 0.0 for line in report.all_lines()[:-1]) == pytest.approx(report.total.cost)


def test_each_card_model_adds_up_by_itself(outcomes: dict[Grouping, Outcome]) -> None:
    # The card of the third machine is one pod's alone, without a counter: its line is the card's power, integrated.
    lines = {line.name: line for line in outcomes[Grouping.MODEL].report.lines}
    truth = outcomes[Grouping.MODEL].true_kwh_by_model
    assert lines["Tesla-P100-PCIE-16GB"].energy_source == "estimated"
    assert lines["Tesla-P100-PCIE-16GB"].kwh <= truth["Tesla-P100-PCIE-16GB"]
    assert lines["NVIDIA-L4"].energy_source == "measured"


def test_projects_pay_for_what_they_keep_and_what_they_use(outcomes: dict[Grouping, Outcome]) -> None:
    report = outcomes[Grouping.PROJECT].report
    lines = {line.name: line for line in report.all_lines()}
    assert set(lines) == {"assistant", "search", "mail", "research", "archive", "(idle)", "(unattributed)", "(total)"}
    assert lines["research"].idle_share == 1.0
    assert lines["research"].kwh > 0.02, "a card kept without use still costs its share of idle power"
    assert lines["assistant"].tokens == pytest.approx(1450 * HOUR + 610 * (2711 - 902), rel=0.01)
    assert lines["(unattributed)"].kwh > 0.03, "what ran outside pods, and while no agent looked"
    assert 0.95 < (lines["search"].coverage or 0) < 0.99, "its node was without an agent for a minute"
    assert (lines["mail"].coverage or 0) > 0.995


def test_the_command_prints_every_format(tmp_path: Path) -> None:
    metrics = tmp_path / "hour.om"
    write_metrics(metrics, Tariff())
    with prometheus_of(metrics, tmp_path) as url:
        printed = {form: _usage(url, "--by", "namespace", "-o", form) for form in ("table", "csv", "json")}
    assert "team-search" in printed["table"]
    rows = list(csv.DictReader(io.StringIO(printed["csv"])))
    lines = json.loads(printed["json"])["lines"]
    assert [row["namespace"] for row in rows] == [line["namespace"] for line in lines]
    assert float(rows[-1]["kwh"]) == lines[-1]["kwh"] > 0.9


def test_an_outage_of_prometheus_is_said() -> None:
    result = _run("http://127.0.0.1:9", "--from", "1h")
    assert result.returncode == 1
    assert result.stderr.startswith("error: http://127.0.0.1:9 cannot be reached")


def _usage(url: str, *flags: str) -> str:
    result = _run(url, "--from", _iso(START), "--to", _iso(START + HOUR), *flags)
    assert result.returncode == 0, result.stderr
    return result.stdout


def _run(url: str, *flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "headroom", "usage", "--prometheus", url, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _iso(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).isoformat()
