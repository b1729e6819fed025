"""What was measured already: one file per load and law, one line per run, so that a comparison goes on where it stopped.

Each line carries a stamp of the code that made it (all that a run of this law depends on, comments and docstrings left out): runs
of other code are not mixed with those of this one.
"""

import ast
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, Final

from simulations.serving.laws.base import Parameters
from simulations.serving.laws.catalogue import LAWS, OURS
from simulations.serving.suite.results import Outcome, as_json

_ROOT: Final = Path(__file__).resolve().parents[3]
_WORLD: Final = (
    "simulations/virtual_time.py", "simulations/serving/arena.py", "simulations/serving/engine", "simulations/serving/loads",
    "simulations/serving/laws/base.py",
    *(f"simulations/serving/fleet/{name}.py" for name in ("deployment", "pods", "routers", "served", "observe", "placing")),
)  # fmt: skip
_RIVALS: Final = tuple(f"simulations/serving/laws/{name}.py" for name in ("hpa", "knative", "aibrix", "llmd"))
_OURS: Final = (
    "autoscaler/law", "autoscaler/observation", "autoscaler/api", "simulations/serving/fleet/scrapes.py",
    "simulations/serving/laws/headroom.py",
    "simulations/serving/laws/knowing.py",
)  # fmt: skip


class Store:
    """The runs of one load and one law."""

    def __init__(self, folder: Path, load: str, law: str) -> None:
        self.path = folder / f"{re.sub(r'[^A-Za-z0-9]+', '-', load).strip('-').lower()}.{law}.jsonl"
        self.stamp = stamp(law)
        self._runs: dict[str, Outcome] = {}
        if self.path.exists():
            for line in self.path.read_text("utf-8").splitlines():
                self._take(line)

    def _take(self, line: str) -> None:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            return  # the line that was being written when the last run stopped
        if entry.get("stamp") == self.stamp:
            self._runs[entry["key"]] = outcome_of(entry["outcome"])

    def get(self, parameters: Parameters, seed: int, part: str = "") -> Outcome | None:
        """A run that is there."""
        return self._runs.get(_key(parameters, seed, part))

    def put(self, parameters: Parameters, seed: int, outcome: Outcome, part: str = "") -> None:
        """Keep a run."""
        key = _key(parameters, seed, part)
        self._runs[key] = outcome
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stamp": self.stamp, "key": key, "outcome": as_json(outcome)}) + "\n")

    def __len__(self) -> int:
        return len(self._runs)


def _key(parameters: Parameters, seed: int, part: str) -> str:
    return json.dumps([seed, part, dict(sorted(parameters.items()))])


def outcome_of(values: Mapping[str, Any]) -> Outcome:
    """An outcome from plain values."""
    return Outcome(**{f.name: math.nan if values[f.name] is None else float(values[f.name]) for f in fields(Outcome)})


@cache
def stamp(law: str) -> str:
    """Of the code that a run of this law depends on."""
    ours = law in OURS or LAWS[law].knows_future
    return _hash((*_WORLD, *(_OURS if ours else _RIVALS)))


def _hash(paths: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        place = _ROOT / path
        for file in [place] if place.is_file() else sorted(place.rglob("*")):
            if file.suffix == ".py":
                digest.update(ast.dump(_without_docstrings(ast.parse(file.read_text("utf-8")))).encode())
            elif file.suffix == ".yaml":
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))
            ] or [ast.Pass()]
    return tree
