"""`headroom bench agent`: time of one reading, and processor time and memory of the agent at work.

The agent runs as a process of its own against a stub NVML library (8 cards, 40 processes of 40 pods), an API server and a kubelet
socket on this machine, at its usual interval. The stub answers at once, so a real driver's time per call comes on top.
"""

import asyncio
import contextlib
import ctypes
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import grpc
import grpc.aio

from agent.pods.podresources import encode_devices
from agent.pods.reconcile import Device
from headroom.errors import HeadroomError
from headroom.names import ANNOTATION_ASSIGNED_CARDS, ANNOTATION_ASSIGNED_MODE, ANNOTATION_ASSIGNED_VRAM_MIB
from simulations.embedded.api import ApiServer
from simulations.embedded.store import Store

CARDS: Final = 8
PROCESSES: Final = 40
MOST_READING_MS: Final = 50.0
MOST_CPU_PERCENT: Final = 1.0
MOST_RESIDENT_MIB: Final = 80.0
_SOURCE: Final = Path(__file__).resolve().parents[2] / "tests" / "stub_nvml" / "stub_nvml.c"
_FIRST_PID: Final = 20_000
_CHILD: Final = """
import sys
from types import SimpleNamespace
from agent.__main__ import serve
from agent.settings import AgentSettings
from headroom.daemon import logs
from headroom.kube.aio import AioKubeClient
from headroom.daemon.tasks import run
from headroom.daemon.settings import load

async def token(_):
    return "Bearer bench"

async def connect():
    return AioKubeClient(SimpleNamespace(host=sys.argv[1], get_api_key_with_prefix=token))

logs.setup(level="WARNING")
flags = dict(pair.split("=", 1) for pair in sys.argv[2:])
run(serve(load(AgentSettings, flags), connect))
"""
"""The agent as in a pod: access to the API server without a kubeconfig, hence without the `kubernetes` package."""


@dataclass(frozen=True)
class Figure:
    """One line of the output, and the budget that its value must keep."""

    text: str
    value: float
    most: float


class BenchError(HeadroomError):
    """The benchmark cannot run here; the text says why."""


@click.command()
@click.option("--seconds", default=60.0, show_default=True, help="How long the agent is watched.")
@click.option("--interval-seconds", default=5.0, show_default=True, help="The agent's interval between readings.")
@click.option("--check", is_flag=True, help="Fail when a figure is over the agent's budget.")
def main(seconds: float, interval_seconds: float, check: bool) -> None:
    """One reading of 8 cards with 40 processes, then the agent's processor time and memory."""
    with tempfile.TemporaryDirectory(prefix="headroom-bench-") as name:
        folder = Path(name)
        library = _build(folder)
        script = folder / "cards.txt"
        script.write_text("\n".join(_script()), encoding="ascii")
        _fake_proc(folder / "proc")
        os.environ["STUB_NVML_SCRIPT"] = str(script)
        figures = [_reading_time(library), *asyncio.run(_at_work(folder, seconds, interval_seconds))]
    for figure in figures:
        click.echo(figure.text)
    over = [figure.text for figure in figures if figure.value > figure.most]
    if check and over:
        raise BenchError("over budget: " + "; ".join(over))


