"""From a process to its pod: cgroup names of every runtime and driver, processes that vanish, numbers that are used again."""

from pathlib import Path

import pytest

from agent.pods.cgroup import Owner, owner_of
from agent.pods.processes import ProcessTable

UID = "0f3c2d1e-1111-4222-8333-abcdefabcdef"
SLICE_UID = UID.replace("-", "_")
CID = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
STATIC = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        pytest.param(f"0::/kubepods/burstable/pod{UID}/{CID}", Owner(UID, CID), id="v2 cgroupfs"),
        pytest.param(f"0::/kubepods/pod{UID}/{CID}", Owner(UID, CID), id="v2 cgroupfs guaranteed"),
        pytest.param(
            f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{CID}.scope",
            Owner(UID, CID),
            id="v2 systemd containerd",
        ),
        pytest.param(
            f"0::/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{CID}.scope",
            Owner(UID, CID),
            id="v2 systemd CRI-O guaranteed",
        ),
        pytest.param(
            f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice/crio-{CID}.scope/container",
            Owner(UID, CID),
            id="v2 CRI-O with a cgroup made inside the container",
        ),
        pytest.param(
            f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICE_UID}.slice/docker-{CID}.scope",
            Owner(UID, CID),
            id="v2 systemd cri-dockerd",
        ),
        pytest.param(
            f"12:devices:/kubepods/besteffort/pod{UID}/{CID}\n11:memory:/kubepods/besteffort/pod{UID}/{CID}\n1:name=systemd:/",
            Owner(UID, CID),
            id="v1 cgroupfs",
        ),
        pytest.param(
            f"1:name=systemd:/init.scope\n4:memory:/kubepods.slice/kubepods-pod{SLICE_UID}.slice/cri-containerd-{CID}.scope",
            Owner(UID, CID),
            id="v1 systemd, first line outside",
        ),
        pytest.param(
            f"0::/system.slice/containerd.service/kubepods-burstable-pod{SLICE_UID}.slice:cri-containerd:{CID}",
            Owner(UID, CID),
            id="containerd with cgroupfs under systemd",
        ),
        pytest.param(
            f"0::/../../kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{CID}.scope",
            Owner(UID, CID),
            id="seen from another cgroup namespace",
        ),
        pytest.param(
            f"0::/docker/{CID}/kubelet/kubepods/burstable/pod{UID}/{CID[::-1]}",
            Owner(UID, CID[::-1]),
            id="kind on docker",
        ),
        pytest.param(
            f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{SLICE_UID}.slice/cri-containerd-{CID}.scope",
            Owner(UID, CID),
            id="kubelet under a slice of its own",
        ),
        pytest.param(f"0::/kubepods/pod{STATIC}/{CID}", Owner(STATIC, CID), id="static pod"),
        pytest.param(f"0::/kubepods/burstable/pod{UID}", Owner(UID, ""), id="in the pod, in no container"),
        pytest.param("0::/system.slice/nvidia-persistenced.service", None, id="a service"),
        pytest.param("0::/user.slice/user-1000.slice/session-1.scope", None, id="somebody logged in"),
        pytest.param("0::/", None, id="root"),
        pytest.param("", None, id="empty"),
        pytest.param("garbage\nwithout:colons\n", None, id="not a cgroup file"),
        pytest.param(f"0::/user.slice/podman-{CID}.scope", None, id="podman is no pod"),
    ],
)
def test_a_cgroup_names_its_pod_and_container(text: str, owner: Owner | None) -> None:
    assert owner_of(text) == owner


def put_process(proc: Path, pid: int, *, start: int, pod: str | None, command: str = "python3") -> None:
    folder = proc / str(pid)
    folder.mkdir(exist_ok=True)
    (folder / "stat").write_text(f"{pid} ({command}) S " + " ".join(["1"] * 18) + f" {start} 0 0\n")
    path = f"/kubepods/pod{pod}/{CID}" if pod else "/system.slice/some.service"
    (folder / "cgroup").write_text(f"0::{path}\n")


OTHER = "ffffffff-1111-4222-8333-abcdefabcdef"


def test_processes_of_pods_and_of_the_machine(tmp_path: Path) -> None:
    put_process(tmp_path, 10, start=100, pod=UID)
    put_process(tmp_path, 11, start=100, pod=None, command="a (strange) name) 1 2")
    assert ProcessTable(tmp_path).owners([10, 11]) == {10: Owner(UID, CID), 11: None}


def test_a_number_used_again_is_looked_up_anew(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    put_process(tmp_path, 10, start=100, pod=UID)
    table.owners([10])
    put_process(tmp_path, 10, start=200, pod=OTHER)
    assert table.owners([10]) == {10: Owner(OTHER, CID)}
    assert table.reused == 1


def test_a_known_process_keeps_its_pod_when_its_cgroup_is_gone(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    put_process(tmp_path, 10, start=100, pod=UID)
    table.owners([10])
    (tmp_path / "10" / "cgroup").unlink()
    assert table.owners([10]) == {10: Owner(UID, CID)}


@pytest.mark.parametrize("missing", ["stat", "cgroup"])
def test_a_process_that_vanished_is_counted_and_nobodys(tmp_path: Path, missing: str) -> None:
    put_process(tmp_path, 10, start=100, pod=UID)
    (tmp_path / "10" / missing).unlink()
    table = ProcessTable(tmp_path)
    assert table.owners([10, 99]) == {}
    assert table.vanished == 2


@pytest.mark.parametrize("text", ["", "10 no brackets", "10 (short) S 1 2", "10 (x) S " + " ".join(["a"] * 30)])
def test_a_stat_file_that_cannot_be_read_is_a_process_that_vanished(tmp_path: Path, text: str) -> None:
    put_process(tmp_path, 10, start=100, pod=UID)
    (tmp_path / "10" / "stat").write_text(text)
    assert ProcessTable(tmp_path).owners([10]) == {}


def test_processes_no_longer_asked_for_are_forgotten(tmp_path: Path) -> None:
    table = ProcessTable(tmp_path)
    put_process(tmp_path, 10, start=100, pod=UID)
    table.owners([10])
    table.owners([])
    put_process(tmp_path, 10, start=200, pod=OTHER)
    table.owners([10])
    assert table.reused == 0
