"""Changes to PromQL texts: a matcher added to every selector, a selection by many names taken apart. Pure.

Queries of users are rewritten, so this goes by the words of the language alone and needs no list of its functions: what a
server knows beyond Prometheus (MetricsQL's functions, say) passes as it is. A parser that prints what it has parsed was tried
(`promql-parser` 0.12): it refuses functions that it does not know, and prints strings without their escapes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from headroom.errors import HeadroomError

_TOKEN: Final = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*`)
      | (?P<number>(?:\d|\.\d)[\w.]*)
      | (?P<word>[A-Za-z_:][\w:]*)
      | (?P<mark>[^\s\w])
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_MATCHER: Final = re.compile(r'\s*([A-Za-z_]\w*)\s*(=~|!~|!=|=)\s*("(?:\\.|[^"\\])*"|[^",{}\s]+)\s*', re.DOTALL)
_BY_NAMES: Final = re.compile(r'\{__name__=~"([\w:]+(?:\|[\w:]+)*)"((?:,[^{}]*)?)\}([^{}]*)', re.ASCII)
_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}
_LISTS: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
"""Words before a list of labels."""
_JOINING: Final = frozenset({"and", "or", "unless", "atan2", "default", "if", "ifnot"})
"""Words between two operands; the last three are MetricsQL's."""
_NO_METRIC: Final = frozenset({"inf", "nan", "bool"})


class PromqlError(HeadroomError, ValueError):
    """A text that is no matcher, or a query that no matcher can be added to."""


def matcher(text: str) -> str:
    """One label matcher in PromQL's own spelling; the value's quotes may be left out. Raises PromqlError."""
    found = _MATCHER.fullmatch(text)
    if found is None:
        raise PromqlError(f'{text!r} is not a matcher such as cluster="prod"')
    label, operator, value = found.groups()
    if value[0] != '"':
        value = '"' + value.replace("\\", "\\\\") + '"'
    return f"{label}{operator}{value}"


def with_matchers(query: str, matchers: Sequence[str]) -> str:
    """The query with these matchers in each of its selectors. Raises PromqlError where that cannot be done."""
    return _Rewriter(query, ",".join(matchers)).text() if matchers else query


def names_apart(query: str) -> list[str]:
    """A selection by several names as one query for each; empty for any other query.

    `{__name__=~"a|b",x="y"}[1m]` -> `a{x="y"}[1m]`, `b{x="y"}[1m]`.
    """
    found = _BY_NAMES.fullmatch(query)
    if found is None:
        return []
    names, more, rest = found.groups()
    return [f"{name}{{{more[1:]}}}{rest}" if more else f"{name}{rest}" for name in names.split("|")]


@dataclass(slots=True)
class _Token:
    kind: str
    text: str


class _Rewriter:
    """Walks a query from left to right and writes it out again. `self._operand`: whether an operand may come next."""

    def __init__(self, query: str, added: str) -> None:
        self._tokens = [_Token(str(m.lastgroup), m.group()) for m in _TOKEN.finditer(query)]
        self._added, self._out, self._at, self._operand = added, list[str](), 0, True

    def text(self) -> str:
        while self._at < len(self._tokens):
            self._step()
        return "".join(self._out)

    def _step(self) -> None:
        token = self._tokens[self._at]
        if token.kind == "word":
            self._word(token.text)
        elif token.text == "{":
            self._braces()
        elif token.text == "[":
            self._copy_to_closing()
            self._operand = False
        else:
            self._copy()
            if token.kind in ("string", "number") or token.text == ")":
                self._operand = False
            elif token.kind != "space":
                self._operand = True

    def _word(self, word: str) -> None:
        low = word.lower()
        follower = self._following(self._at + 1)
        self._copy()
        if low in _LISTS:
            if follower == "(":
                self._copy_spaces()
                self._copy_to_closing()
        elif not self._operand:
            self._operand = low in _JOINING  # else a word such as `offset`, which ends nothing
        elif low == "with" and follower == "(":
            raise PromqlError("a query with WITH templates cannot be given a further matcher")
        elif low in _NO_METRIC:
            self._operand = low == "bool"
        elif follower not in ("(", "{", "by", "without"):
            self._out.append(f"{{{self._added}}}")
            self._operand = False

    def _braces(self) -> None:
        """A selector's matchers, with ours at the end; MetricsQL joins several lists by `or`, each gets them."""
        self._copy()
        empty = True
        while self._at < len(self._tokens):
            token = self._tokens[self._at]
            ends = token.text == "}" or (token.kind == "word" and token.text.lower() == "or" and self._is_joint())
            if ends:
                self._out.append(self._added if empty else f",{self._added}")
                if token.text != "}":
                    self._out.append(" ")
            self._copy()
            if token.text == "}":
                break
            empty = ends or (empty and token.kind == "space") or token.text == ","
        self._operand = False

    def _is_joint(self) -> bool:
        return self._following(self._at + 1) not in ("=", "!")

    def _following(self, at: int) -> str:
        """The next token's text that is no space, lower-case; empty at the end."""
        while at < len(self._tokens) and self._tokens[at].kind == "space":
            at += 1
        return self._tokens[at].text.lower() if at < len(self._tokens) else ""

    def _copy(self) -> None:
        self._out.append(self._tokens[self._at].text)
        self._at += 1

    def _copy_spaces(self) -> None:
        while self._at < len(self._tokens) and self._tokens[self._at].kind == "space":
            self._copy()

    def _copy_to_closing(self) -> None:
        depth = 0
        while self._at < len(self._tokens):
            text = self._tokens[self._at].text
            depth += (text in _CLOSING) - (text in _CLOSING.values())
            self._copy()
            if depth == 0:
                return