def _build(folder: Path) -> Path:
    if not _SOURCE.is_file():
        raise BenchError(f"{_SOURCE}: not there; run this from a checkout of the repository")
    library = folder / "libnvidia-ml.so.1"
    command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O2", "-Wl,-soname,libnvidia-ml.so.1"]
    try:
        subprocess.run([*command, "-o", str(library), str(_SOURCE)], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise BenchError(f"the stub library cannot be built: {error}") from error
    return library


def _card(index: int) -> str:
    return f"GPU-00000000-0000-0000-0000-{index:012d}"


def _uid(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def _script() -> Iterator[str]:
    yield "reset"
    yield f"cards {CARDS}"
    for number in range(PROCESSES):
        yield f"card {number % CARDS} process {_FIRST_PID + number} 8589934592 15"
    for index in range(CARDS):
        yield f"card {index} util 75"
        yield f"card {index} power 250000"


def _fake_proc(proc: Path) -> None:
    for number in range(PROCESSES):
        folder = proc / str(_FIRST_PID + number)
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{_FIRST_PID + number} (python3) S " + " ".join(["0"] * 18) + " 4242 0 0\n")
        pod = _uid(number + 1).replace("-", "_")
        container = f"{number:064x}"
        path = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{pod}.slice/cri-containerd-{container}.scope"
        (folder / "cgroup").write_text(f"0::{path}\n")


def _reading_time(library: Path) -> Figure:
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    from agent.cards.nvml import NvmlReader

    reader = NvmlReader()
    reader.read(0.0)
    took = []
    for number in range(200):
        start = time.perf_counter()
        reader.read(float(number))
        took.append((time.perf_counter() - start) * 1000)
    reader.close()
    took.sort()
    median = statistics.median(took)
    text = f"one reading, {CARDS} cards, {PROCESSES} processes: median {median:.2f} ms, p99 {took[197]:.2f} ms"
    return Figure(text, median, MOST_READING_MS)


async def _at_work(folder: Path, seconds: float, interval_seconds: float) -> list[Figure]:
    store = Store(lambda: "2026-01-01T00:00:00Z")
    store.create("nodes", {"metadata": {"name": "bench", "labels": {"nvidia.com/gpu.replicas": "8"}}})
    for number in range(PROCESSES):
        store.create("pods", _pod(number))
    api = ApiServer(store, lambda *_: None)
    url = await api.start()
    try:
        async with _kubelet(folder / "kubelet.sock"):
            return await _watch_agent(folder, url, api, seconds, interval_seconds)
    finally:
        await api.stop()


def _pod(number: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"server-{number}",
            "namespace": "serving",
            "uid": _uid(number + 1),
            "annotations": {
                ANNOTATION_ASSIGNED_CARDS: _card(number % CARDS),
                ANNOTATION_ASSIGNED_VRAM_MIB: "10000",
                ANNOTATION_ASSIGNED_MODE: "slice",
            },
        },
        "spec": {"nodeName": "bench", "containers": [{"name": "engine"}]},
        "status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"},
    }


@contextlib.asynccontextmanager
async def _kubelet(socket: Path) -> AsyncIterator[None]:
    answer = encode_devices(
        Device("serving", f"server-{number}", "engine", "nvidia.com/gpu", f"{_card(number % CARDS)}::{number // CARDS}")
        for number in range(PROCESSES)
    )

    async def list_devices(_request: Any, _context: Any) -> bytes:
        return answer

    handler = grpc.unary_unary_rpc_method_handler(list_devices)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),))
    server.add_insecure_port(f"unix://{socket}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


async def _watch_agent(folder: Path, url: str, api: ApiServer, seconds: float, interval_seconds: float) -> list[Figure]:
    flags = {
        "node": "bench",
        "interval_seconds": str(interval_seconds),
        "proc": str(folder / "proc"),
        "podresources_socket": str(folder / "kubelet.sock"),
        "host": "127.0.0.1",
        "port": "0",
    }
    environment = os.environ | {"LD_LIBRARY_PATH": str(folder)}
    arguments = [f"{key}={value}" for key, value in flags.items()]
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", _CHILD, url, *arguments, env=environment)
    try:
        await asyncio.sleep(max(2 * interval_seconds, 3.0))  # its start is not its work
        cpu, writes = _cpu_seconds(agent.pid), _writes(api)
        await asyncio.sleep(seconds)
        if agent.returncode is not None:
            raise BenchError(f"the agent ended by itself with status {agent.returncode}")
        percent = 100 * (_cpu_seconds(agent.pid) - cpu) / seconds
        resident, own = _resident_mib(agent.pid), _resident_mib(agent.pid, "RssAnon")
        return [
            Figure(
                f"agent at a {interval_seconds:g} s interval over {seconds:g} s: {percent:.2f} % of a core",
                percent,
                MOST_CPU_PERCENT,
            ),
            Figure(f"resident memory: {resident:.1f} MiB ({own:.1f} MiB of it its own)", resident, MOST_RESIDENT_MIB),
            Figure(f"API writes while nothing changed: {_writes(api) - writes}", _writes(api) - writes, 0),
        ]
    finally:
        if agent.returncode is None:
            agent.terminate()
            await agent.wait()


def _writes(api: ApiServer) -> int:
    return sum(number for label, number in api.requests.items() if not label.startswith("GET"))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int, field: str = "VmRSS") -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise BenchError(f"/proc/{pid}/status has no {field}")
