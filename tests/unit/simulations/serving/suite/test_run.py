"""The published comparison's tables from runs worked out by hand."""

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from simulations.serving.laws.catalogue import LAWS
from simulations.serving.suite import report, run, tables, tuning
from simulations.serving.suite.results import Outcome
from simulations.serving.suite.tuning import Point

PLAIN = Outcome(**{field.name: 0.0 for field in fields(Outcome)})


def point(law: str, attainment: float, gpu_hours: float, **parameters: float) -> Point:
    total = replace(PLAIN, attainment=attainment, gpu_hours=gpu_hours)
    return Point(law, {**LAWS[law].defaults, **parameters}, total, {"model": total})


def leave(folder: Path, load: str, law: str, *points: Point) -> None:
    path = report.file_of(folder, load, law)
    path.write_text(json.dumps([tables.point_json(one) for one in points]), "utf-8")


def test_the_summary_compares_at_equal_attainment_with_the_best_law_that_does_not_know_the_trace() -> None:
    points = {
        "keda-running": [point("keda-running", 0.985, 10.0), point("keda-running", 0.97, 8.0, target=25.0)],
        "kpa": [point("kpa", 0.90, 20.0)],
        "static": [point("static", 1.0, 1.0)],
        "headroom": [point("headroom", 0.99, 9.5)],
    }
    text = report.summary({"load": points})
    assert "99.00, 9.50" in text
    assert "+1.8 %" in text  # at 98 % the rival's front is at 8 + 2 x 1.0 / 1.5 = 9.33


def test_settings_beside_the_grid_are_tried_too() -> None:
    tried = list(tuning.settings_of(LAWS["headroom"]))
    assert tried[0] == dict(LAWS["headroom"].defaults)
    assert {"target": 0.9, "burst_factor": 3.0} in tried


def test_held_out_loads_show_default_and_carried_settings(tmp_path: Path) -> None:
    leave(tmp_path, "a, b", "headroom", point("headroom", 0.99, 9.0))
    leave(tmp_path, "a, b", "kpa", point("kpa", 0.5, 10.0), point("kpa", 0.98, 12.0, target=30.0))
    rows = report.held_out_text(["a, b"], tmp_path, ["headroom", "kpa"]).splitlines()[4:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells == [
        ["a, b", "Headroom, default", "99.00", "9.00", "0"],
        ["", "Knative KPA, default", "50.00", "10.00", "0"],
        ["", "Knative KPA, tuned elsewhere: target 30", "98.00", "12.00", "0"],
    ]


def test_each_held_out_load_differs_from_all_that_laws_are_tuned_on() -> None:
    seen = {(one.shape, one.copies, one.seed, one.model) for one in run.SCENARIOS}
    for one in run.HELD_OUT:
        copies, seed = (one.copies, 1) if one.shape.startswith("azure") else (4, one.seed)
        assert (one.shape, copies, seed, one.model) not in seen
        assert one.tuned_on in {scenario.name for scenario in run.SCENARIOS}


def test_runs_that_are_there_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "load.kpa.json"
    path.write_text("[]", "utf-8")
    run.kept(path, (pytest.fail("ran again") for _ in range(1)))
    assert path.read_text("utf-8") == "[]"
