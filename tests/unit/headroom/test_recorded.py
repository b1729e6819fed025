"""What the docs show of a command that needs no cluster is what it prints: console blocks that begin with one of `COMMANDS`."""

import re
import shlex
import sys
from collections.abc import Iterator

import pytest

from headroom import cli
from tests.paths import DOCS

COMMANDS = ("advise --example", "convert", "estimate")
CUT = "...\n"
"""Where a record ends before the output does."""


def recorded() -> Iterator[tuple[str, str, str]]:
    """Page, command and output of each record."""
    for page in sorted(DOCS.glob("*.md")):
        for command, shown in re.findall(
            r"^```console\n\$ headroom ([^\n]*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE
        ):
            if command.startswith(COMMANDS):
                yield page.name, command, shown


RECORDED = list(recorded())


@pytest.mark.parametrize(
    ("page", "command", "shown"), RECORDED, ids=[f"{page}: {command}" for page, command, _ in RECORDED]
)
def test_what_the_docs_show_is_what_the_command_prints(
    page: str, command: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(DOCS.parent)
    monkeypatch.setattr(sys, "argv", ["headroom", *shlex.split(command)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (0, None)
    told = capsys.readouterr()
    printed = told.out + told.err
    if shown.endswith(CUT):
        assert printed.startswith(shown.removesuffix(CUT)), page
    else:
        assert printed.strip() == shown.strip(), page


def test_each_of_these_commands_is_shown() -> None:
    for command in COMMANDS:
        assert any(run.startswith(command) for _, run, _ in RECORDED), command
