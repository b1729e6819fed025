"""What must hold of a query that people wrote before it may stand inside another one. Pure."""

from typing import Final


def is_closed(query: str) -> bool:
    """Whether a query can stand as an argument: quotes end, brackets match, no comma or comment reaches beyond it.

    Without this check one object's query could close the call around it and answer in another object's name.
    """
    stack: list[str] = []
    at = 0
    while at < len(query):
        character = query[at]
        if character in "\"'`":
            at = _end_of_string(query, at)
            if at < 0:
                return False
        elif character == "#":
            at = query.find("\n", at)
            if at < 0:
                break
        elif character in _CLOSING:
            stack.append(_CLOSING[character])
        elif character in _CLOSING.values():
            if not stack or stack.pop() != character:
                return False
        elif character == "," and not stack:
            return False
        at += 1
    return not stack


_CLOSING: Final = {"(": ")", "[": "]", "{": "}"}


def _end_of_string(query: str, start: int) -> int:
    """Index of the closing quote, -1 where there is none. Backquotes know no escapes."""
    quote, at = query[start], start + 1
    while at < len(query):
        if query[at] == "\\" and quote != "`":
            at += 1
        elif query[at] == quote:
            return at
        at += 1
    return -1
