"""Turns a position in a batch of queries into the position in the single query. Pure.

In a batch (`queries.combine`) each query begins on a line of its own, after one line that is not its own.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

_PLACE: Final = re.compile(r"\b(\d+):(\d+)\b")


def moved_up(text: str) -> str:
    """A message about a query that was asked alone, with the line numbers that its writer counts."""
    return _PLACE.sub(lambda found: f"{max(int(found[1]) - 1, 1)}:{found[2]}", text, count=1)


def placed(notes: Iterable[str], queries: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(number of the query, the remark with its place in that query) for each remark that names a place."""
    begins: list[int] = []
    line = 2
    for query in queries:
        begins.append(line)
        line += query.count("\n") + 2
    for note in notes:
        found = list(_PLACE.finditer(note))
        if not found:
            continue
        at = int(found[-1][1])
        number = max((i for i, begin in enumerate(begins) if begin <= at), default=0)
        start, end = found[-1].span()
        yield number, f"{note[:start]}{at - begins[number] + 1}:{found[-1][2]}{note[end:]}"
