"""The fixture itself: pods really run, NVML is in containers that ask for it, and nothing is left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from simulations.kwok.process import ComponentError
from simulations.node import namespaces
from simulations.node.cluster import NodeCluster
from simulations.node.namespaces import Namespaces
from tests.node.installed import Headroom, pod


def test_a_container_with_a_device_sees_what_the_plugin_said(headroom: Headroom) -> None:
    headroom.share(replicas=2)
    headroom.create(pod("plain", {"nvidia.com/gpu": "1"}, schedulerName="default-scheduler"))
    headroom.started("plain")
    device = headroom.given()["plain"]
    assert headroom.environment("plain")["NVIDIA_VISIBLE_DEVICES"] == ",".join(device)
    assert headroom.node.plugin_calls()[-1]["devices"][0].startswith(device[0])


def test_an_mps_plugin_adds_its_pipes(headroom: Headroom) -> None:
    headroom.share(replicas=2, mps=True)
    headroom.create(pod("plain", {"nvidia.com/gpu": "1"}, schedulerName="default-scheduler"))
    headroom.started("plain")
    assert headroom.environment("plain")["CUDA_MPS_PIPE_DIRECTORY"] == "/mps/nvidia.com/gpu/pipe"


def test_services_have_names_and_lead_to_the_api_server(headroom: Headroom) -> None:
    command = "echo | nc -w 3 kubernetes.default.svc.cluster.local 443"
    headroom.create(pod("asks", {}, command=command), pod("errs", {}, command=command.replace("kubernetes", "nobody")))
    headroom.node.wait_for(lambda: headroom.phase("asks") == "Succeeded", "the pod to reach the API server", 30)
    headroom.node.wait_for(lambda: headroom.phase("errs") == "Failed", "an unknown name to be an error", 30)


OWNER = """
import sys
from simulations.node.cluster import NodeCluster
cluster = NodeCluster.start()
print(cluster.folder, cluster._cgroup, cluster._spaces.pid, flush=True)
sys.stdin.read()
"""


def test_a_killed_owner_leaves_nothing(node: NodeCluster) -> None:
    """A second node beside the shared one; its owner is killed. Processes, folders, mounts and control groups go."""
    before = Path("/proc/mounts").read_text()
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder, cgroup, pid = owner.stdout.readline().split()
    assert Path(folder).exists()
    owner.send_signal(signal.SIGKILL)
    owner.wait()

    def gone() -> bool:
        groups = [path for path in Path("/sys/fs/cgroup").glob(f"*/{cgroup}") if path.exists()]
        return not groups and not Path(folder).exists() and not Path(f"/proc/{pid}").exists()

    node.wait_for(gone, "what the killed owner had started to go", 30)
    assert Path("/proc/mounts").read_text() == before


def test_without_root_it_says_what_it_needs(node: NodeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ComponentError, match="needs Linux and root"):
        Namespaces.open(tmp_path, "x", node._reaper)
    assert namespaces.NODE_IP
