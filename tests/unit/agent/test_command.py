"""`headroom agent` as a process: it serves, ends in order, and lets a second one on the node wait."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.__main__ import main
from agent.cards.scripted import parse_script
from agent.pods.reconcile import Device
from tests.fakes.apiserver import ApiServer
from tests.fakes.kubelet import Kubelet
from tests.waiting import until

SCRIPT = "cards: [{id: GPU-a, index: 0, model: L4, memory_total_bytes: 24Gi, power_watts: 50}]\n"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


async def eventually(condition: Callable[[], bool], what: str) -> None:
    try:
        await until(lambda: asyncio.to_thread(condition), seconds=90)
    except TimeoutError:
        raise AssertionError(what) from None


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., tuple["subprocess.Popen[bytes]", int]]]:
    running: list[subprocess.Popen[bytes]] = []
    (tmp_path / "cards.yaml").write_text(SCRIPT)

    def launch(kubeconfig: Path, **flags: str) -> tuple["subprocess.Popen[bytes]", int]:
        port = free_port()
        options = {
            "node": "n1", "kubeconfig": str(kubeconfig), "script": str(tmp_path / "cards.yaml"), "interval-seconds": "0.2",
            "host": "127.0.0.1", "port": str(port), "podresources-socket": "off",
        } | flags  # fmt: skip
        command = [sys.executable, "-m", "headroom", "agent", *(f"--{key}={value}" for key, value in options.items())]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HEADROOM_")}
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
        return running[-1], port

    yield launch
    for process in running:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


async def test_the_daemon_publishes_serves_metrics_and_ends_in_order(
    tmp_path: Path, start: Callable[..., tuple["subprocess.Popen[bytes]", int]]
) -> None:
    async with ApiServer() as api:
        api.put("/api/v1/nodes", {"metadata": {"name": "n1"}})
        process, port = start(api.write_kubeconfig(tmp_path / "kubeconfig"))
        await eventually(lambda: get(port, "/readyz")[0] == 200, "ready")
        await eventually(lambda: "annotations" in api.get("/api/v1/nodes", "n1")["metadata"], "published")
        (card,) = json.loads(api.get("/api/v1/nodes", "n1")["metadata"]["annotations"]["headroom.dev/cards"])
        assert (card["id"], card["vram_mib"], card["healthy"]) == ("GPU-a", 24576, True)
        await eventually(
            lambda: 'headroom_card_power_watts{card="GPU-a",model="L4",node="n1"} 50.0' in get(port, "/metrics")[1],
            "metrics",
        )
        status, reading = await asyncio.to_thread(get, port, "/debug/reading")
        assert (status, [card.id for card in parse_script([json.loads(reading)])[0].cards]) == (200, ["GPU-a"])
        process.send_signal(signal.SIGTERM)
        await eventually(lambda: process.poll() is not None, "ended")
        assert process.returncode == 0


async def test_kubelets_word_does_not_wait_for_the_next_cycle(
    tmp_path: Path, start: Callable[..., tuple["subprocess.Popen[bytes]", int]]
) -> None:
    """The scheduler keeps room for the pod on several cards until it is there; the next cycle is five minutes away."""
    pods = "/api/v1/pods"
    async with ApiServer() as api, Kubelet(tmp_path / "kubelet.sock") as kubelet:
        api.put("/api/v1/nodes", {"metadata": {"name": "n1"}})
        flags = {"interval-seconds": "300", "podresources-socket": str(kubelet.socket)}
        start(api.write_kubeconfig(tmp_path / "kubeconfig"), **flags)
        await eventually(lambda: "annotations" in api.get("/api/v1/nodes", "n1")["metadata"], "published")
        kubelet.devices = [Device("ns", "server", "main", "nvidia.com/gpu", "GPU-a::0")]
        limits = {"nvidia.com/gpu": "1", "headroom.dev/vram": "6Gi"}
        api.put(pods, {
            "metadata": {"name": "server", "namespace": "ns", "uid": "u", "annotations": {}},
            "spec": {"nodeName": "n1", "containers": [{"name": "main", "resources": {"limits": limits}}]},
            "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"},
        })  # fmt: skip
        word = lambda: api.get(pods, "server", "ns")["metadata"]["annotations"].get("headroom.dev/kubelet-cards")  # noqa: E731
        await eventually(lambda: word() == "GPU-a", "kubelet's word")


async def test_a_second_agent_on_the_node_waits_for_the_first_to_go(
    tmp_path: Path, start: Callable[..., tuple["subprocess.Popen[bytes]", int]]
) -> None:
    lock = str(tmp_path / "agent.lock")
    async with ApiServer() as api:
        api.put("/api/v1/nodes", {"metadata": {"name": "n1"}})
        kubeconfig = api.write_kubeconfig(tmp_path / "kubeconfig")
        first, first_port = start(kubeconfig, **{"lock-file": lock})
        await eventually(lambda: get(first_port, "/readyz")[0] == 200, "the first is ready")
        _, second_port = start(kubeconfig, **{"lock-file": lock})
        await eventually(lambda: "headroom_agent_standby 1.0" in get(second_port, "/metrics")[1], "the second waits")
        assert "headroom_card_power_watts{" not in get(second_port, "/metrics")[1]
        assert get(second_port, "/readyz") == (503, "not ready lock: another agent on this node is at work\n")
        first.send_signal(signal.SIGTERM)
        await eventually(lambda: get(second_port, "/readyz")[0] == 200, "the second takes over")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--node: the name of this Node is needed"),
        (["--node", "n1", "--interval-seconds", "0"], "--interval-seconds: 0.0 is below 0.1"),
        (["--node", "n1", "--ignored-xids", "13,x"], "--ignored-xids: 'x' is not a whole number"),
        (["--once", "--script", "/nowhere/cards.yaml"], "/nowhere/cards.yaml: cannot be read"),
        (["--node", "n1", "--tariff", "/nowhere/tariff.yaml"], "/nowhere/tariff.yaml: cannot be read"),
        (
            ["--node", "n1", "--lock-file", "/nowhere/lock", "--port", "0"],
            "--lock-file: /nowhere/lock: cannot be opened",
        ),
    ],
)
def test_what_keeps_it_from_starting_is_named(flags: list[str], words: str) -> None:
    result = CliRunner().invoke(main, flags, env={"HEADROOM_AGENT_NODE": None})
    assert result.exit_code == 1
    assert words in str(result.exception)


def test_once_prints_what_it_read(tmp_path: Path) -> None:
    (tmp_path / "cards.yaml").write_text(SCRIPT)
    result = CliRunner().invoke(main, ["--once", "--script", str(tmp_path / "cards.yaml")])
    assert result.exit_code == 0
    assert "GPU-a  L4  used not_supported of 24.0 GiB" in result.output
    assert "memory_used_bytes: not_supported" in result.output
