"""The tables of the documentation that follow from code, which `tools.write` writes.

A table stands in its page between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path

import yaml

from headroom import wire
from headroom.domain.dialects.table import FAMILIES
from headroom.domain.dialects.words import Annotation, Family
from headroom.domain.request import request_of
from tools import faults

DOCS = Path(__file__).resolve().parents[1] / "docs"


def limits_table() -> str:
    """What limits of a container come to, in every dialect."""
    rows = ["| limits of a container | dialect | mode | shares | each holds |", "|---|---|---|---|---|"]
    for family in FAMILIES:
        for example in family.examples:
            spec = {"containers": [{"name": "c", "resources": {"limits": yaml.load(example, yaml.BaseLoader)}}]}
            request = request_of(wire.POD.decode(json.dumps({"metadata": {"name": "p"}, "spec": spec}).encode()))
            assert request is not None, example
            size = (
                f"{request.vram_mib} MiB"
                if request.vram_mib
                else f"{request.milli} thousandths"
                if request.milli
                else ""
            )
            rows.append(
                f"| `{example}` | {family.name} | {request.mode.value} | {request.count} | {size or 'whole card, or its slice'} |"
            )
    return "\n".join(rows)


def words_table() -> str:
    """What becomes of each word of the other schedulers."""
    rows = ["| word | of | what becomes of it |", "|---|---|---|"]
    for family in FAMILIES:
        rows += [f"| {word} | {family.name} | {fate} |" for word, fate in _fates(family)]
    return "\n".join(rows)


def _fates(family: Family) -> list[tuple[str, str]]:
    if family.name in ("Headroom", "Device plugins"):
        return []
    fates = [(f"`{size.name}`", f"honoured: {size.unit.value}") for size in family.sizes]
    fates += [(f"`{count.name}`", "honoured: cards that Headroom picks") for count in family.counts]
    for companion in family.companions:
        alone = "; alone, it asks for a whole card" if companion.implies_card else ""
        fates.append((f"`{companion.name}`", f"ignored with an Event: {companion.why}{alone}"))
    return fates + [(f"annotation `{word.name}`", _fate(word)) for word in family.annotations]


def _fate(word: Annotation) -> str:
    if word.resource:
        return f"honoured by the admission policy: {word.meaning}, as `{word.resource}`; without the policy refused"
    if word.ignored:
        return f"ignored with an Event: {word.ignored}"
    refused = f"; anything else, such as `{word.refused}`, is refused" if word.refused else ""
    return f"honoured: {word.meaning}{refused}"


def faults_table() -> str:
    """Which test holds which fault."""
    rows = ["| what goes wrong without the mend | test that fails then | the same on a real node |", "|---|---|---|"]
    for fault in faults.known():
        real = f"`{fault.also.removeprefix('tests/')}`" if fault.also else ""
        rows.append(f"| {fault.what} | `{fault.test.removeprefix('tests/')}` | {real} |")
    return "\n".join(rows)


TABLES: dict[str, tuple[str, Callable[[], str]]] = {
    "limits": ("requests.md", limits_table),
    "words": ("requests.md", words_table),
    "faults": ("testing.md", faults_table),
}


def written(page: str, name: str, table: str) -> str:
    """A page with one of its tables written anew."""
    pattern = re.compile(rf"(<!-- table: {name} -->\n)(?:(?!<!-- end).*\n)*(<!-- end -->)")
    if not pattern.search(page):
        raise SystemExit(f"no place for the table {name!r}")
    return pattern.sub(lambda match: f"{match.group(1)}{table}\n{match.group(2)}", page)


def files() -> dict[Path, str]:
    """Pages with all their tables written anew."""
    pages: dict[Path, str] = {}
    for name, (page, table) in TABLES.items():
        path = DOCS / page
        pages[path] = written(pages.get(path) or path.read_text(encoding="utf-8"), name, table())
    return pages
