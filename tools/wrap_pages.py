"""Breaks the lines of the documentation that are too long: `python tools/wrap_pages.py`. Tables, code and headings stay."""

import re
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "README", "SECURITY")),
]
WIDTH = 140
_ITEM = re.compile(r"(\s*)([-*+]|\d+\.)\s+")
_APART = re.compile(r"\s*(\||#|```|<)")


def wrapped(text: str) -> str:
    """The page with every paragraph and list item that has a long line broken anew."""
    lines, result, in_code = text.split("\n"), [], False
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if line.lstrip().startswith("```"):
            in_code = not in_code
        is_code = in_code or (line.startswith("    ") and not (result and result[-1].strip()))
        if is_code or not line.strip() or _APART.match(line):
            result.append(line)
            continue
        block = [line]
        while at < len(lines) and lines[at].strip() and not _ITEM.match(lines[at]) and not _APART.match(lines[at]):
            block.append(lines[at])
            at += 1
        result += block if max(map(len, block)) <= WIDTH else _broken(block)
    return "\n".join(result)


def _broken(block: list[str]) -> list[str]:
    item = _ITEM.match(block[0])
    indent = len(item[0]) if item else len(block[0]) - len(block[0].lstrip())
    text = " ".join([block[0].rstrip(), *(line.strip() for line in block[1:])])
    return textwrap.wrap(text, WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    for page in PAGES:
        text = page.read_text()
        if (new := wrapped(text)) != text:
            page.write_text(new)
