"""The command line as a whole: what there is, what completes, what kubectl finds."""

import re
import subprocess
import sys
from importlib.metadata import entry_points

from headroom.cli import cli
from tests.paths import DOCS


def test_every_command_is_on_the_page_and_every_one_on_the_page_is_there() -> None:
    page = (DOCS / "commands.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| `headroom")]
    cells = " ".join(line.split("|")[1] for line in table)
    named = set(re.findall(r"headroom ([a-z-]+)|`([a-z-]+)`", cells))
    assert {one or other for one, other in named} == set(
        cli.list_commands(cli.make_context("headroom", [], resilient_parsing=True))
    )


def test_kubectl_finds_it() -> None:
    scripts = {
        one.name: one.value for one in entry_points(group="console_scripts") if one.value.startswith("headroom.")
    }
    assert scripts == {"headroom": "headroom.cli:main", "kubectl-headroom": "headroom.cli:main"}


def test_the_shell_completes_commands() -> None:
    code = "from headroom.cli import main; main()"
    environment = {"_HEADROOM_COMPLETE": "bash_complete", "COMP_WORDS": "headroom do", "COMP_CWORD": "1", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert "plain,doctor" in done.stdout.splitlines()
