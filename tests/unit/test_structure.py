"""The structure that people rely on: who may call itself pure, how large a folder may grow, where packages come from."""

import ast
import itertools
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest

from tests.paths import ROOT
from tools.contracts import is_in

PACKAGES = ("headroom", "scheduler", "autoscaler", "agent", "simulations")
MOST_ENTRIES = 14
"""About a dozen, `__init__.py` left out: more is hard to take in at a glance."""
MOST_LINES = 420
"""About four hundred: a file has one subject."""
MOST_PARAMETERS = 7
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def is_pure_by_contract(module: str) -> bool:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (pure,) = (contract for contract in contracts if contract["type"] == "pure")
    return is_in(module, pure["folders"]) and not is_in(module, pure["edges"])


CALLED_PURE = [dotted(path) for path in MODULES if re.search(r"\b[Pp]ure\b", docstring(path).split("\n\n")[0])]


def test_modules_call_themselves_pure() -> None:
    assert len(CALLED_PURE) > 30
    assert not is_pure_by_contract("scheduler.verbs.filter")


@pytest.mark.parametrize("module", CALLED_PURE)
def test_a_module_that_calls_itself_pure_is_held_to_it(module: Any) -> None:
    assert is_pure_by_contract(module)


@pytest.mark.parametrize("path", [path for path in MODULES if path.name == "__init__.py"], ids=dotted)
def test_a_folder_says_in_one_sentence_what_it_holds(path: Any) -> None:
    assert len(docstring(path)) > 20


@pytest.mark.parametrize("folder", sorted({path.parent for path in MODULES}), ids=lambda path: str(path.name))
def test_a_folder_can_be_taken_in_at_a_glance(folder: Any) -> None:
    entries = [entry.name for entry in folder.iterdir() if not entry.name.startswith((".", "__"))]
    assert len(entries) <= MOST_ENTRIES, sorted(entries)


def test_a_file_has_one_subject() -> None:
    """Tests as well."""
    files = [*MODULES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in files}
    assert {path for path, lines in lengths.items() if lines > MOST_LINES} == set()


def test_tests_mirror_the_code() -> None:
    """Each lies in the folder that its code lies in, or one that is named like the file of it."""
    unit = ROOT / "tests" / "unit"
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")}
    assert {
        str(each) for each in folders if not ((ROOT / each).is_dir() or (ROOT / each).with_suffix(".py").exists())
    } == set()


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(re.search(r"click|\boptions?\(|command", ast.unparse(each)) for each in function.decorator_list)


def test_no_function_has_more_than_seven_parameters() -> None:
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                or node.name == "__init__"
                or is_command(node)
            ):
                continue
            given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            if len([each for each in given if each.arg not in {"self", "cls"}]) > MOST_PARAMETERS:
                found.add(f"{dotted(path)}:{node.name}")
    assert found == set()


MOST_LINES_OF_A_FUNCTION = 60
"""About a screen, docstring left out."""


def test_a_function_fits_on_a_screen() -> None:
    """All but the lists of metrics, which are tables."""
    found = {}
    for path in [*MODULES, *sorted((ROOT / "tools").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or path.name == "metrics.py":
                continue
            docstring = node.body[0] if ast.get_docstring(node) is not None else None
            hidden = (docstring.end_lineno or 0) - docstring.lineno + 1 if docstring else 0
            lines = (node.end_lineno or 0) - node.lineno + 1 - hidden
            if lines > MOST_LINES_OF_A_FUNCTION:
                found[f"{path.relative_to(ROOT)}:{node.name}"] = lines
    assert found == {}


def places_named(page: str) -> set[str]:
    """Files and modules of this repository that a page names in code spans."""
    named = re.findall(r"`([\w./-]+)`", (ROOT / page).read_text())
    tops = "|".join((*PACKAGES, "docs", "deploy", "tests", "tools"))
    return {each for each in named if re.match(rf"({tops})[./]", each) and not each.startswith("headroom.dev/")}


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_what_a_map_names_is_there(page: str) -> None:
    """A path exists; of a dotted name the module does, and defines what it names."""
    places = places_named(page)
    assert len(places) > 8
    for place in places:
        if "/" in place:
            assert (ROOT / place).exists(), place
            continue
        at, parts = ROOT, place.split(".")
        while parts and (at / parts[0]).is_dir():
            at /= parts.pop(0)
        if parts:
            at = at / f"{parts.pop(0)}.py"
        assert at.exists(), place
        assert all(re.search(rf"^\s*(class|def) {name}\b", at.read_text(), re.M) for name in parts), place


PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "README", "SECURITY")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_of_documentation_fit_a_screen(page: Path) -> None:
    """All but tables and what programs print."""
    text = re.sub(r"^```console$.*?^```$", "", page.read_text(), flags=re.M | re.S)
    wide = [line for line in text.splitlines() if len(line) > 140 and not line.startswith("|")]
    assert wide == []


SLEEPS = {
    "tests/fakes/autoscaled.py:seen": "looks at a real control plane again and again",
    "tests/fakes/extender_cluster.py:calm": "looks at a real control plane again and again",
    "tests/fakes/kubelet.py:_list": "a scripted kubelet that is slow: the client's time-out is what is tested",
    "tests/fakes/prometheus.py:_batch": "a scripted Prometheus that is slow: the client's time-out is what is tested",
    "tests/unit/agent/cards/burner.py:main": "keeps a real card busy for a part of the time",
    "tests/unit/agent/cards/test_gpu.py:test_readings_faster_than_the_sampling_never_look_idle": "a real card",
    "tests/unit/agent/cards/test_gpu.py:test_two_processes_are_attributed_by_size_and_duty": "a real card",
}
"""Functions that let real time pass, and why. Others wait by `tests/waiting.py`."""


def sleepers(node: ast.AST, function: str = "") -> Iterator[str]:
    """The functions that call a sleep of more than 0, which takes no time and lets others go first."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call) and re.match(r"(\w+\.)?sleep\((?!0\))", ast.unparse(child)):
            yield function
        yield from sleepers(
            child, child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        )


def test_nothing_is_proved_by_sleeping() -> None:
    files = [*(ROOT / "tests" / "unit").rglob("*.py"), *(ROOT / "tests" / "fakes").rglob("*.py")]
    found = {f"{path.relative_to(ROOT)}:{name}" for path in files for name in sleepers(ast.parse(path.read_text()))}
    assert found == SLEEPS.keys()


def test_packages_are_those_of_this_checkout() -> None:
    import headroom
    import scheduler

    assert Path(scheduler.__file__).parent == ROOT / "scheduler"
    assert Path(headroom.__file__).parent == ROOT / "headroom"


@pytest.mark.parametrize("package", ["headroom", "scheduler", "autoscaler", "agent", "simulations"])
def test_folders_and_files_import_one_another_in_no_circle(package: str) -> None:
    """Side by side, at every depth; imports for types alone do not count."""
    graph = grimp.build_graph(package, exclude_type_checking_imports=True, cache_dir=None)
    circles = [
        (one, other)
        for parent in sorted(graph.modules)
        for one, other in itertools.combinations(sorted(graph.find_children(parent)), 2)
        if graph.find_shortest_chain(one, other, as_packages=True)
        and graph.find_shortest_chain(other, one, as_packages=True)
    ]
    assert circles == []
