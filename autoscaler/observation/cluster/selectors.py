"""Label selectors in their text form, as a scale's status holds one: `app=llm,role in (leader,solo),!canary`. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from headroom.errors import HeadroomError

_SET: Final = re.compile(r"([^\s,()=!]+)\s+(in|notin)\s*\(([^()]*)\)")
_ONE: Final = re.compile(r"(!?)\s*([^\s,()=!]+)\s*(?:(==|=|!=)\s*([^\s,()=!]*))?")


class SelectorError(HeadroomError, ValueError):
    """A text that is no label selector."""


@dataclass(frozen=True, slots=True)
class _Requirement:
    label: str
    values: frozenset[str] | None
    """None: any value."""
    wanted: bool

    def holds(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.label)
        found = value is not None and (self.values is None or value in self.values)
        return found is self.wanted


@dataclass(frozen=True, slots=True)
class Selector:
    """Which pods a workload calls its own. An empty one selects none: a scale without a selector says nothing."""

    requirements: tuple[_Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether every requirement holds."""
        return bool(self.requirements) and all(one.holds(labels) for one in self.requirements)

    @property
    def exact(self) -> tuple[str, str] | None:
        """A label and the only value of it that is chosen; None where no requirement is so plain."""
        for one in self.requirements:
            if one.wanted and one.values is not None and len(one.values) == 1:
                return one.label, next(iter(one.values))
        return None


def parse(text: str) -> Selector:
    """Raises SelectorError."""
    found: list[_Requirement] = []
    at = 0
    while text[at:].strip():
        at += len(text[at:]) - len(text[at:].lstrip())
        if several := _SET.match(text, at):
            label, operator, values = several.groups()
            found.append(_Requirement(label, frozenset(value.strip() for value in values.split(",")), operator == "in"))
            at = several.end()
        elif one := _ONE.match(text, at):
            absent, label, operator, value = one.groups()
            if absent and operator:
                raise SelectorError(f"{text!r} is no label selector")
            wanted = not absent and operator != "!="
            found.append(_Requirement(label, None if operator is None else frozenset([value]), wanted))
            at = one.end()
        else:
            raise SelectorError(f"{text!r} is no label selector")
        rest = text[at:].lstrip()
        if rest and not rest.startswith(","):
            raise SelectorError(f"{text!r} is no label selector")
        at = len(text) - len(rest) + 1 if rest else len(text)
    return Selector(tuple(found))
