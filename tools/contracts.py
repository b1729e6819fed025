"""A contract of import-linter: folders without clock, randomness and I/O, but for the modules that are named as their edges."""

from collections.abc import Iterable
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class PureContract(Contract):
    """Nothing in `folders` reaches one of `forbidden_modules`, by whatever chain, except `edges` and what is in them.

    So a new file is pure, or it is named as an edge. An edge that reaches none of them is an error, too: the list has what it needs.
    """

    type_name = "pure"

    folders = fields.ListField(subfield=fields.StringField())
    edges = fields.ListField(subfield=fields.StringField())
    forbidden_modules = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Called by import-linter."""
        folders, edges = _strings(self.folders), _strings(self.edges)
        known = [module for module in _strings(self.forbidden_modules) if module in graph.modules]
        reaching = {module for forbidden in known for module in graph.find_downstream_modules(forbidden)}
        broken = sorted(module for module in reaching if is_in(module, folders) and not is_in(module, edges))
        needless = [edge for edge in edges if not any(is_in(module, [edge]) for module in reaching)]
        chains = [
            min(filter(None, (graph.find_shortest_chain(module, each) for each in known)), key=len) for module in broken
        ]
        return ContractCheck(kept=not (broken or needless), metadata={"chains": chains, "needless": needless})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Called by import-linter."""
        for chain in check.metadata["chains"]:
            output.print_error(f"{chain[0]} is to be pure: {' -> '.join(chain)}")
        for edge in check.metadata["needless"]:
            output.print_error(f"{edge} is named as an edge and needs no such module")


def is_in(module: str, packages: Iterable[str]) -> bool:
    """Whether it is one of the packages or inside one."""
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _strings(values: Any) -> list[str]:
    return [str(value) for value in values]
