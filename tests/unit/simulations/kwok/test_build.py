"""Building the control plane: whole or not at all, once, and with a clear word when it cannot be."""

import dataclasses
import os
import shutil
import stat
import threading
from pathlib import Path

import pytest

from simulations.kwok.build import (
    CONTROL_PLANE,
    BuildError,
    binaries_folder,
    build,
    control_plane,
    find_binaries,
    is_built,
)
from simulations.node.build import NODE

MAKES_EVERYTHING = """#!/bin/sh
for argument in "$@"; do case "$argument" in */bin/) out="$argument";; esac; done
echo "go: downloading k8s.io/kubernetes v1.36.3" >&2
echo "k8s.io/kubernetes/cmd/kubectl" >&2
echo run >> "$LOG"
sleep 0.2
for name in kube-apiserver kube-controller-manager kube-scheduler kubectl server kwok kwokctl kubelet kube-proxy; do
    echo "$name" > "$out$name"; chmod +x "$out$name"
done
"""
FAILS = """#!/bin/sh
echo "cmd/kubectl.go:1:1: syntax error" >&2
exit 3
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no Go, and where a stand-in for Go notes its runs."""
    path = tmp_path / "runs"
    monkeypatch.setenv("HEADROOM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(path))
    monkeypatch.delenv("HEADROOM_KUBERNETES", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return path


def install_go(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    program = folder / "go"
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(shutil, "which", lambda _: str(program))


def test_builds_every_binary_under_its_own_name(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(monkeypatch, tmp_path, MAKES_EVERYTHING)
    folder = build(lambda _: None)
    assert sorted(item.name for item in folder.iterdir()) == sorted(CONTROL_PLANE.binaries)
    assert (folder / "etcd").read_text() == "server\n"
    assert find_binaries() == folder
    build(lambda _: None)
    assert log.read_text() == "run\n", "what is there is not built again"


def test_another_kubernetes_has_a_folder_of_its_own_and_borrows_the_rest(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(monkeypatch, tmp_path, MAKES_EVERYTHING)
    usual = binaries_folder()
    monkeypatch.setenv("HEADROOM_KUBERNETES", "1.37")
    folder = build(lambda _: None)
    assert folder != usual
    assert (folder / "kwok").read_text() == (usual / "kwok").read_text()
    assert find_binaries() == folder
    assert log.read_text() == "run\nrun\n", "the usual one is built for what is borrowed"


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("named", ["", "1.36"])
def test_the_usual_kubernetes_by_its_name(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("HEADROOM_KUBERNETES", named)
    assert control_plane() is CONTROL_PLANE


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize("named", ["1.33", "v1.37", "latest"])
def test_a_kubernetes_that_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("HEADROOM_KUBERNETES", named)
    with pytest.raises(
        BuildError, match=f"HEADROOM_KUBERNETES: '{named}': the versions that can be built are 1.34, 1.36, 1.37"
    ):
        find_binaries()


def test_two_builders_at_once_build_once(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(monkeypatch, tmp_path, MAKES_EVERYTHING)
    threads = [threading.Thread(target=build, args=(lambda _: None,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log.read_text() == "run\n"


@pytest.mark.usefixtures("log")
def test_a_failed_build_shows_the_compilers_words_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_go(monkeypatch, tmp_path, FAILS)
    with pytest.raises(BuildError, match=r"status 3:\n.*syntax error"):
        build(lambda _: None)
    assert not binaries_folder().exists()
    assert os.listdir(binaries_folder().parent) == ["build.lock"]


@pytest.mark.usefixtures("log")
def test_without_go_it_says_what_to_install() -> None:
    with pytest.raises(BuildError, match=r"install Go 1\.26 or newer"):
        build(lambda _: None)


@pytest.mark.usefixtures("log")
def test_tests_are_told_to_build_first() -> None:
    with pytest.raises(BuildError, match="make control-plane"):
        find_binaries()


def test_outside_a_checkout_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="from a checkout of Headroom"):
        build(lambda _: None, dataclasses.replace(CONTROL_PLANE, module=tmp_path))


def test_a_node_has_a_folder_of_its_own(log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_go(
        monkeypatch, tmp_path, MAKES_EVERYTHING.replace("kubectl server", "containerd ctr containerd-shim-runc-v2")
    )
    folder = build(lambda _: None, NODE)
    assert folder.parent.name == "node"
    assert is_built(folder, NODE)
    assert not is_built(binaries_folder())
    assert log.read_text() == "run\n"
