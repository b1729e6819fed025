"""`headroom simulate serving` as a user meets it."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from headroom.errors import HeadroomError
from simulations.serving.cli import ServingUsageError, main, parse_objective, parse_seeds, parse_settings
from simulations.serving.laws.base import Objective

STEADY = "pattern:steady,rate=2,hours=0.1"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, catch_exceptions=True)


def test_a_run_prints_the_table_and_writes_table_results_and_figures(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = call("--trace", STEADY, "--laws", "static,headroom", "--seeds", "1,2", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "| Headroom" in result.output
    document = json.loads((out / "results.json").read_text())
    assert [run["law"] for run in document["runs"]] == ["static", "headroom"]
    assert document["seeds"] == [1, 2]
    assert document["runs"][0]["total"]["arrived"] == document["workloads"][0]["requests"]
    assert {path.name for path in out.iterdir()} >= {
        "table.md",
        "results.json",
        "attainment.svg",
        "timeline-headroom-1.svg",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_models_share_the_fleet_and_each_has_its_line(tmp_path: Path) -> None:
    result = call(
        "--trace", STEADY, "--trace", "pattern:onoff,rate=2,hours=0.1", "--model", "llama-3.1-8b", "--model", "qwen3-32b",
        "--card", "L40S", "--card", "H100-80GB", "--laws", "headroom",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "llama-3.1-8b (pattern:steady)" in result.output
    assert "qwen3-32b (pattern:onoff)" in result.output


def test_tuning_reports_default_and_best(tmp_path: Path) -> None:
    result = call("--trace", STEADY, "--laws", "apa-kv", "--tune")
    assert result.exit_code == 0, result.output
    assert "default" in result.output
    assert "target 0." in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--trace", "nowhere.csv"), "cannot read nowhere.csv"),
        (("--trace", "pattern:waves"), "unknown pattern 'waves'"),
        (("--trace", STEADY, "--laws", "hpa"), "unknown law 'hpa'"),
        (("--trace", STEADY, "--model", "gpt-9"), "no figures for model 'gpt-9'"),
        (("--trace", STEADY, "--slo", "ttft=2s"), "must give both ttft and itl"),
        (("--trace", STEADY, "--slo", "ttft=2s,itl=1ms"), "cannot be met"),
        (("--trace", STEADY, "--seeds", "x"), "--seeds: 'x'"),
        (("--trace", STEADY, "--attainment", "98"), "--attainment: 98"),
        (("--trace", STEADY, "--set", "kpa.speed=3"), "kpa has no parameter 'speed'"),
        (("--trace", STEADY, "--set", "kpa.target"), "'kpa.target' is not LAW.PARAMETER=NUMBER"),
        (("--trace", STEADY, "--scrape", "0s"), "must be above 0"),
        (("--trace", STEADY, "--delay", "soon"), "--delay: 'soon'"),
        (("--trace", STEADY, "--trace", STEADY), "the same trace with the same model twice"),
        (("--trace", STEADY, "--min", "9", "--max", "3"), "bounds 9..3"),
        (
            ("--trace", STEADY, "--model", "qwen3-32b", "--card", "H100-80GB", "--cards-per-node", "1"),
            "no node of the fleet can hold",
        ),
        (("--trace", STEADY, "--duration", "1s", "--start", "3h"), "no request arrives between"),
    ],
)
def test_bad_input_is_one_clear_error_and_writes_nothing(
    tmp_path: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    out = tmp_path / "run"
    result = call(*arguments, "--out", str(out))
    assert isinstance(result.exception, HeadroomError), result.output
    assert complaint in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_an_output_folder_that_exists_is_refused_before_anything_runs(tmp_path: Path) -> None:
    result = call("--trace", STEADY, "--out", str(tmp_path))
    assert isinstance(result.exception, ServingUsageError)
    assert "exists already" in str(result.exception)


def test_flags_are_read() -> None:
    assert parse_objective("itl=80ms,ttft=1500ms") == Objective(1.5, 0.08)
    assert parse_seeds("3:5") == [3, 4, 5]
    assert parse_settings(["headroom.target=0.8", "headroom.spread=2", "kpa.target=9"]) == {
        "headroom": {"target": 0.8, "spread": 2.0},
        "kpa": {"target": 9.0},
    }
