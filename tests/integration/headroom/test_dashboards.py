"""The Grafana dashboards: a real Prometheus that holds every metric of the daemons answers each of their queries, with numbers."""

import itertools
import json
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from simulations.usage.hour import prometheus_of
from tests.paths import DEPLOY
from tools.write_metrics import Entry, daemons

FOLDER: Final = DEPLOY / "dashboards"
STEPS: Final = 40
SECONDS: Final = 15.0
VALUES: Final = {
    "state": ("usable", "declared", "measured", "foreign", "free", "total", "held", "max"),
    "le": ("0.01", "0.1", "+Inf"),
}
"""What labels may say; others say their own name. Only these matter to the queries."""
BUILT_IN: Final = {"$__rate_interval": "2m", "$namespace": ".*", "$name": ".*"}


def samples(entry: Entry) -> Iterator[str]:
    """A metric over ten minutes, one line a sample. A gauge that tells of health is 0, so that the panel of the unhealthy has a row."""
    name = f"{entry.name}_bucket" if entry.kind == "histogram" else entry.name
    labels = (*entry.labels, "le") if entry.kind == "histogram" else entry.labels
    for values in itertools.product(*(VALUES.get(label, (label,)) for label in labels)):
        inside = ",".join(f'{label}="{value}"' for label, value in zip(labels, values, strict=True))
        for step in range(STEPS + 1):
            value = step if entry.kind != "gauge" else 0 if entry.name.endswith(("healthy", "fresh")) else 1
            yield f"{name}{{{inside}}} {value} {start() + SECONDS * step:.3f}"


def start() -> float:
    """Ten minutes ago, the same for the whole run."""
    return _END - SECONDS * STEPS


_END: Final = time.time() // SECONDS * SECONDS


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prometheus with every metric."""
    folder = tmp_path_factory.mktemp("dashboards")
    entries = sorted(itertools.chain(*daemons().values()), key=lambda entry: entry.name)
    lines = [line for entry in entries for line in samples(entry)]
    (folder / "all.om").write_text("\n".join([*lines, "# EOF", ""]))
    with prometheus_of(folder / "all.om", folder) as url:
        yield url


def queries() -> Iterator[tuple[str, str]]:
    """(dashboard and panel, expression)."""
    for path in sorted(FOLDER.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']} {target['refId']}", target["expr"]


def filled_in(expression: str) -> str:
    """As Grafana sends it."""
    for name, value in BUILT_IN.items():
        expression = expression.replace(name, value)
    return expression


def ask(url: str, expression: str) -> list[Any]:
    parameters = urllib.parse.urlencode({"query": expression, "time": _END})
    with urllib.request.urlopen(f"{url}/api/v1/query?{parameters}", timeout=30) as answer:
        body = json.load(answer)
    assert body["status"] == "success", body
    result: list[Any] = body["data"]["result"]
    return result


def test_every_query_has_an_answer(prometheus: str) -> None:
    asked, without = 0, []
    for where, expression in queries():
        found = ask(prometheus, filled_in(expression))
        asked += 1
        if not found or any(sample["value"][1] == "NaN" for sample in found):
            without.append((where, expression))
    assert without == []
    assert asked > 50


def test_every_variable_takes_its_values_from_a_metric_that_is_there() -> None:
    known = {entry.name for entries in daemons().values() for entry in entries}
    seen = 0
    for path in FOLDER.glob("*.json"):
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                (name,) = re.findall(r"headroom_\w+", variable["query"])
                assert name in known
                seen += 1
    assert seen


def test_panels_lie_side_by_side() -> None:
    """No panel covers another, and none is wider than the page."""
    for path in FOLDER.glob("*.json"):
        taken: set[tuple[int, int]] = set()
        for panel in json.loads(path.read_text())["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            assert place["x"] + place["w"] <= 24
            taken |= cells


def test_the_dashboards_are_files_that_a_grafana_can_provision() -> None:
    ids = [json.loads(path.read_text())["uid"] for path in sorted(FOLDER.glob("*.json"))]
    assert len(ids) == len(set(ids)) == 4
    assert not any(Path(name).suffix for name in ids)
