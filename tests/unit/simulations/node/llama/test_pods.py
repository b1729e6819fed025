"""A pod that is being deleted: what runs before its engine is told to end."""

import os
import subprocess
from pathlib import Path

import pytest

from simulations.node.llama.pods import DRAIN, deployment


def program(folder: Path, name: str, lines: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("pages", "looks"),
    [
        pytest.param(["processing 0"], 1, id="an idle engine goes at once"),
        pytest.param(["processing 2", "processing 1", "processing 0"], 3, id="what is being answered is finished"),
        pytest.param(["deferred 7", "deferred 0"], 2, id="what waits for a slot is answered, too"),
        pytest.param([""], 1, id="an engine that answers no more is not waited for"),
    ],
)
def test_what_an_engine_was_given_is_finished_before_it_ends(tmp_path: Path, pages: list[str], looks: int) -> None:
    for number, page in enumerate(pages, 1):
        (tmp_path / f"page-{number}").write_text(f"llamacpp:requests_{page}\n" if page else "", encoding="utf-8")
    (tmp_path / "looks").touch()
    (tmp_path / "sleeps").touch()
    program(tmp_path, "wget", f'echo >> {tmp_path}/looks; cat "{tmp_path}/page-$(wc -l < {tmp_path}/looks)"')
    program(tmp_path, "sleep", f"echo $1 >> {tmp_path}/sleeps")
    path = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", "-c", DRAIN], env=path, check=True, timeout=30, capture_output=True)
    assert (tmp_path / "looks").read_text().count("\n") == looks
    assert (tmp_path / "sleeps").read_text().startswith("3\n"), "endpoints let go of the pod first"


def test_the_pod_drains_before_it_ends(tmp_path: Path) -> None:
    pod = deployment("llama", tmp_path, vram="20Gi")[0]["spec"]["template"]["spec"]
    assert pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][-1] == DRAIN
    assert pod["terminationGracePeriodSeconds"] == 120
