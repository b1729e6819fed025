"""The glossary: one word for each concept, and each word once."""

import re

import pytest

from tests.paths import DOCS, ROOT

ROWS = [row for row in re.findall(r"^\| (.+?) \| .+ \|$", (DOCS / "glossary.md").read_text(), re.M) if row != "word"]
WORDS = [word for row in ROWS for word in row.split(", ")]
USED = "\n".join(
    path.read_text().lower()
    for folder in ("headroom", "scheduler", "autoscaler", "agent", "simulations", "docs")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in {".py", ".md"} and path.name != "glossary.md"
)


def test_each_word_has_one_entry() -> None:
    assert len(WORDS) > 50
    assert [word for word in WORDS if WORDS.count(word) > 1] == []


@pytest.mark.parametrize("word", WORDS)
def test_each_word_is_in_use(word: str) -> None:
    assert re.search(rf"\b{word.lower()}", USED)
