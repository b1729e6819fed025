"""The contract that keeps folders pure but for the modules that are named."""

import grimp
import pytest

from tools.contracts import PureContract

CLEAN = {"core.law": (), "core.reading": ("time",)}


def checked(imports: dict[str, tuple[str, ...]], *edges: str) -> tuple[list[tuple[str, ...]], list[str]]:
    """Chains to what is forbidden, and edges that nobody needs."""
    graph = grimp.ImportGraph()
    graph.add_module("core")
    for importer, imported in imports.items():
        for module in imported:
            graph.add_import(importer=importer, imported=module)
        graph.add_module(importer)
    options = {"name": "pure", "folders": ["core"], "edges": [*edges], "forbidden_modules": ["time", "socket"]}
    check = PureContract("pure", {}, options).check(graph, verbose=False)
    assert check.kept == (not any(check.metadata.values()))
    return check.metadata["chains"], check.metadata["needless"]


@pytest.mark.parametrize(
    ("imports", "edges", "chains", "needless"),
    [
        pytest.param(CLEAN, ("core.reading",), [], [], id="the edge is named"),
        pytest.param(CLEAN, ("core",), [], [], id="a folder of edges"),
        pytest.param(CLEAN, (), [("core.reading", "time")], [], id="a new file with a clock"),
        pytest.param(
            CLEAN | {"core.law": ("core.reading",)}, ("core.reading",), [("core.law", "core.reading", "time")], [], id="through an edge"
        ),
        pytest.param(CLEAN, ("core.reading", "core.law"), [], ["core.law"], id="an edge too many"),
    ],
)  # fmt: skip
def test_what_breaks_it(
    imports: dict[str, tuple[str, ...]], edges: tuple[str, ...], chains: list[tuple[str, ...]], needless: list[str]
) -> None:
    assert checked(imports, *edges) == (chains, needless)
